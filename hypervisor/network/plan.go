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
	MAC    string
	Kind   string // the kernel's kind: "device" for hardware, "veth", "bridge", "tun" …
	Ether  bool
	Master int
}

// choose finds the link that carries the management bridge: by hardware
// address, then by the name it had at installation, then the only network card
// of the machine. Bridges and taps can wear any address and do not count.
func choose(cfg node.Network, links []link) (link, error) {
	var cards []link
	for _, l := range links {
		// A veth is the "card" of a machine that is itself a container.
		if l.Ether && l.Name != cfg.Bridge && (l.Kind == "device" || l.Kind == "veth") {
			cards = append(cards, l)
		}
	}
	// Hardware first: a container's veth must not win by a copied address.
	slices.SortStableFunc(cards, func(a, b link) int { return strings.Compare(a.Kind, b.Kind) })
	for _, l := range cards {
		if cfg.MAC != "" && strings.EqualFold(l.MAC, cfg.MAC) {
			return l, nil
		}
	}
	for _, l := range cards {
		if l.Name == cfg.Link {
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
	return link{}, fmt.Errorf("find the management network card %s (%s): %s", cfg.MAC, cfg.Link, there)
}

// wish is what the bridge should carry. The zero wish leaves alone what is
// there; a known one without address takes every IPv4 address away.
type wish struct {
	Known   bool
	Address netip.Prefix
	Gateway netip.Addr
	Routes  []route
	DNS     []string
	Search  string
}

// staticWish is the wish of a static configuration.
func staticWish(n node.Network) (wish, error) {
	p, err := netip.ParsePrefix(n.CIDR)
	if err != nil {
		return wish{}, fmt.Errorf("read static address: %w", err)
	}
	if !usable(p.Addr()) {
		return wish{}, fmt.Errorf("read static address: %s is not a host's IPv4 address", n.CIDR)
	}
	w := wish{Known: true, Address: p, DNS: n.DNS, Search: n.Search}
	if n.Gateway != "" {
		if w.Gateway, err = netip.ParseAddr(n.Gateway); err != nil {
			return wish{}, fmt.Errorf("read gateway: %w", err)
		}
	}
	return w, nil
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
