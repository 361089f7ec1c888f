package lvmthin

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

const uuid = "aBcDeF-1234-5678-9012-3456-7890-GhIjKl"

// fakeLVM is a volume group that answers like lvm.
type fakeLVM struct {
	mu      sync.Mutex
	vgs     string
	lvs     map[string]lvRow
	changes atomic.Int32 // at work now
	most    int32
}

func newFake() *fakeLVM {
	return &fakeLVM{vgs: `{"vg_name":"joist","vg_uuid":"` + uuid + `","vg_extent_size":"4194304"},{"vg_name":"other","vg_uuid":"x","vg_extent_size":"4194304"}`,
		lvs: map[string]lvRow{
			"data":          {Name: "data", Size: 100 << 30, Data: 25, Meta: 1.5, Attr: "twi-aotz--"},
			"state":         {Name: "state", Size: 8 << 30, Attr: "-wi-ao----"},
			"vm-100-disk-0": {Name: "vm-100-disk-0", Pool: "data", Size: 8 << 30, Data: 50, Time: 1700000000, Attr: "Vwi---tz--"},
			"vm-300-disk-0": {Name: "vm-300-disk-0", Pool: "otherpool", Size: 8 << 30},
		}}
}

func fail(stderr string) ([]byte, error) {
	return nil, &run.Error{Exit: 5, Stderr: []byte(stderr), Err: errors.New("exit status 5")}
}

