package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"joist/api/drive"
	wire "joist/api/guest"
	"joist/hypervisor/guest"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// PowerRequest asks for one of the operations start … resume.
type PowerRequest struct {
	Op        Op
	Kind      guest.Kind
	VMID      int
	User      string        // who asks, for the task
	SkipLock  bool          // root@pam only; the caller checks it
	Timeout   time.Duration // shutdown and reboot: how long the guest is waited for; 0: defaultPatience
	ForceStop bool          // shutdown: end it when it does not end itself
}

// defaultPatience is how long a guest may take to shut down.
const defaultPatience = 180 * time.Second

// Power begins an operation. What is wrong from the start is an error, what
// goes wrong later is the task's.
func (c *Controller) Power(r PowerRequest) (task.UPID, error) {
	if _, err := c.allowed(r.Op, r.Kind, r.VMID, r.SkipLock); err != nil {
		return task.UPID{}, err
	}
	if (r.Op == OpStart || r.Op == OpReboot) && c.isHalted() {
		return task.UPID{}, errHalted
	}
	if r.Timeout == 0 {
		r.Timeout = defaultPatience
	}
	return c.start(r.Op, r.Kind, r.VMID, r.User, func(ctx context.Context, log task.Log) error { return c.power(ctx, r, log) })
}

func (c *Controller) power(ctx context.Context, r PowerRequest, log task.Log) error {
	switch r.Op {
	case OpStart:
		return c.startGuest(ctx, r, log)
	case OpStop:
		return c.stopGuest(ctx, r, guest.Kill)
	case OpShutdown:
		return c.shutdown(ctx, r, log)
	case OpReboot:
		if err := c.shutdown(ctx, r, log); err != nil {
			return err
		}
		return c.startGuest(ctx, r, log)
	}
	return c.press(ctx, r)
}

