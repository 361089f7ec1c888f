package nocloud

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"joist/installer/answer"
)

// link is the one interface that network-config sets up.
type link struct {
	path, name, mac string
	dhcp            bool
	addresses       []string
	gateways        []string
	dns             []string
	mtu             int
}

func (r *reader) network(o object) {
	if v, ok := o["network"]; ok && len(o) == 1 {
		o = r.object(NetworkConfig+".network", v)
	}
	var links []link
	switch r.text(NetworkConfig+".version", o["version"]) {
	case "1":
		links = r.version1(o)
	case "2":
		links = r.version2(o)
	default:
		r.wrong(NetworkConfig+".version", "write version: 2", "the version is neither 1 nor 2")
		return
	}
	if len(links) != 1 {
		r.wrong(NetworkConfig, "set up the interface of the node's own address alone; networks of guests come later", "it sets up %d interfaces, a node has one for its management", len(links))
		return
	}
	if !r.fl.Stops() {
		r.use(links[0])
	}
}

// use makes the answer's network of it.
func (r *reader) use(l link) {
	r.a.Link.MTU = l.mtu
	card := r.card(l)
	if len(l.addresses) == 0 {
		if !l.dhcp {
			r.wrong(l.path, "add addresses, or dhcp4: true", "it has neither an address nor DHCP")
		}
		if len(l.gateways) > 0 {
			r.wrong(l.path, "remove it, or add the address", "a gateway without an address has no meaning")
		}
		if card != "" && len(r.m.Cards) > 1 {
			r.fl.Warnf("cloud-init-unknown", l.path, "connect only this one, or give it a static address", "with DHCP the card is taken that has a link and a lease, not %s by name", card)
		}
		return // name servers come with the lease
	}
	if l.dhcp {
		r.wrong(l.path, "decide for one of the two", "it has an address and DHCP")
	}
	r.a.Network = answer.Network{Source: answer.FromAnswer, DNS: l.dns, Filter: map[string]string{"INTERFACE": card}}
	for _, a := range l.addresses {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			r.wrong(l.path, "write address and prefix length, like 192.0.2.10/24", "%q is not an address with prefix length", printable(a))
			continue
		}
		gateway := ""
		for _, g := range l.gateways {
			if ip, err := netip.ParseAddr(g); err == nil && ip.Is4() == p.Addr().Is4() {
				gateway = g
			}
		}
		switch first := r.a.Network.CIDR; {
		case first == "":
			r.a.Network.CIDR, r.a.Network.Gateway = a, gateway
		case r.a.Link.SecondCIDR == "" && strings.Contains(first, ":") == p.Addr().Is4():
			r.a.Link.SecondCIDR, r.a.Link.SecondGateway = a, gateway
		default:
			r.wrong(l.path, "give one address of each family", "it has more than one address of a family")
		}
	}
}

// card finds the card that is meant: by hardware address, by name, or because
// there is no other.
func (r *reader) card(l link) string {
	for _, c := range r.m.Cards {
		if l.mac != "" && strings.EqualFold(c.MAC, l.mac) || l.mac == "" && c.Name == l.name {
			return c.Name
		}
	}
	if l.mac == "" && len(r.m.Cards) == 1 {
		return r.m.Cards[0].Name
	}
	var have []string
	for _, c := range r.m.Cards {
		have = append(have, c.Name+" ("+c.MAC+")")
	}
	r.wrong(l.path, "this machine has: "+strings.Join(have, ", "), "no network card is %s", printable(l.name+" "+l.mac))
	return ""
}

func (r *reader) version1(o object) []link {
	var out []link
	var dns []string
	r.each(NetworkConfig, o, known{"version": nil, "config": func(path string, v json.RawMessage) {
		for i, c := range r.objects(path, v) {
			at := fmt.Sprintf("%s[%d]", path, i)
			switch kind := r.text(at+".type", c["type"]); kind {
			case "physical":
				out = append(out, r.physical(at, c))
			case "nameserver":
				r.each(at, c, known{"type": nil, "search": r.searched, "interface": nil, "address": func(path string, v json.RawMessage) { dns = append(dns, r.texts(path, v)...) }}, r.refused)
			case "loopback":
			default:
				r.refused(at + " (type " + printable(kind) + ")")
			}
		}
	}}, r.refused)
	for i := range out {
		out[i].dns = append(out[i].dns, dns...)
	}
	return out
}

// physical is an interface of version 1.
func (r *reader) physical(path string, o object) link {
	l := link{path: path}
	r.each(path, o, known{
		"type": nil, "accept-ra": nil,
		"name":        func(path string, v json.RawMessage) { l.name = r.text(path, v) },
		"mac_address": func(path string, v json.RawMessage) { l.mac = r.mac(path, v) },
		"mtu":         func(path string, v json.RawMessage) { l.mtu = r.number(path, v) },
		"subnets": func(path string, v json.RawMessage) {
			for i, s := range r.objects(path, v) {
				r.subnet(fmt.Sprintf("%s[%d]", path, i), s, &l)
			}
		},
	}, r.refused)
	return l
}

