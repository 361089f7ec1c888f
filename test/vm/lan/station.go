package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nicID = tcpip.NICID(1)
	mtu   = 1500
)

// station is a host on the segment whose TCP/IP runs in this process. It
// answers ARP and ping, and never forwards.
type station struct {
	ctx context.Context
	st  *stack.Stack
	ep  *channel.Endpoint

	mu   sync.Mutex
	owns map[netip.Addr]bool
}

// newStation starts the stack; out is called with each frame that it sends.
func newStation(ctx context.Context, mac net.HardwareAddr, ip netip.Addr, out func([]byte)) (*station, error) {
	g := &station{
		ctx: ctx,
		st: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		}),
		ep:   channel.New(queueLen, mtu+etherLen, tcpip.LinkAddress(mac)),
		owns: map[netip.Addr]bool{},
	}
	if err := g.st.CreateNIC(nicID, ethernet.New(g.ep)); err != nil {
		return nil, errors.New(err.String())
	}
	sack := tcpip.TCPSACKEnabled(true) // without it a lossy link crawls
	if err := g.st.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return nil, errors.New(err.String())
	}
	if err := g.own(ip); err != nil {
		return nil, err
	}
	subnet, err := tcpip.NewSubnet(address(Subnet.Masked().Addr()), tcpip.MaskFromBytes(net.CIDRMask(Subnet.Bits(), 32)))
	if err != nil {
		return nil, fmt.Errorf("make route: %w", err)
	}
	g.st.SetRouteTable([]tcpip.Route{{Destination: subnet, NIC: nicID}})
	go g.sendLoop(out)
	return g, nil
}

func (g *station) sendLoop(out func([]byte)) {
	for {
		pkt := g.ep.ReadContext(g.ctx)
		if pkt == nil {
			return
		}
		view := pkt.ToView()
		frame := append([]byte(nil), view.AsSlice()...)
		view.Release()
		pkt.DecRef()
		out(frame)
	}
}

func (g *station) input(frame []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(append([]byte(nil), frame...))})
	defer pkt.DecRef()
	g.ep.InjectInbound(0, pkt) // the Ethernet layer reads the protocol from the header
}

// own adds ip to the gateway's addresses.
func (g *station) own(ip netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.owns[ip] {
		return nil
	}
	a := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(ip), PrefixLen: Subnet.Bits()},
	}
	if err := g.st.AddProtocolAddress(nicID, a, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("add address %s: %s", ip, err)
	}
	g.owns[ip] = true
	return nil
}

func (g *station) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	c, err := gonet.DialContextTCP(ctx, g.st, full(to), header.IPv4ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	return c, nil
}

func (g *station) listen(at netip.AddrPort) (net.Listener, error) {
	if err := g.own(at.Addr()); err != nil {
		return nil, err
	}
	l, err := gonet.ListenTCP(g.st, full(at), header.IPv4ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", at, err)
	}
	return l, nil
}

func (g *station) listenUDP(at netip.AddrPort) (net.PacketConn, error) {
	a := full(at)
	c, err := gonet.DialUDP(g.st, &a, nil, header.IPv4ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("listen udp %s: %w", at, err)
	}
	return c, nil
}

func (g *station) close() { g.st.Close() }

func address(ip netip.Addr) tcpip.Address { return tcpip.AddrFrom4(ip.As4()) }

func full(ap netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: address(ap.Addr()), Port: ap.Port()}
}
