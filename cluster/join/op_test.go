package join

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// possible is whether an action can end that way.
func possible(k Kind, a Action, e Event) bool {
	network := slices.Contains([]Action{Plan, Admit, Attach, Finish, Release, Rejoin, TellGone}, a)
	if a == Attach && (k == Leave || k == Recover) || a == Swap || a == Revert || a == Clean || a == MakeKey {
		network = false
	}
	switch e {
	case RefusedIt:
		return network || a == Export
	case Unreachable, Stranger:
		return network
	case Clashed:
		return a == Admit || a == Release
	}
	return true
}

// left is what an operation may have left somewhere: the model beside the
// table that it is walked with.
type left struct {
	state  State
	cell   bool // the cluster may know of the join
	local  bool // something may lie or be renamed here
	moved  bool // the old store may be out of its place
	told   bool // the cluster may count this node as a member
	freed  bool // the cluster has let this node go
	opened bool // the new store has been seen whole
}

// step is what the model makes of an event.
func step(k Kind, row Row, e Event, l left) left {
	tried := e != Cancel // an action that went wrong may have done its work
	switch row.Do {
	case Admit:
		l.cell = l.cell || tried
	case Export:
		l.local = l.local || tried
	case Swap:
		l.local, l.moved = l.local || tried, l.moved || tried
	case Attach:
		l.opened = e == OK
	case Finish:
		l.told = l.told || tried && e != RefusedIt
	case Release:
		l.freed = l.freed || e == OK
	case Clean:
		if e == OK {
			l.local, l.moved = false, false
		}
	case Revert:
		if e == OK {
			l.local, l.moved, l.opened = false, false, false
		}
	case TellGone:
		if e == OK || e == Cancel { // then the janitor does it
			l.cell = false
		}
	}
	if e == RefusedIt && row.Do == Finish {
		l.cell, l.told = false, false // that is what the refusal says
	}
	return l
}

// TestTable walks every path of every kind, whatever may go wrong, and holds
// that it ends in one of two ways: it has happened, or nothing is left of it.
func TestTable(t *testing.T) {
	for _, k := range Kinds() {
		seen, todo := map[left]bool{}, []left{{state: Asked}}
		reached, ends := map[State]bool{}, map[State]bool{}
		for len(todo) > 0 {
			l := todo[0]
			todo = todo[1:]
			if seen[l] {
				continue
			}
			seen[l], reached[l.state] = true, true
			if l.state.End() {
				ends[l.state] = true
				ended(t, k, l)
				continue
			}
			row, ok := Lookup(k, l.state)
			if !ok || row.Do == "" || row.At != Open && row.At != Closed {
				t.Fatalf("%s %s has no row", k, l.state)
			}
			for _, e := range Events() {
				to, ok := row.On[e]
				if !possible(k, row.Do, e) {
					if ok {
						t.Errorf("%s %s: %s on %s cannot be", k, l.state, row.Do, e)
					}
					continue
				}
				next := step(k, row, e, l)
				if ok {
					next.state = to
				} else if e == OK || e == Cancel {
					if e == OK {
						t.Errorf("%s %s does not go on", k, l.state)
					}
					continue
				}
				if l.told && next.state == Aborting && e != RefusedIt {
					t.Errorf("%s %s: %s turns back a member", k, l.state, e)
				}
				todo = append(todo, next)
			}
		}
		for s, row := range table[k] {
			if !reached[s] || !slices.Contains(States(), s) {
				t.Errorf("%s %s is never reached", k, s)
			}
			for e := range row.On {
				if !slices.Contains(Events(), e) {
					t.Errorf("%s %s: unknown event %q", k, s, e)
				}
			}
			if !comesToEnd(k, s) {
				t.Errorf("%s %s never ends", k, s)
			}
		}
		if !ends[Done] || !ends[Gone] {
			t.Errorf("%s ends in %v", k, ends)
		}
	}
}

