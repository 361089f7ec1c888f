package probe

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// signature is one magic number with the places of label and id:
// Documentation/filesystems and util-linux' libblkid list them.
type signature struct {
	kind   string
	offset int64
	magic  string
	label  int64 // offset of a label, 0 for none
	length int
	id     int64 // offset of an id, 0 for none
	idSize int
}

func signatureTable() []signature {
	return []signature{
		{kind: "lvm", offset: 512 + 24, magic: "LVM2 001"},
		{"ext4", 1024 + 0x38, "\x53\xef", 1024 + 0x78, 16, 1024 + 0x68, 16},
		{"xfs", 0, "XFSB", 108, 12, 32, 16},
		{"btrfs", 65536 + 64, "_BHRfS_M", 65536 + 0x12b, 64, 65536 + 0x20, 16},
		{kind: "luks", offset: 0, magic: "LUKS\xba\xbe", id: 168, idSize: 36},
		{kind: "iso9660", offset: 32768 + 1, magic: "CD001", label: 32768 + 40, length: 32},
		{kind: "squashfs", offset: 0, magic: "hsqs"},
		{"fat", 0x52, "FAT32", 0x47, 11, 0x43, 4},
		{"fat", 0x36, "FAT1", 0x2b, 11, 0x27, 4},
		{kind: "ntfs", offset: 3, magic: "NTFS    ", id: 0x48, idSize: 8},
		{"swap", 4096 - 10, "SWAPSPACE2", 1024 + 28, 16, 1024 + 12, 16},
	}
}

// signatures reads what begins at base and is size bytes long.
func signatures(r io.ReaderAt, base, size int64, where string) []Content {
	out := plain(r, base, where)
	if c, data, ok := mdMember(r, base, size, where); ok {
		out = append(out, c)
		// what lies inside a mirror can be read off any member
		if data > 0 {
			out = append(out, plain(r, base+data, where)...)
		}
	}
	if c, ok := zfsMember(r, base, size, where); ok {
		out = append(out, c)
	}
	if len(out) == 0 {
		b := make([]byte, 2)
		if _, err := r.ReadAt(b, base+510); err == nil && string(b) == "\x55\xaa" {
			out = append(out, Content{Where: where, Kind: "mbr"})
		}
	}
	return out
}

// FileSystem names what mount(2) calls the file system on a volume of ours,
// "" when it is none that we make.
func FileSystem(r io.ReaderAt) string {
	for _, c := range plain(r, 0, "") {
		if c.Kind == "ext4" || c.Kind == "xfs" {
			return c.Kind
		}
	}
	return ""
}

func plain(r io.ReaderAt, base int64, where string) []Content {
	var out []Content
	for _, s := range signatureTable() {
		b := make([]byte, len(s.magic))
		if _, err := r.ReadAt(b, base+s.offset); err != nil || string(b) != s.magic {
			continue
		}
		c := Content{Where: where, Kind: s.kind}
		if s.length > 0 {
			l := make([]byte, s.length)
			if _, err := r.ReadAt(l, base+s.label); err == nil {
				l, _, _ = bytes.Cut(l, []byte{0})
				c.Name = clean(string(l))
			}
		}
		if s.idSize > 0 {
			c.ID = readID(r, base+s.id, s.idSize)
		}
		if s.kind == "lvm" {
			c.Name, c.ID = volumeGroup(r, base)
		}
		out = append(out, c)
	}
	return out
}

// readID spells an id as the tools of its file system do; zeros are none.
func readID(r io.ReaderAt, at int64, size int) string {
	b := make([]byte, size)
	if _, err := r.ReadAt(b, at); err != nil || len(bytes.Trim(b, "\x00")) == 0 {
		return ""
	}
	switch size {
	case 16:
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	case 36:
		return clean(string(bytes.TrimRight(b, "\x00")))
	default:
		return hex.EncodeToString(b)
	}
}

