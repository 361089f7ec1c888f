package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"joist/api/node"
	"joist/cluster/roster"
	"joist/hypervisor/access"
	"joist/hypervisor/server"
	"joist/hypervisor/server/cert"
	clusterapi "joist/hypervisor/server/cluster"
)

// paths is where the daemon finds and leaves things; tests move them.
type paths struct {
	root     string // below which node.json is
	sys      string // below which /proc and /sys are
	listen   string
	socket   string // the API for local commands, root only
	state    string // a path on the state volume
	etcd     string
	cluster  string
	hosts    string
	peers    string // where the store's member listens for others
	tasks    string
	tls      string
	shadow   string
	apiState string
	netState string
	crashes  string
	init     string
	build    string
}

func nodePaths() *paths {
	return &paths{
		root: "/", sys: "/", listen: ":8006", socket: filepath.Join(node.RunDir, "joistd.sock"), state: node.StateDir,
		etcd: node.EtcdDir, cluster: node.ClusterDir, hosts: "/etc/hosts", peers: fmt.Sprintf(":%d", roster.PeerPort), tasks: node.TaskDir, tls: node.TLSDir, shadow: node.ShadowFile,
		apiState: node.APIState, netState: node.NetState, crashes: node.CrashDir, init: node.InitSocket, build: "/usr/lib/joist/build.json",
	}
}

// closeTimeout is how long running tasks may take to notice the daemon's end.
const closeTimeout = 5 * time.Second

// serve runs the daemon until ctx ends, anew when the node has become one of
// another cluster. Guests are not touched by its end.
func serve(ctx context.Context, log *slog.Logger, p *paths) error {
	for {
		err := serveOnce(ctx, log, p)
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // asked to end before it had begun
		}
		if !errors.Is(err, errAnew) {
			return err
		}
		log.Info("the daemon begins anew")
	}
}

// errAnew: everything is to be opened again.
var errAnew = errors.New("begin anew")

func serveOnce(ctx context.Context, log *slog.Logger, p *paths) (err error) {
	begun := time.Now()
	d, err := open(ctx, log, p)
	if err != nil {
		return err
	}
	defer func() {
		if e := d.close(); errors.Is(err, errAnew) && e != nil {
			log.Warn("close for a new beginning", "err", e)
		} else {
			err = errors.Join(err, e)
		}
	}()
	// All that goes on beside the API ends with it.
	ctx, end := context.WithCancel(ctx)
	defer end()
	srv, storages, err := d.server(ctx)
	if err != nil {
		return err
	}
	public, err := net.Listen("tcp", p.listen)
	if err != nil {
		return fmt.Errorf("listen for API: %w", err)
	}
	defer public.Close()
	local, err := listenLocal(p.socket)
	if err != nil {
		return err
	}
	defer local.Close()

	run, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- srv.Serve(run, public, d.tls()) }()
	go func() { ended <- srv.ServeLocal(run, local) }()
	if err := d.announce(public.Addr()); err != nil {
		log.Warn("announce API", "err", err)
	}
	log.Info("API is up", "address", public.Addr().String(), "after", time.Since(begun).Round(time.Millisecond))
	go markGood(run, log, booted(filepath.Join(p.sys, "proc")), storages)
	select {
	case err = <-ended:
		cancel()
	case <-d.nodes.Broken(run):
		err = errors.New("cluster store has ended")
		cancel()
		<-ended
	case <-d.nodes.Restart():
		err = errAnew
		cancel()
		<-ended
	case <-ctx.Done():
		err = <-ended
	}
	return errors.Join(err, <-ended)
}

// listenLocal opens the local socket for root only, from its first moment on.
func listenLocal(name string) (net.Listener, error) {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for local commands: %w", err)
	}
	old := syscall.Umask(0o177)
	ln, err := net.Listen("unix", name)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen for local commands: %w", err)
	}
	return ln, nil
}

// announce tells the dashboard and PID 1 that the API answers.
func (d *daemon) announce(at net.Addr) error {
	s := node.APIStatus{Fingerprint: cert.Fingerprint(d.cert), Since: time.Now().UTC().Format(time.RFC3339)}
	if a, ok := at.(*net.TCPAddr); ok {
		s.Port = a.Port
	}
	return errors.Join(node.WriteJSON(d.p.apiState, 0o644, s), notifyReady(os.Getenv("NOTIFY_SOCKET")))
}

// notifyReady follows sd_notify(3); an @ stands for the NUL of an abstract
// socket.
func notifyReady(socket string) error {
	if socket == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify init: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("notify init: %w", err)
	}
	return nil
}

// server builds the API from the routes of all parts and finishes what
// interrupted tasks left, before the first change is accepted.
func (d *daemon) server(ctx context.Context) (*server.Server, clusterapi.StorageLister, error) {
	parts, err := d.parts(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := d.tasks.Recover(ctx, parts.replayers); err != nil {
		return nil, nil, err
	}
	for _, f := range parts.begin {
		go f(ctx)
	}
	d.nodes.Start(ctx, parts.inventory)
	deps := server.Deps{
		Node: d.cfg.Name, Routes: parts.routes, Auth: d.access, Access: d.access, Log: d.log, FailDelay: 3 * time.Second,
		Quorum: d.nodes.Quorum, Nodes: d.nodes.Handler(), RootTicket: func() (string, string) { return d.access.Issue(access.Root) },
	}
	if c := d.nodes.Peers(); c != nil {
		deps.Peers = c
	}
	srv, err := server.New(deps)
	return srv, parts.storages, err
}
