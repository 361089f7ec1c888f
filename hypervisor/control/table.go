package control

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"joist/cluster/store"
)

// table is all guests of the cluster in memory, so that reading one, or ten
// thousand, asks nobody. It follows the store; own writes show at once.
type table struct {
	s   store.Store
	log *slog.Logger

	mu   sync.RWMutex
	recs map[int]entry
	seen map[int]int64 // revision that last changed a VMID, deletions too: events may come late
}

type entry struct {
	Record
	rev int64
}

func newTable(s store.Store, log *slog.Logger) *table {
	return &table{s: s, log: log, recs: map[int]entry{}, seen: map[int]int64{}}
}

// load reads everything and returns the revision to follow from.
func (t *table) load(ctx context.Context) (int64, error) {
	items, rev, err := t.s.List(ctx, Prefix)
	if err != nil {
		return 0, fmt.Errorf("list guests: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	there := map[int]bool{}
	for _, it := range items {
		r, err := decode(it.Key, it.Value)
		if err != nil {
			t.log.Error("guest is unreadable", "key", it.Key, "err", err)
			continue
		}
		there[r.VMID] = true
		t.put(r, it.Rev)
	}
	for id := range t.recs {
		if !there[id] && t.seen[id] <= rev {
			delete(t.recs, id)
		}
	}
	return rev, nil
}

// follow keeps the table up to date until ctx ends. A watch that breaks off is
// begun anew with a full reading.
func (t *table) follow(ctx context.Context, rev int64) {
	for {
		for ev := range t.s.Watch(ctx, Prefix, rev) {
			t.apply(ev)
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			var err error
			if rev, err = t.load(ctx); err == nil {
				break
			}
			t.log.Warn("read guests", "err", err)
		}
	}
}

func (t *table) apply(ev store.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ev.Value == nil {
		id, err := strconv.Atoi(strings.TrimPrefix(ev.Key, Prefix))
		if e, ok := t.recs[id]; err == nil && ok && e.rev < ev.Rev {
			delete(t.recs, id)
			t.seen[id] = ev.Rev
		}
		return
	}
	r, err := decode(ev.Key, ev.Value)
	if err != nil {
		t.log.Error("guest is unreadable", "key", ev.Key, "err", err)
		return
	}
	t.put(r, ev.Rev)
}

func (t *table) put(r Record, rev int64) {
	if rev > t.seen[r.VMID] {
		t.recs[r.VMID] = entry{r, rev}
		t.seen[r.VMID] = rev
	}
}

// get returns one guest. Its maps are shared: readers only.
func (t *table) get(vmid int) (entry, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e, ok := t.recs[vmid]
	return e, ok
}

// all returns the guests by VMID.
func (t *table) all() []entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]entry, 0, len(t.recs))
	for _, id := range slices.Sorted(maps.Keys(t.recs)) {
		out = append(out, t.recs[id])
	}
	return out
}

// write stores a guest if its key still has revision rev; 0 means absent.
func (t *table) write(ctx context.Context, r Record, rev int64) (entry, error) {
	now, err := t.s.Txn(ctx, []store.Cond{{Key: Key(r.VMID), Rev: rev}}, store.Op{Key: Key(r.VMID), Value: r.encode()})
	if err != nil {
		return entry{}, fmt.Errorf("write configuration of guest %d: %w", r.VMID, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(r, now)
	return entry{r, now}, nil
}

// remove deletes a guest's key if it still has revision rev.
func (t *table) remove(ctx context.Context, vmid int, rev int64) error {
	now, err := t.s.Txn(ctx, []store.Cond{{Key: Key(vmid), Rev: rev}}, store.Op{Key: Key(vmid)})
	if err != nil {
		return fmt.Errorf("remove configuration of guest %d: %w", vmid, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if now > t.seen[vmid] { // otherwise somebody has taken the VMID since
		delete(t.recs, vmid)
		t.seen[vmid] = now
	}
	return nil
}
