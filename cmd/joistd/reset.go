package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"joist/hypervisor/membership"
	"joist/hypervisor/server"
	nodeapi "joist/hypervisor/server/node"
	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/finding"
	"joist/system/bootdisk"
)

// resetter prepares the next start of the node as installer of its own disks.
type resetter struct {
	others func() []string // further nodes of the cluster
	guests membership.Guests
	// plan is what the installer would find against the answer.
	plan  func(ctx context.Context, a answer.Answer, keep bool) (finding.List, error)
	start func(ctx context.Context, answer []byte, keep bool) error
}

// resetter is that of this node.
func (d *daemon) resetter(guests membership.Guests) resetter {
	return resetter{guests: guests,
		others: func() (out []string) {
			if !d.nodes.Clustered() {
				return nil
			}
			for _, n := range d.nodes.Book().Nodes() {
				if n.Name != d.cfg.Name {
					out = append(out, n.Name)
				}
			}
			return out
		},
		plan: func(ctx context.Context, a answer.Answer, keep bool) (finding.List, error) {
			system := booted(filepath.Join(d.p.sys, "proc"))
			if system == nil {
				return nil, nil // start says so
			}
			d.awaitBoot(ctx) // the plan looks at the whole machine
			m := probe.Real()
			m.Root = d.p.sys
			return planReset(ctx, *system, m.Facts, a, keep)
		},
		start: func(ctx context.Context, answer []byte, keep bool) error {
			system := booted(filepath.Join(d.p.sys, "proc"))
			if system == nil {
				return errors.New("this daemon does not run on an installed node")
			}
			return system.StartInstaller(ctx, answer, keep)
		}}
}

func (r resetter) reset(ctx context.Context, x nodeapi.Reset) error {
	if others := r.others(); len(others) > 0 {
		return server.Errorf("the node is a member of a cluster with %s: leave first (joist node leave)", strings.Join(others, ", "))
	}
	if running := r.guests.Running(); len(running) > 0 && !x.Force {
		return server.Errorf("guests are running: %s; shut them down, or let the reset do it (--force)", strings.Trim(fmt.Sprint(running), "[]"))
	}
	if x.Answer != "" {
		a, fs := answer.Load(strings.NewReader(x.Answer), "answer")
		if fs.Stops() {
			return server.ParamErrorf("answer", "%v", fs.Err())
		}
		a.Disk.Adopt = false // what is kept is decided by the request
		fs, err := r.plan(ctx, a, x.KeepData)
		if err != nil {
			return server.Errorf("prepare the reset: %v", err)
		}
		if fs.Stops() {
			return server.ParamErrorf("answer", "%v", fs.Err())
		}
	}
	err := r.start(ctx, []byte(x.Answer), x.KeepData)
	switch {
	case errors.Is(err, bootdisk.ErrAnswerTooLarge):
		return server.ParamErrorf("answer", "%v", err)
	case errors.Is(err, boot.ErrNotInPlace):
		return server.Errorf("%v; install from the ISO, with [joist.disk] adopt = true to keep the data", err)
	case err != nil:
		return server.Errorf("prepare the reset: %v", err)
	}
	return nil
}

// planReset has the installer's plan made as it will be at the next start, when
// nobody is there to change the answer.
func planReset(ctx context.Context, system bootdisk.System, look func() probe.Facts, a answer.Answer, keep bool) (finding.List, error) {
	program := "/joist/" + answer.ProgramFile
	disks, files, err := system.Files(ctx, boot.PathManifest(system.Slot), boot.PathModuleKey, program)
	text, ok := files[boot.PathManifest(system.Slot)]
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, nil // start refuses such a system
	}
	img := plan.Image{Program: files[program]}
	if img.Manifest, err = boot.DecodeManifest(text); err != nil {
		return nil, err
	}
	if key, ok := files[boot.PathModuleKey]; ok {
		img.ModuleKey = fmt.Sprintf("%x", sha256.Sum256(key))
	}
	f := look()
	marks := disk.Unfinished | disk.InPlace
	if keep {
		marks |= disk.KeepsData
	}
	f.InPlace = inPlace(f, disks, system.Slot, marks)
	for _, own := range f.InPlace.All() {
		for i := range f.Disks {
			if f.Disks[i].Name == own.Disk {
				f.Disks[i].InUse = nil // by this node, which will not run then
			}
		}
	}
	id, err := plan.NewIdentity(rand.Reader)
	if err != nil {
		return nil, err
	}
	_, fs := plan.Make(f, a, img, id)
	return fs, nil
}

// inPlace is what the installer will find of the node's disks.
func inPlace(f probe.Facts, disks []bootdisk.Disk, slot boot.Slot, marks uint64) *probe.InPlace {
	out := probe.InPlace{Slot: string(slot)}
	for i, d := range disks {
		own := probe.OwnDisk{Disk: d.Name, Table: d.Table.Marked(marks)}
		if x, ok := f.Find(d.Name); ok { // by the name that it has there, of several
			own.Disk = x.Name
		}
		if i == 0 {
			out.Disk, out.Table = own.Disk, own.Table
			continue
		}
		out.Further = append(out.Further, own)
	}
	return &out
}
