package lxc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"joist/hypervisor/guest"
)

// Start runs a container; see guest.Driver.
func (d *Driver) Start(ctx context.Context, s guest.Spec) (guest.Guest, error) {
	c, err := d.start(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("start guest %d: %w", s.VMID, err)
	}
	return c, nil
}

func (d *Driver) start(ctx context.Context, s guest.Spec) (*Container, error) {
	lock, err := d.Runs.Lock(ctx, s.VMID)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if c, err := d.recover(ctx, s.VMID); err != nil {
		return nil, err
	} else if c != nil {
		return nil, guest.ErrRunning
	}
	plan, err := Make(s)
	if err != nil {
		return nil, err
	}
	// From here on whoever finds the record knows that something may be left.
	rec := guest.Record{VMID: s.VMID, Kind: guest.LXC, State: guest.Starting, Hash: s.Hash(), Name: plan.Name, CPUs: plan.CPUs,
		Memory: plan.Limits.Memory, Links: plan.Links(), Created: time.Now().UTC(),
		Extra: map[string]string{extraCMode: plan.CMode, extraSwap: strconv.FormatInt(max(plan.Limits.Swap, 0), 10)}}
	if err := d.Runs.Create(rec); err != nil {
		return nil, err
	}
	d.Step("claimed")
	c, err := d.launch(ctx, plan, rec)
	if err != nil {
		// The reason matters more than what the cleaning has to say.
		if cerr := d.clean(context.WithoutCancel(ctx), rec); cerr != nil {
			d.Log.Error("clean up after a failed start", "vmid", s.VMID, "error", cerr)
		}
		return nil, err
	}
	return c, nil
}

// Keys of Record.Extra.
const (
	extraCMode = "cmode"
	extraSwap  = "swap"
)

// Find returns the containers that run, whoever started them, and removes what
// is left of those that do not; see guest.Driver.
func (d *Driver) Find(ctx context.Context) ([]guest.Guest, error) {
	d.Runs.Sweep()
	recs, err := d.Runs.List()
	if err != nil {
		return nil, fmt.Errorf("find containers: %w", err)
	}
	ours := map[int]bool{}
	for _, vmid := range d.strays() {
		ours[vmid] = true
	}
	for _, rec := range recs {
		ours[rec.VMID] = rec.Kind == guest.LXC
	}
	maps.DeleteFunc(ours, func(_ int, is bool) bool { return !is })
	err = d.Runs.Recover(slices.Sorted(maps.Keys(ours)), func(vmid int) error {
		_, err := d.recover(ctx, vmid)
		return err
	})
	return d.containers.Guests(), errors.Join(err, d.sweepProvisions(ctx))
}

// strays returns the VMIDs of monitors' groups.
func (d *Driver) strays() (out []int) {
	entries, _ := os.ReadDir(filepath.Join(d.Cgroup, "system"))
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), "lxc-")
		if vmid, err := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:]); ok && err == nil {
			out = append(out, vmid)
		}
	}
	return out
}

// sweepProvisions unmounts what a Provision of a daemon that died has left.
// One that is at work holds its guest's lock.
func (d *Driver) sweepProvisions(ctx context.Context) error {
	dirs, _ := filepath.Glob(filepath.Join(d.Runs.Dir, provisionPrefix+"*"))
	var errs []error
	for _, dir := range dirs {
		vmid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), provisionPrefix))
		if err != nil {
			continue
		}
		lock, err := d.Runs.TryLock(vmid)
		if err != nil {
			continue
		}
		errs = append(errs, d.removeWork(ctx, dir))
		lock.Unlock()
	}
	return errors.Join(errs...)
}

