package pool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"joist/internal/nvlist"
	"joist/internal/run"
)

func u32(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

func str(s string) []byte {
	return append(append(u32(len(s)), s...), make([]byte, (4-len(s)%4)%4)...)
}

// encode is the inverse of list.
func encode(v nvlist.Values) []byte {
	out := append(u32(0), u32(1)...)
	for _, name := range slices.Sorted(maps.Keys(v)) {
		kind, count, data := 0, 1, []byte(nil)
		switch x := v[name].(type) {
		case uint64:
			kind, data = nvlist.TypeNumber, binary.BigEndian.AppendUint64(nil, x)
		case string:
			kind, data = nvlist.TypeText, str(x)
		case nvlist.Values:
			kind, data = nvlist.TypeList, encode(x)
		case []nvlist.Values:
			kind, count = nvlist.TypeLists, len(x)
			for _, c := range x {
				data = append(data, encode(c)...)
			}
		case []uint64:
			kind, count = nvlist.TypeNumbers, len(x)
			for _, n := range x {
				data = binary.BigEndian.AppendUint64(data, n)
			}
		case bool:
			kind, count = nvlist.TypeBoolean, 0
		}
		p := slices.Concat(str(name), u32(kind), u32(count), data)
		out = slices.Concat(out, u32(8+len(p)), u32(0), p)
	}
	return append(out, make([]byte, 8)...)
}

func disk(guid uint64, words ...string) nvlist.Values {
	v := nvlist.Values{"type": "disk", "guid": guid, "path": "/dev/vda5"}
	for _, w := range words {
		v[w] = uint64(1)
	}
	return v
}

func group(typ string, guid, parity uint64, children ...nvlist.Values) nvlist.Values {
	return nvlist.Values{"type": typ, "guid": guid, "nparity": parity, "children": children}
}

// vdev is the beginning of a device with these two labels.
func vdev(labels ...nvlist.Values) []byte {
	b := make([]byte, 2*nvlist.LabelSize)
	for i, v := range labels {
		copy(b[i*nvlist.LabelSize+nvlist.ListAt:], append([]byte{1, 1, 0, 0}, encode(v)...))
	}
	return b
}

func label(guid, txg uint64, tops uint64, tree nvlist.Values) nvlist.Values {
	return nvlist.Values{"name": "rpool", "pool_guid": uint64(77), "guid": guid, "txg": txg, "vdev_children": tops, "vdev_tree": tree,
		"features_for_read": nvlist.Values{"com.delphix:hole_birth": true}, "hole_array": []uint64{}}
}

func of(guid, txg, tops uint64, tree nvlist.Values) Member {
	m, _, _ := member(label(guid, txg, tops, tree))
	m.Path = "/dev/vd" + string(rune('a'+guid%10-1)) + "5"
	return m
}

func TestLabels(t *testing.T) {
	dev := filepath.Join(t.TempDir(), "vda5")
	tree := disk(11)
	for name, c := range map[string]struct {
		b    []byte
		guid string
		txg  uint64
	}{
		"new first":  {vdev(label(11, 9, 1, tree), label(11, 5, 1, tree)), "77", 9},
		"new second": {vdev(label(11, 5, 1, tree), label(11, 9, 1, tree)), "77", 9},
		"one torn":   {vdev(nvlist.Values{}, label(11, 5, 1, tree)), "77", 5},
		"none":       {make([]byte, 2*nvlist.LabelSize), "", 0},
		"short":      {make([]byte, 4096), "", 0},
		"bad name":   {vdev(nvlist.Values{"name": "-f", "pool_guid": uint64(77), "vdev_tree": tree}), "", 0},
	} {
		if err := os.WriteFile(dev, c.b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := GUID(dev); got != c.guid {
			t.Errorf("%s: GUID %q", name, got)
		}
		f, err := os.Open(dev)
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := nvlist.ReadLabel(f); c.guid != "" && (!ok || v.Number("txg") != c.txg) {
			t.Errorf("%s: txg %d", name, v.Number("txg"))
		}
		f.Close()
	}
}

func FuzzParse(f *testing.F) {
	f.Add(append([]byte{1, 1, 0, 0}, encode(label(1, 2, 1, group("mirror", 3, 0, disk(1), disk(2))))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := nvlist.Parse(b)
		if err != nil {
			return
		}
		if m, _, ok := member(v); ok && !namePattern.MatchString(m.Name) {
			t.Errorf("the name %q is taken", m.Name)
		}
	})
}

// mirrored is the tree of a mirror of the devices 1 and 2.
func mirrored(of1, of2 []string) nvlist.Values {
	return group("mirror", 50, 0, disk(1, of1...), disk(2, of2...))
}

func TestWaiting(t *testing.T) {
	gone := []string{"not_present"}
	both := mirrored(nil, nil)
	z2 := group("raidz", 60, 2, disk(1), disk(2), disk(3), disk(4))
	left, right := group("mirror", 51, 0, disk(1), disk(2)), group("mirror", 52, 0, disk(3), disk(4))
	replaced := group("mirror", 50, 0, disk(1), group("replacing", 55, 0, disk(2), disk(3)))
	for name, c := range map[string]struct {
		ms      []Member
		missing int
		enough  bool
	}{
		"nothing":                   {nil, 1, false},
		"single":                    {[]Member{of(1, 5, 1, disk(1))}, 0, true},
		"half of a stripe":          {[]Member{of(1, 5, 2, disk(1))}, 1, false},
		"mirror":                    {[]Member{of(1, 5, 1, both), of(2, 5, 1, both)}, 0, true},
		"mirror, one missing":       {[]Member{of(2, 5, 1, both)}, 1, true},
		"mirror, one known gone":    {[]Member{of(2, 9, 1, mirrored(gone, nil))}, 0, true},
		"mirror, the gone is back":  {[]Member{of(1, 5, 1, both), of(2, 9, 1, mirrored(gone, nil))}, 0, true},
		"a disk being replaced":     {[]Member{of(3, 9, 1, replaced)}, 2, true},
		"raidz2, two missing":       {[]Member{of(1, 5, 1, z2), of(4, 5, 1, z2)}, 2, true},
		"raidz2, three missing":     {[]Member{of(4, 5, 1, z2)}, 3, false},
		"raid10, one of each":       {[]Member{of(1, 5, 2, left), of(4, 5, 2, right)}, 2, true},
		"raid10, a pair is missing": {[]Member{of(1, 5, 2, left), of(2, 5, 2, left)}, 1, false},
		"switched off by a person":  {[]Member{of(2, 9, 1, mirrored([]string{"offline"}, nil))}, 0, true},
		"labels of different ages":  {[]Member{of(1, 9, 1, mirrored(nil, gone)), of(2, 5, 1, both)}, 0, true},
	} {
		if n, ok := Missing(c.ms), Enough(c.ms); n != c.missing || ok != c.enough {
			t.Errorf("%s: %d missing, enough %v", name, n, ok)
		}
	}
	// what was removed leaves a hole in the count
	v := label(1, 5, 2, disk(1))
	v["hole_array"] = uint64(1)
	if m, _, _ := member(v); Missing([]Member{m}) != 0 {
		t.Error("a hole is waited for")
	}
	// a disk that was removed may be meant by the count
	v = label(1, 5, 2, disk(1))
	v["features_for_read"] = nvlist.Values{"com.delphix:device_removal": uint64(1)}
	if m, _, _ := member(v); Missing([]Member{m}) != 1 || !Enough([]Member{m}) {
		t.Error("the pool is not opened without a disk that was removed from it")
	}
}

// Of disks that were used without each other the newer one counts.
func TestAgreeing(t *testing.T) {
	gone := []string{"not_present"}
	a, b := of(1, 8, 1, mirrored(nil, gone)), of(2, 9, 1, mirrored(gone, nil))
	ms, out := Agreeing([]Member{a, b})
	if len(ms) != 1 || ms[0].GUID != 2 || len(out) != 1 || !strings.Contains(out[0].Apart(), "/dev/vda5 was used without") || !strings.Contains(out[0].Apart(), "zpool replace rpool 1 /dev/vda5") {
		t.Errorf("%v %v", ms, out)
	}
	for _, ok := range [][]Member{{of(1, 5, 1, mirrored(nil, nil)), b}, {a}, {of(1, 5, 1, mirrored(nil, nil)), of(2, 5, 1, mirrored(nil, nil))}} {
		if ms, out := Agreeing(ok); len(ms) != len(ok) || out != nil {
			t.Errorf("%v: %v", ok, out)
		}
	}
}

// Sides that are equally new do not exclude each other: one stays, whole.
func TestAgreeingEquals(t *testing.T) {
	gone := []string{"not_present"}
	a := group("mirror", 50, 0, disk(1), disk(2), disk(3, gone...), disk(4, gone...))
	b := group("mirror", 50, 0, disk(1, gone...), disk(2, gone...), disk(3), disk(4))
	for name, c := range map[string]struct {
		ms   []Member
		want string
	}{
		"two":           {[]Member{of(1, 9, 1, mirrored(nil, gone)), of(2, 9, 1, mirrored(gone, nil))}, "[2]"},
		"other order":   {[]Member{of(2, 9, 1, mirrored(gone, nil)), of(1, 9, 1, mirrored(nil, gone))}, "[2]"},
		"pairs":         {[]Member{of(1, 9, 1, a), of(2, 9, 1, a), of(3, 9, 1, b), of(4, 9, 1, b)}, "[3 4]"},
		"pairs, newer":  {[]Member{of(1, 10, 1, a), of(2, 10, 1, a), of(3, 9, 1, b), of(4, 9, 1, b)}, "[1 2]"},
		"several vdevs": {[]Member{of(1, 9, 2, mirrored(nil, gone)), of(2, 9, 2, mirrored(gone, nil))}, "[]"},
	} {
		got, out := Agreeing(c.ms)
		guids := []uint64{}
		for _, m := range got {
			guids = append(guids, m.GUID)
		}
		if fmt.Sprint(guids) != c.want || len(got)+len(out) != len(c.ms) {
			t.Errorf("%s: %v, want %s (%v)", name, guids, c.want, out)
		}
	}
}

// The kernel must not find a device that stays out where it remembers it. It is
// there again afterwards, whether the pool was opened or not.
func TestImportApart(t *testing.T) {
	dir := t.TempDir()
	in, out := Member{Path: filepath.Join(dir, "vda5"), Name: "rpool", GUID: 1}, Member{Path: filepath.Join(dir, "vdb5"), Name: "rpool", GUID: 2}
	for _, m := range []Member{in, out} {
		if err := os.WriteFile(m.Path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, fails := range []error{nil, errors.New("no such device")} {
		seen := 0
		r := &run.Script{Answer: func(run.Cmd) ([]byte, error) {
			if _, err := os.Stat(in.Path); err == nil {
				seen++
			}
			if _, err := os.Stat(out.Path); err == nil {
				seen += 10
			}
			return nil, fails
		}}
		if err := Import(t.Context(), r, "77", []Member{in}, []Member{out}); (err == nil) != (fails == nil) || seen != 1 {
			t.Errorf("%v, saw %d", err, seen)
		}
		if _, err := os.Stat(out.Path); err != nil {
			t.Error(err)
		}
	}
	gone := Member{Path: filepath.Join(dir, "vdc5")}
	r := &run.Script{}
	if err := Import(t.Context(), r, "77", []Member{in}, []Member{out, gone}); err == nil || len(r.Calls()) != 0 {
		t.Errorf("%v, ran %q", err, r.Calls())
	}
	if _, err := os.Stat(out.Path); err != nil {
		t.Error(err)
	}
	if err := KeepOut(t.Context(), r, []Member{out}); err != nil || strings.Join(r.Calls(), "\n") != "zpool offline rpool 2" {
		t.Errorf("%v, ran %q", err, r.Calls())
	}
}

func TestCommands(t *testing.T) {
	r := &run.Script{}
	ms := []Member{{Path: "/dev/vda5", GUID: 1}, {Path: "/dev/vdb5", GUID: 2}}
	err := errors.Join(Load(t.Context(), r), Load(t.Context(), r, NoVolumes), Import(t.Context(), r, "77", ms, nil), Look(t.Context(), r, "77", ms[:1], nil, "/mnt"),
		Return(t.Context(), r, "rpool", ms[1:]), Export(t.Context(), r, "rpool"))
	want := `modprobe zfs
modprobe zfs zvol_inhibit_dev=1
zpool import -N -o cachefile=none -d /dev/vda5 -d /dev/vdb5 77
zpool import -N -o cachefile=none -f -o readonly=on -R /mnt -d /dev/vda5 77
zpool online rpool 2
zpool export rpool`
	if got := strings.Join(r.Calls(), "\n"); err != nil || got != want {
		t.Errorf("%v, ran\n%s", err, got)
	}
	r.Answer = func(run.Cmd) ([]byte, error) { return nil, errors.New("no such device") }
	for what, err := range map[string]error{"open pool 77": Import(t.Context(), r, "77", ms, nil), "take /dev/vda5 back": Return(t.Context(), r, "rpool", ms), `close pool "rpool"`: Export(t.Context(), r, "rpool")} {
		if err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "no such device") {
			t.Error(err)
		}
	}
}

// What the module heeds is above the cache's lower end.
func TestLimit(t *testing.T) {
	root := t.TempDir()
	if err := Limit(root, 1<<30); err == nil {
		t.Error("bounded without a module")
	}
	dir, stats := filepath.Join(root, "sys/module/zfs/parameters"), filepath.Join(root, "proc/spl/kstat/zfs")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(stats, 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bytes, low, after int64
		min, max, err     string
	}{
		"usual":            {1 << 30, 64 << 20, 1 << 30, "", "1073741824", ""},
		"much memory":      {1 << 30, 4 << 30, 1 << 30, "536870912", "1073741824", ""},
		"little":           {64 << 20, 64 << 20, 64 << 20, "33554432", "67108864", ""},
		"it is not heeded": {1 << 30, 64 << 20, 2 << 30, "", "1073741824", "it stays at 2147483648"},
	} {
		text := fmt.Sprintf("9 1 0x01 147 39984 1 2\nname type data\nc 4 1\nc_min 4 %d\nc_max 4 %d\n", c.low, c.after)
		err := errors.Join(os.WriteFile(filepath.Join(stats, "arcstats"), []byte(text), 0o644),
			os.WriteFile(filepath.Join(dir, "zfs_arc_min"), nil, 0o644), os.WriteFile(filepath.Join(dir, "zfs_arc_max"), nil, 0o644))
		if err != nil {
			t.Fatal(err)
		}
		if err := Limit(root, c.bytes); (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", name, err)
		}
		low, _ := os.ReadFile(filepath.Join(dir, "zfs_arc_min"))
		high, _ := os.ReadFile(filepath.Join(dir, "zfs_arc_max"))
		if string(low) != c.min || string(high) != c.max {
			t.Errorf("%s: from %q to %q", name, low, high)
		}
	}
}

func TestProblem(t *testing.T) {
	proc := t.TempDir()
	if got := Problem(proc, "rpool"); got != `pool "rpool" is not open` {
		t.Error(got)
	}
	dir := filepath.Join(proc, "spl/kstat/zfs/rpool")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for state, want := range map[string]string{"ONLINE": "", "DEGRADED": "lacks a disk", "SUSPENDED": "zpool clear rpool", "FAULTED": "is FAULTED"} {
		if err := os.WriteFile(filepath.Join(dir, "state"), []byte(state+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := Problem(proc, "rpool"); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %s", state, got)
		}
	}
}

// Two devices that claim to be the same one are a pair, others are not.
func TestCopies(t *testing.T) {
	if got := Copies([]Member{{Path: "a", GUID: 1}, {Path: "b", GUID: 2}, {Path: "c", GUID: 1}}); len(got) != 1 || got[0] != [2]string{"a", "c"} {
		t.Error(got)
	}
}
