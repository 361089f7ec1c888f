package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// opTimeout bounds one operation: without a quorum etcd would wait for
	// one as long as the caller does.
	opTimeout = 5 * time.Second
	// localAfter is when a read that may be answered from the local copy is.
	localAfter = 2 * time.Second
	// again is the pause before something is tried once more.
	again = 50 * time.Millisecond
	// settle is what a write gets to show its result after an election.
	settle = 200 * time.Millisecond
)

// Quorum knows whether the cluster can decide; a member does.
type Quorum interface {
	// Quorate reports whether it can now.
	Quorate(ctx context.Context) bool
	// AwaitQuorum waits as long as an election may take, and not at all when
	// the quorum has been missing for longer.
	AwaitQuorum(ctx context.Context) bool
	// LeaderChanged is closed when the next leader is elected.
	LeaderChanged() <-chan struct{}
}

// reads says where Get and List read.
type reads int

const (
	strict  reads = iota // what the quorum says, else ErrNoQuorum
	orLocal              // what the quorum says, else the local copy
	local                // the local copy
)

// Etcd is the Store on the in-process client of an etcd member.
type Etcd struct {
	c      *clientv3.Client
	quorum Quorum
	reads  reads
}

// Option is a choice of NewEtcd.
type Option func(*Etcd)

// WithQuorum lets operations fail at once when q knows that they cannot
// succeed. Without it each waits for its whole timeout.
func WithQuorum(q Quorum) Option { return func(e *Etcd) { e.quorum = q } }

// NewEtcd makes a Store of a client, which stays the caller's to close. Its
// reads are linearizable: without quorum they fail with ErrNoQuorum.
func NewEtcd(c *clientv3.Client, opts ...Option) *Etcd {
	e := &Etcd{c: c}
	for _, o := range opts {
		o(e)
	}
	return e
}

// OrLocal is the same Store, but without quorum Get and List answer from this
// node's copy, which may lag behind what others have decided. It is for
// whatever must work without quorum, a daemon's start first of all. Txn is not
// fooled by an old read: a condition on it fails when the quorum is back.
func (e *Etcd) OrLocal() *Etcd { return e.reading(orLocal) }

// Local is the same Store with Get and List from this node's copy always.
func (e *Etcd) Local() *Etcd { return e.reading(local) }

func (e *Etcd) reading(r reads) *Etcd {
	c := *e
	c.reads = r
	return &c
}

// Get implements Store.
func (e *Etcd) Get(ctx context.Context, key string) (Item, error) {
	r, err := e.read(ctx, key)
	if err != nil {
		return Item{}, fmt.Errorf("read %q: %w", key, err)
	}
	if len(r.Kvs) == 0 {
		return Item{}, fmt.Errorf("read %q: %w", key, ErrNotFound)
	}
	kv := r.Kvs[0]
	return Item{Key: key, Value: kv.Value, Rev: kv.ModRevision}, nil
}

// List implements Store.
func (e *Etcd) List(ctx context.Context, prefix string) ([]Item, int64, error) {
	r, err := e.read(ctx, prefix, clientv3.WithPrefix()) // in key order
	if err != nil {
		return nil, 0, fmt.Errorf("list %q: %w", prefix, err)
	}
	items := make([]Item, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		items = append(items, Item{Key: string(kv.Key), Value: kv.Value, Rev: kv.ModRevision})
	}
	return items, r.Header.Revision, nil
}

