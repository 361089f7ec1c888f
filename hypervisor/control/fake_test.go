package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"joist/cluster/store/storetest"
	"joist/hypervisor/guest"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// machine is a fake node: what outlives a daemon (store, disks, running
// guests, files) is in it, the daemon is a Controller over it.
type machine struct {
	t     *testing.T
	dir   string
	store *storetest.Memory
	pools map[string]*fakePool
	vms   *fakeDriver
	cts   *fakeDriver
	prov  *fakeProvisioner
	step  func(string)
	used  *task.Manager
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), store: storetest.NewMemory(), prov: &fakeProvisioner{},
		vms: &fakeDriver{kind: guest.KVM, set: map[int]*fakeGuest{}}, cts: &fakeDriver{kind: guest.LXC, set: map[int]*fakeGuest{}}}
	m.pools = map[string]*fakePool{"disks": {id: "disks", vols: map[string]storage.Volume{}}, "local": {id: "local", vols: map[string]storage.Volume{}}}
	add := func(name, content, format string) {
		m.pools["local"].vols[name] = storage.Volume{ID: "local:" + name, Size: 1 << 20, Format: format, Content: content}
	}
	add("iso/x.iso", storage.ISO, "iso")
	add("import/d.qcow2", storage.Import, "qcow2")
	add("vztmpl/debian-13-standard_13.1-1_amd64.tar.zst", storage.Template, "tzst")
	return m
}

func (m *machine) set() *storage.Set {
	return storage.NewSet([]storage.Config{
		{ID: "disks", Type: "fake", Content: []string{storage.Images, storage.RootDir}},
		{ID: "local", Type: "fake", Content: []string{storage.ISO, storage.Template, storage.Import}},
	}, map[string]storage.Factory{"fake": func(c storage.Config) (storage.Pool, error) { return m.pools[c.ID], nil }})
}

// daemon starts a daemon on the machine; the returned function ends it as a
// crash would: nothing is tidied up.
func (m *machine) daemon() (*Controller, *task.Manager, func()) {
	m.t.Helper()
	log := slog.New(slog.DiscardHandler)
	tasks, err := task.New(task.Options{Node: "n1", Dir: filepath.Join(m.dir, "tasks"), Now: time.Now, Log: log})
	if err != nil {
		m.t.Fatal(err)
	}
	run := filepath.Join(m.dir, "run")
	if err := os.MkdirAll(run, 0o755); err != nil {
		m.t.Fatal(err)
	}
	c := New(Options{Node: "n1", Store: m.store, Storages: m.set(), Tasks: tasks, Drivers: []guest.Driver{m.vms, m.cts}, Provision: m.prov,
		Import: fakeImport{}, ImageSize: func(string, string) (int64, error) { return 3 << 30, nil }, RunDir: run, Poll: 10 * time.Millisecond,
		Log: log, Step: m.step})
	ctx, cancel := context.WithCancel(context.Background())
	if err := c.Open(ctx); err != nil {
		m.t.Fatal(err)
	}
	if err := tasks.Recover(ctx, c.Replayers()); err != nil {
		m.t.Fatal(err)
	}
	m.used = tasks
	stop := func() {
		end, done := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer done()
		tasks.Close(end)
		cancel()
	}
	m.t.Cleanup(stop)
	return c, tasks, stop
}

// wait waits for a task and returns its status.
func (m *machine) wait(u task.UPID, err error) string {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
	for range 1000 {
		i, err := m.used.Get(u.String())
		if err != nil {
			m.t.Fatal(err)
		}
		if !i.Running {
			return i.Status
		}
		time.Sleep(5 * time.Millisecond)
	}
	m.t.Fatal("task does not end: " + u.String())
	return ""
}

// must fails the test unless the task ends well.
func (m *machine) must(u task.UPID, err error) {
	m.t.Helper()
	if s := m.wait(u, err); s != "OK" {
		m.t.Fatalf("%s: %s", u.Type, s)
	}
}

// disks are the volumes of guests that exist.
func (m *machine) disks() []string {
	p := m.pools["disks"]
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, v := range p.vols {
		out = append(out, v.ID)
	}
	slices.Sort(out)
	return out
}

type fakePool struct {
	storage.Pool
	id string

	mu     sync.Mutex
	vols   map[string]storage.Volume
	active map[string]bool
	used   int64
	fail   func(op, name string) error
}

func (p *fakePool) ID() string { return p.id }

func (p *fakePool) Status(context.Context) (storage.Status, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return storage.Status{Active: true, Total: 1 << 40, Avail: 1<<40 - p.used}, nil
}

func (p *fakePool) failure(op, name string) error {
	if p.fail != nil {
		return p.fail(op, name)
	}
	return nil
}

func (p *fakePool) List(context.Context) ([]storage.Volume, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []storage.Volume
	for _, v := range p.vols {
		out = append(out, v)
	}
	return out, nil
}

