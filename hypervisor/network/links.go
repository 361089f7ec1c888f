package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"joist/api/node"
)

// base is what addresses stand on.
type base struct {
	bridge  int // index
	on      int // index of the link that carries the addresses: the bridge, or its tagged link
	onName  string
	port    link
	mac     net.HardwareAddr
	carrier bool
	trouble string // what is not as it was asked for, and yet works
}

// ensure makes the bridge over the management card or bond, as far as it is
// not there.
func ensure(n node.Network) (base, error) {
	if err := checkNetwork(n); err != nil {
		return base{}, err
	}
	if lo, err := netlink.LinkByName("lo"); err == nil && lo.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(lo); err != nil {
			return base{}, fmt.Errorf("bring up lo: %w", err)
		}
	}
	card, b, err := ensureLower(n)
	if err != nil {
		return base{}, err
	}
	b.mac = card.Attrs().HardwareAddr
	br, err := ensureBridge(n.Bridge, b.mac)
	if err != nil {
		return base{}, err
	}
	on, links := br, []netlink.Link{card, br}
	if n.VLAN > 0 {
		if on, err = ensureVLAN(n, br); err != nil {
			return base{}, err
		}
		links = append(links, on)
		if err := sysctl("ipv6/conf/"+n.Bridge+"/disable_ipv6", "1"); err != nil {
			return base{}, err
		}
	}
	if t := ensureMTU(n.MTU, links...); t != "" {
		b.trouble = t
	}
	if err := ensurePort(card, br); err != nil {
		return base{}, err
	}
	b.bridge, b.on, b.onName = br.Attrs().Index, on.Attrs().Index, on.Attrs().Name
	b.carrier = card.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
	return b, speak(b.onName, n)
}

// ensureLower finds what carries the bridge: a card, or the bond of several.
func ensureLower(n node.Network) (netlink.Link, base, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, base{}, fmt.Errorf("list links: %w", err)
	}
	if n.Bond != nil {
		bond, trouble, err := ensureBond(n, all)
		if err != nil {
			return nil, base{}, err
		}
		return bond, base{port: link{Index: bond.Attrs().Index, Name: bond.Attrs().Name, MAC: n.MAC, Kind: "bond", Ether: true}, trouble: trouble}, nil
	}
	port, err := choose(n, linksOf(all))
	if err != nil {
		return nil, base{}, err
	}
	card, err := netlink.LinkByIndex(port.Index)
	if err != nil {
		return nil, base{}, fmt.Errorf("find %s: %w", port.Name, err)
	}
	return card, base{port: port}, nil
}

// speak sets how the link that carries the addresses talks IP. 2 accepts
// router advertisements on a forwarding host too; promotion keeps the new
// address of a subnet when the old one goes
// (Documentation/networking/ip-sysctl.rst). A static IPv6 address is the only
// one, and with a router of its own no other is listened to.
func speak(name string, n node.Network) error {
	set := map[string]string{"ipv6/conf/" + name + "/accept_ra": "2", "ipv4/conf/" + name + "/promote_secondaries": "1"}
	for cidr, gateway := range map[string]string{n.CIDR: n.Gateway, n.SecondCIDR: n.SecondGateway} {
		if p, err := netip.ParsePrefix(cidr); err == nil && p.Addr().Is6() {
			set["ipv6/conf/"+name+"/autoconf"] = "0"
			if gateway != "" {
				set["ipv6/conf/"+name+"/accept_ra"] = "0"
			}
		}
	}
	for key, value := range set {
		if err := sysctl(key, value); err != nil {
			return err
		}
	}
	return nil
}

func linksOf(all []netlink.Link) []link {
	out := make([]link, 0, len(all))
	for _, l := range all {
		a := l.Attrs()
		mac := a.HardwareAddr
		if len(a.PermHWAddr) == len(mac) {
			mac = a.PermHWAddr
		}
		out = append(out, link{a.Index, a.Name, mac.String(), l.Type(),
			a.EncapType == "ether" && a.Flags&net.FlagLoopback == 0, a.MasterIndex})
	}
	return out
}

