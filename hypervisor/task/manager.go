package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a task's status says when it did not end by itself.
const (
	statusOK          = "OK"
	statusInterrupted = "unexpected status"  // the node or the daemon died under it
	statusStopped     = "received interrupt" // somebody stopped it
)

var (
	// ErrUnknown: there is no such task, or it was long ago.
	ErrUnknown = errors.New("no such task")
	// ErrNotReady: Recover was not called yet, or Close was.
	ErrNotReady = errors.New("tasks cannot be started now")

	errStop     = errors.New(statusStopped)
	errShutdown = errors.New("the daemon is stopping")
)

// Options are a Manager's surroundings.
type Options struct {
	Node string
	Dir  string // node.TaskDir
	Keep int    // ended tasks that are remembered; 0 is 2000
	Now  func() time.Time
	// Uptime is the time since boot; nil reads CLOCK_BOOTTIME.
	Uptime func() time.Duration
	Log    *slog.Logger
}

// Info is what is known about one task.
type Info struct {
	UPID    UPID
	Running bool
	Ended   time.Time
	Status  string // "OK", "WARNINGS: n" or what went wrong; "" while it runs
}

// Manager runs tasks and remembers them. It is safe for use by several
// goroutines.
type Manager struct {
	o       Options
	mu      sync.Mutex
	ready   bool
	next    uint32
	running map[string]*work
	ended   []Info // oldest first
	index   *index
	replay  map[string]Replayer
	wg      sync.WaitGroup
}

// work is a task that runs.
type work struct {
	upid   UPID
	cancel context.CancelCauseFunc
	log    *logFile
}

// New opens the folder of a node's tasks. Those that a crash interrupted are
// entered as such; call Recover before the first Start.
func New(o Options) (*Manager, error) {
	if o.Keep == 0 {
		o.Keep = 2000
	}
	if o.Uptime == nil {
		o.Uptime = uptime
	}
	for _, d := range []string{o.Dir, filepath.Join(o.Dir, activeDir), filepath.Join(o.Dir, journalDir)} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return nil, fmt.Errorf("create task folder: %w", err)
		}
	}
	m := &Manager{o: o, running: map[string]*work{}}
	var err error
	if m.index, m.ended, err = openIndex(filepath.Join(o.Dir, indexFile), o.Keep); err != nil {
		return nil, err
	}
	if err := m.interrupted(); err != nil {
		return nil, err
	}
	m.next = m.highest() + 1
	return m, nil
}

func uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil { // the clock exists since Linux 2.6.39
		return 0
	}
	return time.Duration(ts.Nano())
}

// highest is the highest number that a task of this boot bears: a daemon that
// was restarted goes on counting.
func (m *Manager) highest() uint32 {
	boot := m.o.Now().Add(-m.o.Uptime())
	var n uint32
	for _, t := range m.ended {
		if !t.UPID.Time.Before(boot) {
			n = max(n, t.UPID.Num)
		}
	}
	return n
}

// interrupted enters the tasks that were running when the daemon ended.
func (m *Manager) interrupted() error {
	left, err := os.ReadDir(filepath.Join(m.o.Dir, activeDir))
	if err != nil {
		return fmt.Errorf("read running tasks: %w", err)
	}
	for _, e := range left {
		u, err := ParseUPID(e.Name())
		if err != nil {
			m.o.Log.Warn("foreign file among running tasks", "name", e.Name())
			continue
		}
		if l, err := openLog(m.logPath(u)); err == nil {
			l.end("TASK ERROR: " + statusInterrupted)
		}
		m.finish(u, statusInterrupted)
		m.o.Log.Warn("task was interrupted", "upid", u)
	}
	return nil
}

