package net

import (
	"maps"
	"net"
	"slices"
	"strconv"

	"joist/api/guest/property"
)

// Port is what cards of both kinds have: their address and what they are
// plugged into.
type Port struct {
	MAC      net.HardwareAddr // nil in a request: make one
	Bridge   string
	Firewall bool
	LinkDown bool
	MTU      int
	Tag      int
	Rest     property.Set // kept without effect; firewall and link_down given as 0
}

// rules say how the two kinds differ.
type rules struct {
	mtuMin, mtuMax int
	kept           []string // properties without effect
}

// set takes a property that both kinds have. It reports whether k is one.
func (p *Port) set(k, v string, all property.Set, r rules) (known bool, err error) {
	switch k {
	case "bridge":
		if p.Bridge = v; !linkRE.MatchString(v) {
			err = property.Invalid(k, "'%s' is not a bridge name", v)
		}
	case "firewall":
		p.Firewall, err = all.Flag(k, p.Rest)
	case "link_down":
		p.LinkDown, err = all.Flag(k, p.Rest)
	case "mtu":
		p.MTU, err = all.Int(k, 0, r.mtuMin, r.mtuMax)
	case "tag":
		p.Tag, err = all.Int(k, 0, 1, 4094)
	default:
		if !slices.Contains(r.kept, k) {
			return false, nil
		}
		p.Rest[k] = v
	}
	return true, err
}

// properties are those of the port but its address.
func (p Port) properties() property.Set {
	s := p.Rest.Clone()
	if p.Bridge != "" {
		s["bridge"] = p.Bridge
	}
	for k, on := range map[string]bool{"firewall": p.Firewall, "link_down": p.LinkDown} {
		if on {
			s[k] = "1"
		}
	}
	for k, n := range map[string]int{"mtu": p.MTU, "tag": p.Tag} {
		if n > 0 {
			s[k] = strconv.Itoa(n)
		}
	}
	return s
}

// Unsupported names the properties that are kept without effect.
func (p Port) Unsupported() []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(p.Rest)) {
		if p.Rest[k] != "0" {
			out = append(out, k)
		}
	}
	if p.Firewall {
		out = append(out, "firewall")
	}
	return out
}
