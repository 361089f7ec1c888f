package lxc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
	"joist/hypervisor/guest/lxc/wire"
)

// Console opens a terminal of the container. What it shows is the
// configuration's cmode: "tty" a log-in prompt on the first terminal that is
// free, "console" /dev/console, "shell" root's shell. Without a monitor, who
// hands terminals out, it is a log-in prompt on a new one.
func (c *Container) Console(ctx context.Context) (guest.Console, error) {
	con, err := c.console(ctx)
	if err != nil {
		return nil, fmt.Errorf("open console of guest %d: %w", c.vmid, err)
	}
	return con, nil
}

func (c *Container) console(ctx context.Context) (guest.Console, error) {
	rec := c.Record()
	switch cmode := rec.Extra[extraCMode]; {
	case cmode == "shell":
		return c.terminal(loginShell)
	case !rec.Helper.Alive():
		return c.terminal(logIn)
	case cmode == "console":
		return c.allocated(ctx, 0)
	default:
		return c.allocated(ctx, -1)
	}
}

// program is what runs on a terminal of our own.
type program struct {
	argv []string
	ctty bool // give it the terminal as its controlling one, credentials(7)
}

// Without arguments login(1) asks for a name. It makes the session of whom it
// lets in, and cannot when the terminal controls another one already.
var (
	logIn      = program{argv: []string{"/bin/login"}}
	loginShell = program{[]string{"/bin/sh", "-c", "cd; if [ -x /bin/bash ]; then exec /bin/bash -l; fi; exec /bin/sh -l"}, true}
	environ    = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LOGNAME=root",
		"TERM=xterm-256color", "container=lxc"}
)

// consoleTimeout is for the monitor's answer.
const consoleTimeout = 10 * time.Second

// allocated takes one of the container's terminals from the monitor. The
// helper sends its descriptor and holds it as long as its stdin is open; that
// ends with us, however we end.
func (c *Container) allocated(ctx context.Context, terminal int) (guest.Console, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer theirs.Close()
	cmd := command(context.Background(), c.d.Helper)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := memFile("reply")
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	cmd.Stdout, cmd.ExtraFiles = stdout, []*os.File{theirs}
	wait, err := c.d.startIn(cmd, launch(c.vmid))
	if err != nil {
		return nil, err
	}
	theirs.Close()
	r := c.d.request(c.vmid, wire.Console)
	r.Terminal = terminal
	tty, err := receive(ctx, ours, stdin, r)
	if err != nil {
		stdin.Close()
		cmd.Process.Kill()
		wait()
		var reply wire.Reply
		if json.Unmarshal(contents(stdout), &reply) == nil && reply.Error != "" {
			err = errors.New(reply.Error + "; all of the container's terminals may be in use")
		}
		return nil, err
	}
	return &tap{File: tty, end: func() { stdin.Close(); wait() }}, nil
}

func receive(ctx context.Context, sock *os.File, stdin io.Writer, r wire.Request) (*os.File, error) {
	if err := json.NewEncoder(stdin).Encode(r); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(sock)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	conn.SetDeadline(time.Now().Add(consoleTimeout))
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, fmt.Errorf("wait for terminal: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("the helper ended without a terminal")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("the helper sent no terminal")
	}
	return pollable(fds[0], "console")
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console"), nil
}

// pollable hands a descriptor to the runtime's poller, so that Close ends a
// Read that waits.
func pollable(fd int, name string) (*os.File, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// tap is the outer end of a pseudo-terminal, pty(7).
type tap struct {
	*os.File
	end func()
}

// Read ends with io.EOF when nobody has the inner end open any more, of which
// Linux makes EIO.
func (t *tap) Read(p []byte) (int, error) {
	n, err := t.File.Read(p)
	if errors.Is(err, unix.EIO) || errors.Is(err, fs.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

func (t *tap) Resize(cols, rows uint16) error {
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: cols, Row: rows})
	})
	if err == nil {
		err = cerr
	}
	return err
}

func (t *tap) Close() error {
	err := t.File.Close()
	t.end()
	return err
}

// terminal runs a program on a new terminal of the container's own devpts, so
// that it has a name inside.
func (c *Container) terminal(p program) (guest.Console, error) {
	outer, inner, err := c.openPTY()
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := c.enter(ctx, p.argv, environ, inner, p.ctty)
		inner.Close()
		ended <- err
	}()
	return &tap{File: outer, end: func() {
		// The hang-up has reached the program; one that ignores it is ended.
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
		}
		cancel()
	}}, nil
}

