package control

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"joist/cluster/store/storetest"
	"joist/hypervisor/guest"
	"joist/hypervisor/guest/guesttest"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// machine is a fake node: what outlives a daemon (store, disks, running
// guests, files) is in it, the daemon is a Controller over it.
type machine struct {
	t     *testing.T
	dir   string
	store *storetest.Memory
	pools map[string]*guesttest.Pool
	vms   *guesttest.Driver
	cts   *guesttest.Driver
	prov  *fakeProvisioner
	step  func(string)
	used  *task.Manager
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), store: storetest.NewMemory(), prov: &fakeProvisioner{},
		vms: guesttest.NewDriver(guest.KVM), cts: guesttest.NewDriver(guest.LXC)}
	local := func(name, content, format string) storage.Volume {
		return storage.Volume{ID: "local:" + name, Size: 1 << 20, Format: format, Content: content}
	}
	m.pools = map[string]*guesttest.Pool{"disks": guesttest.NewPool("disks"), "local": guesttest.NewPool("local",
		local("iso/x.iso", storage.ISO, "iso"),
		local("import/d.qcow2", storage.Import, "qcow2"),
		local("vztmpl/debian-13-standard_13.1-1_amd64.tar.zst", storage.Template, "tzst"))}
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
func (m *machine) disks() []string { return m.pools["disks"].IDs() }

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
