package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"regexp"
	"time"

	"joist/api/node"
	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/internal/finding"
)

// Kind is what an operation is to bring about.
type Kind string

// The kinds.
const (
	Join    Kind = "join"    // become a node of a cluster
	Leave   Kind = "leave"   // become a node alone, with its own guests
	Recover Kind = "recover" // become a cluster of one, with all that the cluster knew
	Demote  Kind = "demote"  // come back as a learner with an empty store
)

// Kinds lists all of them.
func Kinds() []Kind { return []Kind{Join, Leave, Recover, Demote} }

// State is how far an operation is.
type State string

// The states. An operation that is in none has no journal.
const (
	Asked     State = "asked"     // somebody wants it; nothing has happened
	Keyed     State = "keyed"     // the key is made, nothing was sent
	Replan    State = "replan"    // what was sent clashes by now: to be decided anew
	Planned   State = "planned"   // what will be sent is decided; it may be on its way
	Committed State = "committed" // the cluster has let this node in
	Exported  State = "exported"  // this node's own intent lies beside the store
	Released  State = "released"  // the cluster has let this node go
	Readmit   State = "readmit"   // the cluster expects this node's empty member
	Swapped   State = "swapped"   // the other store is in place, the old one beside it
	CaughtUp  State = "caught-up" // the store runs and has everything; there is no way back from here
	Settled   State = "settled"   // everybody knows; what was put by can go
	Aborting  State = "aborting"  // the old store is to be put back
	Restored  State = "restored"  // this side is as it was, the cluster does not know yet

	// The ends, at which the journal is removed.
	Done State = "done" // it has happened
	Gone State = "gone" // everything is as it was
)

// States lists those that a journal can hold.
func States() []State {
	return []State{Asked, Keyed, Replan, Planned, Committed, Exported, Released, Readmit, Swapped, CaughtUp, Settled, Aborting, Restored}
}

// End reports whether nothing follows.
func (s State) End() bool { return s == Done || s == Gone }

// Action is what is done in a state. Each can be repeated whatever a cut has
// left of it.
type Action string

// The actions.
const (
	MakeKey  Action = "make-key"  // make the node's key
	Plan     Action = "plan"      // say hello, decide on VMIDs
	Admit    Action = "admit"     // have the commit made
	Export   Action = "export"    // write this node's own intent and what else is needed beside the store
	Swap     Action = "swap"      // rename volumes, move the store away, put the other one in place
	Attach   Action = "attach"    // open the store and wait until it has everything
	Finish   Action = "finish"    // tell the cluster that this node is a member
	Release  Action = "release"   // tell the cluster that this node leaves
	Rejoin   Action = "rejoin"    // ask the cluster for a learner's place
	Clean    Action = "clean"     // remove what was put by: the store moved away, what was exported
	Revert   Action = "revert"    // undo Export and Swap
	TellGone Action = "tell-gone" // have the commit taken back
)

// Event is how an action ended, or what came in between.
type Event string

// The events.
const (
	OK          Event = "ok"
	RefusedIt   Event = "refused"     // the cluster says no, and nothing of it has happened
	Clashed     Event = "clashed"     // it says no because something changed in between: plan again
	Unreachable Event = "unreachable" // nobody answered; whether it has happened is not known
	Stranger    Event = "stranger"    // somebody answered who is not the cluster
	Failed      Event = "failed"      // this machine could not do it
	GaveUp      Event = "gave-up"     // it went wrong for too long
	Cancel      Event = "cancel"      // a person does not want it any more
)

// Events lists all of them.
func Events() []Event {
	return []Event{OK, RefusedIt, Clashed, Unreachable, Stranger, Failed, GaveUp, Cancel}
}

// Place is where an action can run.
type Place string

// The places.
const (
	Open   Place = "open"   // the daemon runs on its store
	Closed Place = "closed" // the daemon starts, and has not opened the store
)

// Row is what one state means: what is done, where, and what follows. An event
// without an entry leaves the state: the action is tried again.
type Row struct {
	Do Action
	At Place
	On map[Event]State
}

