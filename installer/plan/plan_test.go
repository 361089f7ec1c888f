package plan

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/api/node"
	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/internal/finding"
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

// members gives the machine n equal disks, all chosen.
func members(f *probe.Facts, a *answer.Answer, n int) {
	d := f.Disks[0]
	f.Disks, a.Disk.List = nil, nil
	for i := range n {
		d.Name = fmt.Sprintf("nvme%dn1", i)
		d.Udev = map[string]string{"ID_SERIAL": fmt.Sprintf("M%d", i)}
		f.Disks = append(f.Disks, d)
		a.Disk.List = append(a.Disk.List, d.Name)
	}
}

// What is accepted is kept and reported as fit: disks are compared by what is
// used of them, hdsize or the partitions of an installation whose data stay.
func TestReportJudgesWhatIsUsed(t *testing.T) {
	unequal := func(f *probe.Facts, a *answer.Answer) {
		members(f, a, 2)
		f.Disks[1].Size = 100e9
		a.Disk.RAID = answer.RAID1
	}
	hd := int64(60e9)
	for name, c := range map[string]struct {
		edit func(f *probe.Facts, a *answer.Answer)
		fit  bool
	}{
		"all of them": {unequal, false},
		"hdsize":      {func(f *probe.Facts, a *answer.Answer) { unequal(f, a); a.Disk.HDSize = &hd }, true},
		"hdsize of a pool": {func(f *probe.Facts, a *answer.Answer) {
			unequal(f, a)
			a.Disk.RAID, a.Disk.Filesystem, a.Disk.ZFS.RAID, a.Disk.ZFS.HDSize = "", answer.ZFS, answer.RAID1, &hd
		}, true},
		"kept data": {func(f *probe.Facts, a *answer.Answer) {
			unequal(f, a)
			f.Disks[0].Installation, f.Disks[1].Installation = installed(f.Disks[0], 0, "md"), installed(f.Disks[1], 1, "md")
			a.Disk.Adopt, a.Install.Reinstall = true, true
		}, true},
	} {
		f, a := facts(64e9), ans()
		c.edit(&f, &a)
		p, fs := made(f, a, image(), identity(t))
		stopped := slices.ContainsFunc(fs, func(x finding.Finding) bool { return x.Code == "members-size" })
		if stopped == c.fit || (p.Checks.Result == preflight.Fit) != c.fit || fs.Stops() == c.fit {
			t.Errorf("%s: the report says %q; %v", name, p.Checks.Result, fs)
		}
	}
}

func pool(f *probe.Facts, a *answer.Answer, raid string, n int) {
	members(f, a, n)
	a.Disk.Filesystem, a.Disk.ZFS.RAID = answer.ZFS, raid
}

