// Package progress carries what a long piece of work is doing to whoever
// watches it: console, wizard, task log or webhook. Every step that starts
// says how it ended.
package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// State is where a step stands.
type State string

const (
	Started  State = "started"
	Running  State = "running" // N of Of has grown
	Finished State = "finished"
	Failed   State = "failed"
)

// Event is one change of one step.
type Event struct {
	Step  string    // "copy system image", verb and object, lower case
	State State     //
	N, Of int64     // progress in units of the step, Of 0 when unknown
	Err   error     // with Failed
	At    time.Time //
}

// Sink receives events. It must not block for long and may be called from
// several goroutines. A nil Sink is not valid; use Discard.
type Sink func(Event)

// Discard is the sink for work nobody watches.
func Discard(Event) {}

// Do runs f as one step: started, then finished or failed. f may report its
// advance through the function it is given.
func (s Sink) Do(step string, f func(advance func(n, of int64)) error) error {
	s(Event{Step: step, State: Started, At: time.Now()})
	err := f(func(n, of int64) { s(Event{Step: step, State: Running, N: n, Of: of, At: time.Now()}) })
	if err != nil {
		s(Event{Step: step, State: Failed, Err: err, At: time.Now()})
		return fmt.Errorf("%s: %w", step, err)
	}
	s(Event{Step: step, State: Finished, At: time.Now()})
	return nil
}

// Tee sends every event to all sinks.
func Tee(sinks ...Sink) Sink {
	return func(e Event) {
		for _, s := range sinks {
			s(e)
		}
	}
}

// Lines is a sink for anything that is not a terminal: a line when a step
// starts and ends, and at most one every second in between.
func Lines(w io.Writer) Sink {
	var mu sync.Mutex
	begun := map[string]time.Time{}
	last := map[string]time.Time{}
	return func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		switch e.State {
		case Started:
			begun[e.Step] = e.At
			fmt.Fprintf(w, "[started]  %s\n", e.Step)
		case Running:
			if e.At.Sub(last[e.Step]) < time.Second {
				return
			}
			last[e.Step] = e.At
			if e.Of > 0 {
				fmt.Fprintf(w, "[%3d %%]    %s\n", e.N*100/e.Of, e.Step)
			}
		case Finished:
			fmt.Fprintf(w, "[finished] %s (%.1f s)\n", e.Step, e.At.Sub(begun[e.Step]).Seconds())
		case Failed:
			fmt.Fprintf(w, "[failed]   %s (%.1f s): %v\n", e.Step, e.At.Sub(begun[e.Step]).Seconds(), firstLine(e.Err))
		}
	}
}

// firstLine keeps the console readable: the whole error is said where the
// work ends.
func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}
