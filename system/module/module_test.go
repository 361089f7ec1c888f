package module

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func index(t *testing.T) *Index {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": "kernel/fs/ext4/ext4.ko.xz: kernel/fs/mbcache.ko.xz kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\n" +
			"kernel/fs/mbcache.ko.xz:\nkernel/fs/jbd2/jbd2.ko.xz:\nkernel/lib/crc16.ko.xz:\n" +
			"kernel/crypto/crc32c_generic.ko.xz:\n" +
			"kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio.ko.xz\nkernel/drivers/virtio/virtio.ko.xz:\n" +
			"kernel/drivers/watchdog/iTCO-wdt.ko.xz:\n",
		"modules.builtin": "kernel/drivers/virtio/virtio_pci.ko\n",
		"modules.softdep": "# Soft dependencies\nsoftdep ext4 pre: crypto-crc32c nothere\n",
		"modules.alias": "# Aliases\nalias fs-ext4 ext4\nalias virtio:d00000002v* virtio_blk\n" +
			"alias crypto-crc32c crc32c_generic\nalias acpi*:PNP0C0A:* iTCO_wdt\nalias cpu:type:x86,ven0002*:feature:*0144* virtio\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	x, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestOrder(t *testing.T) {
	x := index(t)
	if got := strings.Join(x.Order("ext4"), " "); got != "crc32c_generic mbcache jbd2 crc16 ext4" {
		t.Errorf("got %q", got)
	}
	if got := x.Order("nothere"); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

func TestMatch(t *testing.T) {
	x := index(t)
	for in, want := range map[string]string{
		"virtio:d00000002v00001AF4":                    "virtio_blk",
		"virtio:d00000001v00001AF4":                    "",
		"acpi:PNP0C0A:":                                "iTCO_wdt",
		"cpu:type:x86,ven0002fam0F:feature:,0000,0144": "virtio",
		"fs-ext4":  "ext4",
		"iTCO-wdt": "iTCO_wdt",
	} {
		if got := strings.Join(x.Match(in), " "); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestColdplugLoadsOnceAndForgives(t *testing.T) {
	var mu sync.Mutex
	var files []string
	l := Loader{Index: index(t), Params: map[string][]string{"virtio_blk": {"a=1", "b=2"}},
		Insert: func(file, params string) error {
			mu.Lock()
			defer mu.Unlock()
			files = append(files, Name(file)+"("+params+")")
			if Name(file) == "iTCO_wdt" {
				return unix.ENODEV
			}
			return nil
		}}
	sys := t.TempDir()
	for name, a := range map[string]string{"a": "virtio:d00000002v00001AF4", "b": "virtio:d00000002v00001AF4", "c": "acpi:PNP0C0A:"} {
		os.MkdirAll(filepath.Join(sys, name), 0o755)
		os.WriteFile(filepath.Join(sys, name, "modalias"), []byte(a+"\n"), 0o644)
	}
	n, err := l.Coldplug(sys)
	if n != 2 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	slices.Sort(files)
	if got := strings.Join(files, " "); got != "iTCO_wdt() virtio() virtio_blk(a=1 b=2)" {
		t.Errorf("inserted %q", got)
	}
	if n, _ := l.Coldplug(sys); n != 0 {
		t.Errorf("second time: %d new", n)
	}
	if err := l.Load("virtio-pci"); err != nil {
		t.Errorf("compiled in: %v", err)
	}
	if err := l.Load("nothere"); err == nil {
		t.Error("unknown name loaded")
	}
	if err := l.Load("iTCO_wdt"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("remembered result: %v", err)
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("virtio:d*v[0-9]?", "virtio:d00v1x")
	f.Add("*a*b*", "xaxxb")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := Glob(pattern, s)
		if strings.ContainsAny(pattern, "[]\\/!^") || strings.ContainsAny(s, "/") {
			return // path.Match differs there on purpose
		}
		for _, r := range pattern + s {
			if r > 126 {
				return // ours works on bytes
			}
		}
		if want, err := path.Match(pattern, s); err == nil && got != want {
			t.Errorf("Glob(%q, %q) = %v", pattern, s, got)
		}
	})
}

func TestFlagsFollowTheFile(t *testing.T) {
	for file, want := range map[string]int{"/lib/a.ko": 0, "b.ko.xz": unix.MODULE_INIT_COMPRESSED_FILE, "b.ko.zst": unix.MODULE_INIT_COMPRESSED_FILE} {
		if got := flags(file); got != want || Name(file) != filepath.Base(file)[:1] {
			t.Errorf("%s: got %d, name %q", file, got, Name(file))
		}
	}
}
