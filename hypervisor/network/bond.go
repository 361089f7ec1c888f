package network

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"joist/api/node"
)

// bondMonitor is how often the driver looks at its cards' links, in ms.
const bondMonitor = 100

// ensureBond makes the bond and puts its cards in. Cards that are missing are
// told and do not keep the others from working.
func ensureBond(n node.Network, all []netlink.Link) (bond netlink.Link, trouble string, err error) {
	cards, missing := members(*n.Bond, linksOf(all))
	if len(cards) == 0 {
		return nil, "", fmt.Errorf("find the cards of the bond: none of %s is there", strings.Join(missing, ", "))
	}
	if len(missing) > 0 {
		trouble = "the bond lacks " + strings.Join(missing, ", ")
	}
	if bond, err = makeBond(n); err != nil {
		return nil, "", err
	}
	index := bond.Attrs().Index
	for _, c := range cards {
		if c.Master == index {
			continue
		}
		card, err := netlink.LinkByIndex(c.Index)
		if err == nil && c.Master != 0 {
			err = netlink.LinkSetNoMaster(card)
		}
		if err == nil { // the driver takes only cards that are down
			err = netlink.LinkSetDown(card)
		}
		if err == nil {
			err = netlink.LinkSetMasterByIndex(card, index)
		}
		if err == nil {
			err = netlink.LinkSetUp(card)
		}
		if err != nil {
			return nil, "", fmt.Errorf("put %s into %s: %w", c.Name, bondName, err)
		}
	}
	bond, err = netlink.LinkByIndex(index)
	return bond, trouble, err
}

// makeBond returns the bond of the wanted mode. The driver makes a bond0 of
// its own when it is loaded; one without cards is replaced.
func makeBond(n node.Network) (netlink.Link, error) {
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", bondName, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = bondName, mac
	want := netlink.NewLinkBond(attrs)
	want.Mode, want.Miimon = netlink.StringToBondMode(n.Bond.Mode), bondMonitor
	if n.Bond.Hash != "" {
		want.XmitHashPolicy = netlink.StringToBondXmitHashPolicy(n.Bond.Hash)
	}
	if n.Bond.LACPRate != "" {
		want.LacpRate = netlink.StringToBondLacpRate(n.Bond.LACPRate)
	}
	for range 2 {
		have, err := netlink.LinkByName(bondName)
		var none netlink.LinkNotFoundError
		if err == nil {
			b, ok := have.(*netlink.Bond)
			if ok && b.Mode == want.Mode && slices.Equal(b.HardwareAddr, mac) {
				return have, nil
			}
			if err := netlink.LinkDel(have); err != nil {
				return nil, fmt.Errorf("replace %s: %w", bondName, err)
			}
		} else if !errors.As(err, &none) {
			return nil, fmt.Errorf("find %s: %w", bondName, err)
		}
		if err := netlink.LinkAdd(want); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("create %s: %w", bondName, err)
		}
	}
	have, err := netlink.LinkByName(bondName)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", bondName, err)
	}
	return have, nil
}

// ensureVLAN makes the tagged link on the bridge, which carries the addresses.
func ensureVLAN(n node.Network, br netlink.Link) (netlink.Link, error) {
	name := vlanName(n)
	l, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = name, br.Attrs().Index
		if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: n.VLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
			return nil, fmt.Errorf("create %s with tag %d: %w", name, n.VLAN, err)
		}
		l, err = netlink.LinkByName(name)
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	if l.Type() != "vlan" || l.Attrs().ParentIndex != br.Attrs().Index {
		return nil, fmt.Errorf("link %s is there but is no VLAN link on %s", name, n.Bridge)
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(l); err != nil {
			return nil, fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	return l, nil
}

// ensureMTU sets the MTU of links in this order. A card that cannot is told,
// and the node stays reachable with what it can.
func ensureMTU(mtu int, links ...netlink.Link) (trouble string) {
	for _, l := range links {
		if mtu == 0 || l.Attrs().MTU == mtu {
			continue
		}
		if err := netlink.LinkSetMTU(l, mtu); err != nil {
			return fmt.Sprintf("the MTU of %s stays %d: %v", l.Attrs().Name, l.Attrs().MTU, err)
		}
	}
	return ""
}

// convergeSix gives the link its static IPv6 address and route.
func convergeSix(b base, s *six) error {
	have, err := list(b.on, netlink.FAMILY_V6)
	if err != nil {
		return err
	}
	on := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: b.on}}
	if !slices.ContainsFunc(have, func(a address) bool { return a.Permanent && a.Prefix == s.Address }) {
		if err := netlink.AddrReplace(on, &netlink.Addr{IPNet: ipNet(s.Address)}); err != nil {
			return fmt.Errorf("set address %s: %w", s.Address, err)
		}
	}
	for _, p := range staleSix(have, s.Address) {
		if err := netlink.AddrDel(on, &netlink.Addr{IPNet: ipNet(p)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", p, err)
		}
	}
	var want []route
	if s.Gateway.IsValid() {
		want = append(want, route{anySix, s.Gateway})
	}
	return setRoutes(b.on, netlink.FAMILY_V6, s.Address, want, unix.RTPROT_STATIC)
}
