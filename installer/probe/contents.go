package probe

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"joist/image/disk"
)

// contents fills what a disk holds from signatures alone: partition table,
// then whatever each partition and the disk itself begin with.
func (m Machine) contents(d *Disk) {
	f, err := os.Open(m.path("dev", d.Name))
	if err != nil {
		return
	}
	defer f.Close()
	t, err := disk.ReadTable(f, d.Size, d.Sector)
	if err != nil {
		d.Contents = append(d.Contents, signatures(f, 0, d.Name)...)
		return
	}
	d.Contents = append(d.Contents, Content{Where: d.Name, Kind: "gpt"})
	names := map[string]string{}
	for _, p := range t.Partitions {
		where := PartitionName(d.Name, p.Number)
		names[p.Name] = where
		found := signatures(f, p.Start, where)
		if len(found) == 0 && p.Name != "" {
			found = []Content{{Where: where, Kind: "partition", Name: clean(p.Name)}}
		}
		d.Contents = append(d.Contents, found...)
	}
	if names[disk.NameESP] != "" && names[disk.NameSlotA] != "" && names[disk.NameSlotB] != "" && names[disk.NameData] != "" {
		d.Installation = &Installation{ID: InstallationID(t.DiskGUID), GUID: t.DiskGUID, ESP: names[disk.NameESP], Data: names[disk.NameData]}
	}
}

// InstallationID is the first 16 hex digits of a disk GUID: whoever reads the
// partition table knows the installation, nothing has to be activated.
func InstallationID(guid string) string {
	s := strings.ToLower(strings.ReplaceAll(guid, "-", ""))
	return s[:min(16, len(s))]
}

// PartitionName follows the kernel (block/partitions/core.c): a "p" before the
// number when the disk's name ends in a digit.
func PartitionName(disk string, n int) string {
	if c := disk[len(disk)-1]; c >= '0' && c <= '9' {
		return fmt.Sprintf("%sp%d", disk, n)
	}
	return fmt.Sprintf("%s%d", disk, n)
}

// clean keeps a label printable: it goes to consoles.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '�' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "")))
}

// signature is one magic number: Documentation/filesystems and util-linux'
// libblkid list them.
type signature struct {
	kind   string
	offset int64
	magic  string
	label  int64 // offset of a label, 0 for none
	length int
}

func signatureTable() []signature {
	return []signature{
		{"lvm", 512 + 24, "LVM2 001", 0, 0},
		{"ext4", 1024 + 0x38, "\x53\xef", 1024 + 0x78, 16},
		{"xfs", 0, "XFSB", 108, 12},
		{"btrfs", 65536 + 64, "_BHRfS_M", 65536 + 0x12b, 64},
		{"luks", 0, "LUKS\xba\xbe", 0, 0},
		{"iso9660", 32768 + 1, "CD001", 32768 + 40, 32},
		{"squashfs", 0, "hsqs", 0, 0},
		{"fat", 0x52, "FAT32", 0x47, 11},
		{"fat", 0x36, "FAT1", 0x2b, 11},
		{"ntfs", 3, "NTFS    ", 0, 0},
		{"swap", 4096 - 10, "SWAPSPACE2", 1024 + 28, 16},
		{"md", 4096, "\xfc\x4e\x2b\xa9", 4096 + 32, 32},
		{"zfs", 131072, "\x0c\xb1\xba\x00\x00\x00\x00\x00", 0, 0}, // first uberblock of label 0
	}
}

// signatures reads what begins at base.
func signatures(r io.ReaderAt, base int64, where string) []Content {
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
		if s.kind == "lvm" {
			c.Name = vgName(r, base)
		}
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

// vgName reads the volume group's name from an LVM2 label without LVM: label
// in sector 1, physical volume header behind it (UUID, size, list of data
// areas, list of metadata areas, each ended by zeros), then a metadata area
// whose header says where the current text is. The text begins with the name.
// Layout: lvm2, lib/format_text/layout.h.
func vgName(r io.ReaderAt, base int64) string {
	label := make([]byte, 512)
	if _, err := r.ReadAt(label, base+512); err != nil {
		return ""
	}
	pv := int(u32(label[20:])) // offset of the header from the label
	if pv < 32 || pv > 400 {
		return ""
	}
	lists, at, area := 0, pv+40, int64(0)
	for ; at+16 <= len(label) && area == 0; at += 16 {
		offset := int64(u64(label[at:]))
		switch {
		case offset == 0:
			lists++
			if lists == 2 {
				return "" // no metadata area on this volume
			}
		case lists == 1:
			area = offset
		}
	}
	head := make([]byte, 64)
	if area <= 0 || area > 1<<40 {
		return ""
	}
	if _, err := r.ReadAt(head, base+area); err != nil || string(head[4:20]) != " LVM2 x[5A%r0N*>" {
		return ""
	}
	offset := int64(u64(head[40:]))
	if offset <= 0 || offset > 1<<30 {
		return ""
	}
	text := make([]byte, 192)
	if n, err := r.ReadAt(text, base+area+offset); err != nil && n == 0 {
		return ""
	}
	name, _, ok := strings.Cut(string(text), " {")
	if !ok || len(name) > 127 || strings.ContainsAny(name, " \n\x00") {
		return ""
	}
	return clean(name)
}
