package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pelletier/go-toml/v2"

	"joist/api/node"
	"joist/hypervisor/alert"
	"joist/hypervisor/disks"
	"joist/hypervisor/server/diskapi"
	"joist/image/disk"
	"joist/installer/plan"
	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/internal/finding"
	"joist/internal/run"
	"joist/system/bootdisk"
)

// wireDisks adds what looks after the disks of the system.
func (d *daemon) wireDisks(_ context.Context, p *parts) error {
	eyes := eyes{probe.Real()}
	eyes.Root = d.p.sys
	d.alerts = &alert.Board{File: filepath.Join(d.runDir(), filepath.Base(node.AlertFile)), Now: time.Now}
	sys := filepath.Join(d.p.sys, "sys")
	s := &disks.Service{System: booted(filepath.Join(d.p.sys, "proc")), Machine: eyes, Board: d.alerts, Tasks: d.tasks, Log: d.log,
		Blank:  func(name string) (bootdisk.Disk, error) { return bootdisk.Blank(sys, name) },
		Tables: func() ([]disk.Layout, error) { return bootdisk.Tables(sys) }, Partitions: bootdisk.Reread}
	switch c := d.cfg.Storage; {
	case c.ArrayUUID != "":
		s.Data = disks.Mirror{Sys: sys, Run: run.OS{}}
	case c.PoolGUID != "":
		s.Data = disks.Pool{Name: c.PoolName, Proc: filepath.Join(d.p.sys, "proc"), Run: run.OS{}, Size: func() (int64, error) { return leastData(s.System) }}
	default:
		s.Why = "back up the guests and install on the new disk; or switch the node off and copy the whole disk onto one of the same size or larger " +
			"from the medium's rescue entry (dd), and take the old one out before the next start"
	}
	api := &diskapi.API{Disks: s, Board: d.alerts, Tasks: d.tasks, Check: func(ctx context.Context) (any, error) { return d.check(ctx, eyes, s) }}
	p.routes = append(p.routes, api.Routes()...)
	p.replayers[disks.Kind] = s.Replayer
	p.begin = append(p.begin, d.watchFirstBoot, func(ctx context.Context) {
		d.awaitBoot(ctx)
		s.Resume(ctx)
		s.Watch(ctx)
	})
	return nil
}

// leastData is the size of the smallest data partition of the system's disks:
// a pool takes what is no smaller.
func leastData(system *bootdisk.System) (int64, error) {
	ds, err := system.Disks()
	if err != nil {
		return 0, err
	}
	var least int64
	for _, d := range ds {
		p, err := d.Table.Find(disk.NameData)
		if err == nil && (least == 0 || p.Size < least) {
			least = p.Size
		}
	}
	return least, nil
}

// eyes see the machine as the installer does.
type eyes struct{ probe.Machine }

// Drives implements disks.Machine.
func (e eyes) Drives(context.Context) ([]disks.Drive, error) {
	f := e.Facts()
	var out []disks.Drive
	for _, d := range f.Disks {
		x := disks.Drive{Name: d.Name, Model: d.Model, Serial: d.Serial, WWN: d.WWN, Bus: d.Bus, Size: d.Size, Sector: d.Sector,
			Rotational: d.Rotational, DataID: d.DataID}
		if d.DataID != "" {
			x.Holds = plan.Holds(d)
		}
		if d.Health != nil {
			x.Failing, x.Wear = &d.Health.Failing, d.Health.Wear
		}
		out = append(out, x)
	}
	return out, nil
}

// Fit implements disks.Machine. A larger disk is no less fit than an equal one;
// whether a smaller one is large enough, the data say.
func (e eyes) Fit(_ context.Context, name, beside string) (finding.List, error) {
	f := e.Facts()
	fresh, ok := f.Find(name)
	other, ok2 := f.Find(beside)
	if !ok || !ok2 {
		return nil, fmt.Errorf("look at disks %s and %s: %w", name, beside, os.ErrNotExist)
	}
	fs := preflight.Target(f, fresh)
	fresh.Size = other.Size
	return append(fs, preflight.Members(f, []probe.Disk{other, fresh})...), nil
}

// check looks at the machine and the disks of the system. What was waived when
// it was installed is waived here.
func (d *daemon) check(ctx context.Context, e eyes, s *disks.Service) (any, error) {
	d.awaitBoot(ctx)
	rows, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	f := e.Facts()
	askClock(ctx, run.OS{}, &f)
	var own []probe.Disk
	for _, r := range rows {
		if x, ok := f.Find(r.Name); ok && r.GUID != "" {
			own = append(own, x)
		}
	}
	var system []bootdisk.Disk
	if s.System != nil {
		if system, err = s.System.Disks(); err != nil {
			return nil, err
		}
	}
	return preflight.MakeNodeReport(f, own, used(own, system), d.waived()), nil
}

// used are the system's disks, each as large as what the data use of it: a disk
// that took the place of a smaller one is no less fit than that.
func used(own []probe.Disk, system []bootdisk.Disk) []probe.Disk {
	out, tables := slices.Clone(own), make([]disk.Layout, len(own))
	for i, x := range own {
		if j := slices.IndexFunc(system, func(d bootdisk.Disk) bool { return d.Named(x.Name) }); j >= 0 {
			tables[i] = system[j].Table
		}
	}
	for i, n := range disk.Shares(tables) {
		if n > 0 {
			out[i].Size = n
		}
	}
	return out
}

// waived are the codes that the answer of the installation waived.
func (d *daemon) waived() []string {
	var report struct {
		Answer string `json:"answer"`
	}
	b, err := os.ReadFile(filepath.Join(d.p.root, node.ReportFile))
	if err != nil || json.Unmarshal(b, &report) != nil {
		return nil
	}
	var answer struct {
		Joist struct {
			Waive struct {
				Codes []string `toml:"codes"`
			} `toml:"waive"`
		} `toml:"joist"`
	}
	if toml.Unmarshal([]byte(report.Answer), &answer) != nil {
		return nil
	}
	return answer.Joist.Waive.Codes
}
