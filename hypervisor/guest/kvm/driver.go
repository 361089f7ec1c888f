package kvm

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
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

	machines guest.Set[*Machine]
	kvm      atomic.Bool // /dev/kvm has worked
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
	return &Driver{Config: c}
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
		d.kvm.Store(false) // it may be the cause
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
	var ours []int
	for _, rec := range recs {
		if rec.Kind == guest.KVM {
			ours = append(ours, rec.VMID)
		}
	}
	err = d.Runs.Recover(ours, func(vmid int) error {
		_, err := d.recover(ctx, vmid)
		return err
	})
	return d.machines.Guests(), err
}

// recover looks at what there is of a guest, whose lock the caller holds, and
// leaves one of two things: a running machine, or nothing.
func (d *Driver) recover(ctx context.Context, vmid int) (*Machine, error) {
	rec, ok, err := d.Runs.Known(vmid, guest.KVM, d.Log)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, d.clean(rec)
	}
	if rec.Process.PID == 0 {
		// Died between the start of QEMU and writing down who it is.
		if pids := d.Groups.Group(vmid).PIDs(); len(pids) == 1 {
			if p, err := guest.FindProcess(pids[0]); err == nil {
				rec.Process = p
			}
		}
	}
	m, known := d.machines.Get(vmid)
	if !rec.Process.Alive() {
		// Its watcher, if there is one, knows why it ended and only says so.
		if err := d.clean(rec); err != nil {
			return nil, err
		}
		if known {
			d.machines.Forget(m)
		}
		return nil, nil
	}
	if known {
		return m, nil
	}
	return d.adopt(ctx, rec)
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
		if err := m.running(rec.Process); err != nil {
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
	d.machines.Keep(m)
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

// Close lets go of all machines; they live on.
func (d *Driver) Close() error {
	d.machines.Release((*Machine).release)
	return nil
}
