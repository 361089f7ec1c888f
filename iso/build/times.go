package build

import (
	"fmt"
	"io"
	"sync"
	"time"

	"joist/internal/progress"
)

// Times measures the steps of a build from its events. The zero value is
// ready.
type Times struct {
	mu    sync.Mutex
	steps []step
}

type step struct {
	name       string
	begin, end time.Time
}

// Sink receives the events of the build.
func (t *Times) Sink(e progress.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e.State {
	case progress.Started:
		t.steps = append(t.steps, step{name: e.Step, begin: e.At})
	case progress.Finished, progress.Failed:
		for i := len(t.steps) - 1; i >= 0; i-- {
			if t.steps[i].name == e.Step && t.steps[i].end.IsZero() {
				t.steps[i].end = e.At
				return
			}
		}
	}
}

// Total is from the beginning of the first step to the end of the last.
func (t *Times) Total() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.steps) == 0 {
		return 0
	}
	last := t.steps[0].begin
	for _, s := range t.steps {
		if s.end.After(last) {
			last = s.end
		}
	}
	return last.Sub(t.steps[0].begin)
}

// Write prints the table: the steps in the order of their beginning, some of
// them at the same time, and how long the whole took.
func (t *Times) Write(w io.Writer) {
	total := t.Total()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.steps) == 0 {
		return
	}
	fmt.Fprintf(w, "%8s %8s  %s\n", "begin", "seconds", "step")
	for _, s := range t.steps {
		if s.end.IsZero() {
			continue
		}
		fmt.Fprintf(w, "%8.1f %8.1f  %s\n", s.begin.Sub(t.steps[0].begin).Seconds(), s.end.Sub(s.begin).Seconds(), s.name)
	}
	fmt.Fprintf(w, "%8s %8.1f  %s\n", "", total.Seconds(), "total")
}
