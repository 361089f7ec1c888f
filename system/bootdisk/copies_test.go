package bootdisk_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
