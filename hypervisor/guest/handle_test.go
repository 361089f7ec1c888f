package guest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// started makes the record of a guest that this process is taken for.
func started(t *testing.T, r Runs, vmid int) Record {
	t.Helper()
	self, err := FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	rec := Record{VMID: vmid, Kind: KVM, State: Running, Process: self, Created: time.Now()}
	if err := r.Create(rec); err != nil {
		t.Fatal(err)
	}
	return rec
}

func handle(r Runs, rec Record) *Handle { return NewHandle(r, rec, slog.New(slog.DiscardHandler)) }

// TestHandleOfTwo is a guest that two processes have a handle of, as joistd
// and stop-guests do.
func TestHandleOfTwo(t *testing.T) {
	r := Runs{t.TempDir()}
	rec := started(t, r, 100)
	ours, theirs := handle(r, rec), handle(r, rec)
	if ours.VMID() != 100 || ours.Asked() || ours.Ended() {
		t.Fatal(ours.Record())
	}
	theirs.Ask(true)
	if ours.Record().Asked || !ours.Asked() {
		t.Error("what another process asked for is not seen")
	}
	theirs.Ask(false)
	if ours.Asked() {
		t.Error("what was taken back still counts")
	}
	cleaned := 0
	clean := func(_ context.Context, got Record) error {
		cleaned++
		return r.Remove(got.VMID)
	}
	if err := errors.Join(ours.Tidy(t.Context(), clean), theirs.Tidy(t.Context(), clean)); err != nil || cleaned != 1 {
		t.Errorf("cleaned %d times: %v", cleaned, err)
	}
}

// TestHandleOfEarlierStart leaves a guest alone that was started anew.
func TestHandleOfEarlierStart(t *testing.T) {
	r := Runs{t.TempDir()}
	old := handle(r, started(t, r, 100))
	if err := r.Remove(100); err != nil {
		t.Fatal(err)
	}
	now := started(t, r, 100)
	old.Ask(true)
	if got, err := r.Read(100); err != nil || got.Asked || !got.Created.Equal(now.Created) {
		t.Errorf("%+v %v", got, err)
	}
	err := old.Tidy(t.Context(), func(context.Context, Record) error { return errors.New("cleaned") })
	if err != nil {
		t.Error(err)
	}
}

func TestShutdown(t *testing.T) {
	r := Runs{t.TempDir()}
	h := handle(r, started(t, r, 100))
	asked := func() bool { rec, _ := r.Read(100); return rec.Asked }
	refused := errors.New("no such button")
	if err := h.Shutdown(t.Context(), 0, func() error { return refused }); !errors.Is(err, refused) || asked() {
		t.Errorf("%v, asked %t", err, asked())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	deaf := func() error {
		if !asked() {
			t.Error("asked the guest before it was written down")
		}
		return nil
	}
	if err := h.Shutdown(ctx, 0, deaf); !errors.Is(err, context.DeadlineExceeded) || asked() {
		t.Errorf("%v, asked %t", err, asked())
	}
	times := 0
	hears := func() error { // the third time
		if times++; times == 3 {
			h.Finish("x")
		}
		return nil
	}
	if err := h.Shutdown(t.Context(), time.Millisecond, hears); err != nil || times != 3 || !asked() || !h.Ended() || h.Exit() != "x" {
		t.Errorf("%v, asked %t, exit %q", err, asked(), h.Exit())
	}
	if st := h.Reading(Usage{}); st.State != Stopped || st.Exit != "x" || st.PID != 0 {
		t.Errorf("%+v", st)
	}
}

func TestReading(t *testing.T) {
	r := Runs{t.TempDir()}
	h := handle(r, started(t, r, 100))
	st := h.Reading(Usage{Memory: 10, Cache: 4})
	if st.VMID != 100 || st.Kind != KVM || st.State != Running || st.PID != os.Getpid() || st.Uptime <= 0 || st.Uptime > time.Hour || st.CPUs < 1 || st.Mem != 6 {
		t.Errorf("%+v", st)
	}
}

func TestMeter(t *testing.T) {
	var m meter
	begin := time.Now()
	for _, c := range []struct {
		at, cpu time.Duration
		want    float64
	}{
		{0, 5 * time.Second, 0},                 // the first reading has nothing to compare with
		{time.Second, 6 * time.Second, 0.5},     // one second of two CPUs
		{1200 * time.Millisecond, 9e9, 0.5},     // too close
		{2 * time.Second, 8 * time.Second, 1},   // both
		{3 * time.Second, 1 * time.Second, 0},   // a new group
		{5 * time.Second, 2 * time.Second, .25}, // goes on from there
	} {
		if got := m.share(begin.Add(c.at), c.cpu, 2); got != c.want {
			t.Errorf("at %s: %v, want %v", c.at, got, c.want)
		}
	}
}

// numbered is a guest that is nothing but a number.
type numbered struct{ *Handle }

func (numbered) Status(context.Context) (Status, error) { return Status{}, nil }
func (numbered) Stop(context.Context, StopMode) error   { return nil }

func TestSet(t *testing.T) {
	r := Runs{t.TempDir()}
	entry := func(vmid int) *numbered { return &numbered{handle(r, Record{VMID: vmid})} }
	var s Set[*numbered]
	old, now, other := entry(100), entry(100), entry(99)
	s.Forget(old)
	s.Keep(old)
	s.Keep(now)
	s.Keep(other)
	s.Forget(old) // its place is taken
	if g, ok := s.Get(100); !ok || g != now {
		t.Error(g, ok)
	}
	if all := s.Guests(); len(all) != 2 || all[0].VMID() != 99 || all[1].VMID() != 100 {
		t.Error(all)
	}
	s.Forget(now)
	var left []int
	s.Release(func(n *numbered) { left = append(left, n.VMID()) })
	if _, ok := s.Get(99); ok || !slices.Equal(left, []int{99}) {
		t.Error(left)
	}
}

func TestRecover(t *testing.T) {
	r := Runs{t.TempDir()}
	busy, err := r.TryLock(101)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Unlock()
	var seen []int
	err = r.Recover([]int{100, 101, 102}, func(vmid int) error {
		if _, err := r.TryLock(vmid); !errors.Is(err, ErrLocked) {
			t.Errorf("guest %d is not locked: %v", vmid, err)
		}
		seen = append(seen, vmid)
		if vmid == 100 {
			return errors.New("broken")
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "find guest 100: broken") || !slices.Equal(seen, []int{100, 102}) {
		t.Errorf("%v %v", seen, err)
	}
}

func TestKnown(t *testing.T) {
	r, log := Runs{t.TempDir()}, slog.New(slog.DiscardHandler)
	started(t, r, 100)
	started(t, r, 101)
	if err := os.WriteFile(filepath.Join(r.Folder(101), recordFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Known(100, LXC, log); !errors.Is(err, ErrRunning) {
		t.Error(err)
	}
	for vmid, want := range map[int]bool{100: true, 101: false, 102: false} {
		if rec, ok, err := r.Known(vmid, KVM, log); err != nil || ok != want || rec.VMID != vmid {
			t.Errorf("%d: %+v %t %v", vmid, rec, ok, err)
		}
	}
}
