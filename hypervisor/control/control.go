package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"joist/cluster/store"
	"joist/hypervisor/guest"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// Options are what a Controller works with.
type Options struct {
	Node      string
	Store     store.Store
	Storages  *storage.Set
	Tasks     task.Starter
	Drivers   []guest.Driver
	Provision Provisioner                              // nil: containers cannot be created
	Import    Importer                                 // nil: images cannot be imported
	ImageSize func(path, format string) (int64, error) // bytes that a guest sees of an image
	Quorum    func(context.Context) error              // returns when the cluster can decide; nil: it always can
	RunDir    string                                   // node.RunDir: what must not outlive a boot
	Poll      time.Duration                            // between readings of running guests; 0: 3 s
	Rand      io.Reader                                // nil: crypto/rand
	Now       func() time.Time                         // nil: time.Now
	Log       *slog.Logger
	Step      func(name string) // called after each step of a creation or change; tests die in it
}

// Controller runs the guests of one node.
type Controller struct {
	o       Options
	table   *table
	locks   *keyLock
	live    *liveSet
	drivers map[guest.Kind]guest.Driver

	mu      sync.Mutex
	foreign map[volumeStep]int // see undoForeign
	halted  bool
}

// New makes a Controller that knows nothing yet; Open fills it.
func New(o Options) *Controller {
	if o.Poll == 0 {
		o.Poll = 3 * time.Second
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Controller{o: o, table: newTable(o.Store, o.Log), locks: newKeyLock(), live: newLiveSet(),
		drivers: map[guest.Kind]guest.Driver{}, foreign: map[volumeStep]int{}}
	for _, d := range o.Drivers {
		c.drivers[d.Kind()] = d
	}
	return c
}

// Open reads the guests from the store, takes over those that run here and
// follows both until ctx ends.
func (c *Controller) Open(ctx context.Context) error {
	if err := c.alone(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(c.haltedFile()); err == nil {
		c.halted = true
	}
	rev, err := c.table.load(ctx)
	if err != nil {
		return err
	}
	if c.find(ctx) {
		c.lost(ctx)
	}
	go c.table.follow(ctx, rev)
	go c.poll(ctx)
	return nil
}

// aloneWait is for a daemon that is on its way out.
const aloneWait = 10 * time.Second

// alone makes sure that no other daemon runs guests on this node: two would
// undo each other's tasks. The lock goes with the process, however that ends
// (flock(2)), or with ctx.
func (c *Controller) alone(ctx context.Context) error {
	f, err := os.OpenFile(filepath.Join(c.o.RunDir, "guests-owner"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("claim the guests of this node: %w", err)
	}
	for end := time.Now().Add(aloneWait); ; time.Sleep(50 * time.Millisecond) {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			context.AfterFunc(ctx, func() { f.Close() })
			return nil
		}
		if ctx.Err() != nil || time.Now().After(end) {
			f.Close()
			return fmt.Errorf("claim the guests of this node: another daemon has them: %w", err)
		}
	}
}

// findEvery is how often drivers are asked again what runs: a start that was
// under way in another process when the daemon began shows itself then.
const findEvery = 15 * time.Second

func (c *Controller) poll(ctx context.Context) {
	tick, again := time.NewTicker(c.o.Poll), time.NewTicker(findEvery)
	defer tick.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.live.refresh(ctx, c.o.Log)
		case <-again.C:
			c.find(ctx)
			c.orphans(ctx)
		}
	}
}

// find takes over what runs. Guests that are being changed right now are left
// to whoever changes them. It reports whether every driver could tell.
func (c *Controller) find(ctx context.Context) bool {
	all := true
	for _, d := range c.o.Drivers {
		found, err := d.Find(ctx)
		if err != nil {
			c.o.Log.Error("find running guests", "kind", d.Kind(), "err", err)
			all = false
		}
		for _, g := range found {
			c.adopt(ctx, d.Kind(), g)
		}
	}
	return all
}

// exitUnseen is all there is to say of a guest that ended while nobody looked.
const exitUnseen = "ended while the node daemon was not running, or before its start was finished"

// lost finds guests that ran, or were about to, when the last daemon ended and
// do not run now.
func (c *Controller) lost(ctx context.Context) {
	files, err := os.ReadDir(filepath.Dir(c.runningFile(0)))
	if err != nil {
		return // none ever ran in this boot
	}
	for _, f := range files {
		vmid, err := strconv.Atoi(strings.TrimSuffix(f.Name(), ".json"))
		if err != nil || c.live.running(vmid) {
			continue
		}
		if e, ok := c.table.get(vmid); ok {
			config, err := c.readRunning(vmid)
			if err != nil {
				config = e.Config
			}
			c.deactivate(ctx, e.Kind, config)
			c.live.note(vmid, exitUnseen)
			c.o.Log.Warn("guest is gone", "vmid", vmid, "reason", exitUnseen)
		}
		c.forgetRunning(vmid)
	}
}

func (c *Controller) adopt(ctx context.Context, kind guest.Kind, g guest.Guest) {
	try, cancel := context.WithCancel(ctx)
	cancel()
	unlock, err := c.locks.lock(try, kind, g.VMID())
	if err != nil {
		return
	}
	defer unlock()
	select {
	case <-g.Done(): // since Find saw it; whoever follows it tells
		return
	default:
	}
	if c.live.running(g.VMID()) {
		return
	}
	e, ok := c.table.get(g.VMID())
	if !ok {
		c.o.Log.Error("a guest runs that no configuration knows", "vmid", g.VMID(), "kind", kind)
	}
	config, err := c.readRunning(g.VMID())
	if err != nil {
		config = e.Config
	}
	c.attach(ctx, kind, g, config)
	c.o.Log.Info("guest runs", "vmid", g.VMID(), "kind", kind)
}

