package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	wire "joist/api/guest"
	"joist/hypervisor/guest"
	"joist/hypervisor/task"
)

// errHalted: the node is going down and its guests were shut down for good.
var errHalted = errors.New("the node is shutting down: no guest starts any more")

func (c *Controller) isHalted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.halted
}

// halt marks, for this daemon and any that follows it in this boot, whether
// guests may start.
func (c *Controller) halt(on bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.halted = on
	if on {
		return os.WriteFile(c.haltedFile(), nil, 0o600)
	}
	if err := os.Remove(c.haltedFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Boot does what is due once the API is up: it finishes destructions that were
// interrupted and, once in each boot of the node, starts the guests that are
// to start with it. It returns when they are started. Tasks cannot start
// before interrupted ones are undone; Boot waits for that.
func (c *Controller) Boot(ctx context.Context) error {
	for _, e := range c.table.all() {
		if e.Node != c.o.Node || e.Lock != lockDestroyed {
			continue
		}
		r := DestroyRequest{Kind: e.Kind, VMID: e.VMID, User: "root@pam"}
		if err := patient(ctx, func() error { _, err := c.Destroy(r); return err }); err != nil {
			c.o.Log.Error("finish destruction of guest", "vmid", e.VMID, "err", err)
		}
	}
	if _, err := os.Stat(c.bootedFile()); err == nil || c.isHalted() {
		return nil
	}
	if err := c.current(ctx); err != nil {
		return fmt.Errorf("start guests: %w", err)
	}
	if len(c.startOrder(nil)) > 0 {
		return c.startAtBoot(ctx)
	}
	return c.booted()
}

// current waits until what this node knows of its guests is what the cluster
// knows: while it was down, or is cut off, another may have been given them.
func (c *Controller) current(ctx context.Context) error {
	if c.o.Quorum == nil {
		return nil
	}
	if err := c.o.Quorum(ctx); err != nil {
		return err
	}
	_, err := c.table.load(ctx)
	return err
}

// booted notes that this boot's guests were started. A daemon that ends in the
// middle of it leaves no note: the next one goes on with those that do not run.
func (c *Controller) booted() error { return os.WriteFile(c.bootedFile(), nil, 0o600) }

func (c *Controller) startAtBoot(ctx context.Context) error {
	done := make(chan struct{})
	begin := func() error {
		_, err := c.o.Tasks.Start(task.Spec{Type: "startall", User: "root@pam"}, func(ctx context.Context, log task.Log) error {
			defer close(done)
			if err := c.startAll(ctx, c.startOrder(nil), log); err != nil {
				return err
			}
			return c.booted()
		})
		return err
	}
	if err := patient(ctx, begin); err != nil {
		return fmt.Errorf("start guests: %w", err)
	}
	select {
	case <-done: // what went wrong is in the task
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// patient repeats what cannot begin yet.
func patient(ctx context.Context, begin func() error) error {
	for {
		err := begin()
		if !errors.Is(err, task.ErrNotReady) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stage is the guests that start, or stop, together.
type stage struct {
	order  int
	guests []entry
	up     time.Duration // wait after it
}

// noOrder sorts guests without an order behind all that have one.
const noOrder = 1 << 30

func startup(e entry) wire.Startup {
	s, err := wire.ParseStartup(e.Config["startup"])
	if err != nil || s.Order < 0 {
		s.Order = noOrder
	}
	return s
}

// startOrder groups the guests with onboot, or those of vms, by their order.
func (c *Controller) startOrder(vms []int) []stage {
	return stages(slices.DeleteFunc(c.table.all(), func(e entry) bool {
		if e.Node != c.o.Node || c.live.running(e.VMID) || e.Lock != "" {
			return true
		}
		if vms != nil {
			return !slices.Contains(vms, e.VMID)
		}
		return e.Config["onboot"] != "1"
	}))
}

// stages sorts by order, then VMID.
func stages(list []entry) []stage {
	slices.SortStableFunc(list, func(a, b entry) int {
		return cmp.Or(cmp.Compare(startup(a).Order, startup(b).Order), cmp.Compare(a.VMID, b.VMID))
	})
	var out []stage
	for _, e := range list {
		s := startup(e)
		if len(out) == 0 || out[len(out)-1].order != s.Order {
			out = append(out, stage{order: s.Order})
		}
		last := &out[len(out)-1]
		last.guests = append(last.guests, e)
		last.up = max(last.up, time.Duration(max(s.Up, 0))*time.Second)
	}
	return out
}

// StartAll begins to start guests: those with onboot, or those named. It also
// takes back a StopAll that was to be the last word.
func (c *Controller) StartAll(user string, vms []int) (task.UPID, error) {
	if err := c.halt(false); err != nil {
		return task.UPID{}, err
	}
	return c.o.Tasks.Start(task.Spec{Type: "startall", User: user}, func(ctx context.Context, log task.Log) error {
		return c.startAll(ctx, c.startOrder(vms), log)
	})
}

// startAll starts stage by stage; one guest that fails does not keep the
// others from starting.
func (c *Controller) startAll(ctx context.Context, list []stage, log task.Log) error {
	for i, s := range list {
		for _, e := range s.guests {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			log.Printf("start %s %d", word(e.Kind), e.VMID)
			r := PowerRequest{Op: OpStart, Kind: e.Kind, VMID: e.VMID}
			if err := c.startGuest(ctx, r, log); err != nil {
				log.Warnf("start %s %d: %v", word(e.Kind), e.VMID, err)
			}
		}
		if s.up == 0 || i == len(list)-1 {
			continue
		}
		select {
		case <-time.After(s.up):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// StopAllRequest asks for the end of all guests.
type StopAllRequest struct {
	User    string
	VMs     []int         // only these; nil for all
	Timeout time.Duration // for each guest without a time of its own; 0: defaultPatience
	Overall time.Duration // for all together; 0: no bound
	// Final keeps guests from starting again until the node boots, or until
	// StartAll.
	Final bool
}

// killTime is what is kept of Overall for ending those that do not end
// themselves.
const killTime = 10 * time.Second

// StopAll begins to shut guests down, last started first.
func (c *Controller) StopAll(r StopAllRequest) (task.UPID, error) {
	if r.Timeout == 0 {
		r.Timeout = defaultPatience
	}
	return c.o.Tasks.Start(task.Spec{Type: "stopall", User: r.User}, func(ctx context.Context, log task.Log) error {
		if r.Final {
			if err := c.halt(true); err != nil {
				return fmt.Errorf("keep guests from starting: %w", err)
			}
		}
		return c.stopAll(ctx, r, log)
	})
}

func (c *Controller) stopAll(ctx context.Context, r StopAllRequest, log task.Log) error {
	var end time.Time
	if r.Overall > 0 {
		end = c.o.Now().Add(r.Overall - killTime)
	}
	list := slices.DeleteFunc(c.table.all(), func(e entry) bool {
		return !c.live.running(e.VMID) || r.VMs != nil && !slices.Contains(r.VMs, e.VMID)
	})
	var mu sync.Mutex
	var errs []error
	for _, s := range slices.Backward(stages(list)) {
		var wg sync.WaitGroup
		for _, e := range s.guests {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := c.stopOne(ctx, e, r.Timeout, end, log); err != nil {
					log.Warnf("stop %s %d: %v", word(e.Kind), e.VMID, err)
					mu.Lock()
					errs = append(errs, fmt.Errorf("%s %d still runs", word(e.Kind), e.VMID))
					mu.Unlock()
				}
			}()
		}
		wg.Wait()
	}
	return errors.Join(errs...)
}

// stopOne gives a guest its time, but not beyond end.
func (c *Controller) stopOne(ctx context.Context, e entry, patience time.Duration, end time.Time, log task.Log) error {
	if s := startup(e); s.Down >= 0 {
		patience = time.Duration(s.Down) * time.Second
	}
	if !end.IsZero() {
		patience = min(patience, end.Sub(c.o.Now()))
	}
	r := PowerRequest{Op: OpShutdown, Kind: e.Kind, VMID: e.VMID, Timeout: max(patience, time.Millisecond), ForceStop: true}
	log.Printf("shut down %s %d", word(e.Kind), e.VMID)
	err := c.shutdown(ctx, r, log)
	if err != nil && ctx.Err() == nil { // it could not even be asked
		log.Printf("%s %d: %v; it is stopped", word(e.Kind), e.VMID, err)
		return c.stopGuest(ctx, PowerRequest{Kind: e.Kind, VMID: e.VMID}, guest.Kill)
	}
	return err
}
