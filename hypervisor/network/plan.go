package network

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"joist/api/node"
)

// link is a network link as far as choosing one needs to know it.
type link struct {
	Index  int
	Name   string
	MAC    string // burnt into the card where the kernel knows it: members of a bond wear the bond's
	Kind   string // the kernel's kind: "device" for hardware, "veth", "bridge", "tun" …
	Ether  bool
	Master int
}

// choose finds the link that carries the management bridge: by hardware
// address, then by the name it had at installation, then the only network card
// of the machine. Bridges and taps can wear any address and do not count.
func choose(cfg node.Network, links []link) (link, error) {
	return chooseCard(node.Card{MAC: cfg.MAC, Name: cfg.Link}, cfg.Bridge, links)
}

func chooseCard(want node.Card, bridge string, links []link) (link, error) {
	var cards []link
	for _, l := range links {
		// A veth is the "card" of a machine that is itself a container.
		if l.Ether && l.Name != bridge && (l.Kind == "device" || l.Kind == "veth") {
			cards = append(cards, l)
		}
	}
	// Hardware first: a container's veth must not win by a copied address.
	slices.SortStableFunc(cards, func(a, b link) int { return strings.Compare(a.Kind, b.Kind) })
	for _, l := range cards {
		if want.MAC != "" && strings.EqualFold(l.MAC, want.MAC) {
			return l, nil
		}
	}
	for _, l := range cards {
		if l.Name == want.Name {
			return l, nil
		}
	}
	hardware := slices.DeleteFunc(slices.Clone(cards), func(l link) bool { return l.Kind != "device" })
	if len(hardware) == 1 {
		return hardware[0], nil
	}
	var names []string
	for _, l := range hardware {
		names = append(names, l.Name+" "+l.MAC)
	}
	there := "there is none"
	if len(names) > 0 {
		there = "there are " + strings.Join(names, ", ")
	}
	return link{}, fmt.Errorf("find the management network card %s (%s): %s", want.MAC, want.Name, there)
}

// members finds the cards of a bond: by hardware address, then by name. One
// that is missing does not keep the others from working.
func members(b node.Bond, links []link) (out []link, missing []string) {
	for _, want := range b.Cards {
		i := slices.IndexFunc(links, func(l link) bool {
			return l.Ether && (l.Kind == "device" || l.Kind == "veth") && strings.EqualFold(l.MAC, want.MAC)
		})
		if i < 0 {
			i = slices.IndexFunc(links, func(l link) bool { return l.Ether && l.Kind == "device" && l.Name == want.Name })
		}
		if i < 0 || slices.Contains(out, links[i]) {
			missing = append(missing, want.MAC+" ("+want.Name+")")
			continue
		}
		out = append(out, links[i])
	}
	return out, missing
}

// Names of the links that we make. vlanName is the tagged link on the bridge.
const bondName = "bond0"

func vlanName(n node.Network) string { return fmt.Sprintf("%sv%d", n.Bridge, n.VLAN) }

// checkNetwork looks at what reaches names and the kernel.
func checkNetwork(n node.Network) error {
	if err := checkName(n.Bridge); err != nil {
		return err
	}
	if n.VLAN < 0 || n.VLAN > 4094 {
		return fmt.Errorf("%d is no VLAN tag", n.VLAN)
	}
	if n.VLAN > 0 {
		if err := checkName(vlanName(n)); err != nil {
			return err
		}
	}
	if n.MTU != 0 && (n.MTU < 1280 || n.MTU > 9216) {
		return fmt.Errorf("an MTU of %d is not possible: 1280 to 9216", n.MTU)
	}
	if err := checkPins(n); err != nil || n.Bond == nil {
		return err
	}
	for what, known := range map[string]bool{
		"mode " + n.Bond.Mode:     slices.Contains([]string{"active-backup", "802.3ad", "balance-xor", "balance-rr", "balance-tlb", "balance-alb", "broadcast"}, n.Bond.Mode),
		"hash " + n.Bond.Hash:     slices.Contains([]string{"", "layer2", "layer2+3", "layer3+4"}, n.Bond.Hash),
		"rate " + n.Bond.LACPRate: slices.Contains([]string{"", "slow", "fast"}, n.Bond.LACPRate),
		"list of no cards":        len(n.Bond.Cards) > 0,
	} {
		if !known {
			return fmt.Errorf("the bonding driver has no %q", what)
		}
	}
	return nil
}