func (p *fakePool) Create(_ context.Context, s storage.Spec) (storage.Volume, error) {
	if err := p.failure("create", s.Name); err != nil {
		return storage.Volume{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.vols[s.Name]; ok {
		return storage.Volume{}, storage.ErrExists
	}
	v := storage.Volume{ID: p.id + ":" + s.Name, Size: s.Size, Format: "raw", Content: storage.Images, VMID: s.VMID}
	p.vols[s.Name] = v
	return v, nil
}

func (p *fakePool) Resize(_ context.Context, name string, size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.vols[name]
	v.Size = size
	p.vols[name] = v
	return nil
}

func (p *fakePool) Delete(_ context.Context, name string) error {
	if err := p.failure("delete", name); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active[name] {
		return storage.ErrInUse
	}
	if _, ok := p.vols[name]; !ok {
		return storage.ErrNotFound
	}
	delete(p.vols, name)
	return nil
}

func (p *fakePool) Activate(_ context.Context, name string) (string, error) {
	if err := p.failure("activate", name); err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.vols[name]; !ok {
		return "", storage.ErrNotFound
	}
	if p.active == nil {
		p.active = map[string]bool{}
	}
	p.active[name] = true
	return "/dev/" + p.id + "/" + name, nil
}

func (p *fakePool) Deactivate(_ context.Context, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.active, name)
	return nil
}

func (p *fakePool) activeNow() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.active)
}

type fakeDriver struct {
	kind guest.Kind

	mu      sync.Mutex
	set     map[int]*fakeGuest
	starts  int
	order   []int
	stops   []int
	fail    error
	hold    chan struct{} // a start waits for it
	resized []string
	deaf    bool // guests ignore shutdown
}

func (d *fakeDriver) Kind() guest.Kind { return d.kind }

func (d *fakeDriver) Start(ctx context.Context, s guest.Spec) (guest.Guest, error) {
	if d.hold != nil {
		select {
		case <-d.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return nil, d.fail
	}
	if d.set[s.VMID] != nil {
		return nil, fmt.Errorf("start guest %d: %w", s.VMID, guest.ErrRunning)
	}
	d.starts++
	d.order = append(d.order, s.VMID)
	g := &fakeGuest{d: d, vmid: s.VMID, spec: s, done: make(chan struct{})}
	d.set[s.VMID] = g
	return g, nil
}

func (d *fakeDriver) Find(context.Context) ([]guest.Guest, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []guest.Guest
	for _, g := range d.set {
		out = append(out, g)
	}
	return out, nil
}

func (d *fakeDriver) guest(vmid int) *fakeGuest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.set[vmid]
}

type fakeGuest struct {
	d      *fakeDriver
	vmid   int
	spec   guest.Spec
	done   chan struct{}
	exit   string
	paused bool
}

func (g *fakeGuest) VMID() int { return g.vmid }

func (g *fakeGuest) Status(context.Context) (guest.Status, error) {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	s := guest.Status{VMID: g.vmid, Kind: g.d.kind, State: guest.Running, PID: 4711, Accel: "tcg"}
	if g.paused {
		s.State = guest.Paused
	}
	return s, nil
}

// end is the guest's end, "" when it was asked for.
func (g *fakeGuest) end(exit string) {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	if g.d.set[g.vmid] != g {
		return
	}
	delete(g.d.set, g.vmid)
	g.exit = exit
	close(g.done)
}

func (g *fakeGuest) Stop(ctx context.Context, how guest.StopMode) error {
	if how == guest.Shutdown && g.d.deaf {
		<-ctx.Done()
		return fmt.Errorf("the guest did not shut down: %w", ctx.Err())
	}
	g.d.mu.Lock()
	g.d.stops = append(g.d.stops, g.vmid)
	g.d.mu.Unlock()
	g.end("")
	return nil
}

func (g *fakeGuest) Done() <-chan struct{} { return g.done }
func (g *fakeGuest) Exit() string          { return g.exit }
func (g *fakeGuest) Close() error          { return nil }

func (g *fakeGuest) ResizeDisk(_ context.Context, key string, size int64) error {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	g.d.resized = append(g.d.resized, fmt.Sprint(key, " ", size>>30))
	return nil
}

func (g *fakeGuest) Reset(context.Context) error  { return nil }
func (g *fakeGuest) Pause(context.Context) error  { return g.pause(true) }
func (g *fakeGuest) Resume(context.Context) error { return g.pause(false) }

func (g *fakeGuest) pause(on bool) error {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	g.paused = on
	return nil
}

type fakeProvisioner struct {
	mu    sync.Mutex
	specs []ProvisionSpec
	fail  error
}

func (p *fakeProvisioner) Provision(_ context.Context, s ProvisionSpec, log task.Log) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.specs = append(p.specs, s)
	return p.fail
}

func (p *fakeProvisioner) Grow(context.Context, string) error { return nil }

type fakeImport struct{}

func (fakeImport) Import(_ context.Context, dst, src, format string) error {
	if !strings.HasPrefix(dst, "/dev/disks/") || src != "/dev/local/import/d.qcow2" || format != "qcow2" {
		return errors.New("import of " + src + " to " + dst)
	}
	return nil
}
