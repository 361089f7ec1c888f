package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"joist/api/node"
	"joist/hypervisor/guest"
)

// Config says where the driver finds what it needs; Defaults are a node's.
type Config struct {
	Runs     guest.Runs
	Groups   guest.Groups
	Tapper   Tapper // nil: guests with network cards do not start
	QEMU     string // the program
	KVM      string // /dev/kvm; "" never uses it
	VHost    string // /dev/vhost-net; "" never uses it
	Firmware string // folder of OVMF
	FirstUID int    // guests run as uid = gid in [FirstUID, FirstUID+UIDs); 0 UIDs: as ourselves
	UIDs     int
	Log      *slog.Logger
	// Step, when set, is called after each named step of a start. Tests die
	// in it.
	Step func(name string)
}

// Defaults are the places of a node.
func Defaults(log *slog.Logger, t Tapper) Config {
	return Config{
		Runs: guest.Runs{Dir: node.GuestRun}, Groups: guest.Groups{Dir: "/sys/fs/cgroup/guests"}, Tapper: t,
		QEMU: "/usr/bin/qemu-system-x86_64", KVM: "/dev/kvm", VHost: "/dev/vhost-net", Firmware: "/usr/share/OVMF",
		FirstUID: 200000, UIDs: 10000, Log: log,
	}
}

// Driver starts machines and keeps an eye on those that run.
type Driver struct {
	Config

	mu       sync.Mutex
	machines map[int]*Machine
}

var _ guest.Driver = (*Driver)(nil)

// New makes a driver. It looks at nothing yet; Find does.
func New(c Config) *Driver {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Step == nil {
		c.Step = func(string) {}
	}
	return &Driver{Config: c, machines: map[int]*Machine{}}
}

// Kind is guest.KVM.
func (d *Driver) Kind() guest.Kind { return guest.KVM }

// Accel says what machines run on when they are started now: "kvm" or "tcg".
func (d *Driver) Accel() string {
	if d.probe().KVM {
		return "kvm"
	}
	return "tcg"
}

// Start runs a machine; see guest.Driver.
func (d *Driver) Start(ctx context.Context, s guest.Spec) (guest.Guest, error) {
	m, err := d.start(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("start guest %d: %w", s.VMID, err)
	}
	return m, nil
}

func (d *Driver) start(ctx context.Context, s guest.Spec) (*Machine, error) {
	lock, err := d.Runs.Lock(ctx, s.VMID)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if m, err := d.recover(ctx, s.VMID); err != nil {
		return nil, err
	} else if m != nil {
		return nil, guest.ErrRunning
	}
	plan, err := Make(s, d.probe())
	if err != nil {
		return nil, err
	}
	rec, err := d.claim(ctx, s, plan)
	if err != nil {
		return nil, err
	}
	m, err := d.launch(ctx, plan, rec)
	if err != nil {
		// The reason matters more than what the cleaning has to say.
		if cerr := d.clean(rec); cerr != nil {
			d.Log.Error("clean up after a failed start", "vmid", s.VMID, "error", cerr)
		}
		return nil, err
	}
	return m, nil
}

// claim chooses a uid that no other guest has and writes the record. From
// here on whoever finds the record knows that something may be left.
func (d *Driver) claim(ctx context.Context, s guest.Spec, p *Plan) (guest.Record, error) {
	all, err := d.Runs.LockAll(ctx)
	if err != nil {
		return guest.Record{}, err
	}
	defer all.Unlock()
	rec := guest.Record{VMID: s.VMID, Kind: guest.KVM, State: guest.Starting, Hash: s.Hash(), Name: s.Name, CPUs: float64(p.CPUs),
		Memory: p.Memory, Accel: p.Accel, Links: p.Links, Created: time.Now().UTC()}
	if d.UIDs > 0 {
		others, err := d.Runs.List()
		if err != nil {
			return rec, err
		}
		taken := map[int]bool{}
		for _, o := range others {
			taken[o.UID] = true
		}
		for rec.UID = d.FirstUID; taken[rec.UID]; rec.UID++ {
		}
		if rec.UID >= d.FirstUID+d.UIDs {
			return rec, fmt.Errorf("all %d uids for guests are in use", d.UIDs)
		}
	}
	if err := d.Runs.Create(rec); err != nil {
		return rec, err
	}
	d.Step("claimed")
	return rec, nil
}

