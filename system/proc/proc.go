// Package proc starts processes and reaps them, for a program that is PID 1.
// os/exec cannot be used there: it waits for its own child, while PID 1 must
// wait for any child, and whoever comes first takes the exit status. Here one
// lock covers "start and note the pid" and "reap and look the pid up", so
// that a status always finds its owner, and a reused pid never a stale one.
package proc

import (
	"context"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit is how a process ended.
type Exit struct {
	PID    int
	Status unix.WaitStatus
}

// OK reports an exit with status 0.
func (e Exit) OK() bool { return e.Status.Exited() && e.Status.ExitStatus() == 0 }

// String is "exit status 1" or "killed by SIGSEGV".
func (e Exit) String() string {
	switch {
	case e.Status.Signaled():
		s := "killed by " + unix.SignalName(e.Status.Signal())
		if e.Status.CoreDump() {
			s += " (core dumped)"
		}
		return s
	default:
		return "exit status " + strconv.Itoa(e.Status.ExitStatus())
	}
}

// Attr says what to start.
type Attr struct {
	Path   string   // absolute
	Argv   []string // with the program's own name
	Env    []string
	Dir    string
	Files  []*os.File // descriptors 0, 1, 2, …; nil entries are /dev/null
	Cgroup *os.File   // folder of the cgroup to start in, nil: PID 1's own
	TTY    bool       // descriptor 0 becomes the controlling terminal of a new session
}

// Table is the children of this process.
type Table struct {
	mu      sync.Mutex
	waiting map[int]chan Exit
}

// NewTable returns an empty table.
func NewTable() *Table { return &Table{waiting: map[int]chan Exit{}} }

// Start starts a process. Its end is delivered once on the channel.
func (t *Table) Start(a Attr) (pid int, exit <-chan Exit, err error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	pa := &syscall.ProcAttr{Dir: a.Dir, Env: a.Env, Sys: &syscall.SysProcAttr{Setsid: true}}
	for _, f := range a.Files {
		if f == nil {
			f = null
		}
		pa.Files = append(pa.Files, f.Fd())
	}
	for len(pa.Files) < 3 {
		pa.Files = append(pa.Files, null.Fd())
	}
	if a.TTY {
		pa.Sys.Setctty, pa.Sys.Ctty = true, 0
	}
	if a.Cgroup != nil {
		pa.Sys.UseCgroupFD, pa.Sys.CgroupFD = true, int(a.Cgroup.Fd())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	pid, err = syscall.ForkExec(a.Path, a.Argv, pa)
	if err != nil {
		return 0, nil, &os.PathError{Op: "start", Path: a.Path, Err: err}
	}
	c := make(chan Exit, 1)
	t.waiting[pid] = c
	return pid, c, nil
}

// Reap collects ended children, adopted orphans among them, until ctx ends.
// It must run in exactly one goroutine.
func (t *Table) Reap(ctx context.Context) {
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	defer signal.Stop(child)
	// Signals that arrive together are one: the ticker is for the case that
	// one arrived before Notify.
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for t.reapOne() {
		}
		select {
		case <-ctx.Done():
			return
		case <-child:
		case <-tick.C:
		}
	}
}

func (t *Table) reapOne() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
	if err == unix.EINTR {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if c := t.waiting[pid]; c != nil {
		delete(t.waiting, pid)
		c <- Exit{pid, ws}
	}
	return true
}

// Signal sends sig to the process, if it is still ours: a pid
// that was reaped is never signalled.
func (t *Table) Signal(pid int, sig unix.Signal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting[pid] != nil {
		unix.Kill(pid, sig)
	}
}

// SignalGroup is Signal for the process group that the process leads.
func (t *Table) SignalGroup(pid int, sig unix.Signal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting[pid] != nil {
		unix.Kill(-pid, sig)
	}
}
