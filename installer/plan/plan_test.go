package plan

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"joist/image/boot"
	"joist/installer/answer"
	"joist/installer/probe"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		os.MkdirAll("testdata", 0o755)
		os.WriteFile("testdata/"+name, []byte(got), 0o644)
	}
	want, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", name, got)
	}
}

func facts(size int64) probe.Facts {
	return probe.Facts{
		Time: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), Firmware: probe.Firmware{Mode: probe.UEFI},
		CPU: probe.CPU{Virtualisation: "svm", KVM: true}, Memory: probe.Memory{Total: 4 << 30},
		Disks: []probe.Disk{
			{Name: "vda", Size: size, Sector: 512, Bus: "virtio", Udev: map[string]string{"ID_SERIAL": "A1", "ID_BUS": "virtio"}},
			{Name: "vdb", Size: 30e9, Sector: 512, Bus: "virtio", Udev: map[string]string{"ID_SERIAL": "B1", "ID_BUS": "virtio"}},
			{Name: "sdc", Size: 30e9, Sector: 512, Medium: true, Udev: map[string]string{"ID_SERIAL": "A1"}},
		},
		NICs: []probe.NIC{
			{Name: "eth0", MAC: "52:54:00:00:00:01", Carrier: "down", Udev: map[string]string{"ID_NET_DRIVER": "virtio_net", "INTERFACE": "eth0"}},
			{Name: "eth1", MAC: "52:54:00:00:00:02", Carrier: "up", Udev: map[string]string{"ID_NET_DRIVER": "virtio_net", "INTERFACE": "eth1"}},
		},
		ConsoleArgs: []string{"console=tty0", "console=ttyS0,115200"},
	}
}

func image() Image {
	h := strings.Repeat("0", 64)
	return Image{
		Manifest: boot.Manifest{BuildID: "0011223344556677", Version: "0.1.0", Kernel: "6.12.0-amd64", VerityRoot: h, Built: time.Unix(1.7e9, 0),
			Files: map[string]boot.File{"vmlinuz": {Size: 12e6, SHA256: h}, "initrd": {Size: 30e6, SHA256: h}, "system.sqfs": {Size: 250e6, SHA256: h}}},
		Loaders: map[string]int64{LoaderBoot: 512, LoaderCore: 100e3, LoaderShim: 960e3, LoaderGrub: 2.6e6, LoaderMOK: 850e3},
	}
}

func ans() answer.Answer {
	return answer.Answer{
		Global: answer.Global{Keyboard: "de", Country: "at", Timezone: "UTC", FQDN: "Node1.example.com", MailTo: "a@example.com", RootPassword: "topsecret"},
		Disk:   answer.Disk{Filesystem: "ext4", List: []string{"vda"}},
	}
}

// zeros makes identities that tests can compare.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func identity(t *testing.T) Identity {
	id, err := NewIdentity(zeros{})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestDescribeGolden(t *testing.T) {
	size := func(n float64) *int64 { v := int64(n * float64(gib)); return &v }
	for _, c := range []struct {
		name string
		disk int64
		edit func(f *probe.Facts, a *answer.Answer)
	}{
		{"20gb", 20e9, func(*probe.Facts, *answer.Answer) {}},
		{"64gb-bios-static", 64e9, func(f *probe.Facts, a *answer.Answer) {
			f.Firmware.Mode = probe.BIOS
			a.Network = answer.Network{Source: answer.FromAnswer, CIDR: "192.0.2.10/24", Gateway: "192.0.2.1", DNS: []string{"192.0.2.1"}, Filter: map[string]string{"INTERFACE": "eth0"}}
		}},
		{"4tb-4kn-sizes", 4e12, func(f *probe.Facts, a *answer.Answer) {
			f.Disks[0].Sector = 4096
			a.Disk.HDSize, a.Disk.SwapSize, a.Disk.MaxRoot, a.Disk.MaxVZ, a.Disk.MinFree = size(500), size(2.5), size(20), size(100), size(0)
		}},
		{"existing", 64e9, func(f *probe.Facts, a *answer.Answer) {
			f.Disks[0].Installation = &probe.Installation{ID: "00000000aaaaaaaa", ESP: "vda2"}
		}},
		{"replace", 64e9, func(f *probe.Facts, a *answer.Answer) {
			f.Disks[0].Installation = &probe.Installation{ID: "00000000aaaaaaaa", ESP: "vda2"}
			a.Install.Installation = "00000000aaaaaaaa"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, a := facts(c.disk), ans()
			c.edit(&f, &a)
			p, fs := Make(f, a, image(), identity(t))
			var b strings.Builder
			fs.Write(&b)
			b.WriteString(p.Describe())
			if fs.Stops() || strings.Contains(b.String(), "topsecret") {
				t.Errorf("findings: %v", fs)
			}
			golden(t, c.name+".golden", b.String())
		})
	}
}

