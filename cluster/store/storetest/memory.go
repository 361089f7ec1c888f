package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"joist/cluster/store"
)

// Memory is a Store that forgets. It is for tests only.
type Memory struct {
	mu    sync.Mutex
	rev   int64
	items map[string]store.Item
	log   []store.Event
	grown chan struct{} // closed when log grows
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{rev: 1, items: map[string]store.Item{}, grown: make(chan struct{})}
}

// Get implements store.Store.
func (m *Memory) Get(_ context.Context, key string) (store.Item, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	it, ok := m.items[key]
	if !ok {
		return it, fmt.Errorf("read %q: %w", key, store.ErrNotFound)
	}
	return it, nil
}

// List implements store.Store.
func (m *Memory) List(_ context.Context, prefix string) ([]store.Item, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []store.Item{}
	for k, it := range m.items {
		if strings.HasPrefix(k, prefix) {
			list = append(list, it)
		}
	}
	slices.SortFunc(list, func(a, b store.Item) int { return strings.Compare(a.Key, b.Key) })
	return list, m.rev, nil
}

// Txn implements store.Store.
func (m *Memory) Txn(_ context.Context, conds []store.Cond, ops ...store.Op) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range conds {
		if m.items[c.Key].Rev != c.Rev {
			return 0, store.ErrConflict
		}
	}
	m.rev++
	for _, o := range ops {
		if o.Value == nil {
			delete(m.items, o.Key)
		} else {
			m.items[o.Key] = store.Item{Key: o.Key, Value: slices.Clone(o.Value), Rev: m.rev}
		}
		m.log = append(m.log, store.Event{Key: o.Key, Value: slices.Clone(o.Value), Rev: m.rev})
	}
	close(m.grown)
	m.grown = make(chan struct{})
	return m.rev, nil
}

// Watch implements store.Store.
func (m *Memory) Watch(ctx context.Context, prefix string, rev int64) <-chan store.Event {
	out := make(chan store.Event)
	go func() {
		defer close(out)
		for at := 0; ; {
			m.mu.Lock()
			news, grown := m.log[at:], m.grown
			m.mu.Unlock()
			at += len(news)
			for _, e := range news {
				if e.Rev <= rev || !strings.HasPrefix(e.Key, prefix) {
					continue
				}
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-grown:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
