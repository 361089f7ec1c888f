package pid1

import (
	"strings"
	"testing"

	"joist/image/boot"
	"joist/system/bootdisk/bootdisktest"
)

const (
	oneDisk   = "aaaaaaaa-1111-4111-8111-111111111111"
	itsTwin   = "aaaaaaaa-1111-4111-8222-222222222222"
	otherDisk = "bbbbbbbb-1111-4222-8222-222222222222"
)

// A system whose partitions the kernel does not show is found by its tables: it
// can be mended. Its other disk, if there is one, has the data.
func TestInstalledWithoutPartitions(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	install := func(guid string) func(sys string, p bootdisktest.Port) {
		d := bootdisktest.Install(t, guid, b, boot.Fresh())
		return func(sys string, p bootdisktest.Port) { bootdisktest.Attach(t, sys, d, p) }
	}
	one, twin, other := install(strings.ToUpper(oneDisk)), install(strings.ToUpper(itsTwin)), install(strings.ToUpper(otherDisk))
	sees, blind := bootdisktest.Port{Bus: "pci0", WWID: "naa.1"}, bootdisktest.Port{Bus: "pci0", Blind: true}
	for name, c := range map[string]struct {
		attach   func(sys string)
		systems  int
		readable bool
	}{
		"nothing":       {func(string) {}, 0, false},
		"whole":         {func(sys string) { one(sys, sees) }, 1, true},
		"blind":         {func(sys string) { one(sys, blind) }, 1, false},
		"one is blind":  {func(sys string) { one(sys, blind); twin(sys, sees) }, 1, true},
		"both are":      {func(sys string) { one(sys, blind); twin(sys, blind) }, 1, false},
		"another there": {func(sys string) { one(sys, blind); other(sys, sees) }, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			sys := t.TempDir()
			c.attach(sys)
			got := installed(sys)
			if len(got) != c.systems {
				t.Fatalf("%v", got)
			}
			if len(got) != 1 {
				return
			}
			err := got[0].readable()
			if (err == nil) != c.readable || err != nil && !strings.Contains(err.Error(), "joist-install boot") {
				t.Error(err)
			}
			if said := Installed(sys)[0]; strings.Contains(said, "data on /dev/../") != c.readable {
				t.Error(said)
			}
		})
	}
}

// A disk with two paths is one system, a copy is two.
func TestInstalledByTwoPaths(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	d := bootdisktest.Install(t, strings.ToUpper(oneDisk), b, boot.Fresh())
	sys := t.TempDir()
	for _, bus := range []string{"pci0", "pci1"} {
		bootdisktest.Attach(t, sys, d, bootdisktest.Port{Bus: bus, WWID: "naa.1"})
	}
	if got := installed(sys); len(got) != 1 {
		t.Errorf("two paths: %v", got)
	}
	bootdisktest.Attach(t, sys, d, bootdisktest.Port{Bus: "pci2", WWID: "naa.2"})
	if got := installed(sys); len(got) != 2 {
		t.Errorf("a copy: %v", got)
	}
}