// attach enters a running guest and follows it to its end.
func (c *Controller) attach(ctx context.Context, kind guest.Kind, g guest.Guest, config map[string]string) {
	l := c.live.add(kind, g, config)
	l.read(ctx, c.o.Log)
	go func() {
		<-g.Done()
		c.ended(l)
	}()
}

// ended tidies up after a guest. That it stopped shows from the moment its
// handle says so; the rest has time.
func (c *Controller) ended(l *live) {
	ctx := context.Background() // whoever holds the lock is a task, and tasks end
	exit := l.g.Exit()
	c.live.gone(l, exit)
	if exit != "" {
		level := slog.LevelWarn
		if slices.Contains(peaceful, exit) {
			level = slog.LevelInfo
		}
		c.o.Log.Log(ctx, level, "guest ended by itself", "vmid", l.g.VMID(), "reason", exit)
		c.tell(l, exit)
	}
	unlock, err := c.locks.lock(ctx, l.kind, l.g.VMID())
	if err != nil {
		c.o.Log.Error("clean up after a guest", "vmid", l.g.VMID(), "err", err)
		return
	}
	defer unlock()
	defer close(l.tidy)
	if c.live.running(l.g.VMID()) { // started again meanwhile
		return
	}
	c.deactivate(ctx, l.kind, l.config)
	c.forgetRunning(l.g.VMID())
	if err := l.g.Close(); err != nil {
		c.o.Log.Warn("let go of a guest", "vmid", l.g.VMID(), "err", err)
	}
}

// peaceful are the drivers' words for a guest that powered itself off.
// Whether a container's init ended well or badly its monitor cannot tell.
var peaceful = []string{"guest shut down", "container ended by itself"}

// tell makes the end that nobody asked for visible where people look: in the
// list of tasks.
func (c *Controller) tell(l *live, exit string) {
	spec := task.Spec{Type: taskTypes[l.kind][opExit], ID: strconv.Itoa(l.g.VMID()), User: "root@pam"}
	_, err := c.o.Tasks.Start(spec, func(_ context.Context, log task.Log) error {
		log.Printf("%s %d ended: %s", word(l.kind), l.g.VMID(), exit)
		if slices.Contains(peaceful, exit) {
			return nil
		}
		return errors.New(exit)
	})
	if err != nil && !errors.Is(err, task.ErrNotReady) {
		c.o.Log.Error("report the end of a guest", "vmid", l.g.VMID(), "err", err)
	}
}

// View is a guest as it is right now. Its maps are shared: readers only.
type View struct {
	Record
	Status  guest.Status
	Running map[string]string // what it was started with, nil when it does not run
	Exit    string            // how it ended last, "" when it was asked to
}

func (c *Controller) view(e entry) View {
	v := View{Record: e.Record}
	v.Status, v.Running, v.Exit = c.live.status(e.VMID)
	v.Status.VMID, v.Status.Kind = e.VMID, e.Kind
	return v
}

// Get returns one guest of this node.
func (c *Controller) Get(kind guest.Kind, vmid int) (View, error) {
	e, err := c.entry(kind, vmid)
	if err != nil {
		return View{}, err
	}
	return c.view(e), nil
}

func (c *Controller) entry(kind guest.Kind, vmid int) (entry, error) {
	e, ok := c.table.get(vmid)
	if !ok || e.Kind != kind || e.Node != c.o.Node {
		return entry{}, missing(c.o.Node, kind, vmid)
	}
	return e, nil
}

// All returns the guests of the cluster by VMID; those of other nodes without
// their status.
func (c *Controller) All() []View {
	all := c.table.all()
	out := make([]View, 0, len(all))
	for _, e := range all {
		out = append(out, c.view(e))
	}
	return out
}

// Handle returns the handle of a running guest for its console and the like.
func (c *Controller) Handle(kind guest.Kind, vmid int) (guest.Guest, error) {
	if _, err := c.entry(kind, vmid); err != nil {
		return nil, err
	}
	if g := c.live.handle(vmid); g != nil {
		return g, nil
	}
	return nil, notRunning(kind, vmid)
}

// allowed checks an operation against what is true now.
func (c *Controller) allowed(op Op, kind guest.Kind, vmid int, skipLock bool) (entry, error) {
	e, err := c.entry(kind, vmid)
	if err != nil {
		return e, err
	}
	return e, check(op, kind, vmid, e.Lock, c.live.running(vmid), skipLock)
}

// fresh reads a record from the store itself.
func (c *Controller) fresh(ctx context.Context, vmid int) (Record, int64, error) {
	it, err := c.o.Store.Get(ctx, Key(vmid))
	if errors.Is(err, store.ErrNotFound) {
		return Record{}, 0, nil
	}
	if err != nil {
		return Record{}, 0, err
	}
	r, err := decode(it.Key, it.Value)
	return r, it.Rev, err
}

// start begins a task on a guest.
func (c *Controller) start(op Op, kind guest.Kind, vmid int, user string, f task.Func) (task.UPID, error) {
	return c.o.Tasks.Start(task.Spec{Type: taskTypes[kind][op], ID: strconv.Itoa(vmid), User: user}, f)
}

func (c *Controller) step(name string) {
	if c.o.Step != nil {
		c.o.Step(name)
	}
}

func (c *Controller) haltedFile() string { return filepath.Join(c.o.RunDir, "guests-halted") }

func (c *Controller) bootedFile() string { return filepath.Join(c.o.RunDir, "guests-started") }

// driver finds who runs guests of a kind.
func (c *Controller) driver(kind guest.Kind) (guest.Driver, error) {
	if d := c.drivers[kind]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("this node cannot run guests of kind %s", kind)
}
