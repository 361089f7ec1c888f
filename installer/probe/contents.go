package probe

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"joist/image/disk"
)

// contents fills what a disk holds from signatures alone: partition table,
// then whatever each partition and the disk itself begin and end with.
func (m Machine) contents(d *Disk) {
	f, err := os.Open(m.path("dev", d.Name))
	if err != nil {
		return
	}
	defer f.Close()
	Contents(f, d)
}

// Contents reads what a disk, or an image of one, holds. Name, Size and Sector
// of d must be set.
func Contents(f io.ReaderAt, d *Disk) {
	t, err := disk.ReadTable(f, d.Size, d.Sector)
	if err != nil {
		d.Contents = append(append(d.Contents, signatures(f, 0, d.Size, d.Name)...), firmwareRAID(f, *d)...)
		d.Memberships = memberships(f, 0, d.Size, d.Name)
		if len(d.Contents) == 0 && used(f) {
			d.Contents = []Content{{Where: d.Name, Kind: "unknown"}}
		}
		d.DataID = dataID(f, d.Contents)
		return
	}
	d.Contents = append(d.Contents, Content{Where: d.Name, Kind: "gpt"})
	names := map[string]string{}
	in := Installation{ID: InstallationID(t.DiskGUID), GUID: t.DiskGUID, Table: &t}
	for _, p := range t.Partitions {
		where := PartitionName(d.Name, p.Number)
		names[p.Name] = where
		found := signatures(f, p.Start, p.Size, where)
		d.Memberships = append(d.Memberships, memberships(f, p.Start, p.Size, where)...)
		if p.Name == disk.NameData {
			in.holds(found)
		}
		if len(found) == 0 && p.Name != "" {
			found = []Content{{Where: where, Kind: "partition", Name: clean(p.Name)}}
		}
		d.Contents = append(d.Contents, found...)
	}
	d.Contents = append(d.Contents, firmwareRAID(f, *d)...)
	if len(t.Partitions) > 0 {
		d.DataID = in.ID
	}
	if names[disk.NameESP] != "" && names[disk.NameSlotA] != "" && names[disk.NameSlotB] != "" && names[disk.NameData] != "" {
		in.ESP, in.Data = names[disk.NameESP], names[disk.NameData]
		in.Unfinished, in.KeepsData = t.Marks()&disk.Unfinished != 0, t.Marks()&disk.KeepsData != 0
		d.Installation = &in
	}
}

// holds takes from what the data partition holds how it is to be found again.
func (in *Installation) holds(found []Content) {
	for _, c := range found {
		switch c.Kind {
		case "lvm":
			in.Group = c.ID
		case "md":
			in.Array = c.ID
		case "zfs":
			in.Pool = c.ID
		}
	}
}

// used says whether anything but zeros is in the first 64 KiB.
func used(r io.ReaderAt) bool {
	b := make([]byte, 64<<10)
	n, _ := r.ReadAt(b, 0)
	return len(bytes.Trim(b[:n], "\x00")) > 0
}

// dataID names what a disk without a GUID partition table holds: by the UUID
// of its content, else by a digest of its beginning.
func dataID(r io.ReaderAt, cs []Content) string {
	if len(cs) == 0 {
		return ""
	}
	for _, c := range cs {
		if c.ID != "" {
			sum := sha256.Sum256([]byte(c.Kind + c.ID))
			return hex.EncodeToString(sum[:8])
		}
	}
	b := make([]byte, 64<<10)
	n, _ := r.ReadAt(b, 0)
	sum := sha256.Sum256(b[:n])
	return hex.EncodeToString(sum[:8])
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
	if c := disk[max(len(disk)-1, 0):]; c >= "0" && c <= "9" {
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
