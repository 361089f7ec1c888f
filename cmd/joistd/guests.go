package main

import (
	"context"
	"encoding/pem"
	"errors"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"joist/hypervisor/control"
	"joist/hypervisor/guest"
	"joist/hypervisor/guest/inside"
	"joist/hypervisor/guest/kvm"
	"joist/hypervisor/guest/lxc"
	"joist/hypervisor/guest/shell"
	"joist/hypervisor/network"
	clusterapi "joist/hypervisor/server/cluster"
	"joist/hypervisor/server/guestapi"
	"joist/hypervisor/server/storageapi"
	"joist/hypervisor/storage"
	"joist/hypervisor/storage/dir"
	"joist/hypervisor/storage/image"
	"joist/hypervisor/storage/lvmthin"
	"joist/hypervisor/storage/zfs"
	"joist/hypervisor/task"
	"joist/internal/run"
)

// wireGuests adds guests and storage: their routes, what lists show of them
// and how their interrupted tasks are undone. Guests that run are taken over
// here; those that start with the node start when tasks can.
func (d *daemon) wireGuests(ctx context.Context, p *parts) error {
	set, err := d.storages(ctx)
	if err != nil {
		return err
	}
	drivers, provision := d.drivers()
	images := &image.Importer{Run: run.OS{}}
	guests := control.New(control.Options{
		Node: d.cfg.Name, Store: d.store, Storages: set, Tasks: d.tasks, Drivers: drivers, Provision: provision,
		Import: images, ImageSize: image.Size, RunDir: d.runDir(), Log: d.log, Quorum: d.nodes.AwaitQuorum,
	})
	if err := guests.Open(ctx); err != nil {
		return err
	}
	shells := shell.Defaults(d.log)
	shells.Sweep()
	api := &guestapi.API{Node: d.cfg.Name, Guests: guests, Tasks: d.tasks, Tickets: d.access, CPUs: runtime.NumCPU(), Exec: execIn,
		Interfaces: interfacesIn, Shell: shells.Open,
		Cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.cert.Certificate[0]}))}
	storages := &storageapi.API{Node: d.cfg.Name, Storages: set, Tasks: d.tasks, InUse: guests.InUse}
	p.routes = append(append(p.routes, api.Routes()...), storages.Routes()...)
	maps.Copy(p.replayers, guests.Replayers())
	usage := &usage{node: d.cfg.Name, set: set}
	rows := usage.read(ctx, false)
	usage.rows.Store(&rows)
	go usage.follow(ctx)
	p.guests, p.storages = guestapi.Lister{API: api}, usage
	p.inventory = inventory{d.cfg.Name, set, guests}
	go func() {
		d.awaitBoot(ctx)
		if err := guests.Boot(ctx); err != nil && !errors.Is(err, context.Canceled) {
			d.log.Error("start guests of this node", "err", err)
		}
	}()
	return nil
}

// runDir is where what must not outlive a boot lies: beside the socket.
func (d *daemon) runDir() string { return filepath.Dir(d.p.socket) }

// drivers chooses what runs guests on this node.
func (d *daemon) drivers() ([]guest.Driver, control.Provisioner) {
	machines := kvm.Defaults(d.log, network.Taps{})
	machines.Runs.Dir = filepath.Join(d.runDir(), "guests")
	containers := lxc.Defaults(d.log)
	containers.Runs, containers.AptMirror = machines.Runs, d.cfg.AptMirror
	c := lxc.New(containers)
	return []guest.Driver{kvm.New(machines), c}, provisioner{c, inside.NewGrower(run.OS{})}
}

// provisioner makes containers' volumes with the driver that will run them.
type provisioner struct {
	d *lxc.Driver
	inside.Grower
}

// Provision implements control.Provisioner.
func (p provisioner) Provision(ctx context.Context, s control.ProvisionSpec, log task.Log) error {
	if s.Template != "" {
		return p.d.Provision(ctx, lxc.ProvisionSpec(s), log)
	}
	base := 0
	if s.Unprivileged {
		base = lxc.BaseID(s.VMID)
	}
	return p.d.MakeFS(ctx, s.Device, base)
}

// execIn runs a program in a container.
func execIn(ctx context.Context, g guest.Guest, argv []string) (guestapi.ExecResult, error) {
	c, ok := g.(*lxc.Container)
	if !ok {
		return guestapi.ExecResult{}, errors.New("this guest runs no programs for the node")
	}
	r, err := c.Exec(ctx, lxc.Command{Argv: argv})
	return guestapi.ExecResult{Exit: r.Exit, Out: r.Stdout, Err: r.Stderr}, err
}

