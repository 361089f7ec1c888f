package probe

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
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
	if err := os.Symlink("../../drivers/virtio_net", filepath.Join(m.root, "sys/class/net/eth0/device/driver")); err != nil {
		t.Fatal(err)
	}
	f := Machine{Root: m.root, KVM: func(string) error { return errors.New("create a virtual machine: not supported") },
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
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytesAt(b)
		signatures(r, 0, "sda")
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
