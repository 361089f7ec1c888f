package join

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"joist/cluster/pki"
	"joist/internal/finding"
)

// Patience is how long an action may go wrong before a join rolls back by
// itself: less than the voters' janitor waits.
const Patience = 10 * time.Minute

const (
	firstPause, lastPause = time.Second, 15 * time.Second
	maxPlans              = 5 // plans of one join that others got in the way of
)

// Runner drives an operation to its end.
type Runner struct {
	Journal Journal
	Machine Machine
	Peers   Peers
	Door    func(Op) (Door, error) // Runner.NewDoor's result on a node
	Log     *slog.Logger
	Now     func() time.Time
	// Wait pauses between tries; nil: a timer.
	Wait func(context.Context, time.Duration) error
	// Changed is told of each new state and each failure; nil: nobody is. The
	// operation it gets holds secrets.
	Changed func(o Op, err error)

	mu     sync.Mutex
	cancel bool
}

// Cancel asks for the operation to be called off, which is heard when the
// action under way returns. Where the table has no way back, the operation goes
// on. A join that is on its way back already no longer waits for the cluster to
// hear of it.
func (r *Runner) Cancel() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel = true
}

// cancelled reports whether a person's wish is waiting, and with take that it
// was heard: the way back is not called off by the same word.
func (r *Runner) cancelled(take bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.cancel
	if take {
		r.cancel = false
	}
	return was
}

// Run drives the operation under way, if there is one, from where its journal
// says it is. At says whether the daemon runs on its store or has not opened it
// yet; when the next action needs the other, Run returns that place: closed
// asks for a restart of the daemon, open to open the store and to call Run
// again. When nothing is left to do it returns "".
//
// It can be ended at any moment and called again, also by another process.
func (r *Runner) Run(ctx context.Context, at Place) (Place, error) {
	o, err := r.Journal.Load()
	if err != nil || o == nil {
		return "", err
	}
	var bad time.Time // since when the action goes wrong
	pause := firstPause
	for {
		row, ok := Lookup(o.Kind, o.State)
		if !ok {
			return "", fmt.Errorf("drive %s: there is no state %q", o.Kind, o.State)
		}
		if r.cancelled(false) {
			if to, ok := row.On[Cancel]; ok {
				r.cancelled(true)
				o.Reason = "it was called off"
				if err := r.enter(o, to, nil); err != nil || to.End() {
					return "", err
				}
				continue
			}
		}
		if row.At != at {
			return row.At, nil
		}
		was := *o
		err := r.do(ctx, row.Do, o)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if err != nil {
			*o = was // what a failed action filled in counts for nothing
			if bad.IsZero() {
				bad = r.Now()
			}
		}
		to, moved := row.On[classify(*o, row.Do, err)]
		if !moved && err != nil && r.Now().Sub(bad) >= Patience && !o.patient() {
			to, moved = row.On[GaveUp]
		}
		if moved {
			if row.Do == Attach && err == nil {
				at = Open // it is what Attach did
			}
			bad, pause = time.Time{}, firstPause
			r.explain(o, row.Do, err)
			if err := r.enter(o, to, err); err != nil || to.End() {
				return "", err
			}
			continue
		}
		r.Log.Warn("operation waits", "operation", o.Kind, "state", o.State, "action", row.Do, "error", err)
		r.tell(*o, err)
		if err := r.wait(ctx, pause); err != nil {
			return "", err
		}
		pause = min(2*pause, lastPause)
	}
}

// enter makes a state durable before anything is done in it.
func (r *Runner) enter(o *Op, to State, cause error) error {
	from := o.State
	o.State = to
	if to.End() {
		if err := r.Journal.Remove(); err != nil {
			return err
		}
	} else if err := r.Journal.Save(*o); err != nil {
		return err
	}
	r.Log.Info("operation", "operation", o.Kind, "from", from, "state", to, "reason", o.Reason)
	r.tell(*o, cause)
	return nil
}

// explain notes why an operation turns back; the first reason is the one that
// counts.
func (r *Runner) explain(o *Op, a Action, err error) {
	if err == nil {
		if a == Admit || a == Plan || a == Attach {
			o.Reason, o.Findings = "", nil
		}
		return
	}
	if o.Reason != "" {
		return
	}
	o.Reason = err.Error()
	var no *Refused
	if errors.As(err, &no) {
		o.Findings = no.Findings
	}
}

