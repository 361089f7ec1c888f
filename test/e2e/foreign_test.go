package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"joist/test/node"
	"joist/test/vm"
)

const foreignSize = 1 << 30

// foreignDisks are disks that somebody's system would change by looking at
// them: both halves of an md mirror whose resync was cut off, an ext4 whose
// journal was not replayed, a volume group that has our group's name, and a
// pool that has our pool's.
func foreignDisks(t *testing.T) []string {
	t.Helper()
	vm.Need(t, "mkfs.ext4")
	dir := t.TempDir()
	var out []string
	disk := func(name string, pieces map[int64][]byte) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(foreignSize); err != nil {
			t.Fatal(err)
		}
		for at, b := range pieces {
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, path)
		return path
	}
	for i := range 2 {
		disk(fmt.Sprintf("mirror%d.raw", i), map[int64][]byte{4096: mdSuper(i)})
	}
	ext4 := disk("ext4.raw", nil)
	if b, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-F", "-O", "^metadata_csum", "-L", "home", ext4).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	f, err := os.OpenFile(ext4, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint16(super[0x3a:], 0) // s_state: not cleanly unmounted
	super[0x60] |= 4                               // s_feature_incompat: needs_recovery
	if _, err := f.WriteAt(super, 1024); err != nil {
		t.Fatal(err)
	}
	disk("group.raw", lvmGroup("joist"))
	m, shell := inRescue(t, vm.Config{Accel: medium(t).accel, Media: []vm.Medium{{Path: medium(t).path}},
		Disks: []vm.Disk{{Path: disk("pool.raw", nil), Format: "raw"}}})
	shell.run(t, zfsTime, "modprobe zfs && zpool create -R /run/z rpool /dev/vda && zpool export rpool")
	shell.powerOff(t, m)
	return out
}

// mdSuper is a superblock of version 1.2 of a mirror's n-th disk, in the middle
// of a resync (include/uapi/linux/raid/md_p.h).
func mdSuper(n int) []byte {
	le := binary.LittleEndian
	b := make([]byte, 260)
	le.PutUint32(b[0:], 0xa92b4efc)
	le.PutUint32(b[4:], 1)
	copy(b[16:], "foreign-mirror-1")
	copy(b[32:], "other:mirror")
	le.PutUint32(b[72:], 1) // level
	sectors := uint64(foreignSize/512 - 2048)
	le.PutUint64(b[80:], sectors)
	le.PutUint32(b[92:], 2) // disks
	le.PutUint64(b[128:], 2048)
	le.PutUint64(b[136:], sectors)
	le.PutUint64(b[144:], 8) // where this block is
	le.PutUint32(b[160:], uint32(n))
	copy(b[168:], fmt.Sprintf("foreign-disk---%d", n))
	le.PutUint64(b[200:], 7) // events
	le.PutUint64(b[208:], sectors/2)
	le.PutUint32(b[220:], 2)
	le.PutUint16(b[258:], 1)
	var sum uint64
	for i := 0; i < len(b); i += 4 {
		sum += uint64(le.Uint32(b[i:]))
	}
	le.PutUint32(b[216:], uint32(sum)+uint32(sum>>32))
	return b
}

// lvmGroup is a physical volume with a whole group on it, by offset
// (lvm2: lib/format_text/layout.h, lib/label/label.h).
func lvmGroup(name string) map[int64][]byte {
	const metadata, first = 4096, 1 << 20
	le := binary.LittleEndian
	sum := func(b []byte) uint32 { return ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, b) }
	uuid := func(c string) string {
		return strings.Repeat(c, 6) + strings.Repeat("-"+strings.Repeat(c, 4), 5) + "-" + strings.Repeat(c, 6)
	}
	text := fmt.Appendf(nil, `%s {
id = %q
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = 8192
max_lv = 0
max_pv = 0
metadata_copies = 0
physical_volumes {
pv0 {
id = %q
device = "/dev/sdz"
status = ["ALLOCATABLE"]
flags = []
dev_size = %d
pe_start = 2048
pe_count = 200
}
}
logical_volumes {
state {
id = %q
status = ["READ", "WRITE", "VISIBLE"]
flags = []
segment_count = 1
segment1 {
start_extent = 0
extent_count = 20
type = "striped"
stripe_count = 1
stripes = ["pv0", 0]
}
}
}
}
contents = "Text Format Volume Group"
version = 1
description = ""
creation_host = "other"
creation_time = 1700000000
`, name, uuid("g"), uuid("p"), foreignSize/512, uuid("v"))
	text = append(text, 0)
	label := make([]byte, 512)
	copy(label, "LABELONE")
	le.PutUint64(label[8:], 1)
	le.PutUint32(label[20:], 32)
	copy(label[24:], "LVM2 001")
	copy(label[32:], strings.ReplaceAll(uuid("p"), "-", ""))
	le.PutUint64(label[64:], foreignSize)
	le.PutUint64(label[72:], first) // data area; its list ends with zeros
	le.PutUint64(label[104:], metadata)
	le.PutUint64(label[112:], first-metadata)
	le.PutUint32(label[16:], sum(label[20:]))
	head := make([]byte, 512)
	copy(head[4:], " LVM2 x[5A%r0N*>")
	le.PutUint32(head[20:], 1)
	le.PutUint64(head[24:], metadata)
	le.PutUint64(head[32:], first-metadata)
	le.PutUint64(head[40:], 512)
	le.PutUint64(head[48:], uint64(len(text)))
	le.PutUint32(head[56:], sum(text))
	le.PutUint32(head[0:], sum(head[4:]))
	return map[int64][]byte{512: label, metadata: head, metadata + 512: text}
}

// TestLayoutForeign: disks that were not chosen are the same to the bit after
// an installation, whatever is on them, and so they are after a start and in the
// rescue system.
func TestLayoutForeign(t *testing.T) {
	besideOthers(t, "[vg-name-taken]", "/var ext4\n/var/lib/vz ext4")
}

// TestLayoutForeignZFS: the same beside a pool.
func TestLayoutForeignZFS(t *testing.T) {
	besideOthers(t, "[pool-name-taken]", onPool, `"ext4"`, "\"zfs\"\nzfs.raid = \"raid0\"")
}

func besideOthers(t *testing.T, found, mounted string, changes ...string) {
	t.Helper()
	t.Parallel()
	l := newLayout(t, 1)
	l.beside = foreignDisks(t)
	var before []string
	for _, d := range l.beside {
		before = append(before, sumOf(t, d))
	}
	same := func(when string) {
		t.Helper()
		for i, d := range l.beside {
			if sumOf(t, d) != before[i] {
				t.Errorf("%s was written to %s", filepath.Base(d), when)
			}
		}
	}
	var said bytes.Buffer
	if err := l.tryInstall(within(t, node.InstallTime), t, &said, changes...); err != nil {
		t.Fatal(err)
	}
	same("by the installation")
	if !strings.Contains(said.String(), found) {
		t.Errorf("the installer did not see what has our name, %s:\n%s", found, said.String())
	}
	l.start(t, l.disks...)
	l.want(t, "what is mounted", volumes, mounted)
	l.want(t, "arrays", "ls /sys/block | grep -c '^md' || true", "0")
	l.cut(t)
	same("by a start")
	l.rescue(t)
	same("by the rescue system")
}
