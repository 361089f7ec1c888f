package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"joist/api/drive"
	wire "joist/api/guest"
	"joist/api/guest/property"
	"joist/hypervisor/guest"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// lockWait is how long a request waits for a guest that is being changed.
const lockWait = 10 * time.Second

// Configure changes a configuration before it returns. Where volumes are made
// or deleted it waits for the task that does it.
func (c *Controller) Configure(ctx context.Context, kind guest.Kind, vmid int, user string, ch Change) error {
	e, err := c.allowed(OpConfigure, kind, vmid, ch.SkipLock)
	if err != nil {
		return err
	}
	p, err := c.change(e, ch)
	if err != nil {
		return err
	}
	if len(p.New)+len(p.Free) == 0 {
		ctx, cancel := context.WithTimeout(ctx, lockWait)
		defer cancel()
		return c.configure(ctx, kind, vmid, ch, quiet{})
	}
	ended := make(chan error, 1)
	_, err = c.start(OpConfigure, kind, vmid, user, func(ctx context.Context, log task.Log) error {
		err := errors.New("internal error") // what a panic leaves
		defer func() { ended <- err }()
		err = c.configure(ctx, kind, vmid, ch, log)
		return err
	})
	if err != nil {
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// quiet is the log of a change that is no task.
type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Warnf(string, ...any)  {}

// ConfigureTask is Configure as a task.
func (c *Controller) ConfigureTask(kind guest.Kind, vmid int, user string, ch Change) (task.UPID, error) {
	e, err := c.allowed(OpConfigure, kind, vmid, ch.SkipLock)
	if err != nil {
		return task.UPID{}, err
	}
	if _, err := c.change(e, ch); err != nil {
		return task.UPID{}, err
	}
	return c.start(OpConfigure, kind, vmid, user, func(ctx context.Context, log task.Log) error {
		return c.configure(ctx, kind, vmid, ch, log)
	})
}

func (c *Controller) change(e entry, ch Change) (plan, error) {
	if err := checkDigest(e, ch.Digest); err != nil {
		return plan{}, err
	}
	return makePlan(e.Kind, e.VMID, e.Config, e.Lock, ch, c.o.Rand)
}

func checkDigest(e entry, digest string) error {
	switch {
	case digest == "" || digest == e.Digest():
		return nil
	case e.Kind == guest.KVM:
		return errors.New("checksum mismatch (file change by other user?)")
	}
	return errors.New("detected modified configuration - file changed by other user? Try again.")
}

// configure plans again under the lock, makes volumes, stores the result and
// deletes what is then nobody's.
func (c *Controller) configure(ctx context.Context, kind guest.Kind, vmid int, ch Change, log task.Log) error {
	unlock, err := c.locks.lock(ctx, kind, vmid)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := c.allowed(OpConfigure, kind, vmid, ch.SkipLock)
	if err != nil {
		return err
	}
	p, err := c.change(e, ch)
	if err != nil {
		return err
	}
	if err := c.verify(ctx, kind, vmid, &p); err != nil {
		return err
	}
	for _, id := range p.Free {
		if slices.Contains(c.live.volumes(vmid), id) {
			return fmt.Errorf("can't remove volume '%s': the running guest uses it", id)
		}
	}
	if e.Config["protection"] == "1" && len(p.Free) > 0 {
		return fmt.Errorf("can't remove volume '%s' - protection mode enabled", p.Free[0])
	}
	for _, a := range p.New {
		v, err := c.allocate(ctx, kind, vmid, a, log)
		if err == nil && kind == guest.LXC {
			err = c.newMount(ctx, e.Record, v.ID, log)
		}
		if err == nil {
			err = p.placed(kind, a.Key, v)
		}
		if err != nil {
			return err
		}
	}
	return c.commit(ctx, e, p, log)
}

// newMount makes the file system of a mount point.
func (c *Controller) newMount(ctx context.Context, r Record, volid string, log task.Log) error {
	if c.o.Provision == nil {
		return errors.New("this node cannot make containers' volumes")
	}
	return c.provisionOne(ctx, ProvisionSpec{VMID: r.VMID, FSType: "ext4", Config: r.Config, Unprivileged: r.Config["unprivileged"] != "0"}, volid, log)
}

func (c *Controller) commit(ctx context.Context, e entry, p plan, log task.Log) error {
	rec := e.clone()
	rec.Config, rec.Lock = p.Config, p.Lock
	if !maps.Equal(rec.Config, e.Config) || rec.Lock != e.Lock {
		for _, w := range added(wire.Unsupported(wireKind(e.Kind), e.Config), wire.Unsupported(wireKind(e.Kind), rec.Config)) {
			log.Warnf("%s", w)
		}
		if err := c.willFree(ctx, e.VMID, p.Free); err != nil {
			return err
		}
		if _, err := c.table.write(ctx, rec, e.rev); err != nil {
			return err
		}
		c.step("configured")
	}
	for _, id := range p.Free {
		if err := c.free(ctx, e.VMID, id); err != nil {
			return fmt.Errorf("remove volume '%s': %w", id, err)
		}
		log.Printf("removed volume '%s'", id)
	}
	return nil
}

// added lists what is in now and was not in before.
func added(before, now []string) []string {
	return slices.DeleteFunc(now, func(s string) bool { return slices.Contains(before, s) })
}

// atOnce are keys whose change needs no restart: they are for the node, not
// for the guest.
var atOnce = []string{"name", "description", "tags", "onboot", "startup", "protection", "autostart", "template", "meta", "lock", "digest"}

// Pending is one key whose running value is not the configured one.
type Pending struct {
	Key         string
	Value, Next string
	HasValue    bool
	Deleted     bool // it goes with the next start
	Changed     bool
}

// Pending lists all keys with what they are in the running guest and what they
// will be.
func (v View) Pending() []Pending {
	running := v.Running
	if running == nil {
		running = v.Config
	}
	keys := maps.Clone(v.Config)
	if keys == nil {
		keys = map[string]string{}
	}
	for k, val := range running {
		if _, ok := keys[k]; !ok {
			keys[k] = val
		}
	}
	var out []Pending
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		next, will := v.Config[k]
		now, is := running[k]
		p := Pending{Key: k, Value: now, HasValue: is}
		switch {
		case v.immediate(k):
			if !will {
				continue
			}
			p.Value, p.HasValue = next, true
		case is && !will:
			p.Deleted = true
		case !is || next != now:
			p.Next, p.Changed = next, true
		}
		out = append(out, p)
	}
	return out
}

func (v View) immediate(key string) bool {
	return slices.Contains(atOnce, key) || len(key) > 6 && key[:6] == "unused" || v.Kind == guest.LXC && key == "hostname"
}

// Current is the configuration as it is in force: what a running guest was
// started with, and what needs no restart as it is now.
func (v View) Current() map[string]string {
	out := map[string]string{}
	for _, p := range v.Pending() {
		if p.HasValue {
			out[p.Key] = p.Value
		}
	}
	return out
}

// ResizeRequest asks for a larger disk.
type ResizeRequest struct {
	Kind     guest.Kind
	VMID     int
	User     string
	Disk     string // key
	Size     string // "20G", or "+5G" for so much more
	Digest   string
	SkipLock bool
}

// Resize begins to grow a disk.
func (c *Controller) Resize(r ResizeRequest) (task.UPID, error) {
	e, err := c.allowed(OpResize, r.Kind, r.VMID, r.SkipLock)
	if err != nil {
		return task.UPID{}, err
	}
	if _, err := newSize(e, r); err != nil {
		return task.UPID{}, err
	}
	if r.Kind == guest.LXC {
		if _, ok := c.o.Provision.(Grower); !ok {
			return task.UPID{}, errors.New("this node cannot grow the file systems of containers")
		}
	}
	return c.start(OpResize, r.Kind, r.VMID, r.User, func(ctx context.Context, log task.Log) error { return c.resize(ctx, r, log) })
}

type growth struct {
	volid     string
	old, size int64
}

func newSize(e entry, r ResizeRequest) (growth, error) {
	if err := checkDigest(e, r.Digest); err != nil {
		return growth{}, err
	}
	value, ok := e.Config[r.Disk]
	if !ok || !volumeKey(e.Kind, r.Disk) {
		return growth{}, fmt.Errorf("disk '%s' does not exist", r.Disk)
	}
	g := growth{volid: volumeOf(e.Kind, r.Disk, value)}
	if !owned(e.VMID, g.volid) {
		return g, fmt.Errorf("disk '%s' cannot be resized", r.Disk)
	}
	if e.Kind == guest.LXC {
		m, err := drive.ParseMount(r.Disk, value)
		if err != nil {
			return g, err
		}
		g.old = m.Size
	} else {
		d, err := drive.Parse(value)
		if err != nil {
			return g, err
		}
		g.old = d.Size
	}
	text, more := r.Size, false
	if len(text) > 0 && text[0] == '+' {
		text, more = text[1:], true
	}
	size, err := property.ParseSize(text)
	if err != nil {
		return g, badParam("size", "%s", err)
	}
	if g.size = size; more {
		g.size += g.old
	}
	if g.size < g.old {
		return g, errors.New("shrinking disks is not supported")
	}
	return g, nil
}

func (c *Controller) resize(ctx context.Context, r ResizeRequest, log task.Log) error {
	unlock, err := c.locks.lock(ctx, r.Kind, r.VMID)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := c.allowed(OpResize, r.Kind, r.VMID, r.SkipLock)
	if err != nil {
		return err
	}
	g, err := newSize(e, r)
	if err != nil {
		return err
	}
	pool, name, err := c.o.Storages.Resolve(g.volid)
	if err != nil {
		return err
	}
	if g.size == g.old {
		return nil
	}
	open := c.live.opened(r.VMID, r.Disk, g.volid)
	grower, _ := open.(DiskResizer)
	// An image with a header of its own is QEMU's as long as it is open.
	if own := format(name) != "raw"; own && open != nil && grower == nil {
		return fmt.Errorf("disk '%s' cannot be resized while the guest runs", r.Disk)
	} else if own && grower != nil {
		if err := grower.ResizeDisk(ctx, r.Disk, g.size); err != nil {
			return err
		}
		grower = nil // it knows
	} else if err := pool.Resize(ctx, name, g.size); err != nil {
		return err
	}
	if v, _, _, err := c.lookup(ctx, g.volid); err == nil {
		g.size = v.Size // pools round up
	}
	p := plan{Config: maps.Clone(e.Config), Lock: e.Lock}
	if err := p.placed(r.Kind, r.Disk, made{g.volid, g.size}); err != nil {
		return err
	}
	if err := c.commit(ctx, e, p, log); err != nil {
		return err
	}
	log.Printf("%s: size is now %s", r.Disk, property.FormatSize(g.size))
	switch {
	case r.Kind == guest.LXC:
		return c.growFS(ctx, pool, name, open != nil)
	case grower != nil:
		return grower.ResizeDisk(ctx, r.Disk, g.size)
	}
	return nil
}

// growFS enlarges the file system of a container's volume.
func (c *Controller) growFS(ctx context.Context, pool storage.Pool, name string, open bool) error {
	dev, err := pool.Activate(ctx, name)
	if err != nil {
		return err
	}
	err = c.o.Provision.(Grower).Grow(ctx, dev)
	if !open {
		c.letGo(ctx, pool, name)
	}
	return err
}