func (e *Etcd) read(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if e.reads == strict {
		return e.readQuorum(ctx, opTimeout, key, opts)
	}
	if e.reads == orLocal && (e.quorum == nil || e.quorum.Quorate(ctx)) {
		r, err := e.readQuorum(ctx, localAfter, key, opts)
		if !errors.Is(err, ErrNoQuorum) {
			return r, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := e.c.Get(ctx, key, append(opts[:len(opts):len(opts)], clientv3.WithSerializable())...)
	return r, translate(err)
}

func (e *Etcd) readQuorum(ctx context.Context, limit time.Duration, key string, opts []clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if e.quorum != nil && !e.quorum.AwaitQuorum(ctx) {
		return nil, ErrNoQuorum
	}
	for {
		r, err := e.c.Get(ctx, key, opts...)
		// A client on a socket would repeat it; the one in process does not.
		if !errors.Is(err, rpctypes.ErrLeaderChanged) || !pause(ctx) {
			return r, translate(err)
		}
	}
}

// errLeaderChanged: a write was under way when another leader was elected.
var errLeaderChanged = errors.New("the leader changed")

// Txn implements Store. A write that is on its way to a leader that dies is
// lost without a word. It is written again as soon as there is a new leader, if
// each of its operations has a condition on its key: it cannot take effect
// twice then.
func (e *Etcd) Txn(ctx context.Context, conds []Cond, ops ...Op) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	repeatable := guarded(conds, ops)
	for unsure := false; ; {
		if e.quorum != nil && !e.quorum.AwaitQuorum(ctx) {
			return 0, fmt.Errorf("write to store: %w", ErrNoQuorum)
		}
		r, err := e.attempt(ctx, conds, ops)
		switch {
		case err == nil && r.Succeeded:
			return r.Header.Revision, nil
		case err == nil && unsure:
			return e.landed(ctx, ops)
		case err == nil:
			return 0, ErrConflict
		case dropped(err) && pause(ctx):
		case errors.Is(err, errLeaderChanged) && repeatable:
			unsure = true
		default:
			return 0, fmt.Errorf("write to store: %w", translate(err))
		}
	}
}

// attempt is one try of a transaction, given up when the leader changes.
func (e *Etcd) attempt(ctx context.Context, conds []Cond, ops []Op) (*clientv3.TxnResponse, error) {
	cmps := make([]clientv3.Cmp, 0, len(conds))
	for _, c := range conds { // the mod revision of an absent key is 0
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Rev))
	}
	then := make([]clientv3.Op, 0, len(ops))
	for _, o := range ops {
		if o.Value == nil {
			then = append(then, clientv3.OpDelete(o.Key))
		} else {
			then = append(then, clientv3.OpPut(o.Key, string(o.Value)))
		}
	}
	if e.quorum == nil {
		return e.c.Txn(ctx).If(cmps...).Then(then...).Commit()
	}
	changed, done := e.quorum.LeaderChanged(), make(chan struct{})
	defer close(done)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-done:
			return
		case <-changed:
		}
		// What the old leader had committed shows about now.
		select {
		case <-done:
		case <-time.After(settle):
			cancel(errLeaderChanged)
		}
	}()
	r, err := e.c.Txn(ctx).If(cmps...).Then(then...).Commit()
	if err != nil && errors.Is(context.Cause(ctx), errLeaderChanged) {
		err = errLeaderChanged
	}
	return r, err
}

func guarded(conds []Cond, ops []Op) bool {
	for _, o := range ops {
		if !slices.ContainsFunc(conds, func(c Cond) bool { return c.Key == o.Key }) {
			return false
		}
	}
	return true
}

// landed decides what a conflict means after a try whose end nobody saw: when
// all is as that try would have left it, that was it.
func (e *Etcd) landed(ctx context.Context, ops []Op) (int64, error) {
	gets := make([]clientv3.Op, 0, len(ops))
	for _, o := range ops {
		gets = append(gets, clientv3.OpGet(o.Key))
	}
	r, err := e.c.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return 0, fmt.Errorf("write to store: %w", translate(err))
	}
	rev := int64(0)
	for i, o := range ops {
		switch kvs := r.Responses[i].GetResponseRange().Kvs; {
		case (o.Value == nil) != (len(kvs) == 0):
			return 0, ErrConflict
		case o.Value == nil:
		case !bytes.Equal(kvs[0].Value, o.Value), rev != 0 && rev != kvs[0].ModRevision:
			return 0, ErrConflict
		default:
			rev = kvs[0].ModRevision
		}
	}
	if rev == 0 {
		rev = r.Header.Revision // it deleted only
	}
	return rev, nil
}

// dropped tells that the leader did not take a proposal, because it hands over
// to another: nothing was written, trying again is safe. raft's own error has
// become a text on the way.
func dropped(err error) bool { return strings.Contains(err.Error(), "raft proposal dropped") }

func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(again):
		return true
	}
}

// Watch implements Store. It needs no quorum and no leader: it shows what the
// local copy learns, and goes on when there is news again. The channel is also
// closed when the history from rev on was compacted away: whoever falls that
// far behind lists again.
func (e *Etcd) Watch(ctx context.Context, prefix string, rev int64) <-chan Event {
	out := make(chan Event)
	in := e.c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(rev+1))
	go func() {
		defer close(out)
		for {
			for r := range in {
				for _, ev := range r.Events {
					e := Event{Key: string(ev.Kv.Key), Rev: ev.Kv.ModRevision}
					if ev.Type == clientv3.EventTypePut {
						e.Value = append([]byte{}, ev.Kv.Value...) // an empty value is not a deletion
					}
					select {
					case out <- e:
						rev = e.Rev
					case <-ctx.Done():
						return
					}
				}
				if r.CompactRevision != 0 {
					return
				}
			}
			// The server ended the watch: go on after the last event that
			// was delivered in full.
			select {
			case <-ctx.Done():
				return
			case <-e.c.Ctx().Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
			in = e.c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(rev+1))
		}
	}()
	return out
}

// translate maps etcd's ways to say that there is no quorum.
func translate(err error) error {
	for _, e := range []error{rpctypes.ErrNoLeader, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail,
		rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrStopped, rpctypes.ErrLeaderChanged, errLeaderChanged, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w (%v)", ErrNoQuorum, err)
		}
	}
	return err
}
