package probe

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

var update = flag.Bool("update", false, "rewrite golden files")

// machine is a folder that looks like a machine.
type machine struct {
	t    *testing.T
	root string
}

func (m machine) write(name, content string) {
	m.t.Helper()
	p := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// device makes /sys/block/<name> a link into the device tree, as the kernel does.
func (m machine) device(name, where string, attrs map[string]string) {
	m.t.Helper()
	for k, v := range attrs {
		m.write("sys/devices/"+where+"/"+name+"/"+k, v)
	}
	if err := os.MkdirAll(filepath.Join(m.root, "sys/block"), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink("../devices/"+where+"/"+name, filepath.Join(m.root, "sys/block", name)); err != nil {
		m.t.Fatal(err)
	}
}

// image writes a sparse disk with the pieces at their offsets.
func (m machine) image(name string, size int64, pieces map[int64][]byte) {
	m.t.Helper()
	m.write("dev/"+name, "")
	f, err := os.OpenFile(filepath.Join(m.root, "dev", name), os.O_RDWR, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		m.t.Fatal(err)
	}
	for off, b := range pieces {
		if _, err := f.WriteAt(b, off); err != nil {
			m.t.Fatal(err)
		}
	}
}

// table builds a primary GPT: header and entries, to be put at sector 1.
func table(sector int, names []string, starts []uint64) []byte {
	entries := make([]byte, 128*128)
	for i, n := range names {
		e := entries[i*128:]
		e[0], e[16] = 1, byte(i+1)
		binary.LittleEndian.PutUint64(e[32:], starts[i])
		binary.LittleEndian.PutUint64(e[40:], starts[i]+7)
		for j, u := range utf16.Encode([]rune(n)) {
			binary.LittleEndian.PutUint16(e[56+2*j:], u)
		}
	}
	h := make([]byte, sector)
	copy(h, "EFI PART")
	binary.LittleEndian.PutUint32(h[12:], 92)
	binary.LittleEndian.PutUint64(h[24:], 1)
	copy(h[56:], []byte{0x67, 0x45, 0x23, 0x01, 0xab, 0x89, 0xef, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8})
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], 128)
	binary.LittleEndian.PutUint32(h[84:], 128)
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return append(h, entries...)
}

// lvm builds the first 8 KiB of a physical volume.
func lvm(vg string) []byte {
	b := make([]byte, 8192)
	copy(b[512:], "LABELONE")
	binary.LittleEndian.PutUint32(b[512+20:], 32)
	copy(b[512+24:], "LVM2 001")
	areas := b[512+32+40:]
	binary.LittleEndian.PutUint64(areas, 1<<20)      // data area, then the end of that list
	binary.LittleEndian.PutUint64(areas[32:], 4096)  // metadata area
	binary.LittleEndian.PutUint64(areas[40:], 1<<20) //
	copy(b[4096+4:], " LVM2 x[5A%r0N*>")
	binary.LittleEndian.PutUint64(b[4096+40:], 512)
	copy(b[4096+512:], vg+" {\nid = \"x\"\n")
	return b
}

