//go:build liblxc

package main

import (
	"fmt"
	"io"
	"os"

	"github.com/lxc/go-lxc"
	"golang.org/x/sys/unix"

	"joist/hypervisor/guest/lxc/wire"
)

func do(r wire.Request, stdin io.Reader) (wire.Reply, error) {
	if r.Op == wire.Version {
		return wire.Reply{Version: lxc.Version()}, nil
	}
	c, err := lxc.NewContainer(r.Name, r.Path)
	if err != nil {
		return wire.Reply{}, fmt.Errorf("load container: %w", err)
	}
	switch r.Op {
	case wire.Run:
		return start(c)
	case wire.Exec:
		return exec(c, r)
	case wire.Console:
		return wire.Reply{}, console(c, r.Terminal, stdin)
	}
	return wire.Reply{}, fmt.Errorf("unknown operation %q", r.Op)
}

// start lets liblxc fork the monitor off instead of becoming it: the monitor
// waits for SIGCHLD in a signalfd, and in a process with the Go runtime's
// threads one of those, where SIGCHLD cannot be blocked, would take it. The
// forked process has one thread, and PID 1 becomes its parent.
func start(c *lxc.Container) (wire.Reply, error) {
	if err := c.WantDaemonize(true); err != nil {
		return wire.Reply{}, err
	}
	if err := c.WantCloseAllFds(true); err != nil {
		return wire.Reply{}, err
	}
	if err := c.Start(); err != nil { // returns once the container runs
		return wire.Reply{}, fmt.Errorf("start container: %w", err)
	}
	pid := c.InitPid()
	if pid <= 0 {
		return wire.Reply{}, fmt.Errorf("start container: it ended at once")
	}
	return wire.Reply{Init: pid}, nil
}

func exec(c *lxc.Container, r wire.Request) (wire.Reply, error) {
	opt := lxc.DefaultAttachOptions
	opt.ClearEnv, opt.Env, opt.Cwd = true, r.Env, "/"
	if r.TTY {
		opt.StdinFd, opt.StdoutFd, opt.StderrFd = wire.TTY, wire.TTY, wire.TTY
		exit, err := c.RunCommandStatus(r.Argv, opt)
		return wire.Reply{Exit: exit}, failed(exit, err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return wire.Reply{}, err
	}
	defer null.Close()
	stdout, stderr, err := outputs()
	if err != nil {
		return wire.Reply{}, err
	}
	opt.StdinFd, opt.StdoutFd, opt.StderrFd = null.Fd(), stdout.w.Fd(), stderr.w.Fd()
	exit, err := c.RunCommandStatus(r.Argv, opt)
	return wire.Reply{Exit: exit, Stdout: stdout.finish(), Stderr: stderr.finish()}, failed(exit, err)
}

func failed(exit int, err error) error {
	if err == nil && exit < 0 {
		err = fmt.Errorf("liblxc could not enter the container")
	}
	if err != nil {
		return fmt.Errorf("run command in container: %w", err)
	}
	return nil
}

// output collects what a command writes into a pipe; what is too much is
// dropped, so that the command does not wait for us.
type output struct {
	w    *os.File
	data chan []byte
}

func outputs() (stdout, stderr output, err error) {
	for _, o := range []*output{&stdout, &stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return stdout, stderr, err
		}
		o.w, o.data = w, make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(io.LimitReader(r, wire.MaxOutput))
			o.data <- b
			io.Copy(io.Discard, r)
		}()
	}
	return stdout, stderr, nil
}

func (o output) finish() []byte {
	o.w.Close()
	return <-o.data
}

// console hands a terminal of the container to whoever holds the other end of
// the socket. The monitor keeps the terminal for us as long as we live.
func console(c *lxc.Container, terminal int, stdin io.Reader) error {
	fd, err := c.ConsoleFd(terminal)
	if err != nil {
		return fmt.Errorf("allocate terminal: %w", err)
	}
	if err := unix.Sendmsg(wire.TTY, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return fmt.Errorf("send terminal: %w", err)
	}
	unix.Close(fd)
	unix.Close(wire.TTY)
	_, err = io.Copy(io.Discard, stdin)
	return err
}
