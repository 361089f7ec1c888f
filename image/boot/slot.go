package boot

import (
	"fmt"
	"strconv"
)

// Slot is one of the two places for a system.
type Slot string

// The slots.
const (
	A Slot = "A"
	B Slot = "B"
)

// Other is the slot that s is not.
func (s Slot) Other() Slot {
	if s == A {
		return B
	}
	return A
}

// ParseSlot checks a slot's name from outside.
func ParseSlot(s string) (Slot, error) {
	if s != string(A) && s != string(B) {
		return "", fmt.Errorf("%q is not a slot: A or B", s)
	}
	return Slot(s), nil
}

// MaxTries is how often a fresh slot may start before it is good.
const MaxTries = 3

// SlotState is what the menu knows about a slot.
type SlotState struct {
	OK    bool // was seen healthy
	Tries int  // starts left while it is on trial; 0 … MaxTries
}

// State is the content of the environment block.
type State struct {
	First      Slot // preferred
	A, B       SlotState
	Generation uint64 // of several disks the highest counts
}

// Of returns the state of one slot.
func (s State) Of(x Slot) SlotState {
	if x == A {
		return s.A
	}
	return s.B
}

func (s State) with(x Slot, v SlotState) State {
	if x == A {
		s.A = v
	} else {
		s.B = v
	}
	return s
}

// Choice is what the menu starts by itself.
type Choice struct {
	Slot  Slot
	Trial bool // a try is taken, the kernel gets joist.trial=1
}

// Choose picks the slot: the preferred one when it is good or has tries left,
// else the other under the same condition. When neither is, the preferred one
// starts all the same, uncounted: a menu that waits for a hand helps nobody.
func Choose(s State) Choice {
	for _, x := range []Slot{s.First, s.First.Other()} {
		switch v := s.Of(x); {
		case v.OK:
			return Choice{Slot: x}
		case v.Tries > 0:
			return Choice{Slot: x, Trial: true}
		}
	}
	return Choice{Slot: s.First}
}

// CountDown is what GRUB does to the state when it starts slot x, by itself or
// by hand. trial says whether the kernel is told so.
func CountDown(s State, x Slot) (next State, trial bool) {
	v := s.Of(x)
	if v.OK || v.Tries == 0 {
		return s, false
	}
	v.Tries--
	return s.with(x, v), true
}

// MarkGood is what the health gate does to the running slot.
func MarkGood(s State, x Slot) State {
	s.Generation++
	return s.with(x, SlotState{OK: true})
}

// Prefer puts a slot first and leaves what is known about both: rolling back.
func Prefer(s State, x Slot) State {
	s.Generation++
	s.First = x
	return s
}

// Trial puts a freshly written slot first, with MaxTries tries.
func Trial(s State, x Slot) State {
	return Prefer(s.with(x, SlotState{Tries: MaxTries}), x)
}

// Fresh is the state after an installation into slot A.
func Fresh() State { return Trial(State{}, A) }

// Names of the variables in the block.
const (
	varOrder      = "order"
	varGeneration = "generation"
	suffixOK      = "_ok"
	suffixTry     = "_try"
)

// DecodeState reads the state from a block; whatever is missing or is not one
// of the values that the menu knows counts as the menu takes it.
func DecodeState(e *Env) State {
	s := State{First: A}
	if e.Get(varOrder) == "B A" {
		s.First = B
	}
	for _, x := range []Slot{A, B} {
		v := SlotState{OK: e.Get(string(x)+suffixOK) == "1"}
		for n := 1; n <= MaxTries; n++ {
			if e.Get(string(x)+suffixTry) == strconv.Itoa(n) {
				v.Tries = n
			}
		}
		s = s.with(x, v)
	}
	s.Generation, _ = strconv.ParseUint(e.Get(varGeneration), 10, 64)
	return s
}

// Store writes the state into a block and leaves its other variables alone.
func (s State) Store(e *Env) error {
	pairs := [][2]string{{varOrder, string(s.First) + " " + string(s.First.Other())}}
	for _, x := range []Slot{A, B} {
		ok := "0"
		if s.Of(x).OK {
			ok = "1"
		}
		pairs = append(pairs, [2]string{string(x) + suffixOK, ok}, [2]string{string(x) + suffixTry, strconv.Itoa(s.Of(x).Tries)})
	}
	pairs = append(pairs, [2]string{varGeneration, strconv.FormatUint(s.Generation, 10)})
	for _, p := range pairs {
		if err := e.Set(p[0], p[1]); err != nil {
			return err
		}
	}
	return nil
}
