// Package storetest holds what every Store must do, as a test suite, and a
// Store in memory for the tests of packages that use one.
package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"joist/cluster/store"
)

// Run tests the Store that open returns; each call gets an empty one.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	t.Run("get", func(t *testing.T) { get(t, open(t)) })
	t.Run("conditions", func(t *testing.T) { conditions(t, open(t)) })
	t.Run("list", func(t *testing.T) { list(t, open(t)) })
	t.Run("watch", func(t *testing.T) { watch(t, open(t)) })
	t.Run("contention", func(t *testing.T) { contention(t, open(t)) })
}

func put(t *testing.T, s store.Store, k, v string) int64 {
	t.Helper()
	rev, err := s.Txn(t.Context(), nil, store.Op{Key: k, Value: []byte(v)})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func get(t *testing.T, s store.Store) {
	ctx := t.Context()
	if _, err := s.Get(ctx, "/g/a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	rev := put(t, s, "/g/a", "1")
	if it, err := s.Get(ctx, "/g/a"); err != nil || string(it.Value) != "1" || it.Rev != rev || it.Key != "/g/a" {
		t.Errorf("%+v %v", it, err)
	}
	put(t, s, "/g/a", "")
	if it, err := s.Get(ctx, "/g/a"); err != nil || len(it.Value) != 0 {
		t.Errorf("empty value: %+v %v", it, err)
	}
	if _, err := s.Txn(ctx, nil, store.Op{Key: "/g/a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "/g/a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
}

func conditions(t *testing.T, s store.Store) {
	ctx := t.Context()
	absent := []store.Cond{{Key: "/c/a"}}
	rev, err := s.Txn(ctx, absent, store.Op{Key: "/c/a", Value: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		conds []store.Cond
		want  error
	}{
		{"created twice", absent, store.ErrConflict},
		{"stale revision", []store.Cond{{Key: "/c/a", Rev: rev - 1}}, store.ErrConflict},
		{"one of two fails", []store.Cond{{Key: "/c/a", Rev: rev}, {Key: "/c/b", Rev: 7}}, store.ErrConflict},
		{"right revision", []store.Cond{{Key: "/c/a", Rev: rev}, {Key: "/c/b"}}, nil},
	}
	for _, tt := range tests {
		_, err := s.Txn(ctx, tt.conds, store.Op{Key: "/c/x", Value: []byte("2")}, store.Op{Key: "/c/y", Value: []byte("3")})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		_, gerr := s.Get(ctx, "/c/x")
		if (gerr == nil) != (tt.want == nil) {
			t.Errorf("%s: write happened: %v", tt.name, gerr == nil)
		}
	}
}

func list(t *testing.T, s store.Store) {
	ctx := t.Context()
	if items, _, err := s.List(ctx, "/l/"); err != nil || items == nil || len(items) != 0 {
		t.Errorf("empty: %v %v", items, err)
	}
	put(t, s, "/l/b", "2")
	put(t, s, "/l/a", "1")
	last := put(t, s, "/m/a", "3")
	items, rev, err := s.List(ctx, "/l/")
	if err != nil || len(items) != 2 || items[0].Key != "/l/a" || items[1].Key != "/l/b" {
		t.Errorf("%v %v", items, err)
	}
	if rev < last {
		t.Errorf("revision %d before %d", rev, last)
	}
}

func watch(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	put(t, s, "/w/old", "0")
	_, rev, err := s.List(ctx, "/w/")
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "/w/a", "1") // before Watch, after List: must be seen
	ch := s.Watch(ctx, "/w/", rev)
	put(t, s, "/other", "x")
	put(t, s, "/w/a", "")
	if _, err := s.Txn(ctx, nil, store.Op{Key: "/w/a"}); err != nil {
		t.Fatal(err)
	}
	want := []struct {
		value string
		gone  bool
	}{{"1", false}, {"", false}, {"", true}}
	last := rev
	for i, w := range want {
		select {
		case e, ok := <-ch:
			if !ok || e.Key != "/w/a" || string(e.Value) != w.value || (e.Value == nil) != w.gone || e.Rev <= last {
				t.Fatalf("event %d: %+v open %v", i, e, ok)
			}
			last = e.Rev
		case <-time.After(10 * time.Second):
			t.Fatalf("event %d is missing", i)
		}
	}
	cancel()
	select {
	case e, ok := <-ch:
		if ok {
			t.Errorf("event after the end: %+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("channel stays open")
	}
}

// contention lets several writers count up one key; none may be lost.
func contention(t *testing.T, s store.Store) {
	const writers, each = 4, 10
	done := make(chan error, writers)
	for range writers {
		go func() {
			done <- func() error {
				for n := 0; n < each; {
					it, err := s.Get(t.Context(), "/n")
					if err != nil && !errors.Is(err, store.ErrNotFound) {
						return err
					}
					next := append(append([]byte{}, it.Value...), 'x')
					switch _, err := s.Txn(t.Context(), []store.Cond{{Key: "/n", Rev: it.Rev}}, store.Op{Key: "/n", Value: next}); {
					case err == nil:
						n++
					case !errors.Is(err, store.ErrConflict):
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if it, err := s.Get(t.Context(), "/n"); err != nil || len(it.Value) != writers*each {
		t.Errorf("%d writes counted: %v", len(it.Value), err)
	}
}