// The table. Up to planned nothing has changed anywhere; from then on the way
// back tells the cluster, from committed on it also undoes what was done here.
// Once a node has caught up there is only the way forward, unless the cluster
// itself says that the join was called off. A leave whose answer was lost may have happened: whoever gives it
// up finds out by the next one, which the cluster answers as it answers a node
// that was removed.
var table = map[Kind]map[State]Row{
	Join: {
		Asked:     {MakeKey, Open, map[Event]State{OK: Keyed, GaveUp: Gone, Cancel: Gone}},
		Keyed:     {Plan, Open, map[Event]State{OK: Planned, RefusedIt: Gone, Stranger: Gone, GaveUp: Gone, Cancel: Gone}},
		Replan:    {Plan, Open, map[Event]State{OK: Planned, RefusedIt: Restored, GaveUp: Restored, Cancel: Restored}},
		Planned:   {Admit, Open, map[Event]State{OK: Committed, Clashed: Replan, RefusedIt: Restored, GaveUp: Restored, Cancel: Restored}},
		Committed: {Export, Open, map[Event]State{OK: Exported, RefusedIt: Aborting, GaveUp: Aborting, Cancel: Aborting}},
		Exported:  {Swap, Closed, map[Event]State{OK: Swapped, Failed: Aborting, GaveUp: Aborting, Cancel: Aborting}},
		Swapped:   {Attach, Closed, map[Event]State{OK: CaughtUp, RefusedIt: Aborting, GaveUp: Aborting, Cancel: Aborting}},
		CaughtUp:  {Finish, Open, map[Event]State{OK: Settled, RefusedIt: Aborting}},
		Settled:   {Clean, Open, map[Event]State{OK: Done}},
		Aborting:  {Revert, Closed, map[Event]State{OK: Restored}},
		Restored:  {TellGone, Open, map[Event]State{OK: Gone, Cancel: Gone}},
	},
	Leave: {
		Asked:    {Export, Open, map[Event]State{OK: Exported, RefusedIt: Aborting, GaveUp: Aborting, Cancel: Aborting}},
		Exported: {Release, Open, map[Event]State{OK: Released, Clashed: Asked, RefusedIt: Aborting, GaveUp: Aborting, Cancel: Aborting}},
		Released: {Swap, Closed, map[Event]State{OK: Swapped}},
		Swapped:  {Attach, Closed, map[Event]State{OK: Settled}},
		Settled:  {Clean, Open, map[Event]State{OK: Done}},
		Aborting: {Clean, Open, map[Event]State{OK: Gone}}, // the store is still the cluster's
	},
	Recover: {
		Asked:    {Export, Open, map[Event]State{OK: Exported, RefusedIt: Aborting, GaveUp: Aborting, Cancel: Aborting}},
		Exported: {Swap, Closed, map[Event]State{OK: Swapped, Failed: Aborting, GaveUp: Aborting, Cancel: Aborting}},
		Swapped:  {Attach, Closed, map[Event]State{OK: Settled, GaveUp: Aborting}},
		Settled:  {Clean, Open, map[Event]State{OK: Done}},
		Aborting: {Revert, Closed, map[Event]State{OK: Gone}},
	},
	Demote: {
		Asked:    {Rejoin, Closed, map[Event]State{OK: Readmit, RefusedIt: Aborting}},
		Readmit:  {Swap, Closed, map[Event]State{OK: Swapped}},
		Swapped:  {Attach, Closed, map[Event]State{OK: Settled, RefusedIt: Asked}},
		Settled:  {Clean, Open, map[Event]State{OK: Done}},
		Aborting: {Revert, Closed, map[Event]State{OK: Gone}}, // the old copy is all that is left of the cluster here
	},
}

// Lookup returns what a state means to a kind; ok is false where it cannot be.
func Lookup(k Kind, s State) (Row, bool) {
	r, ok := table[k][s]
	return r, ok
}

// Ask is what a person wants of a join.
type Ask struct {
	Address     string `json:"address"`
	Token       string `json:"token"`
	Fingerprint string `json:"fingerprint"`
	Renumber    Want   `json:"renumber"`
	// Patient: an installation asked, and nobody is there to ask again. As long
	// as nothing has happened it waits for the cluster, and for its own clock.
	Patient bool `json:"patient,omitempty"`
}

// patient reports whether the operation waits as long as it takes.
func (o Op) patient() bool {
	return o.Ask != nil && o.Ask.Patient && (o.State == Asked || o.State == Keyed)
}