func ended(t *testing.T, k Kind, l left) {
	t.Helper()
	switch {
	case l.local || l.moved:
		t.Errorf("%s is %s, something is left here: %+v", k, l.state, l)
	case l.state == Gone && (l.cell || l.told || l.freed || l.opened):
		t.Errorf("%s is gone, the cluster thinks otherwise: %+v", k, l)
	case l.state == Done && k == Leave && !l.freed, l.state == Done && k == Join && !l.told, l.state == Done && !l.opened:
		t.Errorf("%s is done, but not all of it: %+v", k, l)
	}
}

// comesToEnd follows OK.
func comesToEnd(k Kind, s State) bool {
	for range len(States()) + 1 {
		if s.End() {
			return true
		}
		row, _ := Lookup(k, s)
		s = row.On[OK]
	}
	return false
}

func TestFile(t *testing.T) {
	f := File(filepath.Join(t.TempDir(), "op.json"))
	if o, err := f.Load(); o != nil || err != nil {
		t.Fatalf("%v %v", o, err)
	}
	text, _, _ := NewToken(noon, TokenLife, "")
	ask := &Ask{Address: "192.0.2.1", Token: text, Fingerprint: strings.Repeat("ab", 32), Renumber: Want{Auto: true}}
	if err := Begin(f, Op{Kind: Join, Ask: ask}, noon); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(string(f)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	o, err := f.Load()
	if err != nil || o.State != Asked || o.Ask.Token != text || !o.Ask.Renumber.Auto || !o.Since.Equal(noon) {
		t.Errorf("%+v %v", o, err)
	}
	err = Begin(f, Op{Kind: Leave}, noon.Add(time.Hour))
	if err == nil || !strings.Contains(err.Error(), "a join is under way (asked since 2030-03-01T12:00:00Z)") || strings.Contains(err.Error(), text) {
		t.Errorf("a second operation: %v", err)
	}
	for range 2 {
		if err := f.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{`x`, `{"kind":"join","state":"released"}`, `{"kind":"x","state":"asked"}`, `{}`} {
		if err := os.WriteFile(string(f), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if o, err := f.Load(); err == nil {
			t.Errorf("%s is read as %+v", bad, o)
		}
	}
}

// TestAsk: what a person gives is checked before anything is begun, all of it
// at once.
func TestAsk(t *testing.T) {
	text, _, _ := NewToken(noon, TokenLife, "")
	fp := strings.Repeat("ab", 32)
	for _, a := range []string{"192.0.2.1", "192.0.2.1:8006", "2001:db8::1", "[2001:db8::1]:9000", "node.example", "node.example:443", "n1"} {
		if err := (&Ask{Address: a, Token: text, Fingerprint: fp}).check(); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, a := range []string{"", "-x", "a b", "n1:0", "n1:x", "n1:70000", "https://n1", "n1/x", "[::1", "n1\n"} {
		if err := (&Ask{Address: a, Token: text, Fingerprint: fp}).check(); err == nil {
			t.Errorf("address %q passes", a)
		}
	}
	err := (&Ask{}).check()
	for _, want := range []string{"token", "address", "fingerprint"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing given: %v, want a word on the %s", err, want)
		}
	}
}

func TestClassify(t *testing.T) {
	clash, both := refuse("vmid-clash", "", "", "c"), refuse("vmid-clash", "", "", "c")
	both.Findings.Stopf("name-taken", "", "", "n")
	autoOp := Op{Ask: &Ask{Renumber: Want{Auto: true}}}
	tests := []struct {
		o    Op
		a    Action
		err  error
		want Event
	}{
		{autoOp, Admit, nil, OK},
		{autoOp, Admit, clash, Clashed},
		{autoOp, Admit, both, RefusedIt},
		{Op{Ask: &Ask{}}, Admit, clash, RefusedIt},
		{Op{Ask: autoOp.Ask, Plans: maxPlans}, Admit, clash, RefusedIt},
		{Op{}, Release, fmt.Errorf("x: %w", refuse("guests-changed", "", "", "c")), Clashed},
		{autoOp, Plan, &FingerprintError{}, Stranger},
		{autoOp, Admit, unreachable("a", clash), Unreachable},
		{autoOp, Swap, errors.New("disk"), Failed},
	}
	for i, tt := range tests {
		if got := classify(tt.o, tt.a, tt.err); got != tt.want {
			t.Errorf("%d: %s, want %s", i, got, tt.want)
		}
	}
}
