package member

import (
	"cmp"
	"slices"
	"time"
)

// Seat is a member as the policy sees it.
type Seat struct {
	Name     string
	MemberID uint64
	Learner  bool
	Leader   bool
	Online   bool
	// CaughtUp says that a learner has what the voters have (Member.CaughtUp,
	// asked on the learner). What was true half a minute ago is good enough:
	// a moment's doubt should not undo half a change.
	CaughtUp bool
	// OfflineSince counts while Online is false; zero: it was never seen.
	OfflineSince time.Time
}

// Kind is what a Change does.
type Kind string

// The kinds of change.
const (
	Promote Kind = "promote" // a learner becomes a voter
	Demote  Kind = "demote"  // a voter is removed and added as a learner
)

// Change is one step towards the right voters.
type Change struct {
	Kind Kind
	Seat Seat
}

const (
	// replaceAfter is how long a voter may be away before a learner takes its
	// place: longer than a restart with a firmware that takes its time.
	replaceAfter = 5 * time.Minute
	// settle is how long an even number of voters waits for a learner that
	// was there a moment ago.
	settle = 30 * time.Second
)

// voters is how many of n nodes should vote. An even number tolerates no more
// failures than the odd one below it and has one node more that can fail.
func voters(n int) int {
	switch {
	case n >= 5:
		return 5
	case n >= 3:
		return 3
	default:
		return 1
	}
}

// Next returns the next change, if there is one to make. It is called with all
// members by the leader's node, again after each change. An even number of
// voters is only a step on the way to an odd one: it is not begun unless the
// second step can follow, and undone if that fails.
func Next(seats []Seat, now time.Time) (Change, bool) {
	var voting, ready []Seat
	online, returning := 0, false
	for _, s := range seats {
		switch {
		case !s.Learner:
			voting = append(voting, s)
			if s.Online {
				online++
			}
		case s.Online && s.CaughtUp:
			ready = append(ready, s)
		case !s.Online && !s.OfflineSince.IsZero() && now.Sub(s.OfflineSince) < settle:
			returning = true
		}
	}
	if online < len(voting)/2+1 {
		return Change{}, false // nothing can be decided
	}
	slices.SortFunc(ready, func(a, b Seat) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(voting, leaveFirst)
	want := voters(len(seats))
	first := voting[0]
	switch v := len(voting); {
	case v > want:
		return Change{Demote, first}, true
	case v%2 == 0 && len(ready) > 0:
		return Change{Promote, ready[0]}, true
	case v%2 == 0 && returning:
		return Change{}, false
	case v%2 == 0:
		return Change{Demote, first}, true
	// First out, then in: with the newcomer added first, four voters would
	// need three, and only three would be there.
	case v > 1 && gone(first, now) && len(ready) > 0:
		return Change{Demote, first}, true
	case v < want && online == v && len(ready) > 1:
		return Change{Promote, ready[0]}, true
	}
	return Change{}, false
}

func gone(s Seat, now time.Time) bool { return !s.Online && now.Sub(s.OfflineSince) > replaceAfter }

// leaveFirst orders voters by who is missed least: who is away longest, then
// the last by name, the leader at the very end.
func leaveFirst(a, b Seat) int {
	rank := func(s Seat) int {
		switch {
		case !s.Online:
			return 0
		case !s.Leader:
			return 1
		}
		return 2
	}
	if c := cmp.Compare(rank(a), rank(b)); c != 0 {
		return c
	}
	if !a.Online {
		if c := a.OfflineSince.Compare(b.OfflineSince); c != 0 {
			return c
		}
	}
	return cmp.Compare(b.Name, a.Name)
}
