package service

import (
	"strings"
	"testing"
	"time"
)

// TestTable walks every state and event and holds what must be true of any
// such table, whatever its entries are.
func TestTable(t *testing.T) {
	for _, s := range States() {
		for _, e := range Events() {
			step, ok := Next(s, e)
			if !ok {
				continue
			}
			if step.Do == Spawn && (s.Alive() || step.To != Starting) {
				t.Errorf("%s on %s spawns a second process", s, e)
			}
			if step.To.Alive() && !s.Alive() && step.Do != Spawn {
				t.Errorf("%s on %s: alive in %s without a process", s, e, step.To)
			}
			ended := e == Ended || e == EndedOK || e == EndedBad || e == NoStart
			if s.Alive() && !step.To.Alive() && !ended {
				t.Errorf("%s on %s loses its process", s, e)
			}
			if ended && step.To.Alive() {
				t.Errorf("%s on %s: still %s", s, e, step.To)
			}
			if step.To == Waiting && step.Do != Check && step.Do != Again {
				t.Errorf("%s on %s waits for ever", s, e)
			}
			if step.To == Backoff && step.Do != Later {
				t.Errorf("%s on %s never tries again", s, e)
			}
		}
		if s.Alive() {
			for _, e := range []Event{Ended, EndedOK, EndedBad} {
				if _, ok := Next(s, e); !ok {
					t.Errorf("%s does not notice %s", s, e)
				}
			}
		}
		if step, ok := Next(s, Stop); s != Stopped && s != Stopping && (!ok || step.To != Stopped && step.To != Stopping) {
			t.Errorf("%s cannot be stopped", s)
		}
		if step, ok := Next(s, Start); !s.Alive() && s != Waiting && (!ok || step.To != Waiting) {
			t.Errorf("%s cannot be started", s)
		}
	}
}

func TestDelay(t *testing.T) {
	want := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}
	for i, w := range want {
		if Delay(i) != w {
			t.Errorf("Delay(%d) = %v", i, Delay(i))
		}
	}
	for _, n := range []int{10, 20, 1000} {
		if Delay(n) != time.Minute {
			t.Errorf("Delay(%d) = %v", n, Delay(n))
		}
	}
}

func TestOrder(t *testing.T) {
	got, err := Order([]Spec{{Name: "c", After: []string{"a", "b"}}, {Name: "b", After: []string{"a"}}, {Name: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range got {
		names = append(names, s.Name)
	}
	if strings.Join(names, "") != "abc" {
		t.Errorf("got %q", names)
	}
	for _, bad := range [][]Spec{{{Name: "a", After: []string{"b"}}, {Name: "b", After: []string{"a"}}}, {{Name: "a", After: []string{"x"}}}} {
		if _, err := Order(bad); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}