// Op is an operation under way: the content of op.json. It holds secrets and
// must not be shown or logged whole.
type Op struct {
	Kind  Kind      `json:"kind"`
	State State     `json:"state"`
	Since time.Time `json:"since"` // when it was asked for

	// Join.
	Ask       *Ask              `json:"ask,omitempty"`
	Key       []byte            `json:"key,omitempty"`       // PEM
	Authority string            `json:"authority,omitempty"` // fingerprint, proven
	Before    []byte            `json:"before,omitempty"`    // sum of this node's records
	Guests    []json.RawMessage `json:"guests,omitempty"`    // renumbered
	Storages  []json.RawMessage `json:"storages,omitempty"`
	IDs       map[int]int       `json:"ids,omitempty"`
	Renames   []Rename          `json:"renames,omitempty"`
	Admission *Admission        `json:"admission,omitempty"`
	Plans     int               `json:"plans,omitempty"` // how often it was planned

	// Leave: the guests as they were exported.
	Exported []Revision `json:"exported,omitempty"`
	// Demote: the id of the new member, hex.
	MemberID string `json:"member_id,omitempty"`

	// Why it is on its way back.
	Reason   string       `json:"reason,omitempty"`
	Findings finding.List `json:"findings,omitempty"`
}

// records is what a planned join sends.
func (o Op) records() (Records, error) { return parseRecords(o.Guests, o.Storages) }

// Journal keeps the operation under way over a cut.
type Journal interface {
	// Load returns nil when there is none.
	Load() (*Op, error)
	Save(o Op) error
	Remove() error
}

// File is the Journal in a file: op.json.
type File string

// Load implements Journal.
func (f File) Load() (*Op, error) {
	b, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal of operation: %w", err)
	}
	var o Op
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, fmt.Errorf("read journal of operation %s: %w", f, err)
	}
	if _, ok := Lookup(o.Kind, o.State); !ok {
		return nil, fmt.Errorf("read journal of operation %s: there is no state %q of %q", f, o.State, o.Kind)
	}
	return &o, nil
}

// Save implements Journal.
func (f File) Save(o Op) error {
	if err := node.WriteJSON(string(f), 0o600, o); err != nil {
		return fmt.Errorf("write journal of operation: %w", err)
	}
	return nil
}

// Remove implements Journal.
func (f File) Remove() error {
	if err := os.Remove(string(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove journal of operation: %w", err)
	}
	return nil
}

// Begin writes the first line of an operation, unless another one is under way.
func Begin(j Journal, o Op, now time.Time) error {
	was, err := j.Load()
	if err != nil {
		return err
	}
	if was != nil {
		return fmt.Errorf("begin %s: a %s is under way (%s since %s)", o.Kind, was.Kind, was.State, was.Since.Format(time.RFC3339))
	}
	if o.Kind == Join {
		if err := o.Ask.check(); err != nil {
			return fmt.Errorf("begin join: %w", err)
		}
	}
	o.State, o.Since = Asked, now.UTC()
	return j.Save(o)
}

// check looks at what a person gave, before anything is done with it.
func (a *Ask) check() error {
	if a == nil {
		return errors.New("address, token and fingerprint are missing")
	}
	_, err := ParseToken(a.Token)
	return errors.Join(err, checkAddress(a.Address), checkFingerprint(a.Fingerprint))
}

// others are the nodes that were there before this one.
func (a Admission) others(self string) (out []roster.Node) {
	for _, n := range a.Nodes {
		if n.Name != self {
			out = append(out, n)
		}
	}
	return out
}

var hostRE = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$`)

// checkAddress checks what a person gave as address: a name or an IP address,
// with a port or without.
func checkAddress(s string) error {
	host, port, err := net.SplitHostPort(withPort(s))
	if err != nil {
		return fmt.Errorf("address %q: %w", s, err)
	}
	if _, err := netip.ParseAddrPort("0.0.0.0:" + port); err != nil || port == "0" {
		return fmt.Errorf("address %q: %q is no port", s, port)
	}
	if _, err := netip.ParseAddr(host); err != nil && !hostRE.MatchString(host) {
		return fmt.Errorf("address %q is neither a host name nor an IP address", s)
	}
	return nil
}

func checkFingerprint(s string) error {
	_, err := pki.ParseFingerprint(s)
	return err
}
