package pid1

import (
	"context"
	"strings"
	"testing"
	"time"

	"joist/internal/run"
	"joist/system/cmdline"
	"joist/system/pool"
)

// raidz1 is a member of a pool of three.
func raidz1(guid uint64) pool.Member {
	top := pool.Node{Type: "raidz", GUID: 9, Parity: 1, Children: []pool.Node{{GUID: 1}, {GUID: 2}, {GUID: 3}}}
	return pool.Member{GUID: guid, Path: "/dev/vd" + string(rune('a'+guid-1)) + "5", Name: "rpool", Tops: 1, Top: top}
}

// Devices that took part are waited for; with too few of them for longer.
func TestPoolMembers(t *testing.T) {
	all := []pool.Member{raidz1(1), raidz1(2), raidz1(3)}
	find := func(first, then int) func() ([]pool.Member, error) {
		n := 0
		return func() ([]pool.Member, error) {
			if n++; n < 3 {
				return all[:first], nil
			}
			return all[:then], nil
		}
	}
	for name, c := range map[string]struct {
		find            func() ([]pool.Member, error)
		limit, patience time.Duration
		want            int
	}{
		"all at once":          {find(3, 3), time.Hour, time.Hour, 3},
		"one comes late":       {find(2, 3), time.Hour, time.Hour, 3},
		"one is missing":       {find(2, 2), time.Millisecond, time.Hour, 2},
		"two come, one enough": {find(1, 2), time.Millisecond, time.Hour, 2},
		"never enough":         {find(1, 1), time.Millisecond, 2 * time.Millisecond, 1},
	} {
		if ms, err := poolMembers(t.Context(), c.find, c.limit, c.patience); err != nil || len(ms) != c.want {
			t.Errorf("%s: %d %v", name, len(ms), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := poolMembers(ctx, find(0, 0), 0, 0); err == nil || !strings.Contains(err.Error(), "find the pool") {
		t.Error(err)
	}
}

func TestLate(t *testing.T) {
	o := opened{members: []pool.Member{raidz1(1)}, apart: []pool.Member{raidz1(2)}}
	if ms := o.late([]pool.Member{raidz1(1), raidz1(2), raidz1(3)}); len(ms) != 1 || ms[0].GUID != 3 {
		t.Errorf("%v", ms)
	}
}

// A node on a pool has no thin pool to activate and to watch, and closes the
// pool when all is unmounted.
func TestPhasesOfPool(t *testing.T) {
	for guid, want := range map[string][2]string{"": {phasePool, phaseTendPool}, "77": {phaseTendPool, phasePool}} {
		s := &system{opt: cmdline.Options{Mode: cmdline.Node, Pool: guid}}
		var names []string
		for _, p := range s.phases() {
			names = append(names, p.Name)
		}
		list := strings.Join(names, "\n")
		if !strings.Contains(list, want[0]) || strings.Contains(list, want[1]) || strings.Contains(list, "start dmeventd") != (guid == "") || strings.Contains(list, phaseCache) != (guid != "") {
			t.Errorf("%q: %s", guid, list)
		}
		if guid != "" {
			s.pool = opened{name: "rpool"}
		}
		ends := s.ends()
		if last := ends[len(ends)-1].Name; (last == "close pool") != (guid != "") {
			t.Errorf("%q: the last is %q", guid, last)
		}
	}
}

// Rescue opens a pool for reading only and mounts from it.
func TestRescuePool(t *testing.T) {
	r := &run.Script{}
	f := found{pool: "77", poolMembers: []pool.Member{raidz1(1), raidz1(3)}}
	vs, err := f.volumes(t.Context(), r)
	want := "modprobe zfs zvol_inhibit_dev=1\nzpool import -N -o cachefile=none -f -o readonly=on -R /mnt -d /dev/vda5 -d /dev/vdc5 77"
	if got := strings.Join(r.Calls(), "\n"); err != nil || got != want {
		t.Errorf("%v, ran\n%s", err, got)
	}
	if len(vs) != 2 || vs[0] != (rescued{"state", "rpool/state", "zfs", ""}) || vs[1] != (rescued{"local", "rpool/local", "zfs", ""}) {
		t.Errorf("%+v", vs)
	}
}

// Disks that no pool can be opened with are an error, not the end of PID 1.
func TestNothingToOpen(t *testing.T) {
	side := func(guid uint64) pool.Member {
		top := pool.Node{Type: "mirror", GUID: 9, Children: []pool.Node{{GUID: 1, Gone: guid == 2}, {GUID: 2, Gone: guid == 1}}}
		return pool.Member{GUID: guid, Path: "/dev/vd" + string(rune('a'+guid-1)) + "5", Name: "rpool", Txg: 7, Tops: 2, Top: top}
	}
	for want, ms := range map[string][]pool.Member{
		"none of its disks": nil,
		"equally new; disconnect those whose changes may be lost: /dev/vda5 was used": {side(1), side(2)},
	} {
		if _, _, err := agreeing(ms); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		r := &run.Script{}
		if _, err := (found{pool: "77", poolMembers: ms}).volumes(t.Context(), r); err == nil || len(r.Calls()) > 0 {
			t.Errorf("rescue: %v, ran %q", err, r.Calls())
		}
	}
}