// ensureBridge makes the bridge with the card's hardware address, so that DHCP
// servers go on giving the lease that the card had.
func ensureBridge(name string, mac net.HardwareAddr) (netlink.Link, error) {
	br, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = name, mac
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("create bridge %s: %w", name, err)
		}
		if br, err = netlink.LinkByName(name); err != nil {
			return nil, fmt.Errorf("find bridge %s: %w", name, err)
		}
		if err := plainBridge(br.Attrs().Index); err != nil {
			return nil, fmt.Errorf("set up bridge %s: %w", name, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", name, err)
	}
	if br.Type() != "bridge" {
		return nil, fmt.Errorf("link %s is there but is a %s, not a bridge", name, br.Type())
	}
	if !bytes.Equal(br.Attrs().HardwareAddr, mac) {
		if err := netlink.LinkSetHardwareAddr(br, mac); err != nil {
			return nil, fmt.Errorf("set hardware address of %s: %w", name, err)
		}
	}
	if br.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(br); err != nil {
			return nil, fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	return br, nil
}

// plainBridge turns off spanning tree and forward delay, for which the library
// has no fields. VLAN filtering is off in a new bridge, and a kernel built
// without it refuses even to be told so.
func plainBridge(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
	data.AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(0))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// ensurePort puts the card into the bridge. The card itself speaks no IP: an
// address left on it would answer from the wrong link.
func ensurePort(card, br netlink.Link) error {
	name := card.Attrs().Name
	if card.Attrs().MasterIndex != br.Attrs().Index {
		if err := netlink.LinkSetMaster(card, br); err != nil {
			return fmt.Errorf("put %s into %s: %w", name, br.Attrs().Name, err)
		}
		if checkName(name) == nil {
			if err := sysctl("ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil {
				return err
			}
		}
	}
	if card.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(card); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	return nil
}

// sysctl writes one value below /proc/sys/net, if it differs. A kernel without
// IPv6 has no such file, and nothing to set.
func sysctl(key, value string) error {
	name := "/proc/sys/net/" + key
	old, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err := os.WriteFile(name, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl net.%s: %w", strings.ReplaceAll(key, "/", "."), err)
	}
	return nil
}

// list reads the addresses of one link that can be used.
func list(index, family int) ([]address, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("find link %d: %w", index, err)
	}
	all, err := netlink.AddrList(l, family)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	var out []address
	for _, a := range all {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		// An address that is still being checked for a duplicate cannot be used.
		if ok && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			out = append(out, address{netip.PrefixFrom(ip.Unmap(), ones), a.Flags&unix.IFA_F_PERMANENT != 0})
		}
	}
	return out, nil
}

// addresses is list without more than the prefixes.
func addresses(index, family int) ([]netip.Prefix, error) {
	all, err := list(index, family)
	var out []netip.Prefix
	for _, a := range all {
		out = append(out, a.Prefix)
	}
	return out, err
}

// converge makes the link carry the wish: the new address first, the old
// ones after it, routes last because they go with an address.
func converge(b base, w wish, protocol netlink.RouteProtocol) error {
	if w.Six != nil {
		if err := convergeSix(b, w.Six); err != nil {
			return err
		}
	}
	if !w.Known {
		return nil
	}
	have, err := addresses(b.on, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	on := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: b.on}}
	if w.Address.IsValid() && !slices.Contains(have, w.Address) {
		if err := netlink.AddrReplace(on, &netlink.Addr{IPNet: ipNet(w.Address)}); err != nil {
			return fmt.Errorf("set address %s: %w", w.Address, err)
		}
	}
	for _, p := range stale(have, w.Address) {
		if err := netlink.AddrDel(on, &netlink.Addr{IPNet: ipNet(p)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", p, err)
		}
	}
	if !w.Address.IsValid() {
		return nil
	}
	left, err := addresses(b.port.Index, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	card := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: b.port.Index}}
	for _, p := range left {
		if err := netlink.AddrDel(card, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
			return fmt.Errorf("remove address %s from %s: %w", p, b.port.Name, err)
		}
	}
	want := slices.Clone(w.Routes)
	if w.Gateway.IsValid() {
		want = append(want, route{anyFour, w.Gateway})
	}
	return setRoutes(b.on, netlink.FAMILY_V4, w.Address, want, protocol)
}

// The default routes' destinations.
var (
	anyFour = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	anySix  = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// setRoutes makes the link have the wanted routes of one family, and none else
// that DHCP or a configuration made.
func setRoutes(index, family int, from netip.Prefix, want []route, protocol netlink.RouteProtocol) error {
	have, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range have {
		known, ours := routeOf(r, family)
		if i := slices.Index(want, known); i >= 0 {
			want = slices.Delete(want, i, i+1)
		} else if ours {
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route to %s: %w", known.To, err)
			}
		}
	}
	for _, r := range want {
		x := &netlink.Route{LinkIndex: index, Dst: ipNet(r.To), Protocol: protocol, Table: unix.RT_TABLE_MAIN}
		if r.Via.IsUnspecified() {
			x.Scope = netlink.SCOPE_LINK
		} else {
			x.Gw = r.Via.AsSlice()
			// A gateway outside the subnet (rented servers with a /32) is on the link.
			if !from.Contains(r.Via) && !r.Via.IsLinkLocalUnicast() {
				x.Flags = int(netlink.FLAG_ONLINK)
			}
		}
		if err := netlink.RouteReplace(x); err != nil {
			return fmt.Errorf("set route to %s by %s: %w", r.To, r.Via, err)
		}
	}
	return nil
}

// routeOf reads a kernel route; ours are those that DHCP or our configuration
// made, never the kernel's own.
func routeOf(r netlink.Route, family int) (route, bool) {
	out := route{To: anyFour, Via: netip.IPv4Unspecified()}
	if family == netlink.FAMILY_V6 {
		out = route{To: anySix, Via: netip.IPv6Unspecified()}
	}
	if r.Dst != nil {
		ones, _ := r.Dst.Mask.Size()
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			out.To = netip.PrefixFrom(a.Unmap(), ones)
		}
	}
	if a, ok := netip.AddrFromSlice(r.Gw); ok {
		out.Via = a.Unmap()
	}
	return out, r.Protocol == unix.RTPROT_DHCP || r.Protocol == unix.RTPROT_STATIC
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