// hardware adds what is not disk, card or console.
func hardware(m machine) {
	m.write("sys/class/iommu/dmar0/x", "")
	m.write("sys/firmware/acpi/tables/IVRS", "")
	m.write("sys/class/tpm/tpm0/tpm_version_major", "2\n")
	m.write("usr/sbin/zpool", "")
	for k, v := range map[string]string{"product_name": "Rack 1\n", "product_uuid": "6fb36fd4-77a1-57e6-13ae-000000cb48d7\n", "board_serial": "", "chassis_asset_tag": " 0815 \n", "bios_date": "01/01/2026\n"} {
		m.write("sys/class/dmi/id/"+k, v)
	}
	m.write("sys/firmware/dmi/entries/16-0/raw", "\x10\x17\x00\x00\x03\x03\x06")
	m.write("sys/class/net/eth0/speed", "1000\n")
	m.write("sys/class/net/eth1/speed", "-1\n")
	list := append([]byte(x509Type), 28+20+0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0)
	list = append(list, make([]byte, 16)...)
	m.write("sys/firmware/efi/efivars/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23", "\x06\x00\x00\x00"+string(list)+"cert")
	f, err := os.Create(filepath.Join(m.root, "msr"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1 << 4, 0, 0, 0, 0, 0, 0, 0}, 0xc0010114); err != nil {
		m.t.Fatal(err)
	}
	m.write("dev/cpu/0/x", "")
	if err := os.Rename(f.Name(), filepath.Join(m.root, "dev/cpu/0/msr")); err != nil {
		m.t.Fatal(err)
	}
	// two paths to one LUN
	for _, n := range []string{"sdc", "sdd"} {
		m.device(n, "pci0/host7/"+n, map[string]string{"size": "2000", "device/wwid": "naa.6001"})
		m.image(n, 1000<<10, map[int64][]byte{4096: mdSuper(1)})
	}
}

// mdSuper is the beginning of a version 1.2 superblock, data at 8 KiB.
func mdSuper(level byte) []byte {
	b := make([]byte, 136)
	copy(b, mdMagic+"\x01")
	copy(b[16:], "0123456789abcdef")
	copy(b[32:], "host:data")
	b[72], b[128] = level, 16
	return b
}

// vdevLabel is the beginning of a vdev label.
func vdevLabel(pairs ...[]byte) []byte {
	b := []byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
	for _, p := range pairs {
		b = append(b, p...)
	}
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0)
}

func nvpair(name string, kind uint32, value []byte) []byte {
	be := binary.BigEndian
	body := be.AppendUint32(nil, uint32(len(name)))
	body = append(body, name...)
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	body = be.AppendUint32(be.AppendUint32(body, kind), 1)
	body = append(body, value...)
	return append(be.AppendUint32(be.AppendUint32(nil, uint32(len(body)+8)), 0), body...)
}

// Each thing a disk may hold, with the name and id it is known by.
func TestSignatures(t *testing.T) {
	const size = 8 << 20
	uuid := []byte("\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef")
	dashed := "01234567-89ab-cdef-0123-456789abcdef"
	old := make([]byte, 136)
	copy(old, mdMagic)
	copy(old[20:], "ABCD")
	copy(old[52:], "EFGHIJKLMNOP")
	group := lvm("vg0")
	copy(group[4096+512:], "vg0 {\nid = \"abcdef-0123-4567-89ab-cdef-0123-456789\"\n")
	inMirror := append(make([]byte, 4096), append(mdSuper(1), make([]byte, 4096-136)...)...)
	for _, c := range []struct {
		at   int64
		b    []byte
		want []Content
	}{
		{0, nil, nil},
		{1024 + 0x38, []byte("\x53\xef"), []Content{{Kind: "ext4"}}},
		{0, append([]byte("XFSB"), append(make([]byte, 28), uuid...)...), []Content{{Kind: "xfs", ID: dashed}}},
		{65536 + 0x20, append(uuid, append(make([]byte, 16), "_BHRfS_M"...)...), []Content{{Kind: "btrfs", ID: dashed}}},
		{0, group, []Content{{Kind: "lvm", Name: "vg0", ID: "abcdef-0123-4567-89ab-cdef-0123-456789"}}},
		{4096, mdSuper(5), []Content{{Kind: "md", Name: "host:data", ID: "30313233:34353637:38396162:63646566"}}},
		{0, mdSuper(1), []Content{{Kind: "md", Name: "host:data", ID: "30313233:34353637:38396162:63646566"}}},
		{size - 8192, mdSuper(1), []Content{{Kind: "md", Name: "host:data", ID: "30313233:34353637:38396162:63646566"}}},
		{size - 65536, old, []Content{{Kind: "md", ID: "41424344:45464748:494a4b4c:4d4e4f50"}}},
		{0, append(inMirror, group...), []Content{{Kind: "md", Name: "host:data", ID: "30313233:34353637:38396162:63646566"}, {Kind: "lvm", Name: "vg0", ID: "abcdef-0123-4567-89ab-cdef-0123-456789"}}},
		{16 << 10, vdevLabel(nvpair("version", 8, []byte{0, 0, 0, 0, 0, 0, 19, 0x88}), nvpair("name", 9, []byte("\x00\x00\x00\x05rpool\x00\x00\x00")), nvpair("pool_guid", 8, []byte{0, 0, 0, 0, 0, 0, 1, 0})),
			[]Content{{Kind: "zfs", Name: "rpool", ID: "256"}}},
		{size - 1024, []byte("Intel Raid ISM Cfg Sig. 1.3.00"), []Content{{Kind: "isw_raid_member"}}},
		{size - 512, []byte("\xde\x11\xde\x11"), []Content{{Kind: "ddf_raid_member"}}},
		{510, []byte("\x55\xaa"), []Content{{Kind: "mbr"}}},
		{100, []byte("x"), []Content{{Kind: "unknown"}}},
	} {
		b := make([]byte, size)
		copy(b[c.at:], c.b)
		d := Disk{Name: "sda", Size: size, Sector: 512}
		Contents(bytesAt(b), &d)
		for i := range c.want {
			c.want[i].Where = "sda"
		}
		if !slices.Equal(d.Contents, c.want) || (d.DataID == "") != (len(c.want) == 0) {
			t.Errorf("at %d: %+v %q, want %+v", c.at, d.Contents, d.DataID, c.want)
		}
	}
}

