package dir

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"joist/hypervisor/storage"
	"joist/internal/run"
)

func newPool(t *testing.T) (*Pool, string) {
	t.Helper()
	dir := t.TempDir()
	p, err := Open(storage.Config{ID: "local", Type: "dir", Path: dir,
		Content: []string{storage.Images, storage.ISO, storage.Template, storage.Backup, storage.Import, storage.Snippets}}, run.OS{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, dir
}

func TestParse(t *testing.T) {
	for name, want := range map[string]place{
		"iso/x.iso":                      {"template/iso/x.iso", "iso", "iso", 0},
		"iso/X.ISO":                      {"template/iso/X.ISO", "iso", "iso", 0},
		"iso/x.img":                      {"template/iso/x.img", "iso", "iso", 0},
		"vztmpl/d_13-1_amd64.tar.zst":    {"template/cache/d_13-1_amd64.tar.zst", "vztmpl", "tzst", 0},
		"import/x.qcow2":                 {"import/x.qcow2", "import", "qcow2", 0},
		"snippets/user-data":             {"snippets/user-data", "snippets", "snippet", 0},
		"100/vm-100-disk-0.qcow2":        {"images/100/vm-100-disk-0.qcow2", "images", "qcow2", 100},
		"100/vm-100-cloudinit.raw":       {"images/100/vm-100-cloudinit.raw", "images", "raw", 100},
		"backup/vzdump-lxc-101-x.tar.gz": {"dump/vzdump-lxc-101-x.tar.gz", "backup", "tar.gz", 101},
	} {
		if got, err := parse(name); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, name := range []string{"iso/x", "iso/", "iso/.iso", "iso/../x.iso", "iso/..x.iso.iso/..", "iso/a/b.iso", "iso/-x.iso", "iso/a b.iso", "vztmpl/x.tar",
		"import/x.exe", "100/vm-101-disk-0.raw", "100/vm-100-disk-0.vmdk", "1/vm-1-disk-0.raw", "rootdir/x", "x.iso", "", "iso/x.iso\n", "iso/.joist-upload-x.iso"} {
		if got, err := parse(name); err == nil {
			t.Errorf("%q passed as %+v", name, got)
		} else if !strings.HasPrefix(err.Error(), "unable to parse directory volume name '") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestUpload(t *testing.T) {
	p, dir := newPool(t)
	f, err := p.Spool()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("data")
	if l, _ := p.List(t.Context()); len(l) != 0 {
		t.Errorf("half a file is listed: %v", l)
	}
	for _, bad := range [][2]string{{"iso", "x.exe"}, {"iso", "../x.iso"}, {"images", "x.raw"}, {"nonsense", "x"}, {"iso", ""}} {
		if p.Check(bad[0], bad[1]) == nil {
			t.Errorf("%v passed", bad)
		}
		if _, err := p.Keep(f, bad[0], bad[1]); err == nil {
			t.Errorf("%v kept", bad)
		}
	}
	name, err := p.Keep(f, storage.ISO, "x.iso")
	if err != nil || name != "iso/x.iso" {
		t.Fatalf("%q, %v", name, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "template/iso/x.iso")); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", st, err)
	}
	if err := p.Check(storage.ISO, "x.iso"); !errors.Is(err, storage.ErrExists) || !strings.Contains(err.Error(), "refusing to override existing file") {
		t.Errorf("second: %v", err)
	}
	g, _ := p.Spool()
	g.Close()
	if _, err := os.Stat(g.Name()); err != nil && len(spooled(dir)) != 1 {
		t.Errorf("spooled: %v", spooled(dir))
	}
	if err := p.Clean(); err != nil || len(spooled(dir)) != 0 {
		t.Errorf("after Clean: %v, %v", spooled(dir), err)
	}
	l, err := p.List(t.Context())
	if err != nil || len(l) != 1 || l[0].ID != "local:iso/x.iso" || l[0].Size != 4 || l[0].Format != "iso" {
		t.Errorf("list %+v, %v", l, err)
	}
}

func spooled(dir string) []string {
	m, _ := filepath.Glob(filepath.Join(dir, spool+"*"))
	return m
}

func TestRace(t *testing.T) {
	p, _ := newPool(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	kept := 0
	for range 8 {
		wg.Go(func() {
			f, err := p.Spool()
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, err := p.Keep(f, storage.ISO, "x.iso"); err == nil {
				mu.Lock()
				kept++
				mu.Unlock()
			} else if !errors.Is(err, storage.ErrExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if kept != 1 {
		t.Errorf("%d uploads won", kept)
	}
}

func TestDisks(t *testing.T) {
	p, dir := newPool(t)
	v, err := p.Create(t.Context(), storage.Spec{VMID: 100, Size: 10<<20 + 1})
	if err != nil || v.ID != "local:100/vm-100-disk-0.raw" || v.Size != 10<<20+1024 {
		t.Fatalf("%+v, %v", v, err)
	}
	if _, err := p.Create(t.Context(), storage.Spec{VMID: 100, Size: 1, Name: "vm-100-disk-0"}); !errors.Is(err, storage.ErrExists) {
		t.Errorf("twice: %v", err)
	}
	if _, err := p.Create(t.Context(), storage.Spec{VMID: 100, Size: 1, Name: "vm-101-disk-0"}); err == nil {
		t.Error("a disk with another guest's name")
	}
	name := "100/vm-100-disk-0.raw"
	if err := p.Resize(t.Context(), name, 1); err == nil {
		t.Error("shrunk")
	}
	if err := p.Resize(t.Context(), name, 20<<20); err != nil {
		t.Error(err)
	}
	if at, err := p.Activate(t.Context(), name); err != nil || at != filepath.Join(dir, "images", name) {
		t.Errorf("%q, %v", at, err)
	}
	q, err := p.Create(t.Context(), storage.Spec{VMID: 100, Size: 1 << 30, Format: "qcow2"})
	if err != nil && strings.Contains(err.Error(), "not installed") {
		t.Log(err)
	} else if err != nil || q.ID != "local:100/vm-100-disk-1.qcow2" {
		t.Errorf("%+v, %v", q, err)
	} else {
		if err := p.Resize(t.Context(), "100/vm-100-disk-1.qcow2", 2<<30); err != nil {
			t.Error(err)
		}
		l, _ := p.List(t.Context())
		if i := slices.IndexFunc(l, func(v storage.Volume) bool { return v.ID == q.ID }); i < 0 || l[i].Size != 2<<30 || l[i].VMID != 100 || l[i].Used > 1<<20 {
			t.Errorf("%+v", l)
		}
		if err := p.Delete(t.Context(), "100/vm-100-disk-1.qcow2"); err != nil {
			t.Error(err)
		}
	}
	if err := p.Delete(t.Context(), name); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "images/100")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty folder stays: %v", err)
	}
	if err := p.Delete(t.Context(), name); !errors.Is(err, storage.ErrNotFound) || err.Error() != "volume 'local:"+name+"' does not exist" {
		t.Errorf("delete again: %v", err)
	}
}

// TestRename: twice is as good as once, and nothing is replaced.
func TestRename(t *testing.T) {
	p, dir := newPool(t)
	for _, id := range []int{100, 300} {
		if _, err := p.Create(t.Context(), storage.Spec{VMID: id, Size: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	from, to := "100/vm-100-disk-0.raw", "200/vm-200-disk-0.raw"
	for range 2 {
		if err := p.Rename(t.Context(), from, to); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Activate(t.Context(), to); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "images/100")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty folder stays: %v", err)
	}
	if err := p.Rename(t.Context(), to, "300/vm-300-disk-0.raw"); !errors.Is(err, storage.ErrExists) {
		t.Errorf("over another disk: %v", err)
	}
	if err := p.Rename(t.Context(), from, "201/vm-201-disk-0.raw"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
}

// TestOutside plants symbolic links that lead out of the folder.
func TestOutside(t *testing.T) {
	p, dir := newPool(t)
	secret := filepath.Join(t.TempDir(), "secret")
	os.WriteFile(secret, []byte("x"), 0o600)
	os.Symlink(secret, filepath.Join(dir, "template/iso/x.iso"))
	os.MkdirAll(filepath.Join(dir, "images"), 0o755)
	os.Symlink(filepath.Dir(secret), filepath.Join(dir, "images/100"))
	if l, err := p.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("listed %v, %v", l, err)
	}
	if err := p.Delete(t.Context(), "iso/x.iso"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("link: %v", err)
	}
	if _, err := p.Create(t.Context(), storage.Spec{VMID: 100, Size: 1024}); err == nil {
		t.Error("a disk was made outside")
	}
	if _, err := os.Stat(secret); err != nil {
		t.Error("the file outside is gone")
	}
	if s, err := p.Status(t.Context()); err != nil || s.Total <= 0 || s.Avail <= 0 || !s.Active {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := Open(storage.Config{Path: "relative"}, nil); err == nil {
		t.Error("relative path passed")
	}
	if _, err := Open(storage.Config{Path: filepath.Join(dir, "missing")}, nil); err == nil {
		t.Error("a missing folder was made")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("iso/x.iso")
	f.Add("100/vm-100-disk-0.raw")
	f.Fuzz(func(t *testing.T, s string) {
		at, err := parse(s)
		if err == nil && (!filepath.IsLocal(at.file) || strings.ContainsAny(at.file, " \n\x00") || filepath.Clean(at.file) != at.file) {
			t.Errorf("%q became %q", s, at.file)
		}
	})
}