func (r *reader) subnet(path string, o object, l *link) {
	var address, mask string
	r.each(path, o, known{
		"control":         nil,
		"dns_search":      r.searched,
		"address":         func(path string, v json.RawMessage) { address = r.text(path, v) },
		"netmask":         func(path string, v json.RawMessage) { mask = r.text(path, v) },
		"gateway":         func(path string, v json.RawMessage) { l.gateways = append(l.gateways, r.text(path, v)) },
		"dns_nameservers": func(path string, v json.RawMessage) { l.dns = append(l.dns, r.texts(path, v)...) },
		"type": func(path string, v json.RawMessage) {
			switch s := r.text(path, v); s {
			case "dhcp", "dhcp4":
				l.dhcp = true
			case "static", "static6":
			default:
				r.refused(path + " (" + printable(s) + ")")
			}
		},
	}, r.refused)
	if address == "" {
		return
	}
	if ip := net.ParseIP(mask).To4(); ip != nil && !strings.Contains(address, "/") {
		ones, _ := net.IPMask(ip).Size()
		address = fmt.Sprintf("%s/%d", address, ones)
	} else if mask != "" && !strings.Contains(address, "/") {
		address += "/" + mask
	}
	l.addresses = append(l.addresses, address)
}

func (r *reader) version2(o object) []link {
	var out []link
	r.each(NetworkConfig, o, known{"version": nil, "renderer": nil, "ethernets": func(path string, v json.RawMessage) {
		all := r.object(path, v)
		for _, id := range slices.Sorted(maps.Keys(all)) {
			at := path + "." + printable(id)
			out = append(out, r.ethernet(at, id, r.object(at, all[id])))
		}
	}}, r.refused)
	return out
}

// ethernet is an interface of version 2.
func (r *reader) ethernet(path, id string, o object) link {
	l := link{path: path, name: id}
	gateway := func(path string, v json.RawMessage) { l.gateways = append(l.gateways, r.text(path, v)) }
	r.each(path, o, known{
		"set-name": nil, "accept-ra": nil, "optional": nil, "dhcp-identifier": nil, "wakeonlan": nil,
		"match": func(path string, v json.RawMessage) {
			r.each(path, r.object(path, v), known{
				"macaddress": func(path string, v json.RawMessage) { l.mac = r.mac(path, v) },
				"name":       func(path string, v json.RawMessage) { l.name = r.text(path, v) },
			}, r.refused)
		},
		"mtu":       func(path string, v json.RawMessage) { l.mtu = r.number(path, v) },
		"dhcp4":     func(path string, v json.RawMessage) { l.dhcp = l.dhcp || r.flag(path, v) },
		"dhcp6":     func(path string, v json.RawMessage) { r.must6(path, v) },
		"addresses": func(path string, v json.RawMessage) { l.addresses = append(l.addresses, r.texts(path, v)...) },
		"gateway4":  gateway, "gateway6": gateway,
		"nameservers": func(path string, v json.RawMessage) {
			r.each(path, r.object(path, v), known{"search": r.searched,
				"addresses": func(path string, v json.RawMessage) { l.dns = append(l.dns, r.texts(path, v)...) }}, r.refused)
		},
		"routes": func(path string, v json.RawMessage) {
			for i, x := range r.objects(path, v) {
				r.route(fmt.Sprintf("%s[%d]", path, i), x, &l)
			}
		},
	}, r.refused)
	return l
}

func (r *reader) route(path string, o object, l *link) {
	to := r.text(path+".to", o["to"])
	if !slices.Contains([]string{"default", "0.0.0.0/0", "::/0"}, to) {
		r.refused(path + " (to " + printable(to) + ")")
		return
	}
	r.each(path, o, known{"to": nil, "metric": nil, "via": func(path string, v json.RawMessage) { l.gateways = append(l.gateways, r.text(path, v)) }}, r.refused)
}

func (r *reader) must6(path string, v json.RawMessage) {
	if r.flag(path, v) {
		r.stop("cloud-init-unknown", path, "set it to false, and add a static address of IPv6 where one is needed", "a node takes no address by DHCPv6")
	}
}

func (r *reader) mac(path string, v json.RawMessage) string {
	s := r.text(path, v)
	if hw, err := net.ParseMAC(s); err == nil && len(hw) == 6 {
		return hw.String()
	}
	r.wrong(path, "write a hardware address, like \"52:54:00:12:34:56\"", "%q is none", printable(s))
	return ""
}

func (r *reader) number(path string, v json.RawMessage) int {
	var n int
	if json.Unmarshal(v, &n) != nil {
		r.wrong(path, "write a number", "it is no number")
	}
	return n
}