// wish is what the management link should carry. The zero wish leaves alone
// what is there; a known one without address takes every IPv4 address away.
type wish struct {
	Known   bool
	Address netip.Prefix // IPv4
	Gateway netip.Addr   // IPv4
	Routes  []route
	Six     *six // nil: router advertisements give what there is
	DNS     []string
	Search  string
}

// six is a static IPv6 address. Without a gateway router advertisements give
// the route, never an address.
type six struct {
	Address netip.Prefix
	Gateway netip.Addr
}

// staticWish is the wish of a static configuration.
func staticWish(n node.Network) (wish, error) {
	w := wish{Known: true, DNS: n.DNS, Search: n.Search}
	if err := w.add(n.CIDR, n.Gateway); err != nil {
		return wish{}, err
	}
	err := w.second(n)
	return w, err
}

// second adds the address of the other family, which is static with DHCP too.
func (w *wish) second(n node.Network) error {
	if n.SecondCIDR == "" {
		return nil
	}
	return w.add(n.SecondCIDR, n.SecondGateway)
}

// add takes a static address into the wish, whatever its family.
func (w *wish) add(cidr, gateway string) error {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return fmt.Errorf("read static address: %w", err)
	}
	var gw netip.Addr
	if gateway != "" {
		if gw, err = netip.ParseAddr(gateway); err != nil {
			return fmt.Errorf("read gateway: %w", err)
		}
	}
	a := p.Addr()
	switch {
	case gw.IsValid() && gw.Is4() != a.Is4():
		return fmt.Errorf("read gateway: %s is of another family than %s", gw, p)
	case usable(a) && !w.Address.IsValid():
		w.Address, w.Gateway = p, gw
	case a.Is6() && !a.Is4In6() && a.IsGlobalUnicast() && a.Zone() == "" && w.Six == nil:
		w.Six = &six{p, gw}
	default:
		return fmt.Errorf("read static address: %s is not a host's address, or a second one of its family", cidr)
	}
	return nil
}

// leaseWish is the wish of a lease; the configuration's servers come after
// those of the lease, its search domain before.
func leaseWish(l lease, n node.Network) wish {
	w := wish{Known: true, Address: l.Address, Gateway: l.Gateway, Routes: l.Routes, Search: n.Search}
	for _, a := range l.DNS {
		w.DNS = append(w.DNS, a.String())
	}
	for _, a := range n.DNS {
		if !slices.Contains(w.DNS, a) {
			w.DNS = append(w.DNS, a)
		}
	}
	if w.Search == "" {
		w.Search = l.Search
	}
	_ = w.second(n) // read when the daemon began, and said there when it is wrong
	return w
}

// resolvConf renders resolv.conf(5). The C library reads three servers at
// most (MAXNS); what is not an address or a domain never gets in.
func resolvConf(w wish) string {
	var b strings.Builder
	b.WriteString("# Written by joistd network; changes are lost.\n")
	if domainRE.MatchString(w.Search) {
		fmt.Fprintf(&b, "search %s\n", w.Search)
	}
	n := 0
	for _, d := range w.DNS {
		if a, err := netip.ParseAddr(d); err == nil && n < 3 {
			fmt.Fprintf(&b, "nameserver %s\n", a)
			n++
		}
	}
	return b.String()
}

// staleSix returns the permanent addresses that must go so that only want is
// left of them; link-local ones and those of router advertisements stay.
func staleSix(have []address, want netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range have {
		if a.Permanent && !a.Prefix.Addr().IsLinkLocalUnicast() && a.Prefix != want {
			out = append(out, a.Prefix)
		}
	}
	return out
}

// address is one of a link.
type address struct {
	Prefix    netip.Prefix
	Permanent bool // set by hand or by us, not by a router advertisement
}

// stale returns those of have that must go so that only want is left.
func stale(have []netip.Prefix, want netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(have), func(p netip.Prefix) bool { return p == want })
}

// listed are the addresses that status shows: IPv4 first, nothing link-local.
func listed(have []netip.Prefix) []string {
	out := []string{}
	for _, v4 := range []bool{true, false} {
		for _, p := range have {
			if p.Addr().Is4() == v4 && !p.Addr().IsLinkLocalUnicast() {
				out = append(out, p.String())
			}
		}
	}
	return out
}

// nameRE is narrower than the kernel's rule (dev_valid_name: 15 bytes, no
// slash, colon or space): our names also go into paths below /proc/sys.
var nameRE = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]{0,14}$`)

func checkName(s string) error {
	if !nameRE.MatchString(s) {
		return fmt.Errorf("%q cannot name a network link", s)
	}
	return nil
}
