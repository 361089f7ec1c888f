package guestapi

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"joist/cluster/store/storetest"
	"joist/hypervisor/access"
	"joist/hypervisor/control"
	"joist/hypervisor/guest"
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
	guest *fakeDriver
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
	pool := &fakePool{vols: map[string]storage.Volume{}}
	for name, content := range map[string]string{"iso/x.iso": storage.ISO, "vztmpl/debian.tar.zst": storage.Template} {
		pool.vols[name] = storage.Volume{ID: "disks:" + name, Size: 1 << 20, Content: content}
	}
	set := storage.NewSet([]storage.Config{{ID: "disks", Type: "fake", Content: []string{storage.Images, storage.RootDir, storage.ISO, storage.Template}}},
		map[string]storage.Factory{"fake": func(storage.Config) (storage.Pool, error) { return pool, nil }})
	vms := &fakeDriver{kind: guest.KVM, set: map[int]*fakeGuest{}}
	cts := &fakeDriver{kind: guest.LXC, set: map[int]*fakeGuest{}}
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
			return echo{r, w, &fakeGuest{size: make(chan [2]uint16, 10)}}, nil
		}}
	machine := &nodeapi.Machine{Root: "/", Disk: dir, Now: time.Now}
	routes := append(api.Routes(), accessapi.Routes(acc)...)
	routes = append(routes, taskapi.Routes("n1", tasks)...)
	routes = append(routes, version.Routes(version.API("0011223344556677", "0.1.0"))...)
	routes = append(routes, nodeapi.Routes(nodeapi.Deps{Node: "n1", Machine: machine, Fingerprint: func() string { return "" }})...)
	routes = append(routes, clusterapi.Routes(clusterapi.Deps{Node: "n1", Self: machine.Usage, Address: func() string { return "" },
		Guests: Lister{api}, Storages: noStorages{}})...)
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

type fakePool struct {
	storage.Pool
	mu   sync.Mutex
	vols map[string]storage.Volume
}

func (p *fakePool) ID() string { return "disks" }

func (p *fakePool) Status(context.Context) (storage.Status, error) {
	return storage.Status{Active: true, Total: 1 << 40, Avail: 1 << 40}, nil
}

func (p *fakePool) List(context.Context) ([]storage.Volume, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []storage.Volume
	for _, v := range p.vols {
		out = append(out, v)
	}
	return out, nil
}

func (p *fakePool) Create(_ context.Context, s storage.Spec) (storage.Volume, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := storage.Volume{ID: "disks:" + s.Name, Size: s.Size, Format: "raw", Content: storage.Images, VMID: s.VMID}
	p.vols[s.Name] = v
	return v, nil
}

func (p *fakePool) Resize(_ context.Context, name string, size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.vols[name]
	v.Size = size
	p.vols[name] = v
	return nil
}

func (p *fakePool) Delete(_ context.Context, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.vols, name)
	return nil
}

func (p *fakePool) Activate(_ context.Context, name string) (string, error) {
	return "/dev/" + name, nil
}
func (p *fakePool) Deactivate(context.Context, string) error { return nil }

type fakeDriver struct {
	kind guest.Kind
	mu   sync.Mutex
	set  map[int]*fakeGuest
}

func (d *fakeDriver) Kind() guest.Kind { return d.kind }

func (d *fakeDriver) Start(_ context.Context, s guest.Spec) (guest.Guest, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := &fakeGuest{d: d, vmid: s.VMID, done: make(chan struct{}), keys: make(chan string, 10), size: make(chan [2]uint16, 10)}
	d.set[s.VMID] = g
	return g, nil
}

func (d *fakeDriver) Find(context.Context) ([]guest.Guest, error) { return nil, nil }

func (d *fakeDriver) get(vmid int) *fakeGuest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.set[vmid]
}

// fakeGuest has a console that says back what is typed, and a screen that does
// so after the opening of RFB.
type fakeGuest struct {
	d    *fakeDriver
	vmid int
	done chan struct{}
	once sync.Once
	keys chan string
	size chan [2]uint16
}

func (g *fakeGuest) VMID() int { return g.vmid }

func (g *fakeGuest) Status(context.Context) (guest.Status, error) {
	return guest.Status{VMID: g.vmid, Kind: g.d.kind, State: guest.Running, PID: 4711, Uptime: time.Minute, CPU: 0.25, Mem: 1 << 20, Accel: "tcg"}, nil
}

func (g *fakeGuest) Stop(context.Context, guest.StopMode) error {
	g.once.Do(func() { close(g.done) })
	return nil
}

func (g *fakeGuest) Done() <-chan struct{} { return g.done }
func (g *fakeGuest) Exit() string          { return "" }
func (g *fakeGuest) Close() error          { return nil }

func (g *fakeGuest) SendKey(_ context.Context, keys string) error {
	g.keys <- keys
	return nil
}

type echo struct {
	*io.PipeReader
	*io.PipeWriter
	g *fakeGuest
}

func (e echo) Resize(cols, rows uint16) error {
	e.g.size <- [2]uint16{cols, rows}
	return nil
}

func (e echo) Close() error { return errors.Join(e.PipeReader.Close(), e.PipeWriter.Close()) }

func (g *fakeGuest) Console(context.Context) (guest.Console, error) {
	r, w := io.Pipe()
	return echo{r, w, g}, nil
}

func (g *fakeGuest) VNC(context.Context) (net.Conn, error) {
	if g.d.kind == guest.LXC {
		return nil, errors.New("none")
	}
	a, b := net.Pipe()
	go func() {
		defer b.Close()
		io.WriteString(b, rfb38)
		v := make([]byte, 12)
		io.ReadFull(b, v)
		b.Write([]byte{2, 30, rfbNone})
		io.ReadFull(b, v[:1])
		b.Write([]byte{0, 0, 0, 0})
		io.Copy(b, b)
	}()
	return a, nil
}

// AskAgent knows two commands; the agent of guest 666 is not there.
func (g *fakeGuest) AskAgent(ctx context.Context, command string) (json.RawMessage, error) {
	switch {
	case g.vmid == 666:
		return nil, context.DeadlineExceeded
	case command == "guest-ping":
		return json.RawMessage("{}"), nil
	case command == "guest-network-get-interfaces":
		return json.RawMessage(`[{"name":"lo","ip-addresses":[{"prefix":8}]}]`), nil
	}
	return nil, &guest.AgentError{Desc: "The command " + command + " has not been found"}
}

func (g *fakeGuest) ResizeDisk(context.Context, string, int64) error { return nil }