func TestParseSMART(t *testing.T) {
	for in, want := range map[string]*Health{
		`{}`:                               nil,
		`{"smart_status":{"passed":true}}`: {},
		`{"smart_status":{"passed":true},"nvme_smart_health_information_log":{"critical_warning":4,"percentage_used":101,"media_errors":2}}`:                         {Failing: true, Wear: 101, Pending: 2},
		`{"smart_status":{"passed":true},"scsi_percentage_used_endurance_indicator":7}`:                                                                              {Wear: 7},
		`{"smart_status":{"passed":true},"ata_smart_attributes":{"table":[{"id":5,"raw":{"value":3}},{"id":198,"raw":{"value":4294967296}},{"id":231,"value":40}]}}`: {Wear: 60, Replaced: 3},
	} {
		got, err := parseSMART([]byte(in))
		if err != nil || (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %+v %v", in, got, err)
		}
	}
	if _, err := parseSMART([]byte("smartctl: not found")); err == nil {
		t.Error("no JSON is no report")
	}
}

func TestMergePaths(t *testing.T) {
	got := mergePaths([]Disk{
		{Name: "sda", Bus: "scsi", WWN: "0x1", Size: 9}, {Name: "sdb", Bus: "scsi", WWN: "0x1", Size: 9, InUse: []string{"/x"}}, {Name: "sdc", Bus: "scsi", WWN: "0x1", Size: 8},
		{Name: "sdd", Bus: "scsi", Serial: "S", Size: 9}, {Name: "sde", Bus: "scsi", Serial: "S", Size: 9, ReadOnly: true},
		{Name: "sdf", Bus: "usb", Serial: "S", Size: 9}, {Name: "sdg", Bus: "usb", Serial: "S", Size: 9}, {Name: "sdh", Bus: "scsi", Size: 9}, {Name: "sdi", Bus: "scsi", Size: 9},
	})
	var names []string
	for _, d := range got {
		names = append(names, strings.Join(append([]string{d.Name}, d.Paths...), "+"))
	}
	if s := strings.Join(names, " "); s != "sda+sdb sdc sdd+sde sdf sdg sdh sdi" || len(got[0].InUse) != 1 || !got[2].ReadOnly {
		t.Errorf("%s %+v", s, got)
	}
}

