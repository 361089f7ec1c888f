package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"
)

// Handle is what the handles of all kinds have in common: the record of the
// guest's start, whether somebody asked for its end, and the end itself. A
// driver's own handle embeds it.
type Handle struct {
	runs Runs
	vmid int
	log  *slog.Logger
	done chan struct{}

	meter meter

	mu   sync.Mutex
	rec  Record
	exit string
}

// NewHandle makes the handle of the start that rec tells of.
func NewHandle(runs Runs, rec Record, log *slog.Logger) *Handle {
	return &Handle{runs: runs, vmid: rec.VMID, log: log, done: make(chan struct{}), rec: rec}
}

// VMID is the guest's number.
func (h *Handle) VMID() int { return h.vmid }

// Record returns what is known of the guest's start.
func (h *Handle) Record() Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rec
}

// Done is closed when the guest has ended and nothing of it is left.
func (h *Handle) Done() <-chan struct{} { return h.done }

// Ended reports whether Done is closed.
func (h *Handle) Ended() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

// Exit says why it ended; see Guest.
func (h *Handle) Exit() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.exit
}

// Close lets go of the handle. The driver keeps watching the guest, because
// somebody has to clean up after it.
func (h *Handle) Close() error { return nil }

// Finish notes why the guest ended and closes Done; call it once.
func (h *Handle) Finish(exit string) {
	h.mu.Lock()
	h.exit = exit
	h.mu.Unlock()
	close(h.done)
}

// same reports whether r is of the start that h is for: a later one has
// another time.
func (h *Handle) same(r Record) bool { return r.Created.Equal(h.Record().Created) }

// Update alters the record here and, if the one in the run folder is of the
// same start, there.
func (h *Handle) Update(change func(*Record)) error {
	h.mu.Lock()
	change(&h.rec)
	h.mu.Unlock()
	return h.runs.Update(h.vmid, func(r *Record) {
		if h.same(*r) {
			change(r)
		}
	})
}

// Ask writes down that the end of the guest is wanted, or no longer.
func (h *Handle) Ask(wanted bool) {
	err := h.Update(func(r *Record) { r.Asked = wanted })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.log.Warn("write record", "vmid", h.vmid, "error", err)
	}
}

// Asked reports whether the end is wanted, by us or by another process of
// ours.
func (h *Handle) Asked() bool {
	if h.Record().Asked {
		return true
	}
	now, err := h.runs.Read(h.vmid)
	return err == nil && now.Asked && h.same(now)
}

// Wait waits for the guest's end.
func (h *Handle) Wait(ctx context.Context) error {
	select {
	case <-h.done:
		return nil
	case <-ctx.Done():
		if h.Ended() {
			return nil
		}
		return ctx.Err()
	}
}

// Shutdown has the guest asked to end and waits until it has; every so often it
// is asked again, if that is not 0. That its end is wanted is written down
// before, and taken back when it does not come.
func (h *Handle) Shutdown(ctx context.Context, every time.Duration, ask func() error) error {
	h.Ask(true)
	err := ask()
	if err != nil && h.Record().Process.Alive() { // otherwise it was faster
		h.Ask(false)
		return err
	}
	var again <-chan time.Time
	if every > 0 {
		tick := time.NewTicker(every)
		defer tick.Stop()
		again = tick.C
	}
	for {
		select {
		case <-h.done:
			return nil
		case <-again:
			if err := ask(); err != nil && h.Record().Process.Alive() {
				h.log.Warn("guest cannot be asked again to shut down", "vmid", h.vmid, "error", err)
			}
		case <-ctx.Done():
			if h.Ended() {
				return nil
			}
			h.Ask(false)
			return fmt.Errorf("the guest did not shut down: %w", ctx.Err())
		}
	}
}

// Tidy has what is left of the guest cleaned up, under its lock, unless
// somebody has done so already or even started it anew.
func (h *Handle) Tidy(ctx context.Context, clean func(context.Context, Record) error) error {
	lock, err := h.runs.Lock(ctx, h.vmid)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	now, err := h.runs.Read(h.vmid)
	if err != nil || !h.same(now) {
		return nil
	}
	return clean(ctx, now)
}