func (f *fakeLVM) answer(c run.Cmd) ([]byte, error) {
	verb, last := c.Args[0], c.Args[len(c.Args)-1]
	if verb != "vgs" && verb != "lvs" {
		f.most = max(f.most, f.changes.Add(1))
		time.Sleep(time.Millisecond)
		defer f.changes.Add(-1)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch name := filepath.Base(last); verb {
	case "vgs":
		return []byte(`{"report":[{"vg":[` + f.vgs + `]}]}`), nil
	case "lvs":
		var rows []string
		for _, v := range f.lvs {
			rows = append(rows, fmt.Sprintf(`{"lv_name":%q,"pool_lv":%q,"lv_size":"%d","data_percent":"%.2f","metadata_percent":"%.2f","lv_time":"%d","lv_attr":%q}`,
				v.Name, v.Pool, v.Size, v.Data, v.Meta, v.Time, v.Attr))
		}
		return []byte(`{"report":[{"lv":[` + strings.Join(rows, ",") + `]}],"log":[]}`), nil
	case "lvcreate":
		name = c.Args[slices.Index(c.Args, "-n")+1]
		if _, ok := f.lvs[name]; ok {
			return fail(`  Logical Volume "` + name + `" already exists in volume group "joist"`)
		}
		var size bytes
		fmt.Sscanf(c.Args[slices.Index(c.Args, "-V")+1], "%db", &size)
		f.lvs[name] = lvRow{Name: name, Pool: "data", Size: size, Attr: "Vwi-a-tz--"}
	case "lvremove":
		if strings.Contains(f.lvs[name].Attr, "o") {
			return fail("  Logical volume joist/" + name + " in use.")
		}
		delete(f.lvs, name)
	case "lvchange":
		v := f.lvs[name]
		v.Attr = "Vwi-a-tz--"
		f.lvs[name] = v
	case "lvrename":
		to := f.lvs[c.Args[len(c.Args)-2]]
		delete(f.lvs, to.Name)
		to.Name = name
		f.lvs[name] = to
	case "lvextend":
	}
	return nil, nil
}

func newPool(t *testing.T) (*Pool, *fakeLVM, *run.Script) {
	t.Helper()
	f := newFake()
	s := &run.Script{Answer: f.answer}
	p, err := Open(storage.Config{ID: "local-lvm", Type: "lvmthin", VGUUID: uuid, VGName: "joist", Thin: "data", Content: []string{storage.Images, storage.RootDir}}, s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p.dev, p.wait = t.TempDir(), 100*time.Millisecond
	return p, f, s
}

func last(s *run.Script) string { c := s.Calls(); return c[len(c)-1] }

const prefix = `--config "devices/scan_lvs=0 report/time_format=\"%s\"" `

func TestCommands(t *testing.T) {
	p, f, s := newPool(t)
	v, err := p.Create(t.Context(), storage.Spec{VMID: 100, Size: 5<<20 + 1})
	if err != nil || v.ID != "local-lvm:vm-100-disk-1" || v.Size != 8<<20 {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, c := range []struct {
		do   func() error
		want string
	}{
		{func() error { return nil }, "lvm lvcreate " + prefix + "-q -y -W y -V 8388608b -T joist/data -n vm-100-disk-1 --setactivationskip n --addtag joist-guest-100"},
		{func() error { return p.Resize(t.Context(), "vm-100-disk-0", 9<<30) }, "lvm lvextend " + prefix + "-q -L 9663676416b joist/vm-100-disk-0"},
		{func() error { return p.Deactivate(t.Context(), "vm-100-disk-1") }, "lvm lvchange " + prefix + "-q -a n joist/vm-100-disk-1"},
		{func() error { return p.Delete(t.Context(), "vm-100-disk-1") }, "lvm lvremove " + prefix + "-q -f joist/vm-100-disk-1"},
		{func() error { _, err := p.volumes(t.Context()); return err }, "lvm lvs " + prefix + "--reportformat json --units b --nosuffix -o lv_name,pool_lv,lv_size,data_percent,metadata_percent,lv_time,lv_attr --select vg_uuid=" + uuid},
	} {
		if err := c.do(); err != nil {
			t.Error(err)
		}
		if got := last(s); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	if err := p.Resize(t.Context(), "vm-100-disk-0", 1<<30); err == nil {
		t.Error("shrunk")
	}
	f.vgs += `,{"vg_name":"joist","vg_uuid":"yyy","vg_extent_size":"4194304"}`
	if err := p.Delete(t.Context(), "vm-100-disk-0"); err == nil || !strings.Contains(err.Error(), "two volume groups are called joist") {
		t.Errorf("ambiguous name: %v", err)
	}
	f.vgs = `{"vg_name":"joist","vg_uuid":"another"}`
	if err := p.Delete(t.Context(), "vm-100-disk-0"); !errors.Is(err, ErrNoGroup) {
		t.Errorf("another disk's group: %v", err)
	}
}

// TestRename: twice is as good as once, and neither is an error.
func TestRename(t *testing.T) {
	p, f, s := newPool(t)
	for range 2 {
		if err := p.Rename(t.Context(), "vm-100-disk-0", "vm-200-disk-0"); err != nil {
			t.Fatal(err)
		}
		if got, want := last(s), "lvm lvchange "+prefix+"-q --deltag joist-guest-100 --addtag joist-guest-200 joist/vm-200-disk-0"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if _, old := f.lvs["vm-100-disk-0"]; old || f.lvs["vm-200-disk-0"].Size != 8<<30 {
		t.Errorf("volumes: %v", f.lvs)
	}
	if err := p.Rename(t.Context(), "vm-100-disk-0", "vm-201-disk-0"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	for _, to := range []string{"state", "data", "-x", "vm-1"} {
		if err := p.Rename(t.Context(), "vm-200-disk-0", to); err == nil {
			t.Errorf("renamed to %q", to)
		}
	}
}

func TestForbidden(t *testing.T) {
	p, _, s := newPool(t)
	for _, name := range []string{"state", "data", "swap", "vm-100-disk-9", "vm-300-disk-0", "-f", "vm-100-disk-0/../state", "vm-100-"} {
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
		if !strings.HasPrefix(c, "lvm vgs") && !strings.HasPrefix(c, "lvm lvs") {
			t.Errorf("ran %s", c)
		}
	}
	if err := p.Delete(t.Context(), "vm-100-disk-9"); !errors.Is(err, storage.ErrNotFound) || err.Error() != "volume 'local-lvm:vm-100-disk-9' does not exist" {
		t.Errorf("missing: %v", err)
	}
	for _, c := range []storage.Config{{VGUUID: "joist", Thin: "data"}, {VGUUID: uuid, Thin: "-x"}, {VGUUID: uuid + " || 1=1", Thin: "data"}} {
		if _, err := Open(c, s, ""); err == nil {
			t.Errorf("opened %+v", c)
		}
	}
}

func TestReports(t *testing.T) {
	p, f, _ := newPool(t)
	s, err := p.Status(t.Context())
	if err != nil || s != (storage.Status{Active: true, Total: 100 << 30, Used: 25 << 30, Avail: 75 << 30}) {
		t.Errorf("%+v, %v", s, err)
	}
	l, err := p.List(t.Context())
	want := storage.Volume{ID: "local-lvm:vm-100-disk-0", Size: 8 << 30, Used: 4 << 30, Format: "raw", Content: "images", VMID: 100, CTime: 1700000000}
	if err != nil || len(l) != 1 || l[0] != want {
		t.Errorf("%+v, %v", l, err)
	}
	f.lvs["vm-100-disk-0"] = lvRow{Name: "vm-100-disk-0", Pool: "data", Attr: "Vwi-aotz--"}
	if err := p.Delete(t.Context(), "vm-100-disk-0"); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("open volume: %v", err)
	}
	delete(f.lvs, "data")
	if _, err := p.Status(t.Context()); err == nil {
		t.Error("status without a pool")
	}
	if _, _, err := parseReport([]byte("WARNING")); err == nil {
		t.Error("garbage is no report")
	}
}

func TestActivate(t *testing.T) {
	p, _, _ := newPool(t)
	if _, err := p.Activate(t.Context(), "vm-100-disk-0"); err == nil {
		t.Error("active without a device")
	}
	p.wait = 5 * time.Second
	want := filepath.Join(p.dev, "mapper", "joist-vm--100--disk--0")
	go func() {
		time.Sleep(50 * time.Millisecond)
		os.MkdirAll(filepath.Dir(want), 0o755)
		os.WriteFile(want, nil, 0o600)
	}()
	if got, err := p.Activate(t.Context(), "vm-100-disk-0"); err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
}

// TestConcurrent: eight creations for one guest, by two pools as two daemons
// would have them, give eight names, one change at a time.
func TestConcurrent(t *testing.T) {
	a, f, s := newPool(t)
	b := *a
	lock := filepath.Join(t.TempDir(), "group.lock")
	a.lock, b.lock = alone.New(lock), alone.New(lock)
	b.run = s
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
		if _, ok := names.Load(fmt.Sprintf("local-lvm:vm-200-disk-%d", i)); !ok {
			t.Errorf("no disk %d", i)
		}
	}
}

func TestTelling(t *testing.T) {
	for file, want := range map[string]string{
		"other-help":  "lvm: Option --setautoactivation is unsupported with thins.",
		"no_group-1":  `volume group is missing: lvm: Volume group "joist" not found`,
		"in_use-4":    "volume is in use: lvm: Unable to deactivate joist-vm--100--disk--0 (253:7).",
		"other":       "lvm: Aborting. Failed to locally activate thin volume.",
		"not_found-2": "volume does not exist: lvm: One or more specified logical volume(s) not found.",
	} {
		b, err := os.ReadFile("testdata/" + file + ".stderr")
		if err != nil {
			t.Fatal(err)
		}
		_, raw := fail(string(b))
		if got := classify(raw).Error(); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
	_, raw := fail("")
	if got := classify(raw); got != raw {
		t.Errorf("nothing said: %v", got)
	}
	if got := telling([]byte("  WARNING: one\n  WARNING: two\n")); got != "WARNING: two" {
		t.Error(got)
	}
}

func TestClassify(t *testing.T) {
	kinds := map[string]error{"exists": storage.ErrExists, "not_found": storage.ErrNotFound, "in_use": storage.ErrInUse, "no_space": storage.ErrNoSpace, "no_group": ErrNoGroup, "other": nil}
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
		if run.ExitCode(got) != 5 {
			t.Errorf("%s: exit status is lost", name)
		}
	}
}
