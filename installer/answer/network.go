package answer

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

func (c *checker) network() {
	n := c.a.Network
	keys := []struct {
		key  string
		has  bool
		hint string
	}{
		{"network.cidr", n.CIDR != "", "add cidr = \"192.0.2.10/24\""},
		{"network.gateway", n.Gateway != "", "add gateway = \"192.0.2.1\""},
		{"network.dns", len(n.DNS) > 0, "add dns = \"192.0.2.1\""},
	}
	static := n.Source == FromAnswer
	for _, k := range keys {
		switch {
		case static && !k.has && !c.a.bad[k.key]:
			c.missing(k.key, k.hint)
		case !static && c.given(k.key, k.has):
			c.stop(k.key, "answer-conflict", "remove it or set source = \"from-answer\"", "%s has no meaning with source = \"from-dhcp\"", k.key)
		}
	}
	bonded := c.a.Link.Bond.Mode != ""
	switch {
	case static && len(n.Filter) == 0 && !bonded && !c.a.partial && c.a.name != "":
		c.stop("network.source", "answer-missing-key", "add filter.ID_NET_NAME_MAC = \"enx001122334455\" or another udev property", "network.filter is missing: it says which NIC gets the address")
	case !static && len(n.Filter) > 0:
		for _, k := range slices.Sorted(maps.Keys(n.Filter)) {
			c.stop("network.filter."+k, "answer-conflict", "remove it or set source = \"from-answer\"", "network.filter has no meaning with source = \"from-dhcp\"")
		}
	}
	c.filter("network.filter", n.Filter)
	c.addresses()
	c.pinning()
}