// hold starts the process that keeps the container's terminals open when the
// monitor dies, unless there is one or it is too late.
func (c *Container) hold() {
	rec := c.Record()
	group := c.d.group(holder(c.vmid))
	if group.Exists() && group.Populated() || !rec.Helper.Alive() {
		return
	}
	r := c.d.request(c.vmid, wire.Hold)
	r.Init, r.Monitor = wire.Process(rec.Process), wire.Process(rec.Helper)
	stdin, err := requestFile(r)
	if err == nil {
		defer stdin.Close()
		cmd := command(context.Background(), c.d.Helper)
		cmd.Stdin = stdin
		var wait func() error
		if wait, err = c.d.startIn(cmd, holder(c.vmid)); err == nil {
			go wait()
		}
	}
	if err != nil {
		c.d.Log.Error("hold terminals of container", "vmid", c.vmid, "error", err)
	}
}

// openPTY makes a pseudo-terminal in the container. The way there belongs to
// the container, therefore the check of what was found.
func (c *Container) openPTY() (outer, inner *os.File, err error) {
	init := c.Record().Process
	t, err := openTree("/proc/"+strconv.Itoa(init.PID)+"/root", 0)
	if err != nil {
		return nil, nil, err
	}
	defer t.close()
	if !init.Alive() {
		return nil, nil, guest.ErrNotRunning
	}
	fd, err := t.open("dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.DEVPTS_SUPER_MAGIC {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("the container's /dev/pts is no devpts")
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("unlock terminal: %w", err)
	}
	// The peer by ioctl_tty(2), not by a name that somebody could change.
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("open inner end of terminal: %w", errno)
	}
	inner = os.NewFile(peer, "terminal")
	// It belongs to us, whom nobody inside can see; login(1) hands it on and
	// must own it. 5 is the group tty in every distribution.
	if base := c.Record().UID; base != 0 {
		inner.Chown(base, base+5)
	}
	if outer, err = pollable(fd, "console"); err != nil {
		inner.Close()
		return nil, nil, err
	}
	return outer, inner, nil
}

// Command is a program to run in a container.
type Command struct {
	Argv []string
	Env  []string // in addition to PATH, HOME, USER and TERM
}

// Result is how a Command ended.
type Result struct {
	Exit           int
	Stdout, Stderr []byte
}

// Exec runs a program in the container as its root and waits for it.
func (c *Container) Exec(ctx context.Context, cmd Command) (Result, error) {
	if len(cmd.Argv) == 0 || c.Ended() {
		return Result{}, fmt.Errorf("run command in guest %d: %w", c.vmid, guest.ErrNotRunning)
	}
	r, err := c.enter(ctx, cmd.Argv, append(append([]string(nil), environ...), cmd.Env...), nil, false)
	if err != nil {
		return Result{}, fmt.Errorf("run command in guest %d: %w", c.vmid, err)
	}
	return r, nil
}

// enter runs a program inside, on tty if there is one: through liblxc, which
// applies the container's profile and filters, or, without a monitor, through
// nsenter(1) with its namespaces and its cgroup alone.
func (c *Container) enter(ctx context.Context, argv, env []string, tty *os.File, ctty bool) (Result, error) {
	rec := c.Record()
	var files []*os.File
	if tty != nil {
		files = append(files, tty)
	}
	if rec.Helper.Alive() {
		r := c.d.request(c.vmid, wire.Exec)
		r.Argv, r.Env, r.TTY = argv, env, tty != nil
		reply, err := c.d.ask(ctx, launch(c.vmid), r, ctty, files...)
		return Result{Exit: reply.Exit, Stdout: reply.Stdout, Stderr: reply.Stderr}, err
	}
	return c.enterAlone(ctx, rec, argv, env, tty, ctty)
}

// execGroup is a leaf for processes that come from outside: a group whose
// children have controllers takes no processes itself.
const execGroup = "/joist-exec"

func (c *Container) enterAlone(ctx context.Context, rec guest.Record, argv, env []string, tty *os.File, ctty bool) (Result, error) {
	pid := strconv.Itoa(rec.Process.PID)
	args := []string{"--target", pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"}
	if rec.UID != 0 {
		args = append(args, "--user")
	}
	args = append(append(args, "--root", "--wd", "--setuid", "0", "--setgid", "0", "--"), argv...)
	cmd := command(ctx, c.d.NSEnter, args...)
	cmd.Env = env
	stdout, err := memFile("stdout")
	if err != nil {
		return Result{}, err
	}
	defer stdout.Close()
	stderr, err := memFile("stderr")
	if err != nil {
		return Result{}, err
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if tty != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		cmd.SysProcAttr.Setctty = ctty
	}
	if !rec.Process.Alive() {
		return Result{}, guest.ErrNotRunning
	}
	err = c.d.runIn(cmd, payload(c.vmid)+execGroup)
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		err = nil
	}
	if err != nil {
		return Result{}, fmt.Errorf("nsenter: %w", err)
	}
	st, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return Result{Exit: st.ExitStatus(), Stdout: contents(stdout), Stderr: contents(stderr)}, nil
}
