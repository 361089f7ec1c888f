package control

import (
	"context"
	"fmt"
	"sync"

	"joist/hypervisor/guest"
)

// keyLock is one lock per VMID, for what changes a guest. Readers never take
// it.
type keyLock struct {
	mu    sync.Mutex
	slots map[int]*slot
}

type slot struct {
	free  chan struct{}
	users int
}

func newKeyLock() *keyLock { return &keyLock{slots: map[int]*slot{}} }

// lock waits until ctx ends; unlock must be called once.
func (k *keyLock) lock(ctx context.Context, kind guest.Kind, vmid int) (unlock func(), err error) {
	s := k.enter(vmid)
	select {
	case s.free <- struct{}{}:
		return func() { <-s.free; k.leave(vmid, s) }, nil
	default:
	}
	select {
	case s.free <- struct{}{}:
		return func() { <-s.free; k.leave(vmid, s) }, nil
	case <-ctx.Done():
		k.leave(vmid, s)
		dir := "qemu-server"
		if kind == guest.LXC {
			dir = "lxc"
		}
		return nil, fmt.Errorf("can't lock file '/var/lock/%s/lock-%d.conf' - got timeout", dir, vmid)
	}
}

func (k *keyLock) enter(vmid int) *slot {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.slots[vmid]
	if s == nil {
		s = &slot{free: make(chan struct{}, 1)}
		k.slots[vmid] = s
	}
	s.users++
	return s
}

func (k *keyLock) leave(vmid int, s *slot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(k.slots, vmid)
	}
}
