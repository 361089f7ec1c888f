package bootdisk_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"joist/image/boot"
	"joist/image/disk"
	"joist/system/block"
	"joist/system/bootdisk"
	"joist/system/bootdisk/bootdisktest"
)

// A disk that is there twice stops the start; members, other systems, and one
// disk by two paths do not.
func TestAlone(t *testing.T) {
	sys := t.TempDir()
	device := func(guid, real, wwid string) block.Device {
		t.Helper()
		d := bootdisktest.Empty(t, guid)
		dev := block.Device{Name: ".." + d.Path, Bytes: d.Bytes, Sector: 512}
		link := filepath.Join(sys, "class/block", dev.Name)
		dir := filepath.Join(sys, "devices", real)
		for _, err := range []error{os.MkdirAll(filepath.Join(dir, "device"), 0o755), os.MkdirAll(filepath.Dir(link), 0o755),
			os.WriteFile(filepath.Join(dir, "device/wwid"), []byte(wwid+"\n"), 0o644), os.Symlink(dir, link)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return dev
	}
	a, b := device(first, "pci0/a", "naa.1"), device(first, "pci0/b", "naa.2")
	member, foreign := device(twin, "pci0/c", "naa.3"), device(other, "pci0/d", "naa.4")
	path, nameless := device(first, "pci0/e", "naa.1"), device(first, "pci0/f", "")
	usb, bridge := device(first, "pci0/usb1/g", "naa.9"), device(first, "pci0/usb1/h", "naa.9")
	sata, sata2 := device(first, "pci0/ata1/i", "t10.ATA 1"), device(first, "pci0/ata2/j", "t10.ATA 1")
	larger := path
	larger.Bytes += 512
	for name, c := range map[string]struct {
		devs []block.Device
		ok   bool
	}{
		"one":                {[]block.Device{a}, true},
		"a member":           {[]block.Device{a, member, foreign, foreign}, true},
		"a copy":             {[]block.Device{a, member, b}, false},
		"two paths":          {[]block.Device{a, path}, true},
		"it calls itself so": {[]block.Device{a, larger}, false},
		"without a name":     {[]block.Device{a, nameless}, false},
		"neither has a name": {[]block.Device{nameless, nameless}, false},
		"USB repeats names":  {[]block.Device{usb, bridge}, false},
		"SATA has one path":  {[]block.Device{sata, sata2}, false},
	} {
		err := bootdisk.Alone(c.devs, sys, first)
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "copies of each other") {
			t.Errorf("%s: %v", name, err)
		}
	}
	pair := func(a, b block.Device) [][2]string { return [][2]string{{a.Path(), b.Path()}} }
	devs := []block.Device{a, b, path, nameless}
	for i := range devs {
		devs[i].Disk = devs[i].Name
	}
	for name, c := range map[string]struct {
		pairs [][2]string
		ok    bool
	}{"none": {nil, true}, "two paths": {pair(a, path), true}, "copies": {pair(a, b), false}, "without a name": {pair(a, nameless), false}} {
		if err := bootdisk.Distinct(devs, sys, c.pairs); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A disk with several paths is one disk of the system, by the first of them; a
// copy is two, and refused.
func TestFindPaths(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	d, member := bootdisktest.Install(t, first, b, boot.Fresh()), bootdisktest.Install(t, twin, b, boot.Fresh())
	sys := t.TempDir()
	at := func(d bootdisk.Disk, bus, wwid string) bootdisk.Disk {
		return bootdisktest.Attach(t, sys, d, bootdisktest.Port{Bus: bus, WWID: wwid})
	}
	one, other, two := at(d, "pci0", "naa.1"), at(member, "pci0", "naa.2"), at(d, "pci1", "naa.1")
	find := func() []bootdisk.Disk {
		devs, err := block.List(sys)
		if err != nil {
			t.Fatal(err)
		}
		return bootdisk.Find(devs, sys, first)
	}
	r := newRig(t)
	r.Disks = func() ([]bootdisk.Disk, error) { return find(), nil }
	ds := find()
	if len(ds) != 2 || ds[0].Name != one.Name || ds[1].Name != other.Name || !ds[0].Named(two.Name) || ds[0].Named(other.Name) ||
		!slices.Equal(ds[0].Devices(disk.NameData), []string{one.Parts[disk.NameData], two.Parts[disk.NameData]}) {
		t.Fatalf("%+v", ds)
	}
	if cs, err := r.Inspect(t.Context(), false); err != nil || len(cs) != 2 {
		t.Errorf("%d copies, %v", len(cs), err)
	}
	for used, want := range map[string]string{"": one.Name, filepath.Base(one.Parts[disk.NameData]): one.Name, two.Name + "5": two.Name} {
		devs, err := bootdisk.Devices(sys, used)
		var names []string
		for _, p := range block.Partitions(devs, disk.NameData) {
			names = append(names, p.Disk)
		}
		if err != nil || len(names) != 2 || !slices.Contains(names, want) || !slices.Contains(names, other.Name) {
			t.Errorf("%q is used: %q, want %q, %v", used, names, want, err)
		}
	}
	at(d, "pci2", "naa.3")
	if cs, err := r.Inspect(t.Context(), false); err == nil || !strings.Contains(err.Error(), "one is a copy of the other") {
		t.Errorf("a copy: %d disks, %v", len(cs), err)
	}
}

// A disk that is used by another path is not erased.
func TestEraseLooksAtPaths(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	d := bootdisktest.Install(t, first, b, boot.Fresh())
	used := d
	used.Parts = map[string]string{disk.NameSlotB: filepath.Join(t.TempDir(), "busy")}
	d.Paths = []bootdisk.Disk{used}
	if err := bootdisk.Erase(d); err == nil || !strings.Contains(err.Error(), "open joist-b") {
		t.Error(err)
	}
	d.Paths = nil
	if err := bootdisk.Erase(d); err != nil {
		t.Error(err)
	}
}