// Start implements Starter.
func (m *Manager) Start(s Spec, f Func) (UPID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ready {
		return UPID{}, ErrNotReady
	}
	u := UPID{
		Node: m.o.Node, Num: m.next, Start: uint32(m.o.Uptime() / (10 * time.Millisecond)),
		Time: m.o.Now().Truncate(time.Second), Type: s.Type, ID: s.ID, User: s.User,
	}
	if _, err := ParseUPID(u.String()); err != nil {
		return UPID{}, fmt.Errorf("start task %q: %w", s.Type, err)
	}
	m.next++
	l, err := createLog(m.logPath(u))
	if err != nil {
		return UPID{}, fmt.Errorf("start task %s: %w", s.Type, err)
	}
	if err := os.WriteFile(m.activePath(u), nil, 0o640); err != nil {
		l.close()
		return UPID{}, fmt.Errorf("start task %s: %w", s.Type, err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	w := &work{upid: u, cancel: cancel, log: l}
	m.running[u.String()] = w
	m.wg.Add(1)
	go m.run(ctx, w, f)
	return u, nil
}

func (m *Manager) run(ctx context.Context, w *work, f Func) {
	defer m.wg.Done()
	defer w.cancel(nil)
	j := newJournal(filepath.Join(m.o.Dir, journalDir, w.upid.String()))
	err := m.protect(context.WithValue(ctx, journalKey{}, j), w, f)
	if err == nil {
		err = j.Done()
	} else if errors.Is(context.Cause(ctx), errShutdown) {
		// What was recorded is undone at the next start, before anything else.
		j.close()
		w.log.end("TASK ERROR: " + errShutdown.Error())
		m.forget(w, statusInterrupted)
		return
	} else if uerr := m.undo(context.WithoutCancel(ctx), j); uerr != nil {
		w.log.Warnf("undo: %v", uerr)
	}
	status := exitStatus(ctx, err, w.log.warnings())
	switch {
	case status == statusOK:
		w.log.end("TASK OK")
	case err == nil:
		w.log.end("TASK " + status)
	default:
		w.log.end("TASK ERROR: " + status)
	}
	m.forget(w, status)
}

// protect calls f; a panic is the task's failure, not the daemon's.
func (m *Manager) protect(ctx context.Context, w *work, f Func) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m.o.Log.Error("panic in task", "upid", w.upid, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return f(ctx, w.log)
}

func exitStatus(ctx context.Context, err error, warnings int) string {
	switch {
	case err == nil && warnings > 0:
		return fmt.Sprintf("WARNINGS: %d", warnings)
	case err == nil:
		return statusOK
	case errors.Is(context.Cause(ctx), errStop):
		return statusStopped
	}
	s, _, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	return cmp.Or(s, "unknown error")
}

// forget moves a task from the running to the ended ones.
func (m *Manager) forget(w *work, status string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.running, w.upid.String())
	m.finish(w.upid, status)
}

// finish enters an ended task in the index and drops the oldest above the
// limit. The index comes first: dying in between leaves a task that is entered
// twice, of which the later entry counts, not one that is lost.
func (m *Manager) finish(u UPID, status string) {
	t := Info{UPID: u, Ended: m.o.Now().Truncate(time.Second), Status: status}
	m.ended = append(m.ended, t)
	if err := m.index.add(t); err != nil {
		m.o.Log.Error("write task index", "err", err)
	}
	if err := os.Remove(m.activePath(u)); err != nil {
		m.o.Log.Error("end task", "upid", u, "err", err)
	}
	// Rewriting at a quarter above the limit keeps the index short without
	// writing it anew for every task.
	if len(m.ended) <= m.o.Keep+m.o.Keep/4 {
		return
	}
	old := m.ended[:len(m.ended)-m.o.Keep]
	for _, t := range old {
		os.Remove(m.logPath(t.UPID)) // a log that is gone already is fine
	}
	m.ended = slices.Clone(m.ended[len(old):])
	if err := m.index.rewrite(m.ended); err != nil {
		m.o.Log.Error("write task index", "err", err)
	}
}

// logPath spreads logs over 16 folders by the last digit of the start time.
func (m *Manager) logPath(u UPID) string {
	return filepath.Join(m.o.Dir, fmt.Sprintf("%X", u.Time.Unix()&0xf), u.String())
}

func (m *Manager) activePath(u UPID) string {
	return filepath.Join(m.o.Dir, activeDir, u.String())
}

// Get returns one task.
func (m *Manager) Get(upid string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.running[upid]; w != nil {
		return Info{UPID: w.upid, Running: true}, nil
	}
	for _, t := range slices.Backward(m.ended) {
		if t.UPID.String() == upid {
			return t, nil
		}
	}
	return Info{}, ErrUnknown
}

// Stop cancels a running task. Stopping one that has ended is no error.
func (m *Manager) Stop(upid string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.running[upid]; w != nil {
		w.cancel(errStop)
		return nil
	}
	for _, t := range m.ended {
		if t.UPID.String() == upid {
			return nil
		}
	}
	return ErrUnknown
}

// Read returns lines of a task's log, from line start (0-based), limit 0 for
// all, and how many lines there are.
func (m *Manager) Read(upid string, start, limit int) (lines []string, total int, err error) {
	t, err := m.Get(upid)
	if err != nil {
		return nil, 0, err
	}
	return readLines(m.logPath(t.UPID), start, limit)
}

// Close cancels what runs, waits for it until ctx ends and refuses new tasks.
// What does not end in time is found interrupted at the next start.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.ready = false
	for _, w := range m.running {
		w.cancel(errShutdown)
	}
	m.mu.Unlock()
	done := make(chan struct{})
	go func() { m.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return m.index.close()
}
