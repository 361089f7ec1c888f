// Package store is the cluster's shared state as its users see it: keys,
// revisions, transactions that compare and swap, watches. It is embedded etcd
// underneath; nobody but this package and cluster/member knows.
package store

import (
	"context"
	"errors"
)

var (
	// ErrNotFound: there is no such key.
	ErrNotFound = errors.New("key does not exist")
	// ErrConflict: a condition of a transaction did not hold; read again.
	ErrConflict = errors.New("changed by somebody else")
	// ErrNoQuorum: the cluster cannot decide; reads of old state still work.
	// A write that failed so may have happened all the same if the quorum was
	// lost while it was under way; conditions make repeating it safe.
	ErrNoQuorum = errors.New("the cluster has no quorum")
)

// Item is one key with its value. Rev is the revision that last changed it.
type Item struct {
	Key   string
	Value []byte
	Rev   int64
}

// Cond holds when Key's last revision is Rev; Rev 0 means the key is absent.
type Cond struct {
	Key string
	Rev int64
}

// Op writes Value to Key, or deletes Key when Value is nil.
type Op struct {
	Key   string
	Value []byte
}

// Event is one change of one key; Value is nil for a deletion.
type Event struct {
	Key   string
	Value []byte
	Rev   int64
}

// Store is the cluster store.
type Store interface {
	Get(ctx context.Context, key string) (Item, error)
	// List returns all keys below prefix in order, and the store's revision
	// from which a Watch misses nothing.
	List(ctx context.Context, prefix string) ([]Item, int64, error)
	// Txn applies all ops if every condition holds and returns the new
	// revision, else ErrConflict and nothing changes.
	Txn(ctx context.Context, conds []Cond, ops ...Op) (int64, error)
	// Watch sends every change below prefix after revision rev until ctx ends,
	// then closes the channel.
	Watch(ctx context.Context, prefix string, rev int64) <-chan Event
}
