// Package phase runs a boot or a shutdown as a readable list of named steps.
// Each says when it starts and how it ended, with the time since the kernel
// started, so that a person at the console always sees what is waited for.
package phase

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"joist/api/node"
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
	Name       string        // "mount state volume": verb and object
	Fatal      bool          // the list ends when it fails
	Background bool          // the next phase starts at once
	After      []string      // earlier phases that must have ended, well or badly
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

// Board shows how far a Run is to who asks from another goroutine. The zero
// Board shows nothing yet.
type Board struct {
	mu   sync.Mutex
	list []node.Phase
}

// Phases lists all phases of the run, in order.
func (b *Board) Phases() []node.Phase {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.list)
}

func (b *Board) put(p node.Phase) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.list {
		if b.list[i].Name == p.Name {
			b.list[i] = p
			return
		}
	}
	b.list = append(b.list, p)
}

// result is how one phase ended; err may be read once done is closed.
type result struct {
	phase Phase
	done  chan struct{}
	err   error
}

// fatal is the failure for which the list ends, nil when there is none.
func (r *result) fatal() error {
	if r.err == nil || !r.phase.Fatal {
		return nil
	}
	return &Error{r.phase.Name, r.err}
}

// Run runs the phases in order. Each waits for those that it names in After;
// a background phase does so by itself, so that the next one starts at once.
// Run returns when all have ended, or at the first fatal failure: then it
// starts no more. Failures of other phases are said and returned by name. The
// board, which may be nil, shows the run.
func Run(ctx context.Context, log *Log, board *Board, phases []Phase) (failed map[string]error, err error) {
	if board == nil {
		board = &Board{}
	}
	for _, p := range phases {
		board.put(node.Phase{Name: p.Name, State: node.PhaseWaiting})
	}
	var all []*result
	over := make(chan struct{})
	defer close(over) // what still waits does not start any more
	failed = map[string]error{}
	settle := func(r *result) error {
		<-r.done
		if r.err != nil {
			failed[r.phase.Name] = r.err
		}
		return r.fatal()
	}
	for _, p := range phases {
		r := &result{phase: p, done: make(chan struct{})}
		var after []*result
		for _, a := range all {
			if slices.Contains(p.After, a.phase.Name) {
				after = append(after, a)
			}
		}
		all = append(all, r)
		if p.Background {
			go func() {
				defer close(r.done)
				for _, a := range after {
					select {
					case <-a.done:
					case <-over:
						return
					}
					if a.fatal() != nil {
						return // Run ends with it
					}
				}
				r.err = one(ctx, log, board, p)
			}()
			continue
		}
		for _, a := range after {
			if err := settle(a); err != nil {
				return failed, err
			}
		}
		r.err = one(ctx, log, board, p)
		close(r.done)
		if err := settle(r); err != nil {
			return failed, err
		}
	}
	for _, r := range all {
		if err := settle(r); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// one runs a phase in a goroutine of its own and leaves it behind at its
// deadline: a mount(2) that hangs in the kernel cannot be interrupted.
func one(ctx context.Context, log *Log, board *Board, p Phase) error {
	limit := p.Deadline
	if limit == 0 {
		limit = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begun := time.Now()
	log.Printf("started   %s", p.Name)
	board.put(node.Phase{Name: p.Name, State: node.PhaseRunning})
	end := make(chan error, 1)
	go func() { end <- contained(ctx, log, p) }()
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
		text := strings.ReplaceAll(err.Error(), "\n", "; ")
		log.Printf("FAILED    %s (%.2f s): %s", p.Name, took, text)
		board.put(node.Phase{Name: p.Name, State: node.PhaseFailed, Error: text})
		return err
	}
	board.put(node.Phase{Name: p.Name, State: node.PhaseDone})
	log.Printf("finished  %s (%.2f s)", p.Name, took)
	return nil
}

// contained makes a panic of a phase its error: phases read what disks and
// firmware hold, and the process that runs them is PID 1, with which the kernel
// ends. The log tells where it was.
func contained(ctx context.Context, log *Log, p Phase) (err error) {
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		err = fmt.Errorf("panic: %v", r)
		log.Printf("          panic in %s: %v", p.Name, r)
		for line := range strings.Lines(string(debug.Stack())) {
			log.Printf("          %s", strings.TrimRight(line, "\n"))
		}
	}()
	return p.Run(ctx)
}
