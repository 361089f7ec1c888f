// Package phase runs a boot or a shutdown as a readable list of named steps.
// Each says when it starts and how it ended, with the time since the kernel
// started, so that a person at the console always sees what is waited for.
package phase

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Log writes lines with the time since the kernel started.
type Log struct {
	Since func() time.Duration // nil: CLOCK_BOOTTIME

	mu  sync.Mutex
	out []io.Writer
}

// NewLog writes to all of out.
func NewLog(out ...io.Writer) *Log { return &Log{out: out} }

// Add makes the log write to w as well.
func (l *Log) Add(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = append(l.out, w)
}

// Printf writes one line.
func (l *Log) Printf(format string, args ...any) {
	since := l.Since
	if since == nil {
		since = Uptime
	}
	line := fmt.Appendf(nil, "joist %7.2f s  %s\n", since().Seconds(), fmt.Sprintf(format, args...))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.out {
		w.Write(line) // a console that fails must not stop the boot
	}
}

// Uptime is the time since the kernel started.
func Uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Phase is one named step.
type Phase struct {
	Name       string // "mount state volume": verb and object
	Fatal      bool   // the list ends when it fails
	Background bool   // the next phase starts at once; see After
	After      []string
	Deadline   time.Duration // 0: one minute
	Run        func(ctx context.Context) error
}

// Error is a fatal phase that failed.
type Error struct {
	Phase string
	Err   error
}

func (e *Error) Error() string { return e.Phase + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Run runs the phases in order. A background phase is waited for by those
// that name it in After and at the end of the list. The first fatal failure
// ends the list; failures of other phases are said and returned by name.
func Run(ctx context.Context, log *Log, phases []Phase) (failed map[string]error, err error) {
	type result struct {
		done chan struct{}
		err  error
	}
	running := map[string]*result{}
	failed = map[string]error{}
	settle := func(p Phase, r *result) error {
		<-r.done
		if r.err == nil {
			return nil
		}
		failed[p.Name] = r.err
		if p.Fatal {
			return &Error{p.Name, r.err}
		}
		return nil
	}
	byName := map[string]Phase{}
	for _, p := range phases {
		byName[p.Name] = p
		for _, name := range p.After {
			if r := running[name]; r != nil {
				if err := settle(byName[name], r); err != nil {
					return failed, err
				}
			}
		}
		r := &result{done: make(chan struct{})}
		running[p.Name] = r
		go func() {
			defer close(r.done)
			r.err = one(ctx, log, p)
		}()
		if p.Background {
			continue
		}
		if err := settle(p, r); err != nil {
			return failed, err
		}
	}
	for _, p := range phases {
		if err := settle(p, running[p.Name]); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// one runs a phase in a goroutine of its own and leaves it behind at its
// deadline: a mount(2) that hangs in the kernel cannot be interrupted.
func one(ctx context.Context, log *Log, p Phase) error {
	limit := p.Deadline
	if limit == 0 {
		limit = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begun := time.Now()
	log.Printf("started   %s", p.Name)
	end := make(chan error, 1)
	go func() { end <- p.Run(ctx) }()
	var err error
	select {
	case err = <-end:
	case <-ctx.Done():
		// A phase that honours ctx has the better message.
		select {
		case err = <-end:
		case <-time.After(2 * time.Second):
			err = fmt.Errorf("not done after %v", limit)
		}
	}
	took := time.Since(begun).Seconds()
	if err != nil {
		// errors.Join puts each of several on a line of its own.
		log.Printf("FAILED    %s (%.2f s): %s", p.Name, took, strings.ReplaceAll(err.Error(), "\n", "; "))
		return err
	}
	log.Printf("finished  %s (%.2f s)", p.Name, took)
	return nil
}
