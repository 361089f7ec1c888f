package phase

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

var took = regexp.MustCompile(`\(\d+\.\d\d s\)`)

func run(t *testing.T, phases []Phase) (string, map[string]error, error) {
	t.Helper()
	var b strings.Builder
	l := NewLog(&b)
	l.Since = func() time.Duration { return 1500 * time.Millisecond }
	failed, err := Run(context.Background(), l, nil, phases)
	l.mu.Lock() // nothing writes any more in the middle of the comparison
	defer l.mu.Unlock()
	return took.ReplaceAllString(b.String(), "(T)"), failed, err
}

func TestOrderAndText(t *testing.T) {
	bad := errors.New("no such device")
	ready := make(chan struct{})
	got, failed, err := run(t, []Phase{
		{Name: "a", Run: func(context.Context) error { return nil }},
		{Name: "slow", Background: true, Run: func(context.Context) error { <-ready; return bad }},
		{Name: "b", Run: func(context.Context) error { time.Sleep(20 * time.Millisecond); close(ready); return nil }},
		{Name: "c", After: []string{"slow"}, Run: func(context.Context) error { return nil }},
		{Name: "d", Fatal: true, Run: func(context.Context) error { return bad }},
		{Name: "never", Run: func(context.Context) error { return nil }},
	})
	want := `joist    1.50 s  started   a
joist    1.50 s  finished  a (T)
joist    1.50 s  started   slow
joist    1.50 s  started   b
joist    1.50 s  finished  b (T)
joist    1.50 s  FAILED    slow (T): no such device
joist    1.50 s  started   c
joist    1.50 s  finished  c (T)
joist    1.50 s  started   d
joist    1.50 s  FAILED    d (T): no such device
`
	if strings.Count(got, "\n") != strings.Count(want, "\n") || strings.Contains(got, "never") {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, l := range strings.Split(strings.TrimSpace(want), "\n") {
		if !strings.Contains(got, l) {
			t.Errorf("missing %q in\n%s", l, got)
		}
	}
	if strings.Index(got, "FAILED    slow") > strings.Index(got, "started   c") {
		t.Errorf("c did not wait for slow:\n%s", got)
	}
	var pe *Error
	if !errors.As(err, &pe) || pe.Phase != "d" || !errors.Is(failed["slow"], bad) {
		t.Errorf("got %v, %v", err, failed)
	}
}

func TestDeadline(t *testing.T) {
	_, _, err := run(t, []Phase{{Name: "hang", Fatal: true, Deadline: 10 * time.Millisecond,
		Run: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestBackgroundPhasesWaitByThemselves(t *testing.T) {
	devices, board := make(chan struct{}), &Board{}
	states := func() string {
		var out []string
		for _, p := range board.Phases() {
			out = append(out, p.Name+" "+p.State)
		}
		return strings.Join(out, ", ")
	}
	var between string
	_, err := Run(context.Background(), NewLog(), board, []Phase{
		{Name: "devices", Background: true, Run: func(context.Context) error { <-devices; return errors.New("two\nlines") }},
		{Name: "pool", Background: true, After: []string{"devices"}, Run: func(context.Context) error { return nil }},
		{Name: "services", Run: func(context.Context) error {
			between = states()
			close(devices)
			return nil
		}},
	})
	// Whether the goroutine of "devices" ran already is the scheduler's choice.
	if err != nil || !strings.HasSuffix(between, "pool waiting, services running") {
		t.Errorf("got %q, %v", between, err)
	}
	if got := states(); got != "devices failed, pool done, services done" || board.Phases()[0].Error != "two; lines" {
		t.Errorf("got %q, %q", got, board.Phases()[0].Error)
	}
}

func TestNothingStartsAfterAFatalFailure(t *testing.T) {
	bad, hold := errors.New("no disk"), make(chan struct{})
	never := func(context.Context) error { t.Error("started"); return nil }
	_, err := Run(context.Background(), NewLog(), nil, []Phase{
		{Name: "slow", Background: true, Run: func(context.Context) error { <-hold; return nil }},
		{Name: "behind slow", Background: true, After: []string{"slow"}, Run: never},
		{Name: "disk", Fatal: true, Background: true, Run: func(context.Context) error { return bad }},
		{Name: "behind disk", Background: true, After: []string{"disk"}, Run: never},
		{Name: "needs disk", After: []string{"disk"}, Run: never},
	})
	close(hold)
	var pe *Error
	if !errors.As(err, &pe) || pe.Phase != "disk" || !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
}

// A panic, also of a phase left behind at its deadline, is that phase's failure
// and nobody else's.
func TestPanicIsAFailure(t *testing.T) {
	table := []int{}
	crash := func(context.Context) error { return fmt.Errorf("entry %d", table[len(table)]) }
	got, failed, err := run(t, []Phase{
		{Name: "behind", Background: true, Run: crash},
		{Name: "before", Run: crash},
		{Name: "next", After: []string{"behind"}, Run: func(context.Context) error { return nil }},
		{Name: "last", Fatal: true, Run: crash},
	})
	var pe *Error
	if !errors.As(err, &pe) || pe.Phase != "last" || len(failed) != 3 {
		t.Fatalf("got %v, %v", failed, err)
	}
	for name, err := range failed {
		if !strings.Contains(err.Error(), "panic: runtime error: index out of range") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %q", name, err)
		}
	}
	for _, want := range []string{"finished  next", "panic in behind: runtime error", "phase_test.go:"} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}