// press is for the buttons: what the guest's handle does at once.
func (c *Controller) press(ctx context.Context, r PowerRequest) error {
	l := c.live.get(r.VMID)
	if l == nil {
		return notRunning(r.Kind, r.VMID)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := fmt.Errorf("%s %d: operation '%s' is not supported", word(r.Kind), r.VMID, r.Op)
	switch h := l.g.(type) {
	case interface {
		Resetter
		Pauser
	}:
		switch r.Op {
		case OpReset:
			err = h.Reset(ctx)
		case OpSuspend:
			err = h.Pause(ctx)
		case OpResume:
			err = h.Resume(ctx)
		}
	case Pauser:
		switch r.Op {
		case OpSuspend:
			err = h.Pause(ctx)
		case OpResume:
			err = h.Resume(ctx)
		}
	}
	l.read(ctx, c.o.Log)
	return err
}

// startGuest activates the volumes and runs the guest, or leaves neither.
func (c *Controller) startGuest(ctx context.Context, r PowerRequest, log task.Log) error {
	unlock, err := c.locks.lock(ctx, r.Kind, r.VMID)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := c.allowed(OpStart, r.Kind, r.VMID, r.SkipLock)
	if err != nil {
		return err
	}
	if c.isHalted() {
		return errHalted
	}
	d, err := c.driver(r.Kind)
	if err != nil {
		return err
	}
	for _, w := range wire.Unsupported(wireKind(r.Kind), e.Config) {
		log.Warnf("%s", w)
	}
	spec, err := c.activate(ctx, e.Record)
	if err == nil {
		err = c.writeRunning(r.VMID, e.Config)
	}
	var g guest.Guest
	if err == nil {
		g, err = d.Start(ctx, spec)
	}
	if err != nil {
		return c.notStarted(ctx, r, e.Record, err)
	}
	c.attach(context.WithoutCancel(ctx), r.Kind, g, e.Config)
	if c.isHalted() { // meanwhile: StopAll has not seen this one
		return errors.Join(errHalted, g.Stop(ctx, guest.Kill))
	}
	return nil
}

// notStarted takes back what was done for a start that failed. A guest that
// turns out to run already keeps its volumes.
func (c *Controller) notStarted(ctx context.Context, r PowerRequest, rec Record, err error) error {
	if errors.Is(err, guest.ErrRunning) {
		return alreadyRunning(r.Kind, r.VMID)
	}
	c.deactivate(context.WithoutCancel(ctx), r.Kind, rec.Config)
	c.forgetRunning(r.VMID)
	return err
}

// activate makes every volume of a guest usable and says where it is.
func (c *Controller) activate(ctx context.Context, r Record) (guest.Spec, error) {
	spec := guest.Spec{VMID: r.VMID, Name: r.Name(), Config: map[string]string{}, Volumes: map[string]guest.Volume{}}
	for k, v := range r.Config {
		if k != "meta" && !volumeKey(r.Kind, k) {
			spec.Config[k] = v
		}
	}
	for k, v := range r.Config {
		if !volumeKey(r.Kind, k) || len(k) > 6 && k[:6] == "unused" {
			continue
		}
		spec.Config[k] = v
		id := volumeOf(r.Kind, k, v)
		if id == "" {
			continue
		}
		vol, err := c.activateOne(ctx, r, k, v, id)
		if err != nil {
			return spec, fmt.Errorf("%s: %w", k, err)
		}
		spec.Volumes[k] = vol
	}
	return spec, nil
}

func (c *Controller) activateOne(ctx context.Context, r Record, key, value, id string) (guest.Volume, error) {
	pool, name, err := c.o.Storages.Resolve(id)
	if err != nil {
		return guest.Volume{}, err
	}
	if o := storage.Owner(name); o != 0 && o != r.VMID {
		return guest.Volume{}, fmt.Errorf("volume '%s' belongs to guest %d", id, o)
	}
	vol := guest.Volume{ID: id, Format: format(name)}
	if r.Kind == guest.LXC {
		m, err := drive.ParseMount(key, value)
		if err != nil {
			return vol, err
		}
		vol.ReadOnly, vol.Size = m.ReadOnly, m.Size
	} else {
		d, err := drive.Parse(value)
		if err != nil {
			return vol, err
		}
		vol.ReadOnly, vol.Size = d.ReadOnly || d.CDROM, d.Size
	}
	vol.Path, err = pool.Activate(ctx, name)
	return vol, err
}

// deactivate lets go of the volumes of a guest that does not run. A volume
// that stays active is no harm to anybody, so that this only logs.
func (c *Controller) deactivate(ctx context.Context, kind guest.Kind, config map[string]string) {
	for key, id := range volumesOf(kind, config) {
		pool, name, err := c.o.Storages.Resolve(id)
		if err != nil {
			c.o.Log.Warn("deactivate volume", "key", key, "volume", id, "err", err)
		} else if storage.Owner(name) != 0 {
			c.letGo(ctx, pool, name)
		}
	}
}

// stopGuest ends a guest and waits until nothing is left of it. It takes no
// lock: whoever wants a guest to end need not wait for others who do.
func (c *Controller) stopGuest(ctx context.Context, r PowerRequest, how guest.StopMode) error {
	l := c.live.get(r.VMID)
	if l == nil {
		return nil
	}
	if err := l.g.Stop(ctx, how); err != nil {
		return err
	}
	select {
	case <-l.tidy:
	case <-time.After(10 * time.Second): // somebody holds the lock; the end is true all the same
	case <-ctx.Done():
	}
	return nil
}

func (c *Controller) shutdown(ctx context.Context, r PowerRequest, log task.Log) error {
	ask, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	err := c.stopGuest(ask, r, guest.Shutdown)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil || !errors.Is(ask.Err(), context.DeadlineExceeded):
		return err
	case r.ForceStop:
		log.Printf("%s %d did not shut down within %s, it is stopped", word(r.Kind), r.VMID, r.Timeout)
		return c.stopGuest(ctx, r, guest.Kill)
	case r.Kind == guest.LXC:
		return fmt.Errorf("CT %d did not shut down - got timeout", r.VMID)
	default:
		return errors.New("VM quit/powerdown failed - got timeout")
	}
}
