package zfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"joist/hypervisor/storage"
	"joist/hypervisor/storage/alone"
	"joist/internal/run"
)

const guid = "11400714819323198485"

// fakeZFS is a pool that answers like zfs and zpool.
type fakeZFS struct {
	mu      sync.Mutex
	pools   string
	volumes map[string]row
	busy    int          // refusals of destroy
	changes atomic.Int32 // at work now
	most    int32
}

func newFake() *fakeZFS {
	return &fakeZFS{pools: "7\ttank\n" + guid + "\trpool\n", volumes: map[string]row{
		"vm-100-disk-0": {size: 8 << 30, used: 4 << 30, created: 1700000000, mode: "none"},
		"swap":          {size: 1 << 30, mode: "default"},
	}}
}

func fail(stderr string) ([]byte, error) {
	return nil, &run.Error{Exit: 1, Stderr: []byte(stderr), Err: errors.New("exit status 1")}
}

func (f *fakeZFS) answer(c run.Cmd) ([]byte, error) {
	verb, full := c.Args[0], c.Args[len(c.Args)-1]
	if verb != "list" {
		f.most = max(f.most, f.changes.Add(1))
		time.Sleep(time.Millisecond)
		defer f.changes.Add(-1)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	name := filepath.Base(full)
	v, there := f.volumes[name]
	switch {
	case c.Path == "zpool":
		return []byte(f.pools), nil
	case verb == "list" && slices.Contains(c.Args, "used,available"):
		return []byte("1000\t3000\n"), nil
	case verb == "list":
		out := ""
		for name, v := range f.volumes {
			out += fmt.Sprintf("%s/%s\t%d\t%d\t%d\t%s\n", full, name, v.size, v.used, v.created, v.mode)
		}
		return []byte(out), nil
	case verb == "create" && there:
		return fail("cannot create '" + full + "': dataset already exists")
	case verb == "create":
		fmt.Sscan(c.Args[slices.Index(c.Args, "-V")+1], &v.size)
		v.mode = "dev"
		f.volumes[name] = v
	case verb == "destroy" && f.busy > 0:
		f.busy--
		return fail("cannot destroy '" + full + "': dataset is busy")
	case verb == "destroy":
		delete(f.volumes, name)
	case verb == "rename" && there:
		return fail("cannot rename to '" + full + "': dataset already exists")
	case verb == "rename":
		from := filepath.Base(c.Args[1])
		f.volumes[name] = f.volumes[from]
		delete(f.volumes, from)
	case verb == "set":
		if mode, ok := strings.CutPrefix(c.Args[1], "volmode="); ok {
			v.mode = mode
			f.volumes[name] = v
		}
	}
	return nil, nil
}

func newPool(t *testing.T) (*Pool, *fakeZFS, *run.Script) {
	t.Helper()
	f := newFake()
	s := &run.Script{Answer: f.answer}
	p, err := Open(storage.Config{ID: "local-zfs", Type: "zfspool", Pool: "rpool/data", PoolGUID: guid, Content: []string{storage.Images, storage.RootDir}}, s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p.dev, p.wait, p.busy = t.TempDir(), 100*time.Millisecond, 100*time.Millisecond
	return p, f, s
}

func last(s *run.Script) string { c := s.Calls(); return c[len(c)-1] }

func TestCommands(t *testing.T) {
	p, f, s := newPool(t)
	v, err := p.Create(t.Context(), storage.Spec{VMID: 100, Size: 5<<20 + 1})
	if err != nil || v.ID != "local-zfs:vm-100-disk-1" || v.Size != 5<<20+blockSize {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, c := range []struct {
		do   func() error
		want string
	}{
		{func() error { return nil }, "zfs create -s -V 5259264 -o volblocksize=16384 -o volmode=dev rpool/data/vm-100-disk-1"},
		{func() error { return p.Resize(t.Context(), "vm-100-disk-0", 9<<30) }, "zfs set volsize=9663676416 rpool/data/vm-100-disk-0"},
		{func() error { return p.Deactivate(t.Context(), "vm-100-disk-1") }, "zfs set volmode=none rpool/data/vm-100-disk-1"},
		{func() error { return p.Delete(t.Context(), "vm-100-disk-1") }, "zfs destroy rpool/data/vm-100-disk-1"},
		{func() error { _, err := p.List(t.Context()); return err }, "zfs list -H -p -r -d 1 -t volume -o name,volsize,used,creation,volmode rpool/data"},
		{func() error { _, err := p.Status(t.Context()); return err }, "zfs list -H -p -o used,available rpool/data"},
		{func() error { _, err := p.dataset(t.Context()); return err }, "zpool list -H -o guid,name"},
	} {
		if err := c.do(); err != nil {
			t.Error(err)
		}
		if got := last(s); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	n := len(s.Calls())
	if err := errors.Join(p.Resize(t.Context(), "vm-100-disk-0", 8<<30), p.Deactivate(t.Context(), "vm-100-disk-0")); err != nil || len(s.Calls()) != n+4 {
		t.Errorf("what is so already: %v, ran %v", err, s.Calls()[n:])
	}
	if err := p.Resize(t.Context(), "vm-100-disk-0", 1<<30); err == nil {
		t.Error("shrunk")
	}
	// the pool under another name, and another one under ours
	f.pools = "7\trpool\n" + guid + "\told\n"
	if err := p.Resize(t.Context(), "vm-100-disk-0", 9<<30); err != nil || last(s) != "zfs set volsize=9663676416 old/data/vm-100-disk-0" {
		t.Errorf("%v, ran %s", err, last(s))
	}
	f.pools = "7\trpool\n"
	if err := p.Delete(t.Context(), "vm-100-disk-0"); !errors.Is(err, ErrNoPool) {
		t.Errorf("another disk's pool: %v", err)
	}
}

// TestRename: twice is as good as once, and neither is an error.
func TestRename(t *testing.T) {
	p, f, s := newPool(t)
	if err := p.Rename(t.Context(), "vm-100-disk-0", "vm-200-disk-0"); err != nil || last(s) != "zfs rename rpool/data/vm-100-disk-0 rpool/data/vm-200-disk-0" {
		t.Fatalf("%v, ran %s", err, last(s))
	}
	if err := p.Rename(t.Context(), "vm-100-disk-0", "vm-200-disk-0"); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, old := f.volumes["vm-100-disk-0"]; old || f.volumes["vm-200-disk-0"].size != 8<<30 {
		t.Errorf("volumes: %v", f.volumes)
	}
	if err := p.Rename(t.Context(), "vm-100-disk-0", "vm-201-disk-0"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	f.volumes["vm-300-disk-0"] = row{}
	if err := p.Rename(t.Context(), "vm-200-disk-0", "vm-300-disk-0"); !errors.Is(err, storage.ErrExists) {
		t.Errorf("onto another: %v", err)
	}
	for _, to := range []string{"state", "swap", "-x", "vm-1"} {
		if err := p.Rename(t.Context(), "vm-200-disk-0", to); err == nil {
			t.Errorf("renamed to %q", to)
		}
	}
}

func TestForbidden(t *testing.T) {
	p, _, s := newPool(t)
	for _, name := range []string{"state", "data", "swap", "vm-100-disk-9", "-f", "vm-100-disk-0/../state", "vm-100-disk-0@a", "vm-100-"} {
		if err := p.Delete(t.Context(), name); err == nil {
			t.Errorf("deleted %q", name)
		}
	}
	for _, spec := range []storage.Spec{{VMID: 100, Size: 1, Name: "state"}, {VMID: 100, Size: 1, Name: "vm-101-disk-0"}, {VMID: 1, Size: 1}, {VMID: 100}, {VMID: 100, Size: 1, Format: "qcow2"}} {
		if _, err := p.Create(t.Context(), spec); err == nil {
			t.Errorf("created %+v", spec)
		}
	}
	for _, c := range s.Calls() {
		if !strings.HasPrefix(c, "zfs list") && !strings.HasPrefix(c, "zpool list") {
			t.Errorf("ran %s", c)
		}
	}
	if err := p.Delete(t.Context(), "vm-100-disk-9"); !errors.Is(err, storage.ErrNotFound) || err.Error() != "volume 'local-zfs:vm-100-disk-9' does not exist" {
		t.Errorf("missing: %v", err)
	}
	for _, c := range []storage.Config{{Pool: "rpool/data"}, {PoolGUID: guid, Pool: "-x"}, {PoolGUID: guid, Pool: "rpool/../x"}, {PoolGUID: guid + " -f", Pool: "rpool/data"}} {
		if _, err := Open(c, s, ""); err == nil {
			t.Errorf("opened %+v", c)
		}
	}
}

func TestReports(t *testing.T) {
	p, f, s := newPool(t)
	st, err := p.Status(t.Context())
	if err != nil || st != (storage.Status{Active: true, Total: 4000, Used: 1000, Avail: 3000}) {
		t.Errorf("%+v, %v", st, err)
	}
	l, err := p.List(t.Context())
	want := storage.Volume{ID: "local-zfs:vm-100-disk-0", Size: 8 << 30, Used: 4 << 30, Format: "raw", Content: "images", VMID: 100, CTime: 1700000000}
	if err != nil || len(l) != 1 || l[0] != want {
		t.Errorf("%+v, %v", l, err)
	}
	f.busy = 1
	if err := p.Delete(t.Context(), "vm-100-disk-0"); err != nil {
		t.Errorf("let go of meanwhile: %v", err)
	}
	f.volumes["vm-100-disk-0"], f.busy = row{}, 1000
	if err := p.Delete(t.Context(), "vm-100-disk-0"); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("open volume: %v", err)
	}
	s.Answer = func(c run.Cmd) ([]byte, error) {
		if c.Path == "zpool" {
			return []byte(f.pools), nil
		}
		return []byte("WARNING\n"), nil
	}
	if _, err := p.Status(t.Context()); err == nil {
		t.Error("status of garbage")
	}
	if _, err := p.List(t.Context()); err == nil {
		t.Error("garbage is no list")
	}
}

// The device must be the volume's own: a link may be left of another's.
func TestActivate(t *testing.T) {
	p, f, s := newPool(t)
	behind := func(name string, err error) {
		p.name = func(string) (string, error) { return name, err }
	}
	behind("", os.ErrNotExist)
	if _, err := p.Activate(t.Context(), "vm-100-disk-0"); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("active without a device: %v", err)
	}
	if !slices.Contains(s.Calls(), "zfs set volmode=dev rpool/data/vm-100-disk-0") || f.volumes["vm-100-disk-0"].mode != "dev" {
		t.Errorf("ran %v", s.Calls())
	}
	behind("rpool/data/vm-101-disk-0", nil)
	if _, err := p.Activate(t.Context(), "vm-100-disk-0"); err == nil || !strings.Contains(err.Error(), `it is the device of "rpool/data/vm-101-disk-0"`) {
		t.Errorf("another's device: %v", err)
	}
	p.wait = 5 * time.Second
	n := 0
	p.name = func(string) (string, error) {
		if n++; n < 3 {
			return "", os.ErrNotExist
		}
		return "rpool/data/vm-100-disk-0", nil
	}
	want := filepath.Join(p.dev, "rpool/data/vm-100-disk-0")
	if got, err := p.Activate(t.Context(), "vm-100-disk-0"); err != nil || got != want || n != 3 {
		t.Errorf("%q, %v after %d", got, err, n)
	}
	if got, err := p.Path(t.Context(), "vm-100-disk-0"); err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	file := filepath.Join(t.TempDir(), "zd0")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if name, err := volumeName(file); err == nil {
		t.Errorf("a file is the volume %q", name)
	}
}

// TestConcurrent: eight creations for one guest, by two pools as two daemons
// would have them, give eight names, one change at a time.
func TestConcurrent(t *testing.T) {
	a, f, _ := newPool(t)
	b := *a
	lock := filepath.Join(t.TempDir(), "pool.lock")
	a.lock, b.lock = alone.New(lock), alone.New(lock)
	var wg sync.WaitGroup
	var names sync.Map
	for i := range 8 {
		p := []*Pool{a, &b}[i%2]
		wg.Go(func() {
			v, err := p.Create(t.Context(), storage.Spec{VMID: 200, Size: 1 << 30})
			if err != nil {
				t.Error(err)
			}
			if _, twice := names.LoadOrStore(v.ID, true); twice {
				t.Errorf("%s was made twice", v.ID)
			}
		})
	}
	wg.Wait()
	if f.most != 1 {
		t.Errorf("%d changes ran at once", f.most)
	}
	for i := range 8 {
		if _, ok := names.Load(fmt.Sprintf("local-zfs:vm-200-disk-%d", i)); !ok {
			t.Errorf("no disk %d", i)
		}
	}
}

func TestClassify(t *testing.T) {
	kinds := map[string]error{"exists": storage.ErrExists, "not_found": storage.ErrNotFound, "in_use": storage.ErrInUse, "no_space": storage.ErrNoSpace, "no_pool": ErrNoPool, "other": nil}
	files, _ := filepath.Glob("testdata/*.stderr")
	if len(files) == 0 {
		t.Fatal("no examples")
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(name), ".stderr"), "-")
		want, ok := kinds[kind]
		if !ok {
			t.Errorf("%s: no such kind", name)
		}
		_, raw := fail(string(b))
		got := classify(raw)
		for k, e := range kinds {
			if e != nil && errors.Is(got, e) != (e == want) {
				t.Errorf("%s is %s: %v", name, k, errors.Is(got, e))
			}
		}
		if run.ExitCode(got) != 1 || strings.Contains(got.Error(), "\n") {
			t.Errorf("%s: %q, exit status %d", name, got, run.ExitCode(got))
		}
	}
	_, raw := fail("")
	if got := classify(raw); got != raw {
		t.Errorf("nothing said: %v", got)
	}
}
