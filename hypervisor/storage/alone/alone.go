// Package alone has one change at a time made to something, over all processes
// of a node.
package alone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is a file that serialises over processes, and a place in this one.
type Lock struct {
	file string
	turn chan struct{}
}

// New makes a lock; the file, and its folder, come with the first use.
func New(file string) *Lock { return &Lock{file: file, turn: make(chan struct{}, 1)} }

// Do runs f while nobody else changes what.
func (l *Lock) Do(ctx context.Context, what string, f func() error) error {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", what, ctx.Err())
	}
	defer func() { <-l.turn }()
	if err := os.MkdirAll(filepath.Dir(l.file), 0o755); err != nil {
		return fmt.Errorf("lock %s: %w", what, err)
	}
	file, err := os.OpenFile(l.file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock %s: %w", what, err)
	}
	defer file.Close() // lets go of the lock: flock(2)
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
