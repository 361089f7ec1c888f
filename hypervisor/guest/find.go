package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
)

// Set is the guests of one driver that run, one handle for each, so that every
// caller gets the same. The zero Set is empty.
type Set[G Guest] struct {
	mu  sync.Mutex
	all map[int]G
}

// Get returns a guest's handle.
func (s *Set[G]) Get(vmid int) (g G, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok = s.all[vmid]
	return g, ok
}

// Keep enters a guest.
func (s *Set[G]) Keep(g G) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[int]G{}
	}
	s.all[g.VMID()] = g
}

// Forget takes a guest out, unless another handle has its place by now.
func (s *Set[G]) Forget(g G) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.all[g.VMID()]; ok && any(now) == any(g) {
		delete(s.all, g.VMID())
	}
}

// Guests returns all handles by VMID.
func (s *Set[G]) Guests() []Guest {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Guest, 0, len(s.all))
	for _, id := range slices.Sorted(maps.Keys(s.all)) {
		out = append(out, s.all[id])
	}
	return out
}

// Release empties the set and calls f for each guest that was in it.
func (s *Set[G]) Release(f func(G)) {
	s.mu.Lock()
	all := s.all
	s.all = nil
	s.mu.Unlock()
	for _, g := range all {
		f(g)
	}
}

// Recover calls f for each guest while it holds the guest's lock. One that is
// being started or cleaned up right now is passed over: the next Find sees the
// outcome.
func (r Runs) Recover(vmids []int, f func(vmid int) error) error {
	var errs []error
	for _, vmid := range vmids {
		lock, err := r.TryLock(vmid)
		if errors.Is(err, ErrLocked) {
			continue
		}
		if err == nil {
			err = f(vmid)
			lock.Unlock()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("find guest %d: %w", vmid, err))
		}
	}
	return errors.Join(errs...)
}

// Known returns the record of a guest to the driver of a kind. It is not ok
// when there is none or it cannot be read: what else there is of the guest is
// left over. A guest of another kind is ErrRunning.
func (r Runs) Known(vmid int, kind Kind, log *slog.Logger) (rec Record, ok bool, err error) {
	rec, err = r.Read(vmid)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Record{VMID: vmid}, false, nil
	case err != nil:
		log.Error("unreadable record, what is left of the guest is removed", "vmid", vmid, "error", err)
		return Record{VMID: vmid}, false, nil
	case rec.Kind != kind:
		return rec, false, fmt.Errorf("%w as %s", ErrRunning, rec.Kind)
	}
	return rec, true, nil
}
