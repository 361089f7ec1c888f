package guestapi

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"joist/cluster/store/storetest"
	"joist/hypervisor/access"
	"joist/hypervisor/control"
	"joist/hypervisor/guest"
	"joist/hypervisor/guest/guesttest"
	"joist/hypervisor/server"
	accessapi "joist/hypervisor/server/access"
	"joist/hypervisor/server/cert"
	clusterapi "joist/hypervisor/server/cluster"
	nodeapi "joist/hypervisor/server/node"
	taskapi "joist/hypervisor/server/task"
	"joist/hypervisor/server/version"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// password of root@pam and its hash, made by crypt(3).
const (
	password = "s3cret pass"
	hash     = "$5$rounds=2000$saltsalt$nt0cZwvEpkAicu6GJSyFNm3goCRqTrYg4cwdATIUBo0"
)

// node is a server with real protocol, access, tasks and controller over fake
// guests and disks.
type node struct {
	url   string
	guest *guesttest.Driver
	tasks *task.Manager
	ctl   *control.Controller
}

func start(t *testing.T) *node {
	t.Helper()
	dir, ctx := t.TempDir(), t.Context()
	log := slog.New(slog.DiscardHandler)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	st := storetest.NewMemory()
	check(os.WriteFile(filepath.Join(dir, "shadow"), []byte(hash+"\n"), 0o600))
	keys, err := access.LoadKeys(ctx, st)
	check(err)
	acc := access.NewService(keys, filepath.Join(dir, "shadow"), time.Now)
	tasks, err := task.New(task.Options{Node: "n1", Dir: filepath.Join(dir, "tasks"), Now: time.Now, Log: log})
	check(err)
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		tasks.Close(end)
	})
	pool := guesttest.NewPool("disks", storage.Volume{ID: "disks:iso/x.iso", Size: 1 << 20, Content: storage.ISO},
		storage.Volume{ID: "disks:vztmpl/debian.tar.zst", Size: 1 << 20, Content: storage.Template})
	set := storage.NewSet([]storage.Config{{ID: "disks", Type: "fake", Content: []string{storage.Images, storage.RootDir, storage.ISO, storage.Template}}},
		map[string]storage.Factory{"fake": func(storage.Config) (storage.Pool, error) { return pool, nil }})
	vms, cts := guesttest.NewDriver(guest.KVM), guesttest.NewDriver(guest.LXC)
	ctl := control.New(control.Options{Node: "n1", Store: st, Storages: set, Tasks: tasks, Drivers: []guest.Driver{vms, cts},
		Provision: provisioner{}, RunDir: dir, Poll: 20 * time.Millisecond, Log: log})
	check(ctl.Open(ctx))
	check(tasks.Recover(ctx, ctl.Replayers()))
	api := &API{Node: "n1", Guests: ctl, Tasks: tasks, Tickets: acc, Cert: "PEM", CPUs: 4,
		Exec: func(_ context.Context, g guest.Guest, argv []string) (ExecResult, error) {
			return ExecResult{Exit: 3, Out: []byte(fmt.Sprint(g.VMID(), argv)), Err: []byte("e")}, nil
		},
		Interfaces: func(context.Context, guest.Guest) ([]Interface, error) {
			return []Interface{{Name: "eth0", MAC: "bc:24:11:00:00:01", Addresses: []string{"fe80::1/64", "192.0.2.7/24"}}}, nil
		},
		Shell: func(_ context.Context, n int) (guest.Console, error) {
			r, w := io.Pipe()
			go fmt.Fprintf(w, "shell %t$ ", n > 0)
			return &guesttest.Terminal{PipeReader: r, PipeWriter: w, Guest: guesttest.NewGuest(guest.Spec{})}, nil
		}}
	machine := &nodeapi.Machine{Root: "/", Disk: dir, Now: time.Now}
	routes := append(api.Routes(), accessapi.Routes(acc)...)
	routes = append(routes, taskapi.Routes("n1", tasks)...)
	routes = append(routes, version.Routes(version.API("0011223344556677", "0.1.0"))...)
	routes = append(routes, nodeapi.Routes(nodeapi.Deps{Node: "n1", Machine: machine})...)
	routes = append(routes, clusterapi.Routes(clusterapi.Deps{Node: "n1", View: func() (clusterapi.View, error) {
		usage, err := machine.Usage()
		return clusterapi.View{Nodes: []clusterapi.Node{{Name: "n1", Online: true, Status: clusterapi.Status{Usage: usage, Tasks: taskapi.Recent(tasks, 50)}}}}, err
	}, Guests: Lister{api}, Storages: noStorages{}})...)
	srv, err := server.New(server.Deps{Node: "n1", Routes: routes, Auth: acc, Access: acc, Log: log})
	check(err)
	pair, err := cert.Ensure(filepath.Join(dir, "tls"), cert.Subject{Name: "n1"}, time.Now())
	check(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go srv.Serve(ctx, ln, &tls.Config{Certificates: []tls.Certificate{pair}})
	return &node{url: "https://" + ln.Addr().String(), guest: vms, tasks: tasks, ctl: ctl}
}

type noStorages struct{}

func (noStorages) Storages(context.Context) ([]clusterapi.Storage, error) { return nil, nil }

type provisioner struct{}

func (provisioner) Provision(context.Context, control.ProvisionSpec, task.Log) error { return nil }
