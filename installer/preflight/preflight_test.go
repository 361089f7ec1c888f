package preflight

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"joist/installer/probe"
)

var update = flag.Bool("update", false, "rewrite golden files")

func good() probe.Facts {
	return probe.Facts{
		Time:     time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		Firmware: probe.Firmware{Mode: probe.UEFI},
		CPU:      probe.CPU{Model: "Test", Count: 2, Virtualisation: "svm", KVM: true},
		Memory:   probe.Memory{Installed: 2<<30 - 1<<20, Total: 1900 << 20},
		Disks:    []probe.Disk{{Name: "sda", Size: MinDisk, Sector: 512}, {Name: "sdb", Size: 1 << 40, Sector: 512, Medium: true, InUse: []string{"/run/joist/medium"}}},
		NICs:     []probe.NIC{{Name: "eth0", Carrier: "unknown"}},
	}
}

// Every row of the tables shows once; the golden file is what a person reads.
func TestCheckGolden(t *testing.T) {
	cases := []struct {
		name string
		edit func(f *probe.Facts)
	}{
		{"good", func(*probe.Facts) {}},
		{"secure boot", func(f *probe.Facts) { f.Firmware.SecureBoot = true }},
		{"bios", func(f *probe.Facts) { f.Firmware.Mode = probe.BIOS }},
		{"no flag", func(f *probe.Facts) { f.CPU = probe.CPU{} }},
		{"flag, no kvm", func(f *probe.Facts) { f.CPU.KVM, f.CPU.KVMError = false, "open /dev/kvm: no such device" }},
		{"memory", func(f *probe.Facts) { f.Memory = probe.Memory{Installed: 1 << 30, Total: 900 << 20} }},
		{"memory, just enough", func(f *probe.Facts) { f.Memory = probe.Memory{Total: MinMemory - MemoryAllowance} }},
		{"memory, just too little", func(f *probe.Facts) { f.Memory = probe.Memory{Total: MinMemory - MemoryAllowance - 1} }},
		{"no disk", func(f *probe.Facts) { f.Disks = f.Disks[1:] }},
		{"small disk", func(f *probe.Facts) { f.Disks[0].Size = 10e9 }},
		{"no nic", func(f *probe.Facts) { f.NICs = nil }},
		{"no carrier", func(f *probe.Facts) { f.NICs[0].Carrier = "down" }},
		{"clock", func(f *probe.Facts) { f.Time = time.Unix(0, 0).UTC() }},
		{"problem", func(f *probe.Facts) { f.Problems = []string{"list disks: no such file"} }},
	}
	var b strings.Builder
	for _, c := range cases {
		f := good()
		c.edit(&f)
		fmt.Fprintf(&b, "== %s\n", c.name)
		Check(f).Write(&b)
	}
	f := good()
	f.Firmware.Mode = probe.BIOS
	for _, d := range []probe.Disk{
		f.Disks[0], f.Disks[1],
		{Name: "sdc", Size: 10e9, Sector: 4096, ReadOnly: true, InUse: []string{"/mnt"}, Removable: true, Bus: "usb"},
		{Name: "sdd", Size: 30e9, Sector: 520},
	} {
		fmt.Fprintf(&b, "== disk %s\n", d.Name)
		Target(f, d).Write(&b)
	}
	if *update {
		os.MkdirAll("testdata", 0o755)
		os.WriteFile("testdata/check.golden", []byte(b.String()), 0o644)
	}
	want, err := os.ReadFile("testdata/check.golden")
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("findings differ:\n%s", b.String())
	}
}

func TestOnlyWorkingCombinationsAreWaivable(t *testing.T) {
	for code, want := range map[string]bool{"cpu-virtualisation": true, "memory-too-small": true, "no-disk": false, "disk-too-small": false, "no-nic": false, "nonsense": false} {
		if Waivable(code) != want {
			t.Errorf("Waivable(%q) = %v", code, !want)
		}
	}
}
