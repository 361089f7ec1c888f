package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"joist/internal/finding"
)

// Exit statuses; docs/exit-codes.md lists them for people.
const (
	exitOK          = 0
	exitFailed      = 1
	exitFindings    = 2
	exitUsage       = 64
	exitInterrupted = 130 // 128 + SIGINT, as shells have it
)

// cli is the program as a value: what it reads, where it writes.
type cli struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
}

// Groups of the help text.
const (
	groupMake = "make"
	groupUse  = "use"
)

func (c *cli) root() *cobra.Command {
	r := &cobra.Command{
		Use:   "joist",
		Short: "Build, install and run Joist hypervisor nodes",
		Long: `joist makes the image that a machine becomes a hypervisor node with, and talks
to the nodes that were installed.

  1. make the image           joist build iso
  2. boot a machine from it   a wizard asks; or nobody is asked:
       write answer.toml      joist answer validate answer.toml
       put it inside          joist build iso --answer answer.toml
  3. log in                   export JOIST_SERVER=https://192.0.2.10:8006
                              joist api get /nodes
  4. bring something to run   joist api upload node1 local iso debian.iso
  5. run it                   joist api create /nodes/node1/qemu vmid=100 …

Every command has examples: joist COMMAND --help.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	r.SetIn(c.in)
	r.SetOut(c.out)
	r.SetErr(c.err)
	r.AddGroup(&cobra.Group{ID: groupMake, Title: "Make an image and prepare an installation:"},
		&cobra.Group{ID: groupUse, Title: "Work with nodes:"})
	add := func(group string, list ...*cobra.Command) {
		for _, x := range list {
			x.GroupID = group
			r.AddCommand(x)
		}
	}
	add(groupMake, buildCommand(), c.inspectCommand(), c.verifyCommand(), c.cacheCommand(), c.serveCommand(), c.answerCommand(), c.planCommand())
	add(groupUse, c.apiCommand(), c.nodeCommand())
	r.AddCommand(c.versionCommand())
	strict(r)
	return r
}

// run executes one command line and returns the exit status.
func (c *cli) run(ctx context.Context, args []string) int {
	r := c.root()
	r.SetArgs(args)
	err := r.ExecuteContext(ctx)
	var fe *finding.Error
	var ue *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errShown):
		return exitFindings
	case errors.As(err, &fe):
		fmt.Fprintln(c.err, err)
		return exitFindings
	case ctx.Err() != nil:
		fmt.Fprintln(c.err, "joist: interrupted")
		return exitInterrupted
	case errors.As(err, &ue):
		fmt.Fprintf(c.err, "joist: %v\n`%s --help` shows how it is used.\n", err, ue.command)
		return exitUsage
	default:
		fmt.Fprintln(c.err, "joist:", err)
		return exitFailed
	}
}

// errShown ends a command whose findings stop and were shown already.
var errShown = errors.New("findings were shown")

// usageError is a command line that makes no sense.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{cmd.CommandPath(), fmt.Errorf(format, args...)}
}

// strict makes every mistake on a command line a usageError, and a group of
// commands without one of them its help text.
func strict(c *cobra.Command) {
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usagef(c, "%w", err) })
	check := c.Args
	switch {
	case c.HasSubCommands():
		c.Args = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := ""
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "; did you mean " + strings.Join(near, " or ") + "?"
			}
			return usagef(c, "unknown command %q%s", args[0], hint)
		}
		if !c.Runnable() {
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
		c.SuggestionsMinimumDistance = 2
	case check != nil:
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usagef(c, "%w", err)
			}
			return nil
		}
	}
	for _, x := range c.Commands() {
		strict(x)
	}
}
