// Package service says what a supervised service is and how its life goes:
// a table of states and events that tests walk exhaustively. It starts
// nothing itself; package supervise does what the table says.
package service

import (
	"fmt"
	"time"
)

// Spec is one service.
type Spec struct {
	Name      string
	Argv      []string
	Env       []string      // beside PATH, LC_ALL, HOME
	After     []string      // names that must be ready before it starts
	Notify    bool          // ready when it says so (sd_notify(3)), otherwise when started
	Within    time.Duration // with Notify: how long it may take, 0: one minute
	Once      bool          // not started again when it ends
	Session   bool          // ends when a person leaves it, which is no failure; see Left
	OOM       int           // oom_score_adj, see proc_pid_oom_score_adj(5)
	MemoryMin int64         // bytes that the kernel does not take away under pressure (memory.min)
	CPUWeight int           // share among services (cpu.weight), 0: 100
	Needs     []string      // files that must be there and not be empty, or the service is left out
	Detach    []string      // mount points that a crashed predecessor may have left
	TTY       string        // terminal that its output goes to; empty: its log
	StopIn    time.Duration // from SIGTERM to cgroup.kill, 0: ten seconds
}

// State is where a service stands. The names appear in api/node.Service.
type State string

// The states.
const (
	Stopped    State = "stopped"
	Waiting    State = "waiting"  // for what it starts after
	Starting   State = "starting" // runs, but is not ready
	Running    State = "running"
	Backoff    State = "backoff"    // ended, starts again later
	Stopping   State = "stopping"   // told to end
	Restarting State = "restarting" // told to end, starts again then
	Done       State = "done"       // ended well and stays so (Once)
	Failed     State = "failed"     // ended badly and stays so (Once)
)

// States lists all of them.
func States() []State {
	return []State{Stopped, Waiting, Starting, Running, Backoff, Stopping, Restarting, Done, Failed}
}

// Event is something that happens to a service.
type Event string

// The events.
const (
	Start     Event = "start"      // somebody wants it to run
	Stop      Event = "stop"       // somebody wants it to end
	Restart   Event = "restart"    // end and start again
	DepsReady Event = "deps-ready" // all it starts after is ready
	NoStart   Event = "no-start"   // the program could not be started
	Ready     Event = "ready"      // it said so
	Ended     Event = "ended"      // its process ended, to be started again
	EndedOK   Event = "ended-ok"   // Once: ended with status 0
	EndedBad  Event = "ended-bad"  // Once: ended otherwise
	Timeout   Event = "timeout"    // the time set by the last action is over
)

// Events lists all of them.
func Events() []Event {
	return []Event{Start, Stop, Restart, DepsReady, NoStart, Ready, Ended, EndedOK, EndedBad, Timeout}
}

// Action is what to do on a transition.
type Action string

// The actions.
const (
	None  Action = ""
	Check Action = "check" // see whether what it starts after is ready
	Spawn Action = "spawn" // start the process; with Notify a timer runs until it is ready
	Later Action = "later" // end what is left in its cgroup, set the timer for the next try
	Term  Action = "term"  // SIGTERM, set the timer for Kill
	Kill  Action = "kill"  // cgroup.kill
	Clean Action = "clean" // end what is left in its cgroup
	Again Action = "again" // Clean, then Check
)

// Step is one entry of the table.
type Step struct {
	To State
	Do Action
}

var table = map[State]map[Event]Step{
	Stopped: {Start: {Waiting, Check}, Restart: {Waiting, Check}},
	Done:    {Start: {Waiting, Check}, Restart: {Waiting, Check}, Stop: {Stopped, None}},
	Failed:  {Start: {Waiting, Check}, Restart: {Waiting, Check}, Stop: {Stopped, None}},
	Waiting: {DepsReady: {Starting, Spawn}, Stop: {Stopped, None}},
	Starting: {
		Ready: {Running, None}, NoStart: {Backoff, Later}, Timeout: {Starting, Kill},
		Ended: {Backoff, Later}, EndedOK: {Done, Clean}, EndedBad: {Failed, Clean},
		Stop: {Stopping, Term}, Restart: {Restarting, Term},
	},
	Running: {
		Ended: {Backoff, Later}, EndedOK: {Done, Clean}, EndedBad: {Failed, Clean},
		Stop: {Stopping, Term}, Restart: {Restarting, Term},
	},
	Backoff: {Timeout: {Waiting, Check}, Start: {Waiting, Check}, Restart: {Waiting, Check}, Stop: {Stopped, None}},
	Stopping: {
		Timeout: {Stopping, Kill}, Ended: {Stopped, Clean}, EndedOK: {Stopped, Clean}, EndedBad: {Stopped, Clean},
		Start: {Restarting, None}, Restart: {Restarting, None},
	},
	Restarting: {
		Timeout: {Restarting, Kill}, Ended: {Waiting, Again}, EndedOK: {Waiting, Again}, EndedBad: {Waiting, Again},
		Stop: {Stopping, None},
	},
}

// Next returns the step for an event; ok is false when the event changes
// nothing in that state.
func Next(s State, e Event) (Step, bool) {
	step, ok := table[s][e]
	return step, ok
}

// Alive reports whether a service in this state has a process.
func (s State) Alive() bool {
	return s == Starting || s == Running || s == Stopping || s == Restarting
}

// Up reports whether what starts after the service may start.
func (s State) Up() bool { return s == Running || s == Done }

const (
	backoffFirst = 100 * time.Millisecond
	backoffLast  = time.Minute
)

// Delay is the pause before the nth start in a row that did not last
// (n counts from 0): 0.1 s, doubled each time, at most a minute.
func Delay(n int) time.Duration {
	if n > 16 {
		return backoffLast
	}
	return min(backoffFirst<<n, backoffLast)
}

// Lasted reports whether a run was long enough to forget earlier failures.
func Lasted(ran time.Duration) bool { return ran >= backoffLast }

// Left reports whether the end of a Session is a person's: a clean one, or any
// after a moment. What ends at once without being asked to is broken.
func Left(ok bool, ran time.Duration) bool { return ok || ran >= 2*time.Second }

// SessionPause is the pause before a session that was left begins anew.
const SessionPause = 300 * time.Millisecond

// Order returns the specs so that each comes after what it starts after, or
// an error that names the circle or the unknown name.
func Order(specs []Spec) ([]Spec, error) {
	byName := map[string]Spec{}
	for _, s := range specs {
		byName[s.Name] = s
	}
	var out []Spec
	const visiting, visited = 1, 2
	mark := map[string]int{}
	var visit func(s Spec) error
	visit = func(s Spec) error {
		switch mark[s.Name] {
		case visiting:
			return fmt.Errorf("order services: %q starts after itself", s.Name)
		case visited:
			return nil
		}
		mark[s.Name] = visiting
		for _, a := range s.After {
			d, ok := byName[a]
			if !ok {
				return fmt.Errorf("order services: %q starts after unknown %q", s.Name, a)
			}
			if err := visit(d); err != nil {
				return err
			}
		}
		mark[s.Name] = visited
		out = append(out, s)
		return nil
	}
	for _, s := range specs {
		if err := visit(s); err != nil {
			return nil, err
		}
	}
	return out, nil
}
