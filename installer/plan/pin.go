package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"joist/api/node"
	"joist/installer/probe"
	"joist/internal/finding"
)

// pin gives every card a name that stays with its hardware address whatever is
// plugged in later: the one that it has now, or where the answer asks for
// pinning the one of its mapping, else nic0, nic1 and so on.
func (p *Plan) pin(f probe.Facts, fs *finding.List) {
	n := p.Answer.Network
	names := map[string]string{}
	for mac, name := range n.Mapping {
		names[strings.ToLower(mac)] = name
	}
	for _, mac := range slices.Sorted(maps.Keys(names)) {
		if !slices.ContainsFunc(f.NICs, func(c probe.NIC) bool { return strings.EqualFold(c.MAC, mac) }) {
			fs.Warnf("pinning-card-missing", "network.interface-name-pinning.mapping."+mac, "this machine has: "+nicNames(f.NICs), "no network card has the address %s that is to be %s", mac, names[mac])
		}
	}
	next := 0
	for _, c := range f.NICs {
		mac := strings.ToLower(c.MAC)
		twins := slices.IndexFunc(f.NICs, func(o probe.NIC) bool { return strings.EqualFold(o.MAC, mac) && o.Name != c.Name }) >= 0
		if mac == "" || twins { // nothing tells them apart
			continue
		}
		name := c.Name
		if n.Pinning {
			if name = names[mac]; name == "" {
				for name == "" || slices.Contains(slices.Collect(maps.Values(names)), name) {
					name = fmt.Sprintf("nic%d", next)
					next++
				}
			}
		}
		p.Pins = append(p.Pins, node.Card{MAC: mac, Name: name})
	}
}

// nodeName is what a card is called on the node.
func (p Plan) nodeName(c probe.NIC) string {
	for _, x := range p.Pins {
		if strings.EqualFold(x.MAC, c.MAC) {
			return x.Name
		}
	}
	return c.Name
}

// describePins names the cards that get another name than they have now.
func (p Plan) describePins(f func(format string, args ...any)) {
	if !p.Answer.Network.Pinning {
		return
	}
	var s []string
	for _, x := range p.Pins {
		s = append(s, fmt.Sprintf("%s (%s)", x.Name, x.MAC))
	}
	f("cards       named %s\n", strings.Join(s, ", "))
}
