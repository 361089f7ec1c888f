package network

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"joist/api/node"
)

// rename gives a link another name.
type rename struct {
	Index    int
	From, To string
}

// renames are the steps, in order, after which every card that is there has the
// name that its hardware address is pinned to. A card that nobody pinned and
// that wears such a name makes way. Each goes by a name that nothing has, so
// that two may change theirs with each other. trouble names what stays as it is.
func renames(pins []node.Card, links []link) (steps []rename, trouble string) {
	card := func(l link) bool { return l.Ether && (l.Kind == "device" || l.Kind == "veth") }
	taken := map[string]bool{}
	for _, l := range links {
		taken[l.Name] = true
	}
	for _, p := range pins {
		taken[p.Name] = true
	}
	pinned := func(l link) bool {
		return slices.ContainsFunc(pins, func(p node.Card) bool { return strings.EqualFold(p.MAC, l.MAC) })
	}
	var first, last []rename
	var problems []string
	for _, p := range pins {
		i := slices.IndexFunc(links, func(l link) bool { return card(l) && strings.EqualFold(l.MAC, p.MAC) })
		if i < 0 || links[i].Name == p.Name {
			continue
		}
		if j := slices.IndexFunc(links, func(l link) bool { return l.Name == p.Name }); j >= 0 && !(card(links[j]) && pinned(links[j])) {
			if !card(links[j]) {
				problems = append(problems, fmt.Sprintf("the card %s stays %s: %s is a %s", p.MAC, links[i].Name, p.Name, links[j].Kind))
				continue
			}
			to := free(taken)
			taken[to] = true
			steps = append(steps, rename{links[j].Index, links[j].Name, to})
		}
		between := fmt.Sprintf("pin%d", links[i].Index)
		first, last = append(first, rename{links[i].Index, links[i].Name, between}), append(last, rename{links[i].Index, between, p.Name})
	}
	return append(append(steps, first...), last...), strings.Join(problems, "; ")
}

// free is the first name, as the kernel gives them, that nothing has.
func free(taken map[string]bool) string {
	for n := 0; ; n++ {
		if name := fmt.Sprintf("eth%d", n); !taken[name] {
			return name
		}
	}
}

// pin carries the steps out. The kernel renames links that are up as well; what
// cannot be renamed keeps its name, and works by its hardware address.
func pin(pins []node.Card) (done []rename, trouble string, err error) {
	if len(pins) == 0 {
		return nil, "", nil
	}
	all, err := netlink.LinkList()
	if err != nil {
		return nil, "", fmt.Errorf("list links: %w", err)
	}
	steps, trouble := renames(pins, linksOf(all))
	for _, s := range steps {
		if err := netlink.LinkSetName(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: s.Index}}, s.To); err != nil {
			return done, trouble, fmt.Errorf("rename network card %s to %s: %w", s.From, s.To, err)
		}
		done = append(done, s)
	}
	return done, trouble, nil
}

// checkPins looks at names that reach the kernel.
func checkPins(n node.Network) error {
	seen := map[string]bool{"lo": true, n.Bridge: true, bondName: n.Bond != nil, vlanName(n): n.VLAN > 0}
	for _, p := range n.Pins {
		if err := checkName(p.Name); err != nil {
			return err
		}
		if seen[p.Name] {
			return fmt.Errorf("the name %s is pinned, and belongs to another link", p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}
