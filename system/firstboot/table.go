// Package firstboot is the first start of an installed node, as a table of
// steps with a journal: what must be there before the node counts as set up,
// the program that the installation's answer asked for, and the end, when what
// was left for it is erased. It observes what others do (PID 1 makes host keys,
// joistd certificates and membership) and runs that one program itself. A
// restart goes on where it was.
package firstboot

import (
	"slices"

	"joist/api/node"
)

// Steps, in the order in which they are shown.
const (
	Identity     = "identity"
	HostKeys     = "host keys"
	Network      = "network"
	Certificates = "certificates"
	Storage      = "storage"
	Cluster      = "cluster"
	Program      = "program"
	Erase        = "erase secrets"
)

// States of a step.
const (
	Waiting = "waiting"
	Done    = "done"
	Failed  = "failed"
)

// observed are the steps that others carry out.
func observed() []string {
	return []string{Identity, HostKeys, Network, Certificates, Storage, Cluster}
}

// Seen is how a step that others carry out looks.
type Seen struct {
	Waits  string // for what; "" when it is done
	Failed bool   // it waits for a person
}

// Facts is what is seen of the node.
type Facts struct {
	Seen    map[string]Seen
	Request *node.FirstBootRequest // nil: no program was asked for
}

// Action is what is to be done next.
type Action string

// Actions.
const (
	Wait       Action = "wait"
	RunProgram Action = "run program"
	EraseAll   Action = "erase"
	Nothing    Action = "nothing" // it is over
)

// New is the journal before the first look.
func New(now int64) node.FirstBoot {
	j := node.FirstBoot{Begun: now}
	for _, name := range append(observed(), Program, Erase) {
		j.Steps = append(j.Steps, node.FirstBootStep{Name: name, State: Waiting, Time: now})
	}
	return j
}

// Next enters what is seen and says what to do. A step that was done stays so:
// the first start is not undone by a cable that is pulled later. A program that
// had begun when the power was cut is not run again.
func Next(j node.FirstBoot, f Facts, now int64) (node.FirstBoot, Action) {
	j.Steps = slices.Clone(j.Steps)
	if j.Ended > 0 {
		return j, Nothing
	}
	for _, name := range observed() {
		switch x := f.Seen[name]; {
		case state(j, name) == Done:
		case x.Waits == "":
			set(&j, name, Done, "", now)
		case x.Failed:
			set(&j, name, Failed, x.Waits, now)
		default:
			set(&j, name, Waiting, x.Waits, now)
		}
	}
	if state(j, Program) == Waiting {
		switch {
		case f.Request == nil && j.Program == nil:
			set(&j, Program, Done, "none was asked for", now)
		case j.Program != nil && j.Program.Ended == 0:
			j.Program = &node.Program{Begun: j.Program.Begun, Ended: now, Error: "the node stopped while it ran; it is not run again"}
			set(&j, Program, Failed, j.Program.Error, now)
		case !moment(j, f.Request):
			set(&j, Program, Waiting, "for the moment "+f.Request.Ordering, now)
		default:
			return j, RunProgram
		}
	}
	if slices.ContainsFunc(j.Steps, func(s node.FirstBootStep) bool { return s.Name != Erase && s.State == Waiting }) {
		return j, Wait
	}
	return j, EraseAll
}

// moment says whether the program's has come.
func moment(j node.FirstBoot, r *node.FirstBootRequest) bool {
	switch r.Ordering {
	case node.OrderingBefore: // PID 1 sees to it that there is no network yet
		return true
	case node.OrderingNetwork:
		return state(j, Network) == Done
	}
	return !slices.ContainsFunc(observed(), func(name string) bool { return state(j, name) == Waiting })
}

// Began enters that the program is about to run: before it does.
func Began(j node.FirstBoot, now int64) node.FirstBoot {
	j.Program = &node.Program{Begun: now}
	return j
}

// Ran enters how it ended.
func Ran(j node.FirstBoot, err error, now int64) node.FirstBoot {
	j.Steps = slices.Clone(j.Steps)
	p := node.Program{Ended: now}
	if j.Program != nil {
		p.Begun = j.Program.Begun
	}
	state, detail := Done, ""
	if err != nil {
		p.Error = err.Error()
		state, detail = Failed, p.Error
	}
	j.Program = &p
	set(&j, Program, state, detail, now)
	return j
}

// Erased enters the end.
func Erased(j node.FirstBoot, now int64) node.FirstBoot {
	j.Steps = slices.Clone(j.Steps)
	set(&j, Erase, Done, "", now)
	j.Ended = now
	return j
}

func state(j node.FirstBoot, name string) string {
	for _, s := range j.Steps {
		if s.Name == name {
			return s.State
		}
	}
	return Done // a journal of another version: it is not waited for
}

func set(j *node.FirstBoot, name, state, detail string, now int64) {
	for i, s := range j.Steps {
		if s.Name != name {
			continue
		}
		if s.State != state {
			s.Time = now
		}
		s.State, s.Detail = state, detail
		j.Steps[i] = s
	}
}