// Disks answer what their makers wrote.
func FuzzParseSMART(f *testing.F) {
	f.Add([]byte(`{"smart_status":{"passed":true},"ata_smart_attributes":{"table":[{"id":5,"raw":{"value":3}},{"id":231,"value":40}]}}`))
	f.Add([]byte(`{"smart_status":{"passed":false},"nvme_smart_health_information_log":{"percentage_used":255}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseSMART(b)
		if err != nil && (h != nil || err.Error() == "") {
			t.Errorf("%+v %v", h, err)
		}
	})
}

// Udev's database holds what devices say of themselves.
func FuzzUdev(f *testing.F) {
	f.Add("E:ID_SERIAL=a=b\nS:disk/by-id/x\nE:\nE:=\n")
	f.Fuzz(func(t *testing.T, text string) {
		m := machine{t, t.TempDir()}
		m.write("run/udev/data/b8:0", text)
		for k, v := range (Machine{Root: m.root}).udev("b8:0") {
			if strings.ContainsAny(k+v, "\n") || strings.Contains(k, "=") {
				t.Errorf("%q = %q", k, v)
			}
		}
	})
}

// What firmware stores is read whatever it is.
func FuzzCertificates(f *testing.F) {
	f.Add(append([]byte(x509Type), 48, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(certificates(b)); n > len(b)/17 {
			t.Errorf("%d certificates in %d bytes", n, len(b))
		}
	})
}

func TestFactsGolden(t *testing.T) {
	m := machine{t, t.TempDir()}
	m.write("sys/firmware/efi/fw_platform_size", "64\n")
	m.write("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\x06\x00\x00\x00\x01")
	m.write("proc/cpuinfo", "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: Test CPU\nflags\t\t: fpu svm lm\n\nprocessor\t: 1\nflags\t\t: fpu svm\n")
	m.write("proc/meminfo", "MemTotal:        4012345 kB\nMemFree: 1 kB\n")
	m.write("sys/firmware/memmap/0/type", "System RAM\n")
	m.write("sys/firmware/memmap/0/start", "0x0\n")
	m.write("sys/firmware/memmap/0/end", "0xffffffff\n")
	m.write("sys/firmware/memmap/1/type", "Reserved\n")
	m.write("sys/firmware/memmap/1/start", "0x100000000\n")
	m.write("sys/firmware/memmap/1/end", "0x1ffffffff\n")
	m.write("proc/cmdline", "joist.mode=install console=tty0 console=ttyS0,115200\n")
	m.write("proc/self/mounts", "/dev/sdb1 /run/joist/medium iso9660 ro 0 0\n/dev/sda2 /boot vfat rw 0 0\n")

	m.device("sda", "pci0/ata1/host0/block", map[string]string{
		"size": "125829120", "dev": "8:0", "removable": "0", "ro": "0", "queue/logical_block_size": "512", "queue/rotational": "0",
		"device/model": "Fast  SSD", "device/vpd_pg80": "\x00\x80\x00\x04S123", "device/wwid": "naa.5001",
		"sda1/partition": "1", "sda2/partition": "2", "sda2/holders/dm-0/x": "",
	})
	m.write("run/udev/data/b8:0", "S:disk/by-id/x\nE:ID_SERIAL=from-udev\nE:ID_PATH=pci-0000\n")
	m.image("sda", 64<<20, map[int64][]byte{
		512:      table(512, []string{"joist-bios", "joist-esp", "joist-a", "joist-b", "joist-data"}, []uint64{2048, 4096, 8192, 16384, 32768}),
		16 << 20: lvm("joist"), 4096*512 + 0x52: []byte("FAT32"), 4096*512 + 0x47: []byte("JOIST-ESP  "),
	})
	m.device("sdb", "pci0/usb1/1-1/host1/block", map[string]string{"size": "8388608", "dev": "8:16", "removable": "1", "sdb1/partition": "1"})
	m.image("sdb", 1<<20, map[int64][]byte{32768 + 1: []byte("CD001"), 32768 + 40: []byte("JOIST     "), 510: []byte("\x55\xaa")})
	m.device("nvme0n1", "pci0/nvme/nvme0", map[string]string{"size": "1000000", "dev": "259:0", "queue/logical_block_size": "4096", "wwid": "eui.0025", "device/serial": "N1  \n", "device/model": "NV"})
	m.image("nvme0n1", 1<<20, map[int64][]byte{4096: table(4096, []string{"data"}, []uint64{16}), 16*4096 + 0: lvm("other")})
	m.device("sr0", "pci0/ata2/host2/block", map[string]string{"size": "100"})
	m.device("loop0", "virtual/block", map[string]string{"size": "100"})
	m.device("vda", "pci0/virtio0/block", map[string]string{"size": "0"})

	for k, v := range map[string]string{
		"eth0/type": "1", "eth0/address": "52:54:00:AA:BB:CC", "eth0/ifindex": "2", "eth0/carrier": "1", "eth0/device/vendor": "x",
		"eth1/type": "1", "eth1/address": "52:54:00:aa:bb:cd", "eth1/ifindex": "3", "eth1/device/vendor": "x",
		"wlan0/type": "1", "wlan0/device/vendor": "x", "wlan0/phy80211/name": "x",
		"vmbr0/type": "1", "lo/type": "772",
	} {
		m.write("sys/class/net/"+k, v)
	}
	hardware(m)
	if err := os.Symlink("../../drivers/virtio_net", filepath.Join(m.root, "sys/class/net/eth0/device/driver")); err != nil {
		t.Fatal(err)
	}
	f := Machine{Root: m.root, KVM: func(string) error { return errors.New("create a virtual machine: not supported") },
		SMART: func(d string) ([]byte, error) {
			if filepath.Base(d) == "sdb" {
				return nil, errors.New("timed out")
			}
			return []byte(`{"smart_status":{"passed":false},"endurance_used":{"current_percent":93},"ata_smart_attributes":{"table":[{"id":197,"raw":{"value":8}}]}}`), nil
		},
		Now: func() time.Time { return time.Unix(1e9, 0) }}.Facts()
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		os.MkdirAll("testdata", 0o755)
		os.WriteFile("testdata/facts.golden", b, 0o644)
	}
	want, err := os.ReadFile("testdata/facts.golden")
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != string(want) {
		t.Errorf("facts differ:\n%s", b)
	}
}

// A disk's content is written by anybody: no bytes may upset the readers.
func FuzzContents(f *testing.F) {
	f.Add(lvm("x"))
	f.Add(append(make([]byte, 4096), mdSuper(1)...))
	f.Add(append(make([]byte, 16<<10), vdevLabel(nvpair("name", 9, []byte("\x00\x00\x00\x05rpool\x00\x00\x00")), nvpair("pool_guid", 8, make([]byte, 8)))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytesAt(b)
		signatures(r, 0, int64(len(b)), "sda")
		d := Disk{Name: "sda", Size: int64(len(b)), Sector: 512}
		Contents(r, &d)
	})
}

type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(b)) {
		return 0, errors.New("past the end")
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, errors.New("short")
	}
	return n, nil
}

func TestImages(t *testing.T) {
	m := machine{t, t.TempDir()}
	m.image("a.img", 20e9, map[int64][]byte{512: table(512, []string{"home"}, []uint64{2048}), 1<<20 + 1024 + 0x38: []byte("\x53\xef")})
	m.image("b.img", 512, nil)
	f, err := Images([]string{m.root + "/dev/a.img", m.root + "/dev/b.img"})
	if err != nil || len(f.Disks) != 2 || f.Disks[0].Name != "sda" || f.Disks[0].Size != 20e9 || f.Disks[0].Contents[1].Kind != "ext4" ||
		f.Disks[0].DataID == "" || f.Disks[1].DataID != "" || f.Disks[1].Udev["ID_SERIAL_SHORT"] != "b.img" {
		t.Errorf("%v %+v", err, f.Disks)
	}
	for _, bad := range [][]string{{m.root}, {m.root + "/none"}, make([]string, 27)} {
		if _, err := Images(bad); err == nil {
			t.Errorf("%v was read", bad)
		}
	}
}
