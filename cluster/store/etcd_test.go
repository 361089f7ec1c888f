package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"joist/cluster/member"
	"joist/cluster/store"
	"joist/cluster/store/storetest"
)

func client(t *testing.T) *clientv3.Client {
	t.Helper()
	m, err := member.Start(member.Options{Name: "n1", Dir: t.TempDir(), NoSync: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := m.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return m.Client()
}

// votes is a quorum that comes and goes as the test likes.
type votes struct {
	lost    atomic.Bool
	asked   atomic.Int32
	changed chan struct{}
}

func (v *votes) Quorate(context.Context) bool { return !v.lost.Load() }

func (v *votes) AwaitQuorum(context.Context) bool {
	v.asked.Add(1)
	return !v.lost.Load()
}

func (v *votes) LeaderChanged() <-chan struct{} { return v.changed }

func TestReads(t *testing.T) {
	q := &votes{changed: make(chan struct{})}
	s, ctx := store.NewEtcd(client(t), store.WithQuorum(q)), t.Context()
	if _, err := s.Txn(ctx, nil, store.Op{Key: "/k", Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		s    *store.Etcd
		lost bool
		want error
	}{
		{"strict", s, false, nil},
		{"or local", s.OrLocal(), false, nil},
		{"local", s.Local(), false, nil},
		{"strict, no quorum", s, true, store.ErrNoQuorum},
		{"or local, no quorum", s.OrLocal(), true, nil},
		{"local, no quorum", s.Local(), true, nil},
	} {
		q.lost.Store(tt.lost)
		if it, err := tt.s.Get(ctx, "/k"); !errors.Is(err, tt.want) || err == nil && string(it.Value) != "v" {
			t.Errorf("%s: get %+v %v", tt.name, it, err)
		}
		if l, rev, err := tt.s.List(ctx, "/"); !errors.Is(err, tt.want) || err == nil && (len(l) != 1 || rev == 0) {
			t.Errorf("%s: list %+v %v", tt.name, l, err)
		}
		_, err := tt.s.Txn(ctx, []store.Cond{{Key: "/x", Rev: 1}}, store.Op{Key: "/x"})
		want := store.ErrConflict
		if tt.lost {
			want = store.ErrNoQuorum
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: write: %v", tt.name, err)
		}
	}
	if _, err := s.Local().Get(ctx, "/none"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Local().Get(done, "/k"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// lossy is a client whose first transactions vanish on their way, as they do
// when the leader dies; with applied only their answers do.
type lossy struct {
	clientv3.KV
	losses  atomic.Int32
	applied bool
	lost    func()
}

type lossyTxn struct {
	clientv3.Txn
	l   *lossy
	ctx context.Context
}

func (l *lossy) Txn(ctx context.Context) clientv3.Txn {
	return &lossyTxn{l.KV.Txn(ctx), l, ctx}
}

func (x *lossyTxn) If(c ...clientv3.Cmp) clientv3.Txn { x.Txn = x.Txn.If(c...); return x }

func (x *lossyTxn) Then(o ...clientv3.Op) clientv3.Txn { x.Txn = x.Txn.Then(o...); return x }

func (x *lossyTxn) Commit() (*clientv3.TxnResponse, error) {
	if x.l.losses.Add(-1) < 0 {
		return x.Txn.Commit()
	}
	if x.l.applied {
		if _, err := x.Txn.Commit(); err != nil {
			return nil, err
		}
	}
	x.l.lost()
	<-x.ctx.Done()
	return nil, x.ctx.Err()
}

// TestLeaderDies: a write that was under way is written exactly once, or the
// writer is told.
func TestLeaderDies(t *testing.T) {
	c := client(t)
	kv := c.KV
	for _, applied := range []bool{false, true} {
		l := &lossy{KV: kv, applied: applied}
		c.KV = l
		ctx := t.Context()
		s := func() *store.Etcd {
			q := &votes{changed: make(chan struct{})}
			l.losses.Store(1)
			l.lost = func() { close(q.changed) }
			return store.NewEtcd(c, store.WithQuorum(q))
		}
		name := fmt.Sprintf("applied %v: ", applied)
		a, b := fmt.Sprintf("/%v/a", applied), fmt.Sprintf("/%v/b", applied)
		rev, err := s().Txn(ctx, []store.Cond{{Key: a}, {Key: b}}, store.Op{Key: a, Value: []byte("1")}, store.Op{Key: b, Value: []byte("2")})
		if err != nil {
			t.Fatalf("%screate: %v", name, err)
		}
		it, err := s().Get(ctx, b)
		if err != nil || it.Rev != rev || string(it.Value) != "2" {
			t.Errorf("%screated %+v at %d, %v", name, it, rev, err)
		}
		if _, err := s().Txn(ctx, []store.Cond{{Key: a}}, store.Op{Key: a, Value: []byte("other")}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%screate what is there: %v", name, err)
		}
		if _, err := s().Txn(ctx, []store.Cond{{Key: a, Rev: rev}}, store.Op{Key: a}); err != nil {
			t.Errorf("%sdelete: %v", name, err)
		}
		if _, err := s().Txn(ctx, nil, store.Op{Key: b, Value: []byte("3")}); !errors.Is(err, store.ErrNoQuorum) {
			t.Errorf("%swrite without a condition: %v", name, err)
		}
	}
}

func TestRestore(t *testing.T) {
	ctx := t.Context()
	for name, s := range map[string]store.Store{"memory": storetest.NewMemory(), "etcd": store.NewEtcd(client(t))} {
		var items []store.Item
		for i := range 301 {
			items = append(items, store.Item{Key: fmt.Sprintf("/joist/%03d", i), Value: make([]byte, i%7)})
		}
		for i := range 5 { // more than one transaction takes
			items = append(items, store.Item{Key: fmt.Sprintf("/joist/big%d", i), Value: make([]byte, 400<<10)})
		}
		// A restore that was cut after these.
		if err := store.Restore(ctx, s, items[:150]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := s.Txn(ctx, nil, store.Op{Key: "/other", Value: []byte{}}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := store.Restore(ctx, s, items); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		got, err := store.Dump(ctx, s, "/joist/")
		if err != nil || len(got) != len(items) {
			t.Fatalf("%s: %d of %d, %v", name, len(got), len(items), err)
		}
		for i, it := range items {
			if got[i].Key != it.Key || len(got[i].Value) != len(it.Value) {
				t.Fatalf("%s: %d: %s", name, i, got[i].Key)
			}
		}
		items[200].Value = []byte("something else")
		if err := store.Restore(ctx, s, items); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: over another value: %v", name, err)
		}
	}
}
