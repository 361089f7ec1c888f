package preflight

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"joist/installer/probe"
	"joist/internal/finding"
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
		{"firmware lock", func(f *probe.Facts) { f.CPU.Lock = probe.Off }},
		{"no iommu", func(f *probe.Facts) { f.IOMMU = &probe.IOMMU{} }},
		{"iommu unused", func(f *probe.Facts) { f.IOMMU = &probe.IOMMU{Table: "DMAR"} }},
		{"iommu", func(f *probe.Facts) { f.IOMMU = &probe.IOMMU{Active: true} }},
		{"no tpm, no ecc", func(f *probe.Facts) { f.TPM, f.Memory.ECC = probe.NoTPM, probe.Off }},
		{"old tpm", func(f *probe.Facts) { f.TPM = "1" }},
		{"tpm", func(f *probe.Facts) { f.TPM = "2" }},
		{"paths", func(f *probe.Facts) { f.Disks[0].Paths = []string{"sdc"} }},
		{"links", func(f *probe.Facts) {
			f.NICs = []probe.NIC{{Name: "eth0", Carrier: "up", Speed: 10}, {Name: "eth1", Carrier: "up", Speed: 100}, {Name: "eth2", Carrier: "up"}, {Name: "eth3", Carrier: "down"}}
		}},
		{"clock ahead", func(f *probe.Facts) {
			f.Reference = &probe.Reference{Time: f.Time.Add(-time.Hour), Source: "https://example.com"}
		}},
		{"clock right", func(f *probe.Facts) { f.Reference = &probe.Reference{Time: f.Time.Add(time.Minute), Source: "x"} }},
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
		{Name: "sde", Size: 30e9, Sector: 512, Health: &probe.Health{Failing: true, Wear: 80, Pending: 3, Replaced: 4}},
		{Name: "sdf", Size: 30e9, Sector: 512, Health: &probe.Health{Wear: 79}, Contents: []probe.Content{{Where: "sdf1", Kind: "zfs", Name: "tank", ID: "7"}, {Where: "sdf2", Kind: "ext4"}}},
	} {
		fmt.Fprintf(&b, "== disk %s\n", d.Name)
		Target(f, d).Write(&b)
	}
	a := probe.Disk{Name: "a", Size: 100e9, Sector: 512, Bus: "ata"}
	for _, ds := range [][]probe.Disk{{a}, {a, a}, {a, {Name: "b", Size: 90e9, Sector: 512, Bus: "ata"}}, {a, {Name: "c", Size: 90e9 - 1, Sector: 4096, Bus: "ata", Rotational: true}}} {
		fmt.Fprintf(&b, "== members %d %s\n", len(ds), ds[len(ds)-1].Name)
		Members(f, ds).Write(&b)
	}
	provoked(t, b.String())
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

// provoked: every row of the table has been seen, and has its words.
func provoked(t *testing.T, said string) {
	t.Helper()
	for _, r := range Table() {
		if !strings.Contains(said, "["+r.Code+"]") {
			t.Errorf("%s was not provoked", r.Code)
		}
		if r.When == "" || r.Level != finding.Note && r.Cure == "" || r.Waivable && r.Level != finding.Stop {
			t.Errorf("row %+v", r)
		}
	}
}

func TestReport(t *testing.T) {
	f := good()
	f.CPU.KVM, f.Memory.Total = false, 1
	r := MakeReport(f, f.Disks[:1], f.Disks[:1], []string{"cpu-virtualisation", "no-disk"})
	state := map[string]string{}
	for _, c := range r.Checks {
		state[c.Code] = fmt.Sprint(c.Outcome, c.Waived, len(c.Found))
	}
	if r.Result != Fit || state["cpu-virtualisation"] != "warningtrue 1" || state["no-disk"] != "okfalse 0" {
		t.Errorf("%s %v", r.Result, state)
	}
	f.Disks[0].ReadOnly = true
	if b, err := json.Marshal(MakeReport(f, f.Disks[:1], f.Disks[:1], nil)); err != nil || !strings.Contains(string(b), `"result":"unfit"`) || !strings.Contains(string(b), `"level":"error"`) {
		t.Errorf("%s %v", b, err)
	}
}

// Each disk is looked at but the medium; on a node nobody asks whether it can be
// installed on.
func TestSurvey(t *testing.T) {
	f := good()
	f.Firmware.Mode = probe.BIOS
	f.Disks = append(f.Disks, probe.Disk{Name: "sdc", Size: 30e9, Sector: 4096, InUse: []string{"/mnt"}, Health: &probe.Health{Failing: true}})
	for _, c := range []struct {
		got  finding.List
		want string
	}{
		{Survey(f), "/dev/sdc:disk-in-use /dev/sdc:disk-4kn-bios /dev/sdc:disk-failing"},
		{SurveyNode(f), "/dev/sdc:disk-4kn-bios /dev/sdc:disk-failing"},
	} {
		var at []string
		for _, x := range c.got {
			if x.Path != "machine" {
				at = append(at, x.Path+":"+x.Code)
			}
		}
		if got := strings.Join(at, " "); got != c.want || c.got[0].Path != "machine" {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestOnlyWorkingCombinationsAreWaivable(t *testing.T) {
	for code, want := range map[string]bool{"cpu-virtualisation": true, "memory-too-small": true, "no-disk": false, "disk-too-small": false, "no-nic": false, "nonsense": false} {
		if Waivable(code) != want {
			t.Errorf("Waivable(%q) = %v", code, !want)
		}
	}
}
