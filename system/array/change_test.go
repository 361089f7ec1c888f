package array

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/internal/run"
)

// kernel is an array below a folder for /sys, which does what mdadm asks.
type kernel struct {
	sys     string
	members map[string]string
	fails   string
}

func (k *kernel) show(t *testing.T) {
	t.Helper()
	dir := filepath.Join(k.sys, "block/md127/md")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	whole := 0
	for name, state := range k.members {
		k.attr(t, "dev-"+name+"/state", state)
		k.attr(t, "dev-"+name+"/offset", "32768")
		if strings.HasPrefix(state, "in_sync") {
			whole++
		}
	}
	k.attr(t, "raid_disks", "2")
	k.attr(t, "degraded", fmt.Sprint(max(2-whole, 0)))
	k.attr(t, "component_size", "1048576")
	k.attr(t, "sync_action", "idle")
	k.attr(t, "sync_completed", "none")
}

func (k *kernel) attr(t *testing.T, name, text string) {
	t.Helper()
	name = filepath.Join(k.sys, "block/md127/md", name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// mdadm is what the kernel makes of a command, with copies that take no time.
func (k *kernel) mdadm(t *testing.T) *run.Script {
	return &run.Script{Answer: func(c run.Cmd) ([]byte, error) {
		dev := func(i int) string { return filepath.Base(c.Args[i]) }
		if k.fails != "" && strings.Contains(c.String(), k.fails) {
			return nil, fmt.Errorf("scripted failure")
		}
		switch c.Args[1] {
		case "--add":
			k.members[dev(2)] = "spare"
			if len(k.members) == 2 { // one was missing
				k.members[dev(2)] = "in_sync"
			}
		case "--replace":
			k.members[dev(2)], k.members[dev(4)] = "faulty", "in_sync"
		case "--fail":
			k.members[dev(2)] = "faulty"
		case "--remove":
			delete(k.members, dev(2))
		}
		k.show(t)
		return nil, nil
	}}
}

func TestExchange(t *testing.T) {
	for name, c := range map[string]struct {
		members map[string]string
		old     string
		want    string // commands
	}{
		"gone":           {map[string]string{"sda5": "in_sync"}, "", "--remove detached, --zero-superblock /dev/sdc5, --add /dev/sdc5"},
		"there":          {map[string]string{"sda5": "in_sync", "sdb5": "in_sync"}, "/dev/sdb5", "--zero-superblock /dev/sdc5, --add /dev/sdc5, --replace /dev/sdb5 --with /dev/sdc5, --remove /dev/sdb5"},
		"broken":         {map[string]string{"sda5": "in_sync", "sdb5": "faulty"}, "/dev/sdb5", "--remove detached, --zero-superblock /dev/sdc5, --add /dev/sdc5, --remove /dev/sdb5"},
		"copied already": {map[string]string{"sda5": "in_sync", "sdb5": "faulty", "sdc5": "in_sync"}, "/dev/sdb5", "--remove /dev/sdb5"},
		"cut between":    {map[string]string{"sda5": "in_sync", "sdb5": "in_sync", "sdc5": "spare"}, "/dev/sdb5", "--replace /dev/sdb5 --with /dev/sdc5, --remove /dev/sdb5"},
		"all done":       {map[string]string{"sda5": "in_sync", "sdc5": "in_sync"}, "/dev/sdb5", ""},
	} {
		t.Run(name, func(t *testing.T) {
			k := &kernel{sys: t.TempDir(), members: maps.Clone(c.members)}
			k.show(t)
			script := k.mdadm(t)
			if name == "broken" { // the kernel fills the place of a broken disk by itself
				answer := script.Answer
				script.Answer = func(c run.Cmd) ([]byte, error) {
					if c.Args[1] == "--add" {
						defer func() { k.members["sdc5"] = "in_sync"; k.show(t) }()
					}
					return answer(c)
				}
			}
			if err := Exchange(t.Context(), script, k.sys, c.old, "/dev/sdc5", func(int64, int64) {}); err != nil {
				t.Fatal(err)
			}
			got := strings.NewReplacer("mdadm /dev/md127 ", "", "mdadm ", "").Replace(strings.Join(script.Calls(), ", "))
			if got != c.want {
				t.Errorf("ran %q, want %q", got, c.want)
			}
			s, err := Read(k.sys)
			if err != nil || !s.Holds("/dev/sdc5") || !s.Holds("sda5") || len(s.Members) != 2 || s.Size != 1<<30 || s.Offset != 16<<20 {
				t.Errorf("%+v %v", s, err)
			}
		})
	}
}

func TestExchangeFails(t *testing.T) {
	k := &kernel{sys: t.TempDir(), members: map[string]string{"sda5": "in_sync"}, fails: "--add"}
	k.show(t)
	if err := Exchange(t.Context(), k.mdadm(t), k.sys, "", "/dev/sdc5", func(int64, int64) {}); err == nil || !strings.Contains(err.Error(), "add /dev/sdc5") {
		t.Errorf("%v", err)
	}
	k.fails, k.members["sdc5"] = "", "faulty"
	k.show(t)
	if err := Exchange(t.Context(), k.mdadm(t), k.sys, "", "/dev/sdc5", func(int64, int64) {}); err == nil || !strings.Contains(err.Error(), "out of the mirror") {
		t.Errorf("%v", err)
	}
	// data are nowhere else than on old, or were until fresh filled another place
	for want, members := range map[string]map[string]string{
		"lacks 1 of 2 disks":          {"sda5": "in_sync"},
		"has not taken its place":     {"sda5": "in_sync", "sdc5": "in_sync"},
		"and /dev/sdc5 has not taken": {"sda5": "in_sync", "sdc5": "spare"},
	} {
		k := &kernel{sys: t.TempDir(), members: members}
		k.show(t)
		script := k.mdadm(t)
		time.AfterFunc(100*time.Millisecond, func() {
			if members["sdc5"] == "spare" { // the kernel fills the place by itself
				k.attr(t, "dev-sdc5/state", "in_sync")
			}
		})
		err := Exchange(t.Context(), script, k.sys, "/dev/sda5", "/dev/sdc5", func(int64, int64) {})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(strings.Join(script.Calls(), ""), "--fail") {
			t.Errorf("%v, ran %q", err, script.Calls())
		}
	}
	if _, err := Read(t.TempDir()); err == nil {
		t.Error("an array where there is none")
	}
}