// installed is what probing finds of an installation on a disk.
func installed(d probe.Disk, n int, kind string) *probe.Installation {
	id, _ := NewIdentity(bytes.NewReader(bytes.Repeat([]byte{7}, 1000)))
	guid, parts, _ := id.Member(n)
	l, _ := disk.Plan(disk.Request{Size: d.Size, SectorSize: d.Sector, DiskGUID: guid, PartGUIDs: parts})
	in := &probe.Installation{ID: probe.InstallationID(guid), GUID: guid, Table: &l}
	if kind == "zfs" {
		in.Pool = "12345678901234567890"
		return in
	}
	in.Group = "abcdef-0123-4567-89ab-cdef-0123-456789"
	if kind == "md" {
		in.Array = "30313233:34353637:38396162:63646566"
	}
	return in
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
		{"bond-vlan", 64e9, func(f *probe.Facts, a *answer.Answer) {
			a.Link = answer.Link{VLAN: 10, MTU: 9000, SecondCIDR: "2001:DB8::10/64", SecondGateway: "fe80::1",
				Bond: answer.Bond{Mode: "802.3ad", Filter: map[string]string{"ID_NET_DRIVER": "virtio*"}, Hash: "layer3+4", LACPRate: "fast"}}
		}},
		{"existing", 64e9, func(f *probe.Facts, a *answer.Answer) {
			f.Disks[0].Installation = &probe.Installation{ID: "00000000aaaaaaaa", ESP: "vda2"}
		}},
		{"replace", 64e9, func(f *probe.Facts, a *answer.Answer) {
			f.Disks[0].Installation = &probe.Installation{ID: "00000000aaaaaaaa", ESP: "vda2"}
			a.Install.Installation = "00000000aaaaaaaa"
		}},
		{"unfinished", 64e9, func(f *probe.Facts, a *answer.Answer) {
			f.Disks[0].Installation = installed(f.Disks[0], 0, "lvm")
			f.Disks[0].Installation.Unfinished = true
			a.Cluster = answer.Cluster{Address: "n0.example.com", Token: "joist-topsecret", Fingerprint: "AB:CD"}
		}},
		{"xfs", 64e9, func(f *probe.Facts, a *answer.Answer) { a.Disk.Filesystem = answer.XFS }},
		{"md-mirror", 64e9, func(f *probe.Facts, a *answer.Answer) {
			members(f, a, 2)
			a.Disk.RAID, a.Disk.SwapSize = answer.RAID1, size(2)
			f.Disks[1].Size -= 1e9 // what the smaller one has is used
		}},
		{"zfs-single-bios", 64e9, func(f *probe.Facts, a *answer.Answer) {
			f.Firmware.Mode = probe.BIOS
			pool(f, a, answer.RAID0, 1)
		}},
		{"zfs-stripe", 64e9, func(f *probe.Facts, a *answer.Answer) { pool(f, a, answer.RAID0, 2) }},
		{"zfs-mirror-4kn", 64e9, func(f *probe.Facts, a *answer.Answer) {
			pool(f, a, answer.RAID1, 3)
			for i := range f.Disks {
				f.Disks[i].Sector = 4096
			}
			a.Disk.ZFS = answer.ZFSOptions{RAID: answer.RAID1, Ashift: 13, ArcMax: 512, Checksum: "sha256", Compress: "zstd", Copies: 2, HDSize: size(40)}
		}},
		{"zfs-raid10", 64e9, func(f *probe.Facts, a *answer.Answer) { pool(f, a, answer.RAID10, 4) }},
		{"zfs-raidz1", 64e9, func(f *probe.Facts, a *answer.Answer) { pool(f, a, answer.RAIDZ1, 3) }},
		{"zfs-raidz2", 64e9, func(f *probe.Facts, a *answer.Answer) { pool(f, a, answer.RAIDZ2, 4) }},
		{"zfs-raidz3-filter", 64e9, func(f *probe.Facts, a *answer.Answer) {
			pool(f, a, answer.RAIDZ3, 5)
			a.Disk.List, a.Disk.Filter = nil, map[string]string{"ID_SERIAL": "M*"}
		}},
		{"in-place", 64e9, func(f *probe.Facts, a *answer.Answer) {
			f.InPlace = ownDisk512(f.Disks[0])
			a.Disk.List = []string{"sda"}
		}},
		{"in-place-adopt", 64e9, func(f *probe.Facts, a *answer.Answer) {
			in := installed(f.Disks[0], 0, "zfs")
			in.Unfinished, in.KeepsData = true, true
			*in.Table = in.Table.Marked(disk.Unfinished | disk.InPlace | disk.KeepsData)
			f.Disks[0].Installation = in
			f.InPlace = &probe.InPlace{Disk: "vda", Slot: "A", Table: *in.Table}
		}},
		{"in-place-zfs-4kn", 64e9, func(f *probe.Facts, a *answer.Answer) {
			f.Disks[0].Sector = 4096
			f.InPlace = ownDisk512(f.Disks[0])
			a.Disk.Filesystem, a.Disk.ZFS.RAID = answer.ZFS, answer.RAID0
		}},
		{"adopt-lvm", 64e9, func(f *probe.Facts, a *answer.Answer) {
			f.Disks[0].Installation = installed(f.Disks[0], 0, "lvm")
			a.Disk.Adopt, a.Install.Reinstall = true, true
		}},
		{"adopt-md", 64e9, func(f *probe.Facts, a *answer.Answer) {
			members(f, a, 2)
			for i := range f.Disks {
				f.Disks[i].Installation = installed(f.Disks[i], i, "md")
			}
			a.Disk.RAID, a.Disk.Adopt, a.Install.Reinstall = answer.RAID1, true, true
		}},
		{"adopt-zfs", 64e9, func(f *probe.Facts, a *answer.Answer) {
			pool(f, a, answer.RAID1, 2)
			for i := range f.Disks {
				f.Disks[i].Installation = installed(f.Disks[i], i, "zfs")
			}
			a.Disk.Adopt, a.Install.Installation = true, f.Disks[0].Installation.ID
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, a := facts(c.disk), ans()
			c.edit(&f, &a)
			p, fs := made(f, a, image(), identity(t))
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
		{"first-boot-missing", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.Link.VLAN, a.Webhook.URL, a.FirstBoot.Source = 5, "https://example.com", "from-iso"
		}},
		{"first-boot-invalid", func(_ *probe.Facts, a *answer.Answer, img *Image) {
			a.FirstBoot.Source, img.Program = "from-iso", []byte("echo no")
		}},
		{"first-boot-invalid", func(_ *probe.Facts, a *answer.Answer, img *Image) {
			a.FirstBoot.Source, img.Program = "from-iso", append([]byte("#!/bin/sh\n"), make([]byte, answer.MaxProgram)...)
		}},
		{"", func(_ *probe.Facts, a *answer.Answer, img *Image) {
			a.FirstBoot.Source, img.Program = "from-iso", []byte("#!/bin/sh\n")
		}},
		{"", func(_ *probe.Facts, _ *answer.Answer, img *Image) { img.Program = []byte("#!/bin/sh\n") }},
		{"", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.FirstBoot = answer.FirstBoot{Source: "from-url", URL: "https://example.com", Ordering: "before-network"}
		}},
		{"", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.FirstBoot = answer.FirstBoot{Source: "from-url", URL: "https://example.com"}
		}},
		{"nic-not-found", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.Link.Bond = answer.Bond{Mode: "802.3ad", Filter: map[string]string{"ID_NET_DRIVER": "ixgbe"}}
		}},
		{"btrfs-not-offered", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.Disk.Filesystem, a.Disk.Btrfs = answer.Btrfs, answer.BtrfsOptions{RAID: answer.RAID10, Compress: "zlib"}
		}},
		{"hostname-unknown", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.Global.FQDNSource, a.Global.FQDN = answer.FromDHCP, ""
		}},
		{"hostname-unknown", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			a.Global.FQDNSource, f.Leases = answer.FromDHCP, []probe.Lease{{Interface: "eth1", Host: "a_b"}}
		}},
		{"hostname-unknown", func(f *probe.Facts, a *answer.Answer, _ *Image) { // a name alone
			a.Global.FQDNSource, f.Leases = answer.FromDHCP, []probe.Lease{{Interface: "eth1", Host: "n7"}}
		}},
		{"", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			a.Global.FQDNSource, a.Global.FQDNDomain, f.Leases = answer.FromDHCP, "example.com", []probe.Lease{{Interface: "eth0"}, {Interface: "eth1", Host: "n7"}}
		}},
		{"disk-count", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			pool(f, a, answer.RAID10, 5)
			a.Disk.List, a.Disk.Filter = nil, map[string]string{"ID_SERIAL": "M*"}
		}},
		{"disk-count", func(f *probe.Facts, a *answer.Answer, _ *Image) { pool(f, a, answer.RAIDZ2, 3) }},
		{"disk-named-twice", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			members(f, a, 2)
			f.Disks, f.Disks[0].Paths, a.Disk.RAID = f.Disks[:1], []string{"nvme1n1"}, answer.RAID1
		}},
		{"members-size", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			pool(f, a, answer.RAID1, 2)
			f.Disks[1].Size = 57e9
		}},
		{"", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			pool(f, a, answer.RAID1, 2)
			f.Disks[1].Size, a.Disk.ZFS.HDSize = 57e9, size(30)
		}},
		{"volume-too-small", func(_ *probe.Facts, a *answer.Answer, _ *Image) {
			a.Disk.SwapSize, a.Disk.HDSize = size(9), size(19)
			a.Disk.MaxRoot = new(int64)
		}},
		{"disk-sector-size disk-layout", func(f *probe.Facts, _ *answer.Answer, _ *Image) { f.Disks[0].Sector = 520 }},
		{"zfs-missing", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			pool(f, a, answer.RAID0, 1)
			f.ZFS = probe.Absent
		}},
		{"", func(f *probe.Facts, a *answer.Answer, m *Image) {
			pool(f, a, answer.RAID0, 1)
			f.Firmware.SecureBoot, f.Firmware.Keys, m.ModuleKey = true, []string{"k"}, "k"
			m.Files[boot.LoaderFile(ModuleCert)] = boot.File{Size: 900, SHA256: m.VerityRoot}
		}},
		{"zfs-key-not-enrolled", func(f *probe.Facts, a *answer.Answer, _ *Image) { // no key: nobody can enrol it
			pool(f, a, answer.RAID0, 1)
			f.Firmware.SecureBoot, f.Firmware.Keys = true, []string{"k"}
		}},
		{"disk-4kn-bios", func(f *probe.Facts, _ *answer.Answer, _ *Image) {
			f.Disks[0].Sector, f.Firmware.Mode = 4096, probe.BIOS
		}},
		{"installation-other", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			members(f, a, 2)
			a.Disk.RAID = answer.RAID1
			f.Disks[0].Installation, f.Disks[1].Installation = installed(f.Disks[0], 0, "lvm"), &probe.Installation{ID: "00000000aaaaaaaa"}
			a.Install.Installation = f.Disks[0].Installation.ID
		}},
		{"installation-interrupted", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			f.Disks[0].Installation = installed(f.Disks[0], 0, "lvm")
			f.Disks[0].Installation.Unfinished, f.Disks[0].Installation.KeepsData = true, true
		}},
		{"installation-interrupted", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			f.Disks[0].Installation = installed(f.Disks[0], 0, "lvm")
			f.Disks[0].Installation.Unfinished = true
			a.Disk.Adopt, a.Install.Installation = true, "00000000aaaaaaaa"
		}},
		{"adoption-impossible", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			f.Disks[0].Installation = installed(f.Disks[0], 0, "lvm")
			f.Disks[0].Installation.Unfinished = true
			a.Disk.Adopt, a.Install.Reinstall = true, true
		}},
		{"adoption-impossible", func(f *probe.Facts, a *answer.Answer, _ *Image) { a.Disk.Adopt = true }},
		{"adoption-differs", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			f.Disks[0].Installation = installed(f.Disks[0], 0, "zfs")
			a.Disk.Adopt, a.Install.Reinstall = true, true
		}},
		{"adoption-differs", func(f *probe.Facts, a *answer.Answer, _ *Image) {
			members(f, a, 2)
			a.Disk.RAID, a.Disk.Adopt, a.Install.Reinstall = answer.RAID1, true, true
			f.Disks[0].Installation, f.Disks[1].Installation = installed(f.Disks[0], 0, "lvm"), installed(f.Disks[1], 1, "lvm")
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
		p, fs := made(f, a, m, identity(t))
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

// unattended reads a.Disk and the network from a file.
func unattended(t *testing.T, more string) answer.Answer {
	t.Helper()
	a, fs := answer.Load(strings.NewReader(`[global]
keyboard = "de"
country = "at"
timezone = "UTC"
fqdn = "n1.example.com"
mailto = "a@example.com"
root-password = "topsecret"
subscription-key = "x"
[network]
interface-name-pinning.enabled = true
[disk-setup]
`+more), "answer.toml")
	if fs.Stops() {
		t.Fatal(fs)
	}
	return a
}

// With nobody there, a key that is missing stops; a person is warned. Data must
// be named in any case.
func TestUnattendedIsStricter(t *testing.T) {
	f := facts(64e9)
	f.Firmware.SecureBoot = true
	f.Disks[0].DataID, f.Disks[0].Contents = "0123456789abcdef", []probe.Content{{Where: "vda", Kind: "gpt"}, {Where: "vda1", Kind: "ext4", Name: "home"}}
	f.Disks[1].Contents = []probe.Content{{Where: "vdb1", Kind: "lvm", Name: VGName}, {Where: "vdb2", Kind: "zfs", Name: PoolName, ID: "7"}}
	zfs := "filesystem = \"zfs\"\nzfs.raid = \"raid0\"\ndisk-list = [\"vda\"]\n"
	person := ans()
	person.Disk.Filesystem, person.Disk.ZFS.RAID = answer.ZFS, answer.RAID0
	for _, c := range []struct {
		a    answer.Answer
		want string
	}{
		{unattended(t, zfs), "firmware-mode secure-boot link-speed-unknown subscription-unused zfs-key-not-enrolled! vg-name-taken pool-name-taken disk-holds-data!"},
		{unattended(t, zfs+"[joist.disk]\noverwrite = [\"0123456789abcdef\"]"), "firmware-mode secure-boot link-speed-unknown subscription-unused zfs-key-not-enrolled! vg-name-taken pool-name-taken"},
		{person, "firmware-mode secure-boot link-speed-unknown zfs-key-not-enrolled vg-name-taken pool-name-taken disk-holds-data!"},
	} {
		img := image()
		img.ModuleKey = "k"
		img.Files[boot.LoaderFile(ModuleCert)] = boot.File{Size: 900, SHA256: img.VerityRoot}
		_, fs := made(f, c.a, img, identity(t))
		var got []string
		for _, x := range fs {
			mark := ""
			if x.Level == finding.Stop {
				mark = "!"
			}
			got = append(got, x.Code+mark)
			if x.Code == "disk-holds-data" && !strings.Contains(x.Text, "vda1 ext4 home; its id is 0123456789abcdef") {
				t.Error(x)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("got  %s\nwant %s", s, c.want)
		}
	}
}

// What does not stop is said all the same.
func TestWarnings(t *testing.T) {
	small := int64(1)
	for want, edit := range map[string]func(f *probe.Facts, a *answer.Answer){
		"no-thin-pool":  func(_ *probe.Facts, a *answer.Answer) { a.Disk.MaxVZ = &small },
		"waiver-unused": func(_ *probe.Facts, a *answer.Answer) { a.Waive = []string{"memory-too-small"} },
		"nic-guessed":   func(f *probe.Facts, _ *answer.Answer) { f.NICs[0].Carrier = "up" },
		"bond-of-one": func(_ *probe.Facts, a *answer.Answer) {
			a.Link.Bond = answer.Bond{Mode: "802.3ad", Filter: map[string]string{"INTERFACE": "eth1"}}
		},
	} {
		f, a := facts(64e9), ans()
		edit(&f, &a)
		_, fs := made(f, a, image(), identity(t))
		if fs.Stops() || !slices.ContainsFunc(fs, func(x finding.Finding) bool { return x.Code == want }) {
			t.Errorf("%s: %v", want, fs)
		}
	}
}

// Of several cards with a link the one on whose network DHCP answers is taken.
func TestLeaseChoosesCard(t *testing.T) {
	f := facts(64e9)
	f.NICs[0].Carrier, f.Leases = "up", []probe.Lease{{Interface: "eth1"}}
	p, fs := made(f, ans(), image(), identity(t))
	if p.NIC.Name != "eth1" || slices.ContainsFunc(fs, func(x finding.Finding) bool { return x.Code == "nic-guessed" }) {
		t.Errorf("%s: %v", p.NIC.Name, fs)
	}
	a := ans()
	a.Link.Filter = map[string]string{"INTERFACE": "eth0"}
	if p, fs = made(f, a, image(), identity(t)); p.NIC.Name != "eth0" || fs.Stops() {
		t.Errorf("by name: %s: %v", p.NIC.Name, fs)
	}
	a.Link.Filter = map[string]string{"INTERFACE": "eth*"}
	if _, fs = made(f, a, image(), identity(t)); !slices.ContainsFunc(fs, func(x finding.Finding) bool { return x.Code == "nic-ambiguous" && x.Path == "joist.network.filter" }) {
		t.Errorf("both by name: %v", fs)
	}
}

// Each member starts alone: it has every boot part, of its own GUIDs, under
// one installation id, and a step never has the name of another.
func TestEveryMemberBoots(t *testing.T) {
	f, a := facts(64e9), ans()
	pool(&f, &a, answer.RAIDZ3, 5)
	id, err := NewIdentity(rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	p, fs := made(f, a, image(), id)
	if fs.Stops() {
		t.Fatal(fs)
	}
	seen, steps := map[string]bool{}, map[string]bool{}
	for i, m := range p.All() {
		guids := []string{m.Layout.DiskGUID}
		for _, x := range m.Layout.Partitions {
			guids = append(guids, x.GUID)
		}
		for _, g := range guids {
			if seen[g] {
				t.Errorf("GUID %s is used twice", g)
			}
			seen[g] = true
		}
		if got := probe.InstallationID(m.Layout.DiskGUID); got != p.InstallationID {
			t.Errorf("disk %d has the id %s, not %s", i, got, p.InstallationID)
		}
		args, err := p.MemberSlot(i, "123").Args()
		if err != nil || !slices.Contains(args, "joist.disk="+m.Layout.DiskGUID) || !slices.Contains(args, "joist.state=zfs:123") {
			t.Errorf("disk %d: %v %v", i, args, err)
		}
	}
	count := map[string]int{}
	for _, x := range p.Actions {
		if steps[x.Step()] {
			t.Errorf("two steps are called %q", x.Step())
		}
		steps[x.Step()] = true
		count[fmt.Sprintf("%T", x)]++
	}
	for _, k := range []string{"Wipe", "Partition", "WriteSlot", "FormatESP", "InstallBIOSBoot", "BootEntry"} {
		if count["plan."+k] != 5 {
			t.Errorf("%d steps %s", count["plan."+k], k)
		}
	}
}

// An adopted data partition is in no range that is wiped.
func TestAdoptionWipesNoData(t *testing.T) {
	f, a := facts(64e9), ans()
	f.Disks[0].Installation = installed(f.Disks[0], 0, "lvm")
	a.Disk.Adopt, a.Install.Reinstall = true, true
	p, fs := made(f, a, image(), identity(t))
	if fs.Stops() {
		t.Fatal(fs)
	}
	data, err := p.Layout.Find(disk.NameData)
	if err != nil || data != f.Disks[0].Installation.Table.Partitions[4] {
		t.Fatalf("%v %+v", err, data)
	}
	for _, x := range p.Actions {
		if w, ok := x.(Wipe); ok {
			for _, r := range w.Ranges {
				if r.Start < data.End() && data.Start < r.Start+r.Bytes {
					t.Errorf("%+v is wiped, the data is at %+v", r, data)
				}
			}
		}
	}
}

func TestArcMax(t *testing.T) {
	for memory, want := range map[int64]int64{1 << 30: 64 << 20, 2 << 30: 204 << 20, 64 << 30: 6553 << 20, 1 << 40: 16 << 30, 1100 << 20: 76 << 20} {
		if got := arcMax(memory); got != want {
			t.Errorf("%d MiB of memory: %d MiB", memory>>20, got>>20)
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

// What shall stay unallocated does, whatever the pool may have at most.
func TestMinFreeStays(t *testing.T) {
	for _, c := range []struct{ left, free, maxvz, data int64 }{
		{100, 16, 200, 82}, {100, 16, -1, 82}, {100, 16, 84, 82}, {100, 16, 82, 82}, {100, 16, 83, 82}, {100, 16, 50, 50},
		{100, 0, 200, 98}, {100, 96, 200, 0}, {100, 95, 200, 3}, {100, 120, -1, 0}, {3000, 16, 4000, 2952},
	} {
		none, root, free, most := int64(0), gib, c.free*gib, c.maxvz*gib
		d := answer.Disk{SwapSize: &none, MaxRoot: &root, MinFree: &free, MaxVZ: &most}
		if c.maxvz < 0 {
			d.MaxVZ = nil
		}
		state := int64(8) // at most
		vg := (c.left + 1) * gib
		if v := sizes(vg+state*gib, 500*gib, d); v[0].Bytes == state*gib {
			vg += state * gib
		} else {
			t.Fatalf("%+v: state has %d", c, v[0].Bytes)
		}
		var data, used int64
		for _, v := range sizes(vg, 500*gib, d) {
			if used += v.Bytes + 2*v.Meta; v.Use == "thin-pool" {
				data = v.Bytes
			}
		}
		if data/gib != c.data || c.data > 0 && vg-used < free {
			t.Errorf("%+v: the pool has %d GiB, %d are free", c, data/gib, (vg-used)/gib)
		}
	}
}

// A finished disk beside an unfinished one of the same installation: it is
// finished, and started from the one that is for sure.
func TestHalfMarkedIsFinished(t *testing.T) {
	f, a := facts(64e9), ans()
	members(&f, &a, 2)
	a.Disk.RAID = answer.RAID1
	for i := range f.Disks {
		f.Disks[i].Installation = installed(f.Disks[i], i, "md")
		f.Disks[i].Installation.Unfinished = i == 0
	}
	p, fs := made(f, a, image(), identity(t))
	if p.Result != BootExisting || p.Disk.Name != f.Disks[1].Name || fs.Stops() {
		t.Errorf("%s from %s: %v", p.Result, p.Disk.Name, fs)
	}
}

func TestNotPossible(t *testing.T) {
	f := NotPossible(ClosePool{Name: "x"})
	remember(finding.List{f})
	if f.Level != finding.Stop || f.Code != "step-not-possible" || !strings.Contains(f.Text, `close pool "x"`) {
		t.Error(f)
	}
}

// The request to join goes to its file and nowhere else.
func TestJoinRequest(t *testing.T) {
	a := ans()
	a.Cluster = answer.Cluster{Address: "n0.example.com:8006", Token: "joist-id-topsecret", Fingerprint: "AB:CD"}
	p, fs := made(facts(64e9), a, image(), identity(t))
	if fs.Stops() {
		t.Fatal(fs)
	}
	files, err := p.Seed("u", "$y$hash")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range files {
		if f.Path != node.JoinFile {
			if bytes.Contains(f.Data, []byte("topsecret")) {
				t.Errorf("%s holds the token", f.Path)
			}
			continue
		}
		found = true
		var r node.JoinRequest
		if err := json.Unmarshal(f.Data, &r); err != nil || f.Mode != 0o600 || r != (node.JoinRequest{Address: "n0.example.com:8006", Token: "joist-id-topsecret", Fingerprint: "AB:CD"}) {
			t.Errorf("%o %s %v", f.Mode, f.Data, err)
		}
	}
	if text := p.Describe(); !found || strings.Contains(text, "topsecret") || !strings.Contains(text, "cluster     joins that of n0.example.com:8006 at the first start; token set\n") {
		t.Errorf("file: %v\n%s", found, text)
	}
}

func TestReportHoldsNoSecret(t *testing.T) {
	p, _ := made(facts(64e9), ans(), image(), identity(t))
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

// Facts come as a file from anywhere: whatever they say, a plan is made or
// refused.
func FuzzMake(f *testing.F) {
	for i, edit := range []func(f *probe.Facts, a *answer.Answer){
		func(*probe.Facts, *answer.Answer) {},
		func(f *probe.Facts, a *answer.Answer) { pool(f, a, answer.RAIDZ1, 3) },
		func(f *probe.Facts, a *answer.Answer) {
			f.Disks[0].Installation = installed(f.Disks[0], 0, "md")
			f.Disks[0].Health, f.Disks[0].DataID = &probe.Health{Wear: 90}, "0123456789abcdef"
		},
	} {
		x, a := facts(64e9), ans()
		edit(&x, &a)
		b, err := json.Marshal(x)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b), i == 1, i == 2)
	}
	for _, d := range []string{`{"name":"","size":64000000000,"sector":512`, `{"name":"sda","size":-5,"sector":512`, `{"name":"sda","size":9223372036854775807,"sector":4096`,
		`{"name":"sda","size":64000000000,"sector":0`, `{"name":"sda","size":64000000000,"sector":512,"installation":{"id":"","table":{"partitions":[]}}`,
		`{"name":"sda","size":64000000000,"sector":512,"installation":{"id":"x","group":"g","pool":"p","table":{"size":1,"sector_size":7,"partitions":[{},{},{},{},{"name":"joist-data","start":-1,"size":9}]}}`} {
		text := `{"cpu":{"virtualisation":"svm","kvm":true},"memory":{"total":4294967296},"nics":[{"name":""}],"disks":[` + d + `,"udev":{"ID_SERIAL":"x"}}]}`
		for _, several := range []bool{false, true} {
			f.Add(text, several, true)
			f.Add(text, several, false)
		}
	}
	id, err := NewIdentity(zeros{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string, several, adopt bool) {
		var x probe.Facts
		if json.Unmarshal([]byte(text), &x) != nil {
			return
		}
		a := ans()
		if several {
			a.Disk.Filesystem, a.Disk.ZFS.RAID = answer.ZFS, answer.RAID1
		}
		if several || adopt {
			a.Disk.List, a.Disk.Filter = nil, map[string]string{"ID_SERIAL": "*"}
		}
		a.Disk.Adopt, a.Install.Reinstall = adopt, adopt
		p, fs := made(x, a, image(), id)
		if p.Result == Install && !fs.Stops() && len(p.Actions) == 0 {
			t.Error("nothing stops, and nothing is planned")
		}
		if p.Disk.Name != "" {
			_ = p.Describe()
		}
	})
}
