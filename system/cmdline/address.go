package cmdline

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Address is ip=: how stage 1 gets an address when it fetches the system. The
// zero value asks DHCP on every card.
type Address struct {
	Device  string       // kernel's name of the card, "" for any
	Prefix  netip.Prefix // invalid: DHCP
	Gateway netip.Addr   // may be invalid
	DNS     []netip.Addr
}

// Static reports whether the address is given.
func (a Address) Static() bool { return a.Prefix.IsValid() }

var device = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,15}$`)

// ParseAddress reads the value of ip= (kernel document admin-guide/nfs/nfsroot.rst):
//
//	dhcp
//	[<address>]:[<server>]:[<gateway>]:[<mask>]:[<host name>]:[<device>]:[<how>]:[<DNS>]:[<DNS>]
//
// IPv6 addresses stand in brackets. The mask may be a number of bits. Server
// and host name mean nothing to us.
func ParseAddress(val string) (Address, error) {
	bad := func(what string) (Address, error) {
		return Address{}, fmt.Errorf("ip=%q: %s", val, what)
	}
	f := fields(val)
	if len(f) == 1 && auto(f[0]) {
		return Address{}, nil
	}
	if len(f) < 6 || len(f) > 10 {
		return bad("it is neither dhcp nor address::gateway:mask::device:none")
	}
	f = append(f, make([]string, 10)...)
	var a Address
	if a.Device = f[5]; a.Device != "" && (!device.MatchString(a.Device) || strings.Trim(a.Device, ".") == "") {
		return bad("the device is no name of a network card")
	}
	if f[0] == "" {
		if !auto(f[6]) {
			return bad("there is no address and no dhcp")
		}
		return a, nil
	}
	ip, err := netip.ParseAddr(f[0])
	if err != nil || ip.Zone() != "" {
		return bad("the first field is no address")
	}
	bits, ok := maskBits(f[3], ip)
	if !ok {
		return bad("the mask is neither a number of bits nor a netmask")
	}
	a.Prefix = netip.PrefixFrom(ip, bits)
	if f[2] != "" {
		if a.Gateway, err = netip.ParseAddr(f[2]); err != nil || a.Gateway.Is4() != ip.Is4() {
			return bad("the gateway is no address of the same kind")
		}
	}
	for _, s := range f[7:9] {
		if s == "" {
			continue
		}
		dns, err := netip.ParseAddr(s)
		if err != nil {
			return bad("a name server is no address")
		}
		a.DNS = append(a.DNS, dns)
	}
	return a, nil
}

func auto(s string) bool {
	switch s {
	case "", "dhcp", "on", "any", "both", "auto", "auto6":
		return true
	}
	return false
}

// maskBits reads "24", "255.255.255.0" or, for IPv6, "64".
func maskBits(s string, ip netip.Addr) (int, bool) {
	if n, err := strconv.Atoi(s); err == nil {
		return n, n > 0 && n <= ip.BitLen()
	}
	m, err := netip.ParseAddr(s)
	if err != nil || !m.Is4() || !ip.Is4() {
		return 0, false
	}
	ones, size := net.IPMask(m.AsSlice()).Size()
	return ones, size == 32 && ones > 0
}

// fields splits at colons outside brackets, which are dropped.
func fields(s string) (out []string) {
	var w strings.Builder
	inside := false
	for _, r := range s {
		switch {
		case r == '[' || r == ']':
			inside = r == '['
		case r == ':' && !inside:
			out = append(out, w.String())
			w.Reset()
		default:
			w.WriteRune(r)
		}
	}
	return append(out, w.String())
}
