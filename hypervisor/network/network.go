package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"joist/api/node"
)

// Run sets up the node's network and keeps it so until ctx ends. Nothing is
// taken down then. It announces readiness when the bridge is there, and does
// not wait for an address: a node without DHCP server still shows its console.
func Run(ctx context.Context, log *slog.Logger) error {
	d := daemon{
		log:     log,
		load:    func() (node.Config, error) { return node.Load("/") },
		status:  node.NetState,
		lease:   filepath.Join(node.NodeDir, "lease.json"),
		resolv:  filepath.Join(node.RunDir, "resolv.conf"),
		ready:   func() error { return notify(os.Getenv("NOTIFY_SOCKET")) },
		timeout: 4 * time.Second,
	}
	return d.run(ctx)
}

// daemon is the process. Its loop owns everything; the DHCP client sends
// wishes to it and is told about the carrier.
type daemon struct {
	log                   *slog.Logger
	load                  func() (node.Config, error)
	status, lease, resolv string // files
	ready                 func() error
	timeout               time.Duration // of a DHCP exchange's first try

	cfg     node.Config
	want    wish
	shown   node.NetStatus
	trouble string // what keeps us from an address, "" when nothing does
}

// again is how soon the loop looks after everything without being woken, when
// the last round went well and when it did not.
const (
	againGood = 30 * time.Second
	againBad  = 2 * time.Second
)

func (d *daemon) run(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(d.status), 0o755); err != nil {
		return fmt.Errorf("prepare run directory: %w", err)
	}
	changes, err := subscribe(ctx)
	if err != nil {
		return err
	}
	if !d.configure(ctx) {
		return nil
	}
	protocol := netlink.RouteProtocol(unix.RTPROT_DHCP)
	static := d.cfg.Network.Method == "static"
	if static {
		protocol = unix.RTPROT_STATIC
		d.want, err = staticWish(d.cfg.Network)
	} else {
		err = d.want.second(d.cfg.Network) // whatever DHCP says
	}
	if err != nil {
		d.fail(err)
	}
	var (
		last    base
		started bool
		wishes  = make(chan func())
		carrier = make(chan bool, 1)
	)
	for {
		named := d.pin()
		b, err := ensure(d.cfg.Network)
		if b.trouble == "" {
			b.trouble = named
		}
		if err == nil {
			if !started {
				started = true
				if err := d.ready(); err != nil {
					d.log.Warn("announce readiness", "err", err)
				}
				if !static {
					go d.dhcp(ctx, b, wishes, carrier).run(ctx)
				}
			}
			if b.carrier != last.carrier || b.on != last.on {
				latest(carrier, b.carrier)
			}
			last = b
			err = converge(b, d.want, protocol)
		}
		d.publish(last, err)
		pause := againGood
		if err != nil {
			pause = againBad
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-changes:
		case f := <-wishes:
			f()
		case <-timer.C:
		}
		timer.Stop()
	}
}

// pin gives the cards their names. A card that keeps another one works all the
// same: trouble says it.
func (d *daemon) pin() (trouble string) {
	done, trouble, err := pin(d.cfg.Network.Pins)
	for _, r := range done {
		d.log.Info("network card renamed", "from", r.From, "to", r.To)
	}
	if err != nil {
		return err.Error()
	}
	return trouble
}

// configure waits for a node.json that can be used.
func (d *daemon) configure(ctx context.Context) bool {
	for {
		c, err := d.load()
		if err == nil {
			err = checkNetwork(c.Network)
		}
		if err == nil {
			d.cfg = c
			return true
		}
		d.fail(err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(againBad):
		}
	}
}

