// Package shell opens terminals on the node itself: a log-in shell of root on
// a pseudo-terminal, with the interface that guests' consoles have. Each has a
// cgroup of its own, and nothing that was started from it outlives its end.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
)

// Shells opens shells.
type Shells struct {
	Groups guest.Groups // tasks/<n> of the node
	Argv   []string
	Home   string
	Log    *slog.Logger
}

// Defaults are a node's.
func Defaults(log *slog.Logger) Shells {
	return Shells{Groups: guest.Groups{Dir: "/sys/fs/cgroup/tasks"}, Argv: []string{"/bin/bash", "-l"}, Home: "/root", Log: log}
}

// patience is how long a shell may take to end by itself.
const patience = 2 * time.Second

// Sweep ends what shells of a daemon that was killed have left. It is called
// before the first Open.
func (s Shells) Sweep() {
	left, err := s.Groups.List()
	if err != nil {
		s.Log.Warn("look for shells of the last daemon", "err", err)
	}
	for _, n := range left {
		if err := s.clear(s.Groups.Group(n)); err != nil {
			s.Log.Warn("end shell of the last daemon", "group", n, "err", err)
		}
	}
}

func (s Shells) clear(g guest.Group) error {
	if err := g.Kill(10 * time.Second); err != nil {
		return err
	}
	return g.Remove()
}

// Open starts a shell. Its number names its cgroup; no two may have the same.
func (s Shells) Open(_ context.Context, n int) (guest.Console, error) {
	t, err := s.open(n)
	if err != nil {
		return nil, fmt.Errorf("open shell of the node: %w", err)
	}
	return t, nil
}

func (s Shells) open(n int) (*terminal, error) {
	outer, inner, err := openPTY()
	if err != nil {
		return nil, err
	}
	defer inner.Close()
	group, _, err := s.Groups.Create(n, guest.Limits{})
	if err != nil {
		outer.Close()
		return nil, err
	}
	t := &terminal{outer: outer, shells: s, group: group, ended: make(chan struct{})}
	if err := t.start(inner); err != nil {
		outer.Close()
		return nil, errors.Join(err, s.clear(group))
	}
	return t, nil
}

// openPTY makes a pseudo-terminal, pty(7). The inner end comes by ioctl_tty(2),
// whatever is mounted where.
func openPTY() (outer, inner *os.File, err error) {
	outer, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	raw, err := outer.SyscallConn()
	if err != nil {
		outer.Close()
		return nil, nil, err
	}
	cerr := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err != nil {
			return
		}
		peer, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			err = errno
			return
		}
		inner = os.NewFile(peer, "terminal")
	})
	if err = errors.Join(cerr, err); err != nil {
		outer.Close()
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	return outer, inner, nil
}

// terminal is the outer end of a shell's terminal.
type terminal struct {
	outer  *os.File // not embedded: its WriteTo would get past Read
	shells Shells
	group  guest.Group
	ended  chan struct{} // closed when the shell has ended
	once   sync.Once
}

// start runs the shell: in its group from its first instruction, leader of a
// session with the terminal as its controlling one.
func (t *terminal) start(inner *os.File) error {
	cmd := &exec.Cmd{Path: t.shells.Argv[0], Args: t.shells.Argv, Dir: t.shells.Home, Stdin: inner, Stdout: inner, Stderr: inner,
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + t.shells.Home, "USER=root", "LOGNAME=root",
			"SHELL=" + t.shells.Argv[0], "TERM=xterm-256color", "LANG=C.UTF-8"},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true}}
	dir, err := t.group.Open()
	if err != nil {
		return err
	}
	if dir != nil {
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if dir == nil {
		if err := t.group.Add(cmd.Process.Pid); err != nil {
			cmd.Process.Kill()
			cmd.Wait()
			return err
		}
	}
	go func() {
		defer close(t.ended)
		if err := cmd.Wait(); err != nil {
			t.shells.Log.Debug("shell of the node ended", "status", err)
		}
	}()
	return nil
}

// Read ends with io.EOF when nobody has the inner end open any more, of which
// Linux makes EIO.
func (t *terminal) Read(p []byte) (int, error) {
	n, err := t.outer.Read(p)
	if errors.Is(err, unix.EIO) || errors.Is(err, fs.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

// Write types.
func (t *terminal) Write(p []byte) (int, error) { return t.outer.Write(p) }

// Resize tells the programs how large the window is.
func (t *terminal) Resize(cols, rows uint16) error {
	raw, err := t.outer.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: cols, Row: rows})
	})
	return errors.Join(cerr, err)
}

// Close hangs up, gives the shell a moment and ends whatever is left.
func (t *terminal) Close() error {
	var err error
	t.once.Do(func() {
		err = t.outer.Close()
		select {
		case <-t.ended:
		case <-time.After(patience):
		}
		err = errors.Join(err, t.shells.clear(t.group))
	})
	return err
}
