package lan

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	poolFirst = 100 // host part of the first address given
	poolLast  = 199
)

// leases is a DHCP server (RFC 2131) as a function from frame to frame.
type leases struct {
	mu      sync.Mutex
	by      map[MAC]netip.Addr // offered or fixed
	given   map[MAC]netip.Addr // acknowledged
	time    time.Duration
	stopped bool
	options map[uint8]string // further ones, by code
	boot    func(req *dhcpv4.DHCPv4) []dhcpv4.Modifier
	proxy   func(req *dhcpv4.DHCPv4) *dhcpv4.DHCPv4
}

func newLeases() *leases {
	return &leases{by: map[MAC]netip.Addr{}, given: map[MAC]netip.Addr{}, time: time.Hour}
}

func (l *leases) acked(mac MAC) (netip.Addr, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ip, ok := l.given[mac]
	return ip, ok
}

func (l *leases) fix(mac MAC, ip netip.Addr) error {
	if !Subnet.Contains(ip) || ip == Gateway {
		return fmt.Errorf("fix lease of %s: %s is not a free address of %s", mac, ip, Subnet)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for m, other := range l.by {
		if other == ip && m != mac {
			return fmt.Errorf("fix lease of %s: %s belongs to %s", mac, ip, m)
		}
	}
	l.by[mac] = ip
	if l.given[mac] != ip {
		delete(l.given, mac)
	}
	return nil
}

func (l *leases) setTime(d time.Duration) { l.mu.Lock(); l.time = d; l.mu.Unlock() }
func (l *leases) setStopped(b bool)       { l.mu.Lock(); l.stopped = b; l.mu.Unlock() }

func (l *leases) setBoot(f func(*dhcpv4.DHCPv4) []dhcpv4.Modifier) {
	l.mu.Lock()
	l.boot = f
	l.mu.Unlock()
}

func (l *leases) setProxy(f func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4) {
	l.mu.Lock()
	l.proxy = f
	l.mu.Unlock()
}

// choose is the address for mac: the one it had, else the first free one.
func (l *leases) choose(mac MAC) (netip.Addr, bool) {
	if ip, ok := l.by[mac]; ok {
		return ip, true
	}
	used := map[netip.Addr]bool{}
	for _, ip := range l.by {
		used[ip] = true
	}
	base := Subnet.Masked().Addr().As4()
	for host := poolFirst; host <= poolLast; host++ {
		base[3] = byte(host)
		if ip := netip.AddrFrom4(base); !used[ip] {
			l.by[mac] = ip
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// handle answers a frame that carries a DHCP request: with the frames of those
// that answer it, which may be none.
func (l *leases) handle(frame []byte) (replies [][]byte) {
	payload, ok := udpPayload(frame, dhcpv4.ServerPort)
	if !ok {
		return nil
	}
	req, err := dhcpv4.FromBytes(payload)
	if err != nil || req.OpCode != dhcpv4.OpcodeBootRequest || len(req.ClientHWAddr) != 6 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.proxy != nil {
		if reply := l.proxy(req); reply != nil {
			replies = append(replies, dhcpFrame(req, reply))
		}
	}
	if l.stopped {
		return replies
	}
	if reply := l.reply(req); reply != nil {
		replies = append(replies, dhcpFrame(req, reply))
	}
	return replies
}

func (l *leases) reply(req *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	mac := MAC(req.ClientHWAddr)
	if id := req.ServerIdentifier(); id != nil && !id.Equal(Gateway.AsSlice()) {
		return nil // meant for another server
	}
	ip, ok := l.choose(mac)
	if !ok {
		return nil
	}
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return l.grant(req, ip, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		asked := req.RequestedIPAddress()
		if asked == nil || asked.IsUnspecified() {
			asked = req.ClientIPAddr
		}
		if !asked.Equal(ip.AsSlice()) {
			return l.grant(req, ip, dhcpv4.MessageTypeNak)
		}
		l.given[mac] = ip
		return l.grant(req, ip, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeInform:
		return l.grant(req, ip, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		delete(l.given, mac)
	}
	return nil
}

func (l *leases) grant(req *dhcpv4.DHCPv4, ip netip.Addr, t dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	gw := net.IP(Gateway.AsSlice())
	mods := []dhcpv4.Modifier{dhcpv4.WithMessageType(t), dhcpv4.WithServerIP(gw), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gw))}
	if t != dhcpv4.MessageTypeNak {
		mods = append(mods,
			dhcpv4.WithNetmask(net.CIDRMask(Subnet.Bits(), 32)),
			dhcpv4.WithRouter(gw),
			dhcpv4.WithDNS(gw),
			dhcpv4.WithDomainSearchList("test.example"),
		)
		mods = append(mods, l.extra()...)
		if req.MessageType() != dhcpv4.MessageTypeInform { // RFC 2131, 4.3.5: no lease time, no address
			mods = append(mods, dhcpv4.WithLeaseTime(uint32(l.time/time.Second)), dhcpv4.WithYourIP(ip.AsSlice()))
		}
		if l.boot != nil {
			mods = append(mods, l.boot(req)...)
		}
	}
	reply, err := dhcpv4.NewReplyFromRequest(req, mods...)
	if err != nil {
		return nil
	}
	return reply
}

// dhcpFrame addresses the reply as RFC 2131, 4.1 says: a renewing client at
// its address, one that cannot receive unicast (or is refused) by broadcast,
// any other at its hardware address.
func dhcpFrame(req, reply *dhcpv4.DHCPv4) []byte {
	dstMAC, dstIP := MAC(req.ClientHWAddr), netip.AddrFrom4([4]byte(reply.YourIPAddr.To4()))
	nak := reply.MessageType() == dhcpv4.MessageTypeNak
	switch {
	case !nak && !req.ClientIPAddr.IsUnspecified():
		dstIP = netip.AddrFrom4([4]byte(req.ClientIPAddr.To4()))
	case nak || req.IsBroadcast() || reply.YourIPAddr.IsUnspecified():
		dstMAC, dstIP = MAC{255, 255, 255, 255, 255, 255}, netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	src := Gateway // a proxy names itself
	if ip, ok := netip.AddrFromSlice(reply.ServerIPAddr.To4()); ok && !ip.IsUnspecified() {
		src = ip
	}
	return udpFrame(dstMAC, netip.AddrPortFrom(src, dhcpv4.ServerPort), netip.AddrPortFrom(dstIP, dhcpv4.ClientPort), reply.ToBytes())
}
