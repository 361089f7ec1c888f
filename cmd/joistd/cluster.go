package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"joist/api/node"
	"joist/hypervisor/membership"
	clusterapi "joist/hypervisor/server/cluster"
	nodeapi "joist/hypervisor/server/node"
	taskapi "joist/hypervisor/server/task"
)

// apiPort is where every node's API is.
const apiPort = 8006

// membership says who this node is towards others.
func (d *daemon) membership() membership.Options {
	heartbeat, election := storeTiming(d.p.sys)
	return membership.Options{
		Name: d.cfg.Name, InstallationID: d.cfg.InstallationID, Version: d.build.Version,
		Dir: d.p.cluster, StoreDir: d.p.etcd, Hosts: d.p.hosts, PeerListen: d.p.peers, APIPort: portOf(d.p.listen),
		Heartbeat: heartbeat, Election: election, Addresses: d.addresses, Interface: func() string { return d.netStatus().Bridge },
		Storages: d.openStorages, Now: time.Now, Log: d.log,
	}
}

// storeTiming is what the store's members need on this machine: etcd's own
// values, which are for real CPUs. QEMU's software CPU is an order of
// magnitude slower, and several such machines share a real one.
func storeTiming(root string) (heartbeat, election time.Duration) {
	b, err := os.ReadFile(filepath.Join(root, "proc/cpuinfo"))
	if err == nil && strings.Contains(string(b), "QEMU TCG") {
		return 500 * time.Millisecond, 5 * time.Second
	}
	return 100 * time.Millisecond, time.Second
}

// portOf is the port in the address the API listens on; tests use others.
func portOf(listen string) int {
	a, err := netip.ParseAddrPort(listen)
	if err != nil || a.Port() == 0 {
		return apiPort
	}
	return int(a.Port())
}

func (d *daemon) netStatus() (s node.NetStatus) {
	b, err := os.ReadFile(d.p.netState)
	if err != nil || json.Unmarshal(b, &s) != nil {
		return node.NetStatus{}
	}
	return s
}

// addresses are those of the management bridge, IPv4 first: it is what the
// management network was configured with.
func (d *daemon) addresses() (out []string) {
	var six []string
	for _, a := range d.netStatus().Addresses {
		p, err := netip.ParsePrefix(a)
		switch {
		case err != nil || !p.Addr().IsGlobalUnicast() && !p.Addr().IsLoopback():
		case p.Addr().Is4():
			out = append(out, p.Addr().String())
		default:
			six = append(six, p.Addr().String())
		}
	}
	return append(out, six...)
}

// tls answers public handshakes with the API's certificate, and those of nodes
// with the cluster's.
func (d *daemon) tls() *tls.Config {
	public := &tls.Config{Certificates: []tls.Certificate{d.cert}}
	if id := d.nodes.Identity(); id != nil {
		return id.ServerConfig(public, d.nodes.Book().Allowed)
	}
	return public
}

// outlook is this node among the others: what it tells them, and what it knows
// of all.
type outlook struct {
	d           *daemon
	machine     *nodeapi.Machine
	guests      clusterapi.GuestLister
	storages    clusterapi.StorageLister
	fingerprint string
}

const (
	publishEvery = 3 * time.Second
	recentTasks  = 25
)

// self is this node's status.
func (o *outlook) self(ctx context.Context) (clusterapi.Status, error) {
	s := clusterapi.Status{Fingerprint: o.fingerprint, Tasks: taskapi.Recent(o.d.tasks, recentTasks)}
	var err error
	if s.Usage, err = o.machine.Usage(); err != nil {
		return s, err
	}
	all, err := o.guests.Guests(ctx)
	if err != nil {
		return s, err
	}
	for _, g := range all {
		if g.Node == o.d.cfg.Name {
			s.Guests = append(s.Guests, g)
		}
	}
	s.Storages, err = o.storages.Storages(ctx)
	return s, err
}

// publish tells the other nodes how this one is, until ctx ends.
func (o *outlook) publish(ctx context.Context) {
	for {
		if o.d.nodes.Clustered() {
			s, err := o.self(ctx)
			if err == nil {
				var b []byte
				if b, err = json.Marshal(s); err == nil {
					o.d.nodes.Publish(b)
				}
			}
			if err != nil && ctx.Err() == nil {
				o.d.log.Warn("tell other nodes of this one", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(publishEvery):
		}
	}
}

// view is the cluster as this node sees it.
func (o *outlook) view() (clusterapi.View, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	own, err := o.self(ctx)
	if err != nil {
		return clusterapi.View{}, err
	}
	me := clusterapi.Node{Name: o.d.cfg.Name, Online: true, Address: o.d.address(), Status: own}
	n := o.d.nodes
	if !n.Clustered() {
		return clusterapi.View{Quorate: true, Nodes: []clusterapi.Node{me}}, nil
	}
	v := clusterapi.View{Name: n.Cluster().Name, Quorate: n.Quorate(ctx)}
	for _, m := range n.Nodes() {
		v.Version = max(v.Version, m.Joined.Unix())
		if m.Name == me.Name {
			me.ID = m.ID
			v.Nodes = append(v.Nodes, me)
			continue
		}
		other := clusterapi.Node{Name: m.Name, ID: m.ID, Address: n.Address(m.Name)}
		var told []byte
		if told, other.Online = n.Status(m.Name); told != nil {
			if err := json.Unmarshal(told, &other.Status); err != nil {
				o.d.log.Warn("read what another node tells", "node", m.Name, "err", err)
			}
		}
		v.Nodes = append(v.Nodes, other)
	}
	return v, nil
}
