package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"regexp"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// lease is what a DHCP server granted, and what is kept on disk to ask for the
// same again.
type lease struct {
	MAC     string        `json:"mac"` // of the client: a lease of another card is not ours
	Address netip.Prefix  `json:"address"`
	Gateway netip.Addr    `json:"gateway"`
	Routes  []route       `json:"routes,omitempty"`
	DNS     []netip.Addr  `json:"dns,omitempty"`
	Search  string        `json:"search,omitempty"`
	Server  netip.Addr    `json:"server"`
	Since   time.Time     `json:"since"`
	T1      time.Duration `json:"t1"`
	T2      time.Duration `json:"t2"`
	Length  time.Duration `json:"length"`
}

// route is one classless static route (RFC 3442) that is not the default one.
type route struct {
	To  netip.Prefix `json:"to"`
	Via netip.Addr   `json:"via"` // unspecified: on the link
}

// forever is RFC 2131's infinite lease, and stands in for it in our sums.
const forever = time.Duration(math.MaxInt64)

func (l lease) known() bool { return l.Address.IsValid() }

// left is the time until the lease's age reaches d.
func (l lease) left(d time.Duration, now time.Time) time.Duration {
	if d == forever {
		return forever
	}
	return d - now.Sub(l.Since)
}

// valid reports whether the lease runs at now. A lease from the future was
// written under another clock and proves nothing.
func (l lease) valid(now time.Time) bool {
	return l.known() && !l.Since.After(now.Add(time.Minute)) && l.left(l.Length, now) > 0
}

var domainRE = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)

// leaseOf reads an ACK. Everything in it comes from the wire: what does not
// pass is left out, and without a usable address the whole is refused.
func leaseOf(m *dhcpv4.DHCPv4, now time.Time) (lease, error) {
	l := lease{MAC: m.ClientHWAddr.String(), Since: now, Server: addr(m.ServerIdentifier())}
	ip := addr(m.YourIPAddr)
	if !usable(ip) {
		return lease{}, fmt.Errorf("server %s granted the unusable address %s", l.Server, m.YourIPAddr)
	}
	mask := m.SubnetMask()
	if mask == nil {
		mask = m.YourIPAddr.DefaultMask()
	}
	ones, bits := mask.Size()
	if bits != 32 || ones == 0 {
		return lease{}, fmt.Errorf("server %s sent the unusable netmask %s", l.Server, net.IP(mask))
	}
	l.Address = netip.PrefixFrom(ip, ones)
	l.Gateway, l.Routes = routesOf(m)
	for _, d := range m.DNS() {
		if a := addr(d); usable(a) {
			l.DNS = append(l.DNS, a)
		}
	}
	if d := m.DomainName(); domainRE.MatchString(d) && len(d) <= 253 {
		l.Search = d
	}
	l.Length, l.T1, l.T2 = times(m)
	return l, nil
}

// routesOf takes gateway and routes. Where classless routes are present the
// router option must be ignored (RFC 3442, "DHCP Client Behavior").
func routesOf(m *dhcpv4.DHCPv4) (gw netip.Addr, out []route) {
	classless := m.ClasslessStaticRoute()
	if len(classless) == 0 {
		if r := m.Router(); len(r) > 0 && usable(addr(r[0])) {
			gw = addr(r[0])
		}
		return gw, nil
	}
	for _, r := range classless {
		ones, bits := r.Dest.Mask.Size()
		to, via := addr(r.Dest.IP), addr(r.Router)
		switch {
		case bits != 32 || !to.IsValid() || !via.IsValid():
		case ones == 0 && usable(via):
			gw = via
		case ones > 0:
			out = append(out, route{netip.PrefixFrom(to, ones).Masked(), via})
		}
	}
	return gw, out
}

// times reads the lease's length, T1 and T2; what is missing or out of order
// takes the defaults of RFC 2131, 4.4.5 (0.5 and 0.875 of the length).
func times(m *dhcpv4.DHCPv4) (length, t1, t2 time.Duration) {
	length = m.IPAddressLeaseTime(time.Hour)
	if length >= math.MaxUint32*time.Second {
		return forever, forever, forever
	}
	length = max(length, time.Second)
	t1, t2 = m.IPAddressRenewalTime(0), m.IPAddressRebindingTime(0)
	if t1 <= 0 || t2 <= t1 || length <= t2 {
		t1, t2 = length/2, length/8*7 // in this order: a lease of decades times 7 overflows
	}
	return length, t1, t2
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

// usable reports whether a can be a host's address.
func usable(a netip.Addr) bool {
	return a.Is4() && a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// loadLease reads the last lease of the card mac; a missing, broken or foreign
// file is no lease.
func loadLease(file, mac string) (lease, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return lease{}, nil
	}
	if err != nil {
		return lease{}, fmt.Errorf("read last lease: %w", err)
	}
	var l lease
	if err := json.Unmarshal(b, &l); err != nil {
		return lease{}, fmt.Errorf("read last lease %s: %w", file, err)
	}
	if l.MAC != mac || !l.known() || !usable(l.Address.Addr()) || l.Length <= 0 {
		return lease{}, nil
	}
	return l, nil
}
