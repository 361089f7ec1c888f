package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// opTimeout bounds one operation: without a quorum etcd would wait for one as
// long as the caller does.
const opTimeout = 5 * time.Second

// Etcd is the Store on an etcd client.
type Etcd struct{ c *clientv3.Client }

// NewEtcd makes a Store of a client, which stays the caller's to close.
func NewEtcd(c *clientv3.Client) *Etcd { return &Etcd{c} }

// Get implements Store; the read is linearizable.
func (e *Etcd) Get(ctx context.Context, key string) (Item, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := e.c.Get(ctx, key)
	if err != nil {
		return Item{}, fmt.Errorf("read %q: %w", key, translate(err))
	}
	if len(r.Kvs) == 0 {
		return Item{}, fmt.Errorf("read %q: %w", key, ErrNotFound)
	}
	kv := r.Kvs[0]
	return Item{Key: key, Value: kv.Value, Rev: kv.ModRevision}, nil
}

// List implements Store.
func (e *Etcd) List(ctx context.Context, prefix string) ([]Item, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := e.c.Get(ctx, prefix, clientv3.WithPrefix()) // in key order
	if err != nil {
		return nil, 0, fmt.Errorf("list %q: %w", prefix, translate(err))
	}
	items := make([]Item, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		items = append(items, Item{Key: string(kv.Key), Value: kv.Value, Rev: kv.ModRevision})
	}
	return items, r.Header.Revision, nil
}

// Txn implements Store.
func (e *Etcd) Txn(ctx context.Context, conds []Cond, ops ...Op) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
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
	r, err := e.c.Txn(ctx).If(cmps...).Then(then...).Commit()
	if err != nil {
		return 0, fmt.Errorf("write to store: %w", translate(err))
	}
	if !r.Succeeded {
		return 0, ErrConflict
	}
	return r.Header.Revision, nil
}

// Watch implements Store. The channel is also closed when the history from rev
// on was compacted away: whoever falls that far behind lists again.
func (e *Etcd) Watch(ctx context.Context, prefix string, rev int64) <-chan Event {
	out := make(chan Event)
	in := e.c.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(rev+1))
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
			// The leader was lost, or the server is closing: go on after the
			// last event that was delivered in full.
			select {
			case <-ctx.Done():
				return
			case <-e.c.Ctx().Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
			in = e.c.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(rev+1))
		}
	}()
	return out
}

// translate maps etcd's ways to say that there is no quorum.
func translate(err error) error {
	for _, e := range []error{rpctypes.ErrNoLeader, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail,
		rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrStopped, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w (%v)", ErrNoQuorum, err)
		}
	}
	return err
}
