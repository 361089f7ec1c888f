package disks

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"joist/api/node"
	"joist/hypervisor/alert"
	"joist/hypervisor/task"
	"joist/image/disk"
	"joist/internal/finding"
	"joist/system/bootdisk"
	"joist/system/bootdisk/bootdisktest"
)

const (
	first  = "AAAAAAAA-1111-4111-8111-111111111111"
	second = "AAAAAAAA-1111-4111-8222-222222222222"
)

// rig is a node on image files with a mirror that is made up.
type rig struct {
	*Service
	t       *testing.T
	disks   []bootdisk.Disk // of the machine
	drives  []Drive
	fit     finding.List
	members map[string]string // device → state
	need    int64
	partner map[string]string // of those that change places
	failing string            // device whose copy fails
	keeps   bool              // a copy leaves old where it is
	during  func()            // happens while data are copied
	tasks   *task.Manager
	dir     string
}

func newRig(t *testing.T, ds ...bootdisk.Disk) *rig {
	t.Helper()
	r := &rig{t: t, members: map[string]string{}, need: disk.GiB, dir: t.TempDir()}
	for _, d := range ds {
		r.plug(d)
		if len(d.Table.Partitions) > 0 {
			r.members[d.Name+"-data"] = "in_sync"
		}
	}
	system := bootdisktest.System(t, first, &r.disks)
	r.Service = &Service{System: &system, Machine: r, Data: r, Log: slog.New(slog.DiscardHandler),
		Board:      &alert.Board{File: filepath.Join(r.dir, "alerts.json"), Now: time.Now},
		Partitions: func(context.Context, bootdisk.Disk) error { return nil },
		Tables: func() ([]disk.Layout, error) {
			ds, err := system.Disks()
			var out []disk.Layout
			for _, d := range ds {
				out = append(out, d.Table)
			}
			return out, err
		},
		Blank: func(name string) (bootdisk.Disk, error) {
			for _, d := range r.disks {
				if d.Name == name {
					return d, nil
				}
			}
			return bootdisk.Disk{}, errors.New("gone")
		}}
	r.manager()
	return r
}

// plug adds a disk. Its data partition is a file of its own.
func (r *rig) plug(d bootdisk.Disk) {
	r.t.Helper()
	d.Parts = map[string]string{disk.NameData: d.Path + "-data"}
	if err := os.WriteFile(d.Path+"-data", []byte("superblock"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.disks = append(r.disks, d)
	r.drives = append(r.drives, Drive{Name: d.Name, Serial: "S" + d.Name, Size: d.Bytes, Sector: 512})
}

// manager begins the daemon anew.
func (r *rig) manager() {
	r.t.Helper()
	var err error
	if r.tasks, err = task.New(task.Options{Node: "n1", Dir: filepath.Join(r.dir, "tasks"), Now: time.Now, Log: r.Log}); err != nil {
		r.t.Fatal(err)
	}
	if err := r.tasks.Recover(r.t.Context(), map[string]task.Replayer{Kind: r.Replayer}); err != nil {
		r.t.Fatal(err)
	}
	r.Tasks = r.tasks
}

func (r *rig) Drives(context.Context) ([]Drive, error) { return r.drives, nil }

func (r *rig) Fit(context.Context, string, string) (finding.List, error) { return r.fit, nil }

func (r *rig) Members(context.Context) ([]Member, error) {
	var out []Member
	for dev, state := range r.members {
		m := Member{Device: dev, Whole: state == "in_sync", State: state}
		m.Partner, m.Replaces = r.partner[dev]
		out = append(out, m)
	}
	return out, nil
}

func (r *rig) Need(context.Context) (int64, error) { return r.need, nil }

func (r *rig) Degraded(context.Context) (*node.Alert, error) {
	whole, _ := r.Members(context.Background())
	whole = slices.DeleteFunc(whole, func(m Member) bool { return !m.Whole })
	if len(whole) < 2 {
		return &node.Alert{Code: codeDegraded, Level: alert.Error}, nil
	}
	return nil, nil
}

func (r *rig) Replace(_ context.Context, old, fresh string, advance func(n, of int64)) error {
	if r.failing != "" {
		return errors.New(r.failing)
	}
	advance(5, 10)
	r.members[filepath.Base(fresh)] = "in_sync"
	if !r.keeps {
		delete(r.members, filepath.Base(old))
	}
	if r.during != nil {
		r.during()
	}
	return nil
}
