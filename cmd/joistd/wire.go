package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"joist/api/node"
	"joist/cluster/store"
	"joist/hypervisor/access"
	"joist/hypervisor/alert"
	"joist/hypervisor/membership"
	"joist/hypervisor/server"
	accessapi "joist/hypervisor/server/access"
	"joist/hypervisor/server/cert"
	clusterapi "joist/hypervisor/server/cluster"
	nodeapi "joist/hypervisor/server/node"
	taskapi "joist/hypervisor/server/task"
	"joist/hypervisor/server/version"
	"joist/hypervisor/task"
	"joist/system/firstboot"
)

// daemon holds the parts that all others stand on.
type daemon struct {
	p      *paths
	log    *slog.Logger
	cfg    node.Config
	cert   tls.Certificate
	build  build
	nodes  *membership.Service
	store  store.Store
	access *access.Service
	tasks  *task.Manager
	alerts *alert.Board
}

// parts is what the subsystems give to the API.
type parts struct {
	routes    []server.Route
	replayers map[string]task.Replayer
	guests    clusterapi.GuestLister
	storages  clusterapi.StorageLister
	inventory membership.Guests
	begin     []func(ctx context.Context) // once tasks can be started
}

// open starts the parts below the API. The store elects itself meanwhile.
func open(ctx context.Context, log *slog.Logger, p *paths) (*daemon, error) {
	d := &daemon{p: p, log: log}
	var err error
	if d.cfg, err = node.Load(p.root); err != nil {
		return nil, err
	}
	if d.build, err = readBuild(p.build); err != nil {
		return nil, err
	}
	if d.nodes, err = membership.Open(ctx, d.membership()); err != nil {
		return nil, err
	}
	if err := d.fill(ctx); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *daemon) fill(ctx context.Context) (err error) {
	if d.cert, err = cert.Ensure(d.p.tls, d.subject(), time.Now()); err != nil {
		return err
	}
	if d.tasks, err = task.New(task.Options{Node: d.cfg.Name, Dir: d.p.tasks, Now: time.Now, Log: d.log}); err != nil {
		return err
	}
	d.store = d.nodes.Store()
	keys, err := access.LoadKeys(ctx, d.store)
	if err != nil {
		return err
	}
	d.access = access.NewService(keys, d.p.shadow, time.Now)
	return d.access.Follow(ctx, d.store, d.log)
}

func (d *daemon) close() error {
	var err error
	if d.tasks != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if e := d.tasks.Close(ctx); e != nil {
			err = fmt.Errorf("end tasks: %w", e)
		}
	}
	return errors.Join(err, d.nodes.Close())
}

// subject names the node in its certificate.
func (d *daemon) subject() cert.Subject {
	s := cert.Subject{Name: d.cfg.Name}
	if d.cfg.Domain != "" {
		s.FQDN = d.cfg.Name + "." + d.cfg.Domain
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		d.log.Warn("list addresses for certificate", "err", err)
	}
	for _, a := range addrs {
		if p, ok := a.(*net.IPNet); ok && p.IP.IsGlobalUnicast() {
			s.Addresses = append(s.Addresses, p.IP)
		}
	}
	return s
}

// parts wires the subsystems, one function each, and lists their routes.
func (d *daemon) parts(ctx context.Context) (parts, error) {
	p := parts{replayers: map[string]task.Replayer{}}
	for _, wire := range []func(context.Context, *parts) error{d.wireGuests, d.wireDisks, d.wireNode} {
		if err := wire(ctx, &p); err != nil {
			return p, err
		}
	}
	return p, nil
}

// wireNode adds everything that is about nodes, cluster, access and tasks. It
// comes last: its lists show what the other parts have.
func (d *daemon) wireNode(ctx context.Context, p *parts) error {
	v := version.API(d.build.ID, d.build.Version)
	machine := &nodeapi.Machine{Root: d.p.sys, Disk: d.p.state, Now: time.Now}
	look := &outlook{d: d, machine: machine, guests: p.guests, storages: p.storages, fingerprint: cert.Fingerprint(d.cert)}
	p.routes = append(p.routes, version.Routes(v)...)
	p.routes = append(p.routes, accessapi.Routes(d.access)...)
	p.routes = append(p.routes, taskapi.Routes(d.cfg.Name, d.tasks)...)
	p.routes = append(p.routes, nodeapi.Routes(nodeapi.Deps{
		Node: d.cfg.Name, Config: d.cfg, Version: v, Machine: machine, NetState: d.p.netState, Crashes: d.p.crashes, Support: d.support(),
		Init: d.askInit, Alerts: d.alerts.List, Settle: d.settle,
		Reset: d.resetter(p.inventory).reset,
		First: func() (node.FirstBoot, error) { return firstboot.Load(d.p.root) },
	})...)
	p.routes = append(p.routes, clusterapi.Routes(clusterapi.Deps{
		Node: d.cfg.Name, Keyboard: d.cfg.Keyboard, View: look.view, Guests: p.guests, Storages: p.storages,
	})...)
	p.routes = append(p.routes, (&membership.API{Service: d.nodes, Tasks: d.tasks, Fingerprint: look.fingerprint}).Routes()...)
	go look.publish(ctx)
	return nil
}

// build is build.json of the image.
type build struct {
	Version string `json:"version"`
	ID      string `json:"build_id"`
}

func readBuild(name string) (build, error) {
	var b build
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err != nil {
		return b, fmt.Errorf("read build of the image: %w", err)
	}
	return b, nil
}

// address is the first address of the management bridge.
func (d *daemon) address() string {
	if a := d.netStatus().Address(); a != (netip.Addr{}) {
		return a.String()
	}
	return ""
}

// askInit sends PID 1 one request.
func (d *daemon) askInit(ctx context.Context, r node.InitRequest) (node.InitReply, error) {
	var reply node.InitReply
	var dial net.Dialer
	c, err := dial.DialContext(ctx, "unix", d.p.init)
	if err != nil {
		return reply, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return reply, err
	}
	if err := json.NewEncoder(c).Encode(r); err != nil {
		return reply, err
	}
	line, err := bufio.NewReader(c).ReadBytes('\n')
	if err != nil {
		return reply, err
	}
	return reply, json.Unmarshal(line, &reply)
}

// awaitBoot waits until PID 1 is through with the boot: before, the thin pool
// and /dev/kvm may not be there. Where no PID 1 of ours runs it does not wait.
func (d *daemon) awaitBoot(ctx context.Context) {
	for {
		r, err := d.askInit(ctx, node.InitRequest{Verb: "status"})
		if errors.Is(err, os.ErrNotExist) || err == nil && r.Booted() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}
