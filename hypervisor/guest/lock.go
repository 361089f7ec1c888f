package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked: somebody else is starting, stopping or cleaning up the guest.
var ErrLocked = errors.New("guest is being started or stopped by somebody else")

// Lock is the right to start or clean up a guest. It dies with the process
// that holds it, however that ends: the kernel drops flock(2) locks with the
// last descriptor, and ours are closed on exec.
type Lock struct{ f *os.File }

// TryLock takes the guest's lock or returns ErrLocked.
func (r Runs) TryLock(vmid int) (*Lock, error) { return r.tryLock(strconv.Itoa(vmid)) }

// Lock waits for the guest's lock until ctx ends.
func (r Runs) Lock(ctx context.Context, vmid int) (*Lock, error) {
	return r.lock(ctx, strconv.Itoa(vmid))
}

// LockAll waits for the lock under which things are chosen that must differ
// between guests, such as uids. It is held for moments only.
func (r Runs) LockAll(ctx context.Context) (*Lock, error) { return r.lock(ctx, "all") }

func (r Runs) lock(ctx context.Context, name string) (*Lock, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		l, err := r.tryLock(name)
		if !errors.Is(err, ErrLocked) {
			return l, err
		}
		// flock has no timeout; a short poll keeps ctx in charge without a
		// thread that sits in the call. Most locks are held for less than the
		// first pauses.
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for guest %s: %w (%w)", name, ErrLocked, ctx.Err())
		case <-time.After(pause):
		}
	}
}

func (r Runs) tryLock(name string) (*Lock, error) {
	if err := os.MkdirAll(r.Dir, 0o711); err != nil {
		return nil, err
	}
	path := filepath.Join(r.Dir, name+".lock")
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock guest %s: %w", name, err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrLocked
			}
			return nil, fmt.Errorf("lock guest %s: %w", name, err)
		}
		// Unlock removes the file while it is locked; a lock on a file that
		// has no name any more excludes nobody.
		mine, err := f.Stat()
		named, err2 := os.Stat(path)
		if err == nil && err2 == nil && os.SameFile(mine, named) {
			return &Lock{f: f}, nil
		}
		f.Close()
	}
}

// Sweep removes what a daemon that was killed has left beside the folders of
// guests: lock files that nobody holds and folders that never got their name.
func (r Runs) Sweep() {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".lock"); ok {
			if l, err := r.tryLock(name); err == nil {
				l.Unlock()
			}
			continue
		}
		vmid, ok := strings.CutSuffix(strings.TrimPrefix(e.Name(), "."), ".new")
		if !ok || !strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if l, err := r.tryLock(vmid); err == nil { // or its maker is at work
			os.RemoveAll(filepath.Join(r.Dir, e.Name()))
			l.Unlock()
		}
	}
}

// Unlock gives the lock up. A second call does nothing.
func (l *Lock) Unlock() {
	if l == nil || l.f == nil {
		return
	}
	os.Remove(l.f.Name())
	l.f.Close()
	l.f = nil
}
