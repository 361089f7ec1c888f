package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// What one transaction of Restore holds: etcd takes 128 operations and 1.5 MB.
const (
	batchOps   = 100
	batchBytes = 512 << 10
)

// Dump returns all keys below prefix, of one moment. From Etcd's Local it
// needs no quorum.
func Dump(ctx context.Context, s Store, prefix string) ([]Item, error) {
	items, _, err := s.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("dump store: %w", err)
	}
	return items, nil
}

// Restore writes items into a store that has none of their keys. One that was
// interrupted can be repeated: keys that are there with the same value are
// left, one with another value is ErrConflict. Revisions are new.
func Restore(ctx context.Context, s Store, items []Item) error {
	for len(items) > 0 {
		n := batch(items)
		if err := restore(ctx, s, items[:n]); err != nil {
			return fmt.Errorf("restore store: %w", err)
		}
		items = items[n:]
	}
	return nil
}

// batch is how many of the items fit into one transaction, at least one.
func batch(items []Item) int {
	size := 0
	for i, it := range items {
		if size += 2*len(it.Key) + len(it.Value); i == batchOps || i > 0 && size > batchBytes {
			return i
		}
	}
	return len(items)
}

func restore(ctx context.Context, s Store, items []Item) error {
	_, err := s.Txn(ctx, absent(items), writes(items)...)
	if !errors.Is(err, ErrConflict) {
		return err
	}
	var missing []Item
	for _, it := range items {
		switch have, err := s.Get(ctx, it.Key); {
		case errors.Is(err, ErrNotFound):
			missing = append(missing, it)
		case err != nil:
			return err
		case !bytes.Equal(have.Value, it.Value):
			return fmt.Errorf("key %q: %w", it.Key, ErrConflict)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, err = s.Txn(ctx, absent(missing), writes(missing)...)
	return err
}

func absent(items []Item) []Cond {
	conds := make([]Cond, 0, len(items))
	for _, it := range items {
		conds = append(conds, Cond{Key: it.Key})
	}
	return conds
}

func writes(items []Item) []Op {
	ops := make([]Op, 0, len(items))
	for _, it := range items {
		ops = append(ops, Op{Key: it.Key, Value: append([]byte{}, it.Value...)})
	}
	return ops
}
