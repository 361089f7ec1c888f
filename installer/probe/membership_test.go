package probe

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// number and list are values of a vdev's label.
func number(name string, n uint64) []byte {
	return nvpair(name, 8, binary.BigEndian.AppendUint64(nil, n))
}

func word(s string) []byte {
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
	return append(b, make([]byte, (4-len(s)%4)%4)...)
}

func list(pairs ...[]byte) []byte { return vdevLabel(pairs...)[4:] }

// lists is an array of lists.
func lists(name string, ls ...[]byte) []byte {
	b := nvpair(name, 20, slices.Concat(ls...))
	at := 12 + (len(name)+3)/4*4 + 4 // behind the sizes, the name and the type
	binary.BigEndian.PutUint32(b[at:], uint32(len(ls)))
	return b
}

func leaf(guid uint64) []byte { return list(nvpair("type", 9, word("disk")), number("guid", guid)) }

func branch(kind string, guid, parity uint64, children ...[]byte) []byte {
	return list(nvpair("type", 9, word(kind)), number("guid", guid), number("nparity", parity), lists("children", children...))
}

// Each member tells the layout of the whole and which parts it lacks.
func TestMemberships(t *testing.T) {
	pool := func(self, groups uint64, tree []byte) []byte {
		return append(make([]byte, 16<<10), vdevLabel(nvpair("name", 9, word("rpool")), number("pool_guid", 77), number("txg", 9), number("guid", self),
			number("vdev_children", groups), nvpair("vdev_tree", 19, tree))...)
	}
	array := func(level byte, roles ...uint16) []byte {
		b := append(make([]byte, 4096), append(mdSuper(level), make([]byte, 256-136+2*len(roles))...)...)
		sb := b[4096:]
		sb[92], sb[160], sb[200], sb[220] = 2, 1, 33, byte(len(roles))
		for i, r := range roles {
			binary.LittleEndian.PutUint16(sb[256+2*i:], r)
		}
		return b
	}
	const uuid = "30313233:34353637:38396162:63646566"
	for name, c := range map[string]struct {
		b    []byte
		want []Membership
	}{
		"nothing": {nil, nil},
		"mirror": {array(1, 0, 1), []Membership{{Where: "sda", Of: uuid, RAID: "raid1", Self: "1", Age: 33,
			Parts: [][]string{{"0"}, {"1"}}, Spare: 1, Groups: 1}}},
		"a half failed, a spare waits": {array(1, 0xfffe, 1, 0xffff), []Membership{{Where: "sda", Of: uuid, RAID: "raid1", Self: "1", Age: 33,
			Parts: [][]string{nil, {"1"}}, Spare: 1, Groups: 1}}},
		"array of another level": {array(5, 0, 1), []Membership{{Where: "sda", Of: uuid, Self: "1", Age: 33, Parts: [][]string{{"0"}, {"1"}}, Groups: 1}}},
		"one disk": {pool(11, 1, leaf(11)), []Membership{{Where: "sda", Of: "77", RAID: "raid0", Self: "11", Age: 9,
			Parts: [][]string{{"11"}}, Group: "11", Groups: 1}}},
		"pool raid1": {pool(2, 1, branch("mirror", 5, 0, leaf(1), leaf(2))), []Membership{{Where: "sda", Of: "77", RAID: "raid1", Self: "2", Age: 9,
			Parts: [][]string{{"1"}, {"2"}}, Spare: 1, Group: "5", Groups: 1}}},
		"pool raid10": {pool(2, 2, branch("mirror", 5, 0, leaf(1), leaf(2))), []Membership{{Where: "sda", Of: "77", RAID: "raid10", Self: "2", Age: 9,
			Parts: [][]string{{"1"}, {"2"}}, Spare: 1, Group: "5", Groups: 2}}},
		"one disk, another was removed": {append(make([]byte, 16<<10), vdevLabel(number("pool_guid", 77), number("txg", 9), number("guid", 11), number("vdev_children", 2),
			nvpair("vdev_tree", 19, leaf(11)), nvpair("features_for_read", 19, list(nvpair("com.delphix:device_removal", 1, nil))))...),
			[]Membership{{Where: "sda", Of: "77", RAID: "raid0", Self: "11", Age: 9, Parts: [][]string{{"11"}}, Group: "11"}}},
		"raidz-2, one replaced": {pool(2, 1, branch("raidz", 5, 2, leaf(1), branch("replacing", 9, 0, leaf(2), leaf(8)), leaf(3), leaf(4))), []Membership{{Where: "sda",
			Of: "77", RAID: "raidz-2", Self: "2", Age: 9, Parts: [][]string{{"1"}, {"2", "8"}, {"3"}, {"4"}}, Spare: 2, Group: "5", Groups: 1}}},
	} {
		b := make([]byte, 1<<20)
		copy(b, c.b)
		d := Disk{Name: "sda", Size: int64(len(b)), Sector: 512}
		Contents(bytesAt(b), &d)
		if diff := cmp.Diff(c.want, d.Memberships); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