var (
	mac       = regexp.MustCompile(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)
	pinned    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,14}$`) // IFNAMSIZ less the zero
	hexDigits = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
)

// ours are beginnings of names that links of a node have.
var ours = regexp.MustCompile(`^(lo|(vmbr|bond|tap|veth|fw|pin)[0-9a-z]*)$`)

func (c *checker) pinning() {
	names := map[string]string{}
	const enabled = "network.interface-name-pinning.enabled"
	if len(c.a.Network.Mapping) > 0 && !c.a.Network.Pinning && !c.a.bad[enabled] {
		if _, off := c.a.at[enabled]; off {
			c.stop(enabled, "answer-conflict", "set it to true, or remove the mapping", "a mapping of names has no meaning while pinning is off")
		} else {
			c.missing(enabled, "add interface-name-pinning.enabled = true, or remove the mapping")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.a.Network.Mapping)) {
		key, v := "network.interface-name-pinning.mapping."+k, c.a.Network.Mapping[k]
		other, taken := names[v]
		switch {
		case !mac.MatchString(k):
			c.stop(key, "answer-wrong-value", "write a hardware address, like \"52:54:00:12:34:56\"", "%q is not a hardware address", k)
		case !pinned.MatchString(v):
			c.stop(key, "answer-wrong-value", "begin with a letter, then letters, digits and _, 15 in all, like nic0", "%q is not a name for an interface", v)
		case ours.MatchString(v):
			c.stop(key, "answer-wrong-value", "use another name, like nic0 or lan1", "the name %q is for links that the node makes", v)
		case taken:
			c.stop(key, "answer-conflict", "give each card a name of its own", "%s and %s get the same name %q", other, k, v)
		}
		names[v] = k
	}
}

// prefix checks an address with its prefix length.
func (c *checker) prefix(key, v string) netip.Prefix {
	if v == "" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(v)
	switch {
	case err != nil:
		c.stop(key, "answer-wrong-value", "write address and prefix length, like 192.0.2.10/24 or 2001:db8::10/64", "%s = %q is not an address with prefix length", key, v)
	case !usable(p.Addr()) || p.Bits() < 2 || p.Addr() == p.Masked().Addr() && p.Bits() < p.Addr().BitLen()-1:
		c.stop(key, "answer-wrong-value", "write the address of this node, like 192.0.2.10/24", "%s = %q is a network or a special address, not the address of a node", key, v)
	default:
		return p
	}
	return netip.Prefix{}
}

// machine checks the address of another machine.
func (c *checker) machine(key, v string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(v)
	if err != nil || !usable(a) && !a.IsLinkLocalUnicast() || a.Zone() != "" {
		c.stop(key, "answer-wrong-value", "write one IP address, like 192.0.2.1", "%s = %q is not the address of a machine", key, v)
		return a, false
	}
	return a, true
}

// router checks a gateway against the node's own prefix.
func (c *checker) router(key, v string, p netip.Prefix) {
	if v == "" {
		return
	}
	g, ok := c.machine(key, v)
	switch {
	case !ok || !p.IsValid():
	case g == p.Addr():
		c.stop(key, "answer-conflict", "write the router's address", "the router's and the node's address are the same, %s", g)
	case g.Is4() != p.Addr().Is4():
		c.stop(key, "answer-conflict", "write a router of the same family as the address", "router %s and address %s are of two families", g, p.Addr())
	case !p.Contains(g) && !g.IsLinkLocalUnicast():
		c.stop(key, "answer-conflict", "check both values; a router is reached only inside the node's own network", "gateway %s is outside the network %s", g, p.Masked())
	}
}

func (c *checker) addresses() {
	n, l := c.a.Network, c.a.Link
	p := c.prefix("network.cidr", n.CIDR)
	for _, d := range n.DNS {
		c.machine("network.dns", d)
	}
	c.router("network.gateway", n.Gateway, p)
	const second, gateway = "joist.network.second-cidr", "joist.network.second-gateway"
	q := c.prefix(second, l.SecondCIDR)
	switch {
	case q.IsValid() && p.IsValid() && q.Addr().Is4() == p.Addr().Is4():
		c.stop(second, "answer-conflict", "write an address of the other family", "second-cidr and network.cidr are of the same family")
	case q.IsValid() && n.Source != FromAnswer && q.Addr().Is4():
		c.stop(second, "answer-conflict", "write an IPv6 address, or set network.source = \"from-answer\"", "second-cidr is IPv4, which DHCP gives already")
	case l.SecondCIDR == "" && c.given(gateway, l.SecondGateway != ""):
		c.stop(gateway, "answer-conflict", "add second-cidr or remove it", "second-gateway has no meaning without second-cidr")
	}
	c.router(gateway, l.SecondGateway, q)
}

func usable(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsLoopback() && !a.IsMulticast() && a.Zone() == ""
}

// link checks [joist.network].
func (c *checker) link() {
	const at = "joist.network.bond."
	b := c.a.Link.Bond
	c.filter("joist.network.filter", c.a.Link.Filter)
	c.filter(at+"filter", b.Filter)
	if len(c.a.Link.Filter) > 0 && c.a.Network.Source == FromAnswer {
		c.stop("joist.network.filter", "answer-conflict", "use network.filter", "joist.network.filter names the card that is asked for DHCP, and source is \"from-answer\"")
	}
	if len(c.a.Link.Filter) > 0 && b.Mode != "" {
		c.stop("joist.network.filter", "answer-conflict", "remove it: bond.filter names the cards", "joist.network.filter has no meaning with a bond")
	}
	other := c.given(at+"filter-match", b.FilterMatch != "") || c.given(at+"hash", b.Hash != "") || c.given(at+"lacp-rate", b.LACPRate != "")
	switch {
	case b.Mode == "" && !c.given(at+"mode", false) && (len(b.Filter) > 0 || other):
		c.missing(at+"mode", "add bond.mode = \"active-backup\"")
	case b.Mode != "" && len(b.Filter) == 0:
		c.stop(at+"mode", "answer-missing-key", "add bond.filter.ID_NET_DRIVER = \"ixgbe\" or another udev property of its cards", "bond.filter is missing: it says which cards the bond has")
	}
	hashes := []string{"802.3ad", "balance-xor", "balance-tlb"}
	if b.Hash != "" && b.Mode != "" && !slices.Contains(hashes, b.Mode) {
		c.stop(at+"hash", "answer-conflict", "remove it or use one of: "+strings.Join(hashes, " "), "bond.hash has no meaning with mode %q", b.Mode)
	}
	if b.LACPRate != "" && b.Mode != "" && b.Mode != "802.3ad" {
		c.stop(at+"lacp-rate", "answer-conflict", "remove it or use mode 802.3ad", "bond.lacp-rate has no meaning with mode %q", b.Mode)
	}
}