// Every way of saying no, with the codes that say it.
func TestFindings(t *testing.T) {
	size := func(n int64) *int64 { v := n * gib; return &v }
	for _, c := range []struct {
		want string
		edit func(f *probe.Facts, a *answer.Answer, m *Image)
	}{
		{"", func(*probe.Facts, *answer.Answer, *Image) {}},
		{"disk-not-found", func(_ *probe.Facts, a *answer.Answer, _ *Image) { a.Disk.List = []string{"sdz"} }},
		{"disk-not-found", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.Disk.List, a.Disk.Filter = nil, map[string]string{"ID_SERIAL": "Z*"}
		}},
		{"disk-ambiguous", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.Disk.List, a.Disk.Filter = nil, map[string]string{"ID_BUS": "virtio", "ID_SERIAL": "A1"}
		}},
		{"", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.Disk.List, a.Disk.Filter, a.Disk.FilterMatch = nil, map[string]string{"ID_BUS": "virtio", "ID_SERIAL": "A1"}, "all"
		}},
		{"disk-is-medium", func(_ *probe.Facts, a *answer.Answer, _ *Image) { a.Disk.List = []string{"sdc"} }},
		{"nic-ambiguous", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.Network.Filter = map[string]string{"ID_NET_DRIVER": "*"}
		}},
		{"nic-not-found", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.Network.Filter = map[string]string{"INTERFACE": "x"}
		}},
		{"vg-name-taken", func(f *probe.Facts, _ *answer.Answer, _ *Image) {
			f.Disks[1].Contents = []probe.Content{{Where: "vdb", Kind: "lvm", Name: "joist"}}
		}},
		{"hdsize-too-small", func(_ *probe.Facts, a *answer.Answer, _ *Image) { a.Disk.HDSize = size(10) }},
		{"hdsize-too-large", func(_ *probe.Facts, a *answer.Answer, _ *Image) { a.Disk.HDSize = size(1000) }},
		{"swap-too-large", func(_ *probe.Facts, a *answer.Answer, _ *Image) { a.Disk.SwapSize = size(40) }},
		{"image-too-large", func(_ *probe.Facts, _ *answer.Answer, m *Image) {
			m.Files["system.sqfs"] = boot.File{Size: 3 << 30, SHA256: m.VerityRoot}
		}},
		{"medium-incomplete", func(_ *probe.Facts, _ *answer.Answer, m *Image) { delete(m.Loaders, LoaderShim) }},
		{"waiver-not-possible", func(_ *probe.Facts, a *answer.Answer, _ *Image) { a.Waive = []string{"no-disk"} }},
		{"cpu-virtualisation", func(f *probe.Facts, _ *answer.Answer, _ *Image) { f.CPU.KVM = false }},
		{"", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			f.CPU.KVM, a.Waive = false, []string{"cpu-virtualisation"}
		}},
	} {
		f, a, m := facts(64e9), ans(), image()
		c.edit(&f, &a, &m)
		p, fs := Make(f, a, m, identity(t))
		var stops []string
		for _, x := range fs {
			if x.Level.String() == "error" {
				stops = append(stops, x.Code)
			}
		}
		if got := strings.Join(stops, " "); got != c.want {
			t.Errorf("want %q, got %q", c.want, got)
		}
		if c.want == "" && len(p.Actions) == 0 {
			t.Error("no actions")
		}
	}
}

// The sum never exceeds the volume group, whatever the disk and the answer.
func TestSizesFit(t *testing.T) {
	v := func(n int64) *int64 { return &n }
	for hd := int64(20e9); hd < 8e12; hd = hd*11/10 + 12345 {
		for i, d := range []answer.Disk{{}, {SwapSize: v(8 * gib)}, {MaxRoot: v(4 * gib)}, {MaxVZ: v(hd)}, {MaxVZ: v(0)}, {MinFree: v(0)}, {MinFree: v(hd)}} {
			vg := hd - 6*gib
			sum := int64(0)
			for _, x := range sizes(vg, hd, d) {
				sum += x.Bytes + 2*x.Meta
				if x.Bytes%extent != 0 || x.Meta%extent != 0 || x.Bytes <= 0 && d.SwapSize == nil {
					t.Errorf("%d/%d: volume %+v", hd, i, x)
				}
			}
			if sum > vg && d.SwapSize == nil {
				t.Errorf("%d/%d: volumes have %d bytes of %d", hd, i, sum, vg)
			}
		}
	}
}

func TestReportHoldsNoSecret(t *testing.T) {
	p, _ := Make(facts(64e9), ans(), image(), identity(t))
	files, err := p.Seed("u", "$y$hash")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range files {
		fmt.Fprintf(&b, "%s %o\n%s", f.Path, f.Mode, f.Data)
	}
	if strings.Contains(b.String(), "topsecret") || !strings.Contains(b.String(), `"name": "node1"`) {
		t.Error(b.String())
	}
}
