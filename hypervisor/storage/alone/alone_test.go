package alone

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Two locks on one file, as two processes have them, exclude each other.
func TestOneAtATime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run", "x.lock")
	locks := []*Lock{New(file), New(file)}
	var at, most atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			err := locks[i%2].Do(t.Context(), "it", func() error {
				most.Store(max(most.Load(), at.Add(1)))
				time.Sleep(time.Millisecond)
				at.Add(-1)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d ran at once", most.Load())
	}
}

func TestWaitEnds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.lock")
	l := New(file)
	for name, other := range map[string]*Lock{"of this process": l, "of another": New(file)} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		err := l.Do(t.Context(), "it", func() error { return other.Do(ctx, "the group", func() error { return nil }) })
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "wait for the group") {
			t.Errorf("%s: %v", name, err)
		}
	}
	fails := errors.New("no room")
	if err := l.Do(t.Context(), "it", func() error { return fails }); !errors.Is(err, fails) {
		t.Error(err)
	}
	if err := New("/proc/none/x.lock").Do(t.Context(), "it", func() error { return nil }); err == nil || !strings.Contains(err.Error(), "lock it") {
		t.Error(err)
	}
}
