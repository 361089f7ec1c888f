package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Addresses of every segment. Segments are separate, so all may use the same.
var (
	Subnet  = netip.MustParsePrefix("10.77.0.0/24")
	Gateway = netip.MustParseAddr("10.77.0.1")
)

// gatewayMAC is locally administered (RFC 7042, 2.1).
var gatewayMAC = net.HardwareAddr{0x02, 0x77, 0, 0, 0, 1}

// MAC is an Ethernet address as a map key.
type MAC [6]byte

// String is the usual form with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// ParseMAC reads "52:54:00:12:34:56".
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("parse hardware address %q", s)
	}
	return MAC(hw), nil
}

func (m MAC) group() bool { return m[0]&1 != 0 } // broadcast or multicast, IEEE 802.3

// Switch forwards frames between its ports and to the gateway.
type Switch struct {
	dir  string
	ctx  context.Context
	stop context.CancelFunc

	mu      sync.Mutex
	ports   []*Port
	learned map[MAC]*Port // nil value: the gateway
	tap     func(frame []byte)

	gw    *station
	dhcp  *leases
	names *names
}

// New makes a segment with a gateway and no ports; sockets are put into dir,
// whose path must be short (a Unix socket's path ends at 107 bytes, unix(7)).
func New(dir string) (*Switch, error) {
	ctx, stop := context.WithCancel(context.Background())
	s := &Switch{dir: dir, ctx: ctx, stop: stop, learned: map[MAC]*Port{}, dhcp: newLeases(), names: newNames()}
	gw, err := newStation(ctx, gatewayMAC, Gateway, func(frame []byte) { s.forward(nil, frame) })
	if err != nil {
		stop()
		return nil, fmt.Errorf("make gateway: %w", err)
	}
	s.gw = gw
	s.learned[MAC(gatewayMAC)] = nil
	if err := s.names.serve(gw); err != nil {
		s.Close()
		return nil, fmt.Errorf("serve names: %w", err)
	}
	go s.announce()
	return s, nil
}

// Close unplugs everything.
func (s *Switch) Close() error {
	s.stop()
	s.mu.Lock()
	ports := s.ports
	s.mu.Unlock()
	var errs []error
	for _, p := range ports {
		errs = append(errs, p.close())
	}
	s.gw.close()
	return errors.Join(errs...)
}

// Dial connects from the gateway's address to a guest. Its signature is that
// of net.Dialer.DialContext; network is "tcp".
func (s *Switch) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if network != "tcp" && network != "tcp4" {
		return nil, fmt.Errorf("dial %s: only tcp", network)
	}
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		host, port, serr := net.SplitHostPort(addr)
		if serr != nil {
			return nil, fmt.Errorf("dial %q: %w", addr, serr)
		}
		ip, ok := s.names.lookup(host)
		if !ok {
			return nil, fmt.Errorf("dial %q: unknown name", addr)
		}
		if to, err = netip.ParseAddrPort(net.JoinHostPort(ip.String(), port)); err != nil {
			return nil, fmt.Errorf("dial %q: %w", addr, err)
		}
	}
	return s.gw.dial(ctx, to)
}

// Listen offers a TCP service to the guests at the gateway's address or at
// another address of the subnet, which the gateway then also owns.
func (s *Switch) Listen(addr string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen %q: %w", addr, err)
	}
	if !Subnet.Contains(at.Addr()) {
		return nil, fmt.Errorf("listen %q: not in %s", addr, Subnet)
	}
	return s.gw.listen(at)
}

// ListenUDP is Listen for datagrams.
func (s *Switch) ListenUDP(addr string) (net.PacketConn, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen %q: %w", addr, err)
	}
	if !Subnet.Contains(at.Addr()) {
		return nil, fmt.Errorf("listen %q: not in %s", addr, Subnet)
	}
	if err := s.gw.own(at.Addr()); err != nil {
		return nil, err
	}
	return s.gw.listenUDP(at)
}

// BootDHCP lets f add to the DHCP server's answers: next server, boot file.
func (s *Switch) BootDHCP(f func(req *dhcpv4.DHCPv4) []dhcpv4.Modifier) { s.dhcp.setBoot(f) }

// ProxyDHCP adds a second server, whose answers come before those of the DHCP
// server; f returns nil for none.
func (s *Switch) ProxyDHCP(f func(req *dhcpv4.DHCPv4) *dhcpv4.DHCPv4) { s.dhcp.setProxy(f) }

// DNS makes the gateway's name server answer name with ip. Everything else is
// answered with "no such name".
func (s *Switch) DNS(name string, ip netip.Addr) { s.names.set(name, ip) }

// Lease is the address that the DHCP server gave to mac, if it did.
func (s *Switch) Lease(mac MAC) (netip.Addr, bool) { return s.dhcp.acked(mac) }

// WaitLease waits until mac has an address.
func (s *Switch) WaitLease(ctx context.Context, mac MAC) (netip.Addr, error) {
	for {
		if ip, ok := s.dhcp.acked(mac); ok {
			return ip, nil
		}
		select {
		case <-ctx.Done():
			return netip.Addr{}, fmt.Errorf("wait for lease of %s: %w", mac, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// SetLease fixes the address of mac. A client that holds another one is
// refused (DHCPNAK) at its next renewal and starts anew.
func (s *Switch) SetLease(mac MAC, ip netip.Addr) error { return s.dhcp.fix(mac, ip) }

// SetLeaseTime is what clients are told from now on; the default is one hour.
func (s *Switch) SetLeaseTime(d time.Duration) { s.dhcp.setTime(d) }

// StopDHCP silences (or wakes) the DHCP server.
func (s *Switch) StopDHCP(stopped bool) { s.dhcp.setStopped(stopped) }

// Tap calls f with each frame that the switch accepts, in order. f must not
// keep the slice.
func (s *Switch) Tap(f func(frame []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tap = f
}

// forward is the switch itself; from is nil for the gateway's frames.
func (s *Switch) forward(from *Port, frame []byte) {
	if len(frame) < etherLen {
		return
	}
	dst, src := MAC(frame[0:6]), MAC(frame[6:12])
	s.mu.Lock()
	if !src.group() {
		s.learned[src] = from
	}
	if s.tap != nil {
		s.tap(frame)
	}
	to, known := s.learned[dst]
	ports := s.ports
	s.mu.Unlock()

	if from != nil && (dst.group() || dst == MAC(gatewayMAC)) {
		if replies := s.dhcp.handle(frame); len(replies) > 0 {
			for _, r := range replies {
				s.forward(nil, r)
			}
			return
		}
	}
	if known && !dst.group() {
		switch {
		case to == from:
		case to == nil:
			s.gw.input(frame)
		default:
			to.send(frame)
		}
		return
	}
	for _, p := range ports {
		if p != from {
			p.send(frame)
		}
	}
	if from != nil {
		s.gw.input(frame)
	}
}