// volumeGroup reads name and UUID of the volume group from an LVM2 label
// without LVM: label in sector 1, physical volume header behind it (UUID,
// size, list of data areas, list of metadata areas, each ended by zeros), then
// a metadata area whose header says where the current text is. The text begins
// with name and id. Layout: lvm2, lib/format_text/layout.h.
func volumeGroup(r io.ReaderAt, base int64) (name, id string) {
	label := make([]byte, 512)
	if _, err := r.ReadAt(label, base+512); err != nil {
		return "", ""
	}
	pv := int(u32(label[20:])) // offset of the header from the label
	if pv < 32 || pv > 400 {
		return "", ""
	}
	lists, at, area := 0, pv+40, int64(0)
	for ; at+16 <= len(label) && area == 0; at += 16 {
		offset := int64(u64(label[at:]))
		switch {
		case offset == 0:
			lists++
			if lists == 2 {
				return "", "" // no metadata area on this volume
			}
		case lists == 1:
			area = offset
		}
	}
	head := make([]byte, 64)
	if area <= 0 || area > 1<<40 {
		return "", ""
	}
	if _, err := r.ReadAt(head, base+area); err != nil || string(head[4:20]) != " LVM2 x[5A%r0N*>" {
		return "", ""
	}
	offset := int64(u64(head[40:]))
	if offset <= 0 || offset > 1<<30 {
		return "", ""
	}
	text := make([]byte, 192)
	if n, err := r.ReadAt(text, base+area+offset); err != nil && n == 0 {
		return "", ""
	}
	name, rest, ok := strings.Cut(string(text), " {")
	if !ok || len(name) > 127 || strings.ContainsAny(name, " \n\x00") {
		return "", ""
	}
	if v, ok := strings.CutPrefix(strings.TrimSpace(rest), `id = "`); ok {
		if v, _, ok = strings.Cut(v, `"`); ok && len(v) == 38 && clean(v) == v {
			id = v
		}
	}
	return clean(name), id
}

const mdMagic = "\xfc\x4e\x2b\xa9"

// mdMember reads an md superblock. data is where the content begins, 0 when it
// is not a mirror.
func mdMember(r io.ReaderAt, base, size int64, where string) (c Content, data int64, ok bool) {
	at, ok := mdSuperblock(r, base, size)
	b := make([]byte, 136)
	if !ok {
		return c, 0, false
	}
	if _, err := r.ReadAt(b, at); err != nil {
		return c, 0, false
	}
	if u32(b[4:]) == 0 {
		return Content{Where: where, Kind: "md", ID: colons(append(bytes.Clone(b[20:24]), b[52:64]...))}, 0, true
	}
	name, _, _ := bytes.Cut(b[32:64], []byte{0})
	c = Content{Where: where, Kind: "md", Name: clean(string(name)), ID: colons(b[16:32])}
	if off := u64(b[128:]); u32(b[72:]) == 1 && off < uint64(size/512) {
		data = int64(off) * 512
	}
	return c, data, true
}

// firmwareRAID finds the marks of arrays that a controller's firmware made, at
// the end of a disk: Intel's (mdadm, super-intel.c) and the "Common RAID Disk
// Data Format" of SNIA. libblkid names them so.
func firmwareRAID(r io.ReaderAt, d Disk) []Content {
	for _, s := range []struct {
		kind, magic string
		back        int64 // sectors from the end
	}{{"isw_raid_member", "Intel Raid ISM Cfg Sig. ", 2}, {"ddf_raid_member", "\xde\x11\xde\x11", 1}} {
		b := make([]byte, len(s.magic))
		at := d.Size - s.back*int64(d.Sector)
		if at <= 0 {
			continue
		}
		if _, err := r.ReadAt(b, at); err == nil && string(b) == s.magic {
			return []Content{{Where: d.Name, Kind: s.kind}}
		}
	}
	return nil
}

// colons spells an array's UUID as mdadm does.
func colons(b []byte) string { return fmt.Sprintf("%x:%x:%x:%x", b[:4], b[4:8], b[8:12], b[12:16]) }

// zfsMember reads name and GUID of the pool from the label of a vdev.
func zfsMember(r io.ReaderAt, base, size int64, where string) (Content, bool) {
	v, ok := zfsLabel(r, base, size)
	if !ok {
		return Content{}, false
	}
	return Content{Where: where, Kind: "zfs", Name: clean(v.Text("name")), ID: fmt.Sprint(v.Number("pool_guid"))}, true
}
