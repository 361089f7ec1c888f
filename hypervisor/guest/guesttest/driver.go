// Package guesttest is a node without machines, for the tests of what stands
// on drivers and pools: a Driver whose guests are values, and a Pool whose
// volumes are names. Both may be used from several goroutines; their exported
// fields are set while nothing is going on.
package guesttest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"joist/hypervisor/guest"
)

// Driver runs guests that do nothing.
type Driver struct {
	Fail error         // of each start
	Hold chan struct{} // a start waits for it
	Deaf bool          // guests ignore Shutdown

	kind guest.Kind

	mu      sync.Mutex
	running map[int]*Guest
	started []int
	stopped []int
	resized []string
}

// NewDriver makes a driver of a kind.
func NewDriver(kind guest.Kind) *Driver { return &Driver{kind: kind, running: map[int]*Guest{}} }

// Kind is the driver's kind.
func (d *Driver) Kind() guest.Kind { return d.kind }

// Start runs a guest; see guest.Driver.
func (d *Driver) Start(ctx context.Context, s guest.Spec) (guest.Guest, error) {
	if d.Hold != nil {
		select {
		case <-d.Hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.Fail != nil {
		return nil, d.Fail
	}
	if d.running[s.VMID] != nil {
		return nil, fmt.Errorf("start guest %d: %w", s.VMID, guest.ErrRunning)
	}
	d.started = append(d.started, s.VMID)
	g := NewGuest(s)
	g.d = d
	d.running[s.VMID] = g
	return g, nil
}

// Find returns the guests that run.
func (d *Driver) Find(context.Context) ([]guest.Guest, error) { return d.Running(), nil }

// Running lists the guests that run.
func (d *Driver) Running() []guest.Guest {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []guest.Guest
	for _, g := range d.running {
		out = append(out, g)
	}
	return out
}

// Guest returns one that runs, or nil.
func (d *Driver) Guest(vmid int) *Guest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running[vmid]
}

// Lose ends a guest so that nobody hears of it.
func (d *Driver) Lose(vmid int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.running, vmid)
}

// Started lists the starts that went well, in order.
func (d *Driver) Started() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.started)
}

// Stopped lists the stops since it was called last, in order.
func (d *Driver) Stopped() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.stopped
	d.stopped = nil
	return out
}

// Resized lists what running guests were told of their disks: "scsi0 5" for
// five GiB.
func (d *Driver) Resized() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.resized)
}