// Find returns the machines that run, whoever started them, and removes what
// is left of those that do not; see guest.Driver.
func (d *Driver) Find(ctx context.Context) ([]guest.Guest, error) {
	d.Runs.Sweep()
	recs, err := d.Runs.List()
	if err != nil {
		return nil, fmt.Errorf("find machines: %w", err)
	}
	var errs []error
	for _, rec := range recs {
		if rec.Kind != guest.KVM {
			continue
		}
		if err := d.findOne(ctx, rec.VMID); err != nil {
			errs = append(errs, fmt.Errorf("find guest %d: %w", rec.VMID, err))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []guest.Guest
	for _, id := range slices.Sorted(maps.Keys(d.machines)) {
		out = append(out, d.machines[id])
	}
	return out, errors.Join(errs...)
}

func (d *Driver) findOne(ctx context.Context, vmid int) error {
	lock, err := d.Runs.TryLock(vmid)
	if errors.Is(err, guest.ErrLocked) {
		return nil // being started or cleaned up right now; the next Find sees the outcome
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	_, err = d.recover(ctx, vmid)
	return err
}

// recover looks at what there is of a guest, whose lock the caller holds, and
// leaves one of two things: a running machine, or nothing.
func (d *Driver) recover(ctx context.Context, vmid int) (*Machine, error) {
	rec, err := d.Runs.Read(vmid)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			d.Log.Error("unreadable record, what is left of the guest is removed", "vmid", vmid, "error", err)
		}
		return nil, d.clean(guest.Record{VMID: vmid})
	}
	if rec.Kind != guest.KVM {
		return nil, fmt.Errorf("%w as %s", guest.ErrRunning, rec.Kind)
	}
	group := d.Groups.Group(vmid)
	if rec.Process.PID == 0 {
		// Died between the start of QEMU and writing down who it is.
		if pids := group.PIDs(); len(pids) == 1 {
			if p, err := guest.FindProcess(pids[0]); err == nil {
				rec.Process = p
			}
		}
	}
	if !rec.Process.Alive() {
		if m := d.machine(vmid); m != nil {
			// Its watcher is about to clean up and knows why it ended.
			return nil, d.ended(ctx, m, rec)
		}
		return nil, d.clean(rec)
	}
	if m := d.machine(vmid); m != nil {
		return m, nil
	}
	return d.adopt(ctx, rec)
}

// ended cleans up for a watcher that waits for the lock we hold.
func (d *Driver) ended(ctx context.Context, m *Machine, rec guest.Record) error {
	if err := d.clean(rec); err != nil {
		return err
	}
	d.forget(m)
	return nil
}

// adopt takes over a QEMU that somebody else started. One that was never told
// to go has run no instruction of its guest, and nobody remembers with which
// intent it was made: it ends.
func (d *Driver) adopt(ctx context.Context, rec guest.Record) (*Machine, error) {
	m := d.newMachine(rec)
	ask, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	state, err := m.query(ask)
	if rec.State != guest.Running {
		if err != nil || !state.running() {
			d.Log.Info("a start was never finished, its QEMU is ended", "vmid", rec.VMID, "pid", rec.Process.PID)
			m.disconnect()
			return nil, d.clean(rec)
		}
		rec.State = guest.Running
		m.rec = rec
		if err := d.Runs.Write(rec); err != nil {
			return nil, err
		}
	} else if err != nil {
		d.Log.Warn("QEMU's monitor does not answer", "vmid", rec.VMID, "error", err)
	}
	ended, stop, err := guest.Watch(rec.Process)
	if err != nil {
		return nil, err
	}
	m.unwatch = stop
	d.keep(m)
	go m.watch(ended, nil)
	return m, nil
}

// clean removes all there is of a guest: processes, group, taps, folder, in
// this order, so that the record is there as long as anything else is.
func (d *Driver) clean(rec guest.Record) error {
	group := d.Groups.Group(rec.VMID)
	if group.Exists() {
		if err := group.Kill(10 * time.Second); err != nil {
			return err
		}
		if err := group.Remove(); err != nil {
			return err
		}
	}
	for _, link := range rec.Links {
		if d.Tapper == nil {
			break
		}
		if err := d.Tapper.RemoveTap(link); err != nil {
			return fmt.Errorf("remove %s: %w", link, err)
		}
	}
	return d.Runs.Remove(rec.VMID)
}

func (d *Driver) machine(vmid int) *Machine {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.machines[vmid]
}

func (d *Driver) keep(m *Machine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.machines[m.vmid] = m
}

func (d *Driver) forget(m *Machine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.machines[m.vmid] == m {
		delete(d.machines, m.vmid)
	}
}

// Close lets go of all machines; they live on.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, m := range d.machines {
		m.release()
		delete(d.machines, id)
	}
	return nil
}