// interfacesIn lists the network interfaces of a container.
func interfacesIn(_ context.Context, g guest.Guest) ([]guestapi.Interface, error) {
	c, ok := g.(*lxc.Container)
	if !ok {
		return nil, errors.New("this guest does not share the node's kernel")
	}
	list, err := inside.Interfaces(c.Record().Process)
	if err != nil {
		return nil, err
	}
	out := make([]guestapi.Interface, 0, len(list))
	for _, i := range list {
		out = append(out, guestapi.Interface(i))
	}
	return out, nil
}

// storages opens what the cluster has defined; a new cluster gets the
// defaults of this node.
func (d *daemon) storages(ctx context.Context) (*storage.Set, error) {
	configs, rev, err := storage.Load(ctx, d.store, storage.Defaults(d.cfg.Storage))
	if err != nil {
		return nil, err
	}
	set := d.openStorages(configs)
	go storage.Follow(ctx, d.store, rev, d.log, func(c []storage.Config) { set.Update(storage.Local(c, d.cfg.Storage)) })
	if err := set.Clean(); err != nil { // a storage that is missing must not keep the API away
		d.log.Warn("remove interrupted uploads", "err", err)
	}
	return set, nil
}

// openStorages makes pools of the definitions, as they are on this node.
func (d *daemon) openStorages(configs []storage.Config) *storage.Set {
	locks := filepath.Join(d.runDir(), "lock")
	return storage.NewSet(storage.Local(configs, d.cfg.Storage), map[string]storage.Factory{
		"dir":     func(c storage.Config) (storage.Pool, error) { return dir.Open(c, run.OS{}) },
		"lvmthin": func(c storage.Config) (storage.Pool, error) { return lvmthin.Open(c, run.OS{}, locks) },
		"zfspool": func(c storage.Config) (storage.Pool, error) { return zfs.Open(c, run.OS{}, locks) },
	})
}

// inventory is what a join must know of this node: implements
// membership.Guests.
type inventory struct {
	node   string
	set    *storage.Set
	guests *control.Controller
}

func (i inventory) Volumes(ctx context.Context) (out []string, err error) {
	for _, c := range i.set.Configs() {
		p, err := i.set.Pool(c.ID)
		if err != nil {
			continue // what it holds cannot be renamed now; the guests on it cannot run either
		}
		list, err := p.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			out = append(out, v.ID)
		}
	}
	return out, nil
}

func (i inventory) Running() (out []int) {
	for _, v := range i.guests.All() {
		if v.Node == i.node && v.Running != nil {
			out = append(out, v.VMID)
		}
	}
	return out
}

// usage shows storages in lists. How full they are takes a program to find
// out; lists must not wait for it.
type usage struct {
	node string
	set  *storage.Set
	rows atomic.Pointer[[]clusterapi.Storage]
}

// usageEvery is how old a list may be.
const usageEvery = 10 * time.Second

func (u *usage) follow(ctx context.Context) {
	for {
		rows := u.read(ctx, true)
		u.rows.Store(&rows)
		select {
		case <-time.After(usageEvery):
		case <-ctx.Done():
			return
		}
	}
}

// read lists the storages of this node; asking them how full they are may take
// a while.
func (u *usage) read(ctx context.Context, ask bool) []clusterapi.Storage {
	rows := []clusterapi.Storage{}
	for _, c := range u.set.Configs() {
		if c.Disable || !c.Here() {
			continue // not active, and no fault of this node
		}
		content := slices.Sorted(slices.Values(c.Content))
		row := clusterapi.Storage{ID: c.ID, Node: u.node, Type: c.Type, Content: strings.Join(content, ","), Shared: c.Shared}
		if pool, err := u.set.Pool(c.ID); ask && err == nil {
			ctx, cancel := context.WithTimeout(ctx, usageEvery)
			if st, err := pool.Status(ctx); err == nil {
				row.Active, row.Used, row.Total = st.Active, st.Used, st.Total
			}
			cancel()
		}
		rows = append(rows, row)
	}
	return rows
}

// Storages implements cluster.StorageLister.
func (u *usage) Storages(context.Context) ([]clusterapi.Storage, error) {
	return *u.rows.Load(), nil
}
