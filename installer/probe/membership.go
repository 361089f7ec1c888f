package probe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"

	"joist/internal/nvlist"
)

// Membership is what a member of an md array or a ZFS pool says about the whole.
// Names of layouts are those of an answer: "raid1", "raid10", "raidz-2", "raid0".
type Membership struct {
	Where string `json:"where"`          // "sda5"
	Of    string `json:"of"`             // UUID of the array, GUID of the pool
	RAID  string `json:"raid,omitempty"` // "" when it is none of these
	Self  string `json:"self"`           // what it calls itself among Parts
	Age   uint64 `json:"age"`            // events of the array, txg of the label: the higher, the newer
	// Parts are the members of the array, or of that one of the pool's Groups that
	// it belongs to. Of each part one of its names is enough: a disk that is
	// being replaced has two. Spare parts may be absent.
	Parts  [][]string `json:"parts"`
	Spare  int        `json:"spare"`
	Group  string     `json:"group,omitempty"`
	Groups int        `json:"groups"` // 0: not known, the member's own at least
}

// memberships reads what begins at base and is size bytes long.
func memberships(r io.ReaderAt, base, size int64, where string) []Membership {
	var out []Membership
	if at, ok := mdSuperblock(r, base, size); ok {
		if m, ok := arrayMember(r, at, where); ok {
			out = append(out, m)
		}
	}
	if v, ok := zfsLabel(r, base, size); ok {
		if tree, ok := v["vdev_tree"].(nvlist.Values); ok {
			out = append(out, poolMember(v, tree, where))
		}
	}
	return out
}

// Roles of devices from here on are none of the array's data (md_p.h,
// MD_DISK_ROLE_MAX): spare, faulty, journal.
const mdRoleMax = 0xff00

// arrayMember reads a superblock of version 1: which devices there are and which
// of them is a part of the array.
func arrayMember(r io.ReaderAt, at int64, where string) (m Membership, ok bool) {
	b := make([]byte, 256)
	if _, err := r.ReadAt(b, at); err != nil || u32(b[4:]) != 1 {
		return m, false
	}
	m = Membership{Where: where, Of: colons(b[16:32]), Self: strconv.Itoa(int(u32(b[160:]))), Age: u64(b[200:]), Groups: 1}
	n, devices := int(min(u32(b[92:]), mdRoleMax)), min(u32(b[220:]), 1920) // what fits behind the header
	if u32(b[72:]) == 1 {
		m.RAID, m.Spare = "raid1", max(n-1, 0)
	}
	roles := make([]byte, 2*devices)
	if _, err := r.ReadAt(roles, at+256); err != nil {
		return m, false
	}
	m.Parts = make([][]string, n)
	for i := range int(devices) {
		if role := int(binary.LittleEndian.Uint16(roles[2*i:])); role < n {
			m.Parts[role] = append(m.Parts[role], strconv.Itoa(i))
		}
	}
	return m, true
}

// zfsLabel reads a vdev's label.
func zfsLabel(r io.ReaderAt, base, size int64) (nvlist.Values, bool) {
	return nvlist.ReadLabel(io.NewSectionReader(r, base, size))
}

// poolMember reads the tree of the vdev that a device belongs to
// (zpoolconcepts(7)).
func poolMember(v, tree nvlist.Values, where string) Membership {
	guid := func(v nvlist.Values, name string) string { return strconv.FormatUint(v.Number(name), 10) }
	m := Membership{Where: where, Of: guid(v, "pool_guid"), Self: guid(v, "guid"), Age: v.Number("txg"), Group: guid(tree, "guid")}
	if n, exact := v.Tops(); exact {
		m.Groups = n
	}
	var leaves func(v nvlist.Values) []string
	leaves = func(v nvlist.Values) (out []string) {
		if len(v.Lists("children")) == 0 {
			return []string{guid(v, "guid")}
		}
		for _, c := range v.Lists("children") {
			out = append(out, leaves(c)...)
		}
		return out
	}
	kind, parity := tree.Text("type"), int(tree.Number("nparity")&3)
	switch kind {
	case "mirror", "raidz":
	case "disk", "file", "replacing", "spare":
		m.RAID, m.Parts = "raid0", [][]string{leaves(tree)}
		return m
	default: // none of ours
		return m
	}
	for _, c := range tree.Lists("children") {
		m.Parts = append(m.Parts, leaves(c))
	}
	switch {
	case kind == "raidz":
		m.RAID, m.Spare = fmt.Sprintf("raidz-%d", parity), parity
	case m.Groups > 1:
		m.RAID, m.Spare = "raid10", len(m.Parts)-1
	default:
		m.RAID, m.Spare = "raid1", len(m.Parts)-1
	}
	return m
}

// mdSuperblock finds an md superblock (include/uapi/linux/raid/md_p.h): version
// 1.2 at 4 KiB, 1.1 at the start, 1.0 within the last 12 KiB, 0.90 at the last
// whole 64 KiB.
func mdSuperblock(r io.ReaderAt, base, size int64) (at int64, ok bool) {
	sectors := size / 512
	for i, at := range []int64{4096, 0, (sectors - 16) / 8 * 8 * 512, sectors/128*128*512 - 65536} {
		b := make([]byte, 8)
		if at < 0 || i == 3 && at == 0 {
			continue
		}
		if _, err := r.ReadAt(b, base+at); err == nil && bytes.Equal(b[:4], []byte(mdMagic)) && (u32(b[4:]) == 1) == (i < 3) && u32(b[4:]) <= 1 {
			return base + at, true
		}
	}
	return 0, false
}
