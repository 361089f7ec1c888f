package rescue

import (
	"context"
	"fmt"
	"strings"

	"github.com/u-root/u-root/pkg/core"
	"github.com/u-root/u-root/pkg/core/base64"
	"github.com/u-root/u-root/pkg/core/cat"
	"github.com/u-root/u-root/pkg/core/chmod"
	"github.com/u-root/u-root/pkg/core/cp"
	"github.com/u-root/u-root/pkg/core/find"
	"github.com/u-root/u-root/pkg/core/ls"
	"github.com/u-root/u-root/pkg/core/mkdir"
	"github.com/u-root/u-root/pkg/core/mktemp"
	"github.com/u-root/u-root/pkg/core/mv"
	"github.com/u-root/u-root/pkg/core/rm"
	"github.com/u-root/u-root/pkg/core/shasum"
	"github.com/u-root/u-root/pkg/core/touch"
)

// System is what commands do to the machine.
type System interface {
	Mount(source, target, fstype string, flags uintptr, data string) error
	Unmount(target string, flags int) error
	Insert(file, params string) error // a kernel module
	KernelLog() ([]byte, error)
	End(off bool) error // restart or switch off
}

// Box is the set of commands.
type Box struct {
	System System
	Root   string // below which proc, sys and lib/modules are, "/" on a machine
}

// helpCommand is what the shell calls "help": the interpreter has one of its
// own, which knows nothing of the commands here.
const helpCommand = "rescue-help"

// entry is one command of the table.
type entry struct {
	name, usage string
	make        func() core.Command
}

// table lists all commands: u-root's, then ours.
func (b Box) table() []entry {
	list := []entry{
		{"base64", "[-d] [FILE]", base64.New},
		{"cat", "[FILE]...", cat.New},
		{"chmod", "MODE FILE...", chmod.New},
		{"cp", "[-r] [-f] FROM... TO", cp.New},
		{"find", "[-name GLOB] [-type f|d|l] DIR", find.New},
		{"ls", "[-l] [-a] [FILE]...", ls.New},
		{"mkdir", "[-p] DIR...", mkdir.New},
		{"mktemp", "[-d]", mktemp.New},
		{"mv", "FROM... TO", mv.New},
		{"rm", "[-r] [-f] FILE...", rm.New},
		{"shasum", "[-a 1|256|512] [FILE]...", shasum.New},
		{"touch", "FILE...", touch.New},
	}
	for _, c := range b.own() {
		list = append(list, entry{c.name, c.usage, func() core.Command {
			c := c // each call runs with its own input and output
			c.Init()
			return &c
		}})
	}
	return list
}

// own are our commands.
func (b Box) own() []command {
	return []command{
		{name: "dmesg", usage: "", run: b.dmesg},
		{name: "grep", usage: "[-i] [-v] PATTERN [FILE]...", run: grep},
		{name: "gunzip", usage: "[FILE.gz]...", run: gunzip},
		{name: "gzip", usage: "[-d] [FILE]...", run: gzipFiles},
		{name: "help", usage: "", run: b.help},
		{name: "insmod", usage: "FILE.ko [PARAMETER=VALUE]...", run: b.insmod},
		{name: "lsblk", usage: "", run: b.lsblk},
		{name: "modprobe", usage: "MODULE...", run: b.modprobe},
		{name: "mount", usage: "[-t TYPE] [-o OPTIONS] DEVICE DIR", run: b.mount},
		{name: "poweroff", usage: "", run: b.end(true)},
		{name: "reboot", usage: "", run: b.end(false)},
		{name: "tail", usage: "[-n LINES] [FILE]", run: tail},
		{name: "tar", usage: "-c|-x|-t [-z] -f ARCHIVE [-C DIR] [FILE]...", run: archive},
		{name: "umount", usage: "[-l] DIR...", run: b.umount},
	}
}

// Command makes a fresh instance of the command.
func (b Box) Command(name string) (core.Command, bool) {
	for _, e := range b.table() {
		if e.name == name {
			return e.make(), true
		}
	}
	return nil, false
}

// command is one of ours on u-root's interface.
type command struct {
	core.Base
	name, usage string
	run         func(ctx context.Context, c *command, args []string) error
}

// Run implements core.Command.
func (c *command) Run(args ...string) error { return c.RunContext(context.Background(), args...) }

// RunContext implements core.Command.
func (c *command) RunContext(ctx context.Context, args ...string) error { return c.run(ctx, c, args) }

// misused is the error of a call that is not of the command's form.
func (c *command) misused() error {
	return fmt.Errorf("usage: %s", strings.TrimSpace(c.name+" "+c.usage))
}

func (b Box) help(_ context.Context, c *command, _ []string) error {
	fmt.Fprintln(c.Stdout, "This is a shell with pipes, variables, loops and globs, and these commands:")
	for _, e := range b.table() {
		fmt.Fprintf(c.Stdout, "  %-9s %s\n", e.name, e.usage)
	}
	_, err := fmt.Fprintln(c.Stdout, `Also "cd", "echo", "exit" and the like. Other programs run by their path, from what is mounted.`)
	return err
}