// recover looks at what there is of a guest, whose lock the caller holds, and
// leaves one of two things: a running container, or nothing.
func (d *Driver) recover(ctx context.Context, vmid int) (*Container, error) {
	rec, ok, err := d.Runs.Known(vmid, guest.LXC, d.Log)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, d.clean(ctx, rec)
	}
	if rec.State != guest.Running {
		d.Log.Info("a start was never finished, what it left is removed", "vmid", vmid)
		return nil, d.clean(ctx, rec)
	}
	c, known := d.containers.Get(vmid)
	init, ok := d.successor(ctx, rec)
	if !ok {
		// Its watcher, if there is one, finds no record and only says so.
		if err := d.clean(ctx, rec); err != nil {
			return nil, err
		}
		if known {
			d.containers.Forget(c)
		}
		return nil, nil
	}
	if known {
		return c, nil
	}
	rec.Process = init
	if err := d.Runs.Write(rec); err != nil {
		return nil, err
	}
	return d.watchOver(rec)
}

// rebootPatience is how long a monitor may take from the end of a container to
// its next start or its own end.
const rebootPatience = 10 * time.Second

// successor returns the container's first process: the one we know, or, after
// a reboot from within, the one that its monitor has started since. False
// means that the container is gone for good.
func (d *Driver) successor(ctx context.Context, rec guest.Record) (guest.Process, bool) {
	if rec.Process.Alive() {
		return rec.Process, true
	}
	group := d.group(payload(rec.VMID))
	var ended <-chan struct{}
	if done, stop, err := guest.Watch(rec.Helper); err == nil {
		defer stop()
		ended = done
	}
	for end := time.Now().Add(rebootPatience); time.Now().Before(end) && ctx.Err() == nil; {
		if p, ok := firstProcess(group); ok {
			return p, true
		}
		if !rec.Helper.Alive() {
			// It may have made its last start just before.
			return firstProcess(group)
		}
		select {
		case <-ended:
		case <-time.After(20 * time.Millisecond): // nothing tells of a new first process
		}
	}
	return guest.Process{}, false
}

// firstProcess finds the process of a group that is PID 1 in a PID namespace
// directly below ours: NSpid of proc_pid_status(5) lists a process's ids from
// ours inwards.
func firstProcess(g guest.Group) (guest.Process, bool) {
	for _, pid := range g.PIDs() {
		ids := statusField(pid, "NSpid")
		if len(ids) != 2 || ids[1] != "1" {
			continue
		}
		if p, err := guest.FindProcess(pid); err == nil {
			return p, true
		}
	}
	return guest.Process{}, false
}

// statusField reads a line of /proc/PID/status.
func statusField(pid int, key string) []string {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.Fields(v)
		}
	}
	return nil
}

// clean removes all there is of a container: the helper that would start it,
// the monitor that would start it again, the container, its mounts, links and
// at last the folder with the record.
func (d *Driver) clean(ctx context.Context, rec guest.Record) error {
	for _, path := range groups(rec.VMID) {
		if err := killGroup(d.group(path)); err != nil {
			return err
		}
	}
	for _, path := range groups(rec.VMID) {
		// A monitor that was on its way out may have been there first.
		if err := d.group(path).Remove(); err != nil {
			return err
		}
	}
	if err := d.Mount.UnmountBelow(ctx, d.Runs.Folder(rec.VMID)); err != nil {
		return err
	}
	for _, link := range rec.Links {
		if err := removeVeth(link); err != nil {
			return err
		}
	}
	return d.Runs.Remove(rec.VMID)
}

// killGroup ends the processes of a group that may vanish meanwhile.
func killGroup(g guest.Group) error {
	if !g.Exists() {
		return nil
	}
	if err := g.Kill(10 * time.Second); err != nil && g.Exists() {
		return err
	}
	return nil
}

// removeVeth removes the host's side of a link, which goes by itself with the
// container's network namespace, but only some time after its last process.
func removeVeth(name string) error {
	l, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil
	}
	if err == nil && l.Type() != "veth" {
		err = fmt.Errorf("it is a %s", l.Type())
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && there(filepath.Join("/sys/class/net", name)) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// Close lets go of all containers; they live on.
func (d *Driver) Close() error {
	d.containers.Release((*Container).release)
	return nil
}
