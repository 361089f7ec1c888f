package disks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/internal/run"
)

// zpool answers like zpool(8) about a mirror of sda5 and a second device.
type zpool struct {
	second string // its state
	where  string
	states []string // what the replacing goes through
}

const zpoolText = `{"output_version":{"command":"zpool status","vers_major":0,"vers_minor":1},"pools":{"rpool":{"name":"rpool","state":"ONLINE","pool_guid":77,
"scan_stats":{"function":"RESILVER","state":"SCANNING","to_examine":200,"examined":100,"issued":50},
"vdevs":{"rpool":{"name":"rpool","vdev_type":"root","guid":1,"state":"ONLINE","vdevs":{"mirror-0":{"name":"mirror-0","vdev_type":"mirror","guid":18446744073709551615,"state":"ONLINE","vdevs":{
"/dev/sda5":{"name":"/dev/sda5","vdev_type":"disk","guid":11,"path":"/dev/sda5","state":"ONLINE"},%s}}}}},"error_count":0}}}`

func device(path, state string, guid uint64) string {
	name := path
	if state == "CANT_OPEN" { // goes by its GUID, and by where it was
		name = fmt.Sprint(guid)
	}
	return fmt.Sprintf(`"%s":{"name":"%s","vdev_type":"disk","guid":%d,"path":"%s","state":"%s"}`, name, name, guid, path, state)
}

func (z *zpool) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	if c.Args[0] == "replace" {
		z.states = []string{"replacing", "ONLINE"}
		return nil, nil
	}
	if len(z.states) == 0 {
		return fmt.Appendf(nil, zpoolText, device(z.where, z.second, 18446744073709551614)), nil
	}
	now := z.states[0]
	if len(z.states) > 1 {
		z.states = z.states[1:]
	}
	if now != "replacing" {
		return fmt.Appendf(nil, zpoolText, device("/dev/sdc5", now, 13)), nil
	}
	return fmt.Appendf(nil, zpoolText, `"replacing-1":{"name":"replacing-1","vdev_type":"replacing","guid":12,"vdevs":{`+
		device(z.where, z.second, 18446744073709551614)+","+device("/dev/sdc5", "ONLINE", 13)+"}}"), nil
}

func TestPoolReplace(t *testing.T) {
	for name, c := range map[string]struct {
		z    zpool
		old  string
		want string
		err  string
	}{
		"gone": {zpool{second: "CANT_OPEN", where: "/dev/sda5"}, "", "replace rpool 18446744073709551614 /dev/sdc5", ""},
		// the new disk has its name now
		"gone, by the new name": {zpool{second: "CANT_OPEN", where: "/dev/sdc5"}, "", "replace rpool 18446744073709551614 /dev/sdc5", ""},
		// another disk has its name now
		"gone, by the name":  {zpool{second: "CANT_OPEN", where: "/dev/sdb5"}, "/dev/sdb5", "", "has no device /dev/sdb5"},
		"there":              {zpool{second: "ONLINE", where: "/dev/sdb5"}, "/dev/sdb5", "replace rpool 18446744073709551614 /dev/sdc5", ""},
		"nothing is gone":    {zpool{second: "ONLINE", where: "/dev/sdb5"}, "", "", "that is missing"},
		"begun before":       {zpool{second: "ONLINE", where: "/dev/sdb5", states: []string{"replacing", "replacing", "ONLINE"}}, "/dev/sdb5", "", ""},
		"done before":        {zpool{states: []string{"ONLINE"}}, "/dev/sdb5", "", ""},
		"another's place":    {zpool{second: "ONLINE", where: "/dev/sdb5", states: []string{"replacing"}}, "/dev/sda5", "", "takes the place of /dev/sdb5"},
		"not the gone one's": {zpool{second: "ONLINE", where: "/dev/sdb5", states: []string{"replacing"}}, "", "", "takes the place of /dev/sdb5"},
		"beside it":          {zpool{states: []string{"ONLINE"}}, "/dev/sda5", "", "has not taken the place of /dev/sda5"},
		"it breaks":          {zpool{second: "ONLINE", where: "/dev/sdb5", states: []string{"replacing", "FAULTED"}}, "/dev/sdb5", "", "is FAULTED"},
	} {
		t.Run(name, func(t *testing.T) {
			script := &run.Script{Answer: func(cmd run.Cmd) ([]byte, error) { return c.z.Run(t.Context(), cmd) }}
			p := Pool{Name: "rpool", Run: script}
			told := int64(0)
			err := p.Replace(t.Context(), c.old, "/dev/sdc5", func(n, of int64) { told = n * 1000 / of })
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v, want %q", err, c.err)
			}
			var ran []string
			for _, l := range script.Calls() {
				if !strings.Contains(l, "status") {
					ran = append(ran, strings.TrimPrefix(l, "zpool "))
				}
			}
			if got := strings.Join(ran, ", "); got != c.want {
				t.Errorf("ran %q, want %q", got, c.want)
			}
			if c.want != "" && told != 500 {
				t.Errorf("progress %d", told)
			}
		})
	}
}

func TestPoolMembers(t *testing.T) {
	z := &zpool{second: "CANT_OPEN", where: "/dev/sda5"}
	p := Pool{Name: "rpool", Run: z, Proc: t.TempDir()}
	ms, err := p.Members(t.Context())
	want := []Member{{Device: "/dev/sda5", Whole: true, State: "online"}, {State: "unavail"}}
	if err != nil || len(ms) != 2 || ms[0] != want[0] || ms[1] != want[1] {
		t.Errorf("%+v %v", ms, err)
	}
	z.second, z.where, z.states = "ONLINE", "/dev/sdb5", []string{"replacing"}
	ms, err = p.Members(t.Context())
	if err != nil || len(ms) != 3 || ms[0].Replaces || !ms[1].Replaces || ms[1].Partner != "/dev/sdc5" || !ms[2].Replaces || ms[2].Partner != "/dev/sdb5" {
		t.Errorf("%+v %v", ms, err)
	}
	z.states = nil
	state := filepath.Join(p.Proc, "spl/kstat/zfs/rpool/state")
	if err := os.MkdirAll(filepath.Dir(state), 0o755); err != nil {
		t.Fatal(err)
	}
	for text, alerts := range map[string]bool{"ONLINE": false, "DEGRADED": true} {
		if err := os.WriteFile(state, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if a, err := p.Degraded(t.Context()); err != nil || (a != nil) != alerts {
			t.Errorf("%s: %+v %v", text, a, err)
		}
	}
	if _, err := (Pool{Name: "other", Run: z}).Members(t.Context()); err == nil {
		t.Error("a pool that is not open has members")
	}
}
