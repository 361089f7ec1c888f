package netup

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Lease is what a network gave, or what the kernel command line says.
type Lease struct {
	Prefix  netip.Prefix
	Routes  []Route
	DNS     []netip.Addr
	Search  []string
	MTU     int // 0: leave it
	Servers string
}

// Route is a way to other networks.
type Route struct {
	To  netip.Prefix
	Via netip.Addr // unspecified: on the link
}

// readLease reads a DHCPACK.
func readLease(m *dhcpv4.DHCPv4) (Lease, error) {
	var l Lease
	ip, ok := netip.AddrFromSlice(m.YourIPAddr.To4())
	if !ok || ip.IsUnspecified() {
		return l, errors.New("the DHCP server gave no address")
	}
	bits := 24 // RFC 950 has classes; a server without a mask is broken, and this the best guess
	if mask := m.SubnetMask(); mask != nil {
		ones, size := mask.Size()
		if size != 32 || ones == 0 {
			return l, fmt.Errorf("the DHCP server gave the netmask %s", mask)
		}
		bits = ones
	}
	l.Prefix = netip.PrefixFrom(ip, bits)
	// RFC 3442: with classless routes, the router option is ignored.
	if list := m.ClasslessStaticRoute(); len(list) > 0 {
		for _, r := range list {
			to, ok := netip.AddrFromSlice(r.Dest.IP.To4())
			via, vok := netip.AddrFromSlice(r.Router.To4())
			if ones, size := r.Dest.Mask.Size(); ok && vok && size == 32 {
				l.Routes = append(l.Routes, Route{netip.PrefixFrom(to, ones), via})
			}
		}
	} else if list := m.Router(); len(list) > 0 {
		if via, ok := netip.AddrFromSlice(list[0].To4()); ok {
			l.Routes = []Route{{netip.PrefixFrom(netip.IPv4Unspecified(), 0), via}}
		}
	}
	for _, d := range m.DNS() {
		if a, ok := netip.AddrFromSlice(d.To4()); ok {
			l.DNS = append(l.DNS, a)
		}
	}
	if s := m.DomainSearch(); s != nil {
		l.Search = s.Labels
	} else if d := m.DomainName(); d != "" {
		l.Search = []string{d}
	}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, m.Options); err == nil && mtu >= 576 && mtu <= 9216 {
		l.MTU = int(mtu)
	}
	if id := m.ServerIdentifier(); id != nil {
		l.Servers = id.String()
	}
	return l, nil
}

// resolvConf is resolv.conf(5). Names come from the network: only those that
// are names get in.
func (l Lease) resolvConf() string {
	var b strings.Builder
	for _, d := range l.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	var search []string
	for _, s := range l.Search {
		if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
		}) {
			search = append(search, s)
		}
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	return b.String()
}