func (r *Runner) tell(o Op, err error) {
	if r.Changed != nil {
		r.Changed(o, err)
	}
}

func (r *Runner) wait(ctx context.Context, d time.Duration) error {
	if r.Wait != nil {
		return r.Wait(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// classify says what an action's error means to the table.
func classify(o Op, a Action, err error) Event {
	var no *Refused
	switch {
	case err == nil:
		return OK
	case errors.Is(err, ErrUnreachable):
		return Unreachable
	case errors.Is(err, ErrStranger):
		return Stranger
	case !errors.As(err, &no):
		return Failed
	case a == Plan && o.patient() && no.only("clock-skew"):
		return Failed // the clock is set soon after the network is there
	case a == Admit && o.Ask.Renumber.Auto && no.only("vmid-clash") && o.Plans < maxPlans:
		return Clashed
	case a == Release && no.only("guests-changed"):
		return Clashed
	}
	return RefusedIt
}

func (r *Runner) do(ctx context.Context, a Action, o *Op) error {
	switch a {
	case MakeKey:
		return makeKey(o)
	case Plan:
		return r.plan(ctx, o)
	case Admit:
		return r.admit(ctx, o)
	case Export:
		return r.export(ctx, o)
	case Swap:
		return r.Machine.Swap(ctx, o)
	case Attach:
		return r.Machine.Attach(ctx, o)
	case Finish:
		return r.Peers.Finish(ctx, *o)
	case Release:
		return r.Peers.Release(ctx, *o)
	case Rejoin:
		return r.Peers.Rejoin(ctx, o)
	case Clean:
		return r.Machine.Clean(ctx, o)
	case Revert:
		return r.Machine.Revert(ctx, o)
	case TellGone:
		d, err := r.Door(*o)
		if err != nil {
			return err
		}
		return d.Abort(ctx)
	}
	return fmt.Errorf("there is no action %q", a)
}

func makeKey(o *Op) error {
	var key *ecdsa.PrivateKey
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	o.Key, err = pki.EncodeKey(key)
	return err
}

// plan asks what stands against the join and decides what will be sent. That
// is written down before it is sent: a repeat sends the same.
func (r *Runner) plan(ctx context.Context, o *Op) error {
	d, err := r.Door(*o)
	if err != nil {
		return err
	}
	now, err := r.Machine.Records(ctx)
	if err != nil {
		return err
	}
	p, err := d.Check(ctx, now, o.Ask.Renumber)
	if err != nil {
		return err
	}
	if p.Findings.Stops() {
		return &Refused{p.Findings}
	}
	o.Authority, o.Before, o.IDs, o.Renames = p.Authority, now.Sum(), p.IDs, p.Renames
	o.Guests, o.Storages = p.Records.raws()
	o.Plans++
	return nil
}

func (r *Runner) admit(ctx context.Context, o *Op) error {
	d, err := r.Door(*o)
	if err != nil {
		return err
	}
	sent, err := o.records()
	if err != nil {
		return err
	}
	a, err := d.Commit(ctx, sent)
	if err != nil {
		return err
	}
	o.Admission = &a
	return nil
}

// export makes sure that a joining node is still what the cluster was told,
// guests that were to be stopped included.
func (r *Runner) export(ctx context.Context, o *Op) error {
	if o.Kind == Join {
		now, err := r.Machine.Records(ctx)
		if err != nil {
			return err
		}
		if string(now.Sum()) != string(o.Before) {
			return refuse("join-changed", "guests", "join again, and change nothing until it is done",
				"guests or storages of this node were changed while it joined")
		}
		var list finding.List
		for _, vmid := range now.Running {
			if to := o.IDs[vmid]; to != 0 {
				list.Stopf("guest-running", fmt.Sprint(vmid), "shut it down and join again", "guest %d was started while it was to become %d", vmid, to)
			}
		}
		if list.Stops() {
			return &Refused{list}
		}
	}
	return r.Machine.Export(ctx, o)
}