// dhcp prepares the client. What it wants done runs in the daemon's loop.
func (d *daemon) dhcp(ctx context.Context, b base, wishes chan<- func(), carrier <-chan bool) *client {
	n := d.cfg.Network
	last, err := loadLease(d.lease, b.mac.String())
	if err != nil {
		d.log.Warn("the last lease is not used", "err", err)
	}
	post := func(ctx context.Context, f func()) {
		select {
		case wishes <- f:
		case <-ctx.Done():
		}
	}
	c := &client{
		log:     d.log,
		ask:     wire{link: b.onName, mac: b.mac, hostname: d.cfg.Name, timeout: d.timeout},
		carrier: carrier,
		last:    last,
		prefer:  last.Address.Addr(),
		set: func(ctx context.Context, l lease) {
			if err := node.WriteJSON(d.lease, 0o600, l); err != nil {
				d.log.Warn("keep the lease", "err", err)
			}
			post(ctx, func() { d.want, d.trouble = leaseWish(l, n), "" })
		},
		drop: func(ctx context.Context) {
			post(ctx, func() { d.want, d.trouble = wish{Known: true, Six: d.want.Six}, "the DHCP lease ended or was refused" })
		},
		trouble: func(ctx context.Context, err error) {
			post(ctx, func() { d.trouble = err.Error() })
		},
	}
	// The address of a lease that still runs is on the bridge when only this
	// process was restarted: adopt it, so that its end is watched.
	if have, err := addresses(b.on, netlink.FAMILY_V4); err == nil && len(have) == 1 && have[0] == last.Address && last.valid(time.Now()) {
		c.held = true
		d.want = leaseWish(last, n)
	}
	return c
}

// publish brings resolv.conf and the status file up to date, if they changed.
func (d *daemon) publish(b base, failed error) {
	s := node.NetStatus{Bridge: d.cfg.Network.Bridge, Link: b.port.Name, Bond: b.port.Kind == "bond", Method: d.cfg.Network.Method,
		Addresses: []string{}, Error: d.trouble}
	if s.Error == "" {
		s.Error = b.trouble
	}
	if b.on != 0 {
		if have, err := addresses(b.on, netlink.FAMILY_ALL); err == nil {
			s.Addresses = listed(have)
		}
	}
	s.Up = len(s.Addresses) > 0
	if d.want.Known {
		s.DNS, s.Search = d.want.DNS, d.want.Search
		switch {
		case d.want.Gateway.IsValid():
			s.Gateway = d.want.Gateway.String()
		case d.want.Six != nil && d.want.Six.Gateway.IsValid():
			s.Gateway = d.want.Six.Gateway.String()
		}
		if err := replace(d.resolv, resolvConf(d.want)); err != nil && failed == nil {
			failed = fmt.Errorf("write resolv.conf: %w", err)
		}
	}
	if failed != nil {
		s.Error = failed.Error()
	}
	d.show(s)
}

func (d *daemon) fail(err error) {
	d.trouble = err.Error()
	s := d.shown
	s.Error, s.Bridge, s.Method = d.trouble, d.cfg.Network.Bridge, d.cfg.Network.Method
	if s.Addresses == nil {
		s.Addresses = []string{}
	}
	d.show(s)
}

func (d *daemon) show(s node.NetStatus) {
	if reflect.DeepEqual(s, d.shown) {
		return
	}
	d.log.Info("network", "up", s.Up, "link", s.Link, "addresses", s.Addresses, "error", s.Error)
	if err := node.WriteJSON(d.status, 0o644, s); err != nil {
		d.log.Error("write network status", "err", err)
		return
	}
	d.shown = s
}

// replace writes a file whose content differs.
func replace(name, text string) error {
	if old, err := os.ReadFile(name); err == nil && string(old) == text {
		return nil
	}
	return node.WriteFile(name, 0o644, []byte(text))
}

// subscribe reports changes of links, addresses and routes, many as one. A
// subscription that ends (the kernel's buffer ran over) is made anew: the loop
// reads the whole state anyway.
func subscribe(ctx context.Context) (<-chan struct{}, error) {
	out := make(chan struct{}, 1)
	sock, err := netlinkSocket()
	if err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	go func() {
		<-ctx.Done()
		sock.Close()
	}()
	go func() {
		for ctx.Err() == nil {
			_, _, err := sock.Receive()
			// ENOBUFS says that messages were lost; that too is a change.
			if err != nil && ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}

// latest puts v into a channel of capacity one, in place of what is there.
func latest(ch chan bool, v bool) {
	for {
		select {
		case ch <- v:
			return
		default:
		}
		select {
		case <-ch:
		default:
		}
	}
}

// notify tells the supervisor that the service is ready: sd_notify(3).
func notify(socket string) error {
	if socket == "" {
		return nil
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("READY=1"))
	return err
}
