package member

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// seats reads a table's line: a word for each node, n1, n2 and so on. V votes,
// L learns; then "*" leads, "-" is offline for a moment, "!" for a minute, "x"
// for longer than a voter may be, "~" is online and catching up.
func seats(line string) []Seat {
	var list []Seat
	for i, w := range strings.Fields(line) {
		s := Seat{Name: fmt.Sprintf("n%d", i+1), MemberID: uint64(i + 1), Learner: w[0] == 'L', Online: true, CaughtUp: true}
		for _, c := range w[1:] {
			switch c {
			case '*':
				s.Leader = true
			case '~':
				s.CaughtUp = false
			case '-':
				s.Online, s.OfflineSince = false, noon.Add(-2*time.Second)
			case '!':
				s.Online, s.OfflineSince = false, noon.Add(-time.Minute)
			case 'x':
				s.Online, s.OfflineSince = false, noon.Add(-time.Hour)
			}
		}
		list = append(list, s)
	}
	return list
}

func TestNext(t *testing.T) {
	for _, tt := range []struct{ name, seats, want string }{
		{"nobody", "", ""},
		{"alone", "V*", ""},
		{"two", "V* L", ""},
		{"two, voter away", "Vx L", ""},
		{"three", "V* L L", "promote n2"},
		{"three, one catching up", "V* L L~", ""},
		{"three, one away", "V* L Lx", ""},
		{"three, half way", "V* V L", "promote n3"},
		{"three, half way, third blinks", "V* V L-", ""},
		{"three, half way, third away", "V* V L!", "demote n2"},
		{"three, half way, third falls behind", "V V* L~", "demote n1"},
		{"three, half way, second away", "V* Vx L", ""},
		{"three, all vote", "V* V V", ""},
		{"three, one away for a moment", "V* V V-", ""},
		{"three, one away for long", "V* V Vx", ""},
		{"three, two away", "V* Vx Vx", ""},
		{"four", "V* V V L", ""},
		{"four, one away for a minute", "V* V! V L", ""},
		{"four, one away for long", "V* Vx V L", "demote n2"},
		{"four, one was replaced half way", "V* Lx V L", "promote n4"},
		{"four, replacement catches up", "V* Vx V L~", ""},
		{"four, learner away", "V* V V Lx", ""},
		{"four voters of four", "V* V V V", "demote n4"},
		{"four voters, leader last", "V V V V*", "demote n3"},
		{"four voters, one away", "V* V- V V", "demote n2"},
		{"five", "V* V V L L", "promote n4"},
		{"five, one learner away", "V* V V L L!", ""},
		{"five, one voter away", "V* V! V L L", ""},
		{"five, half way", "V* V V V L", "promote n5"},
		{"five, half way, fifth away", "V* V V V L!", "demote n4"},
		{"five, all vote", "V* V V V V", ""},
		{"five, two away", "V* V V Vx Vx", ""},
		{"six, one voter dead", "V* V V V Vx L", "demote n5"},
		{"six, two dead, longest first", "V* V V V! Vx L", "demote n5"},
		{"six voters", "V* V V V V V", "demote n6"},
		{"one was removed from three", "V* V", "demote n2"},
		{"one was removed from five", "V* V V V", "demote n4"},
	} {
		got := ""
		if c, ok := Next(seats(tt.seats), noon); ok {
			got = fmt.Sprintf("%s %s", c.Kind, c.Seat.Name)
		}
		if got != tt.want {
			t.Errorf("%s (%s): %q, want %q", tt.name, tt.seats, got, tt.want)
		}
	}
}

func TestNeverSeenIsNoVoter(t *testing.T) {
	list := seats("V* L L")
	list[1].Online, list[1].OfflineSince = false, time.Time{}
	if c, ok := Next(list, noon); ok {
		t.Errorf("%+v", c)
	}
	list = seats("V* V L") // half way
	list[2].Online, list[2].OfflineSince = false, time.Time{}
	if c, ok := Next(list, noon); !ok || c.Kind != Demote {
		t.Errorf("waits for one that was never there: %+v", c)
	}
}

func count(list []Seat) (voting, online, ready int) {
	for _, s := range list {
		switch {
		case !s.Learner:
			voting++
			if s.Online {
				online++
			}
		case s.Online && s.CaughtUp:
			ready++
		}
	}
	return voting, online, ready
}

func quorate(list []Seat) bool {
	voting, online, _ := count(list)
	return online >= voting/2+1
}

func apply(t *testing.T, list []Seat, c Change) {
	t.Helper()
	for i := range list {
		if s := &list[i]; s.Name == c.Seat.Name {
			if (c.Kind == Promote) != s.Learner {
				t.Fatalf("%s of %+v", c.Kind, *s)
			}
			s.Learner, s.Leader = c.Kind == Demote, false
			return
		}
	}
	t.Fatalf("%s of nobody: %+v", c.Kind, c.Seat)
}

// settles follows the policy from a state in which nobody comes or goes any
// more, and checks each step and the end.
func settles(t *testing.T, list []Seat) {
	t.Helper()
	begin := fmt.Sprintf("%+v", list)
	couldDecide := quorate(list)
	for step := 0; ; step++ {
		c, ok := Next(list, noon)
		if !ok {
			break
		}
		if !couldDecide {
			t.Fatalf("change without quorum: %+v from %s", c, begin)
		}
		if step > 2*len(list)+4 {
			t.Fatalf("does not end: %s", begin)
		}
		apply(t, list, c)
		if !quorate(list) {
			t.Fatalf("%s of %s loses the quorum: %s", c.Kind, c.Seat.Name, begin)
		}
	}
	if !couldDecide {
		return
	}
	voting, online, ready := count(list)
	dead := 0
	for _, s := range list {
		if !s.Learner && gone(s, noon) {
			dead++
		}
	}
	waits := false // an even number may wait for one that blinked
	for _, s := range list {
		waits = waits || s.Learner && !s.Online && noon.Sub(s.OfflineSince) < settle
	}
	switch {
	case voting%2 == 0 && !(waits && ready == 0):
		t.Fatalf("rests at %d voters: %s", voting, begin)
	case voting > voters(len(list)):
		t.Fatalf("rests at %d voters of %d nodes: %s", voting, len(list), begin)
	case voting%2 == 1 && voting < voters(len(list)) && online == voting && ready >= 2:
		t.Fatalf("rests at %d voters, %d are ready: %s", voting, ready, begin)
	case dead > 0 && ready > 0 && voting > 1:
		t.Fatalf("keeps a dead voter: %s", begin)
	}
}

// TestPolicySettles goes through all states of up to four nodes and many of
// more.
func TestPolicySettles(t *testing.T) {
	words := []string{"V", "V*", "V-", "V!", "Vx", "L", "L~", "L-", "Lx"}
	var walk func(n int, line string)
	walk = func(n int, line string) {
		settles(t, seats(line))
		if n == 0 {
			return
		}
		for _, w := range words {
			walk(n-1, line+" "+w)
		}
	}
	walk(4, "")
	r := rand.New(rand.NewPCG(1, 2))
	for range 40000 {
		line := ""
		for range 5 + r.IntN(8) {
			line += " " + words[r.IntN(len(words))]
		}
		settles(t, seats(line))
	}
}
