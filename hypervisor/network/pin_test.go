package network

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"joist/api/node"
)

// Names follow hardware addresses whatever the kernel named the cards; what is
// in the way makes way, and what is no card keeps its name.
func TestRenames(t *testing.T) {
	at := func(names ...string) (out []link) { // "name=mac" or "name=mac/kind"
		for i, n := range names {
			name, mac, _ := strings.Cut(n, "=")
			mac, kind, _ := strings.Cut(mac, "/")
			if kind == "" {
				kind = "device"
			}
			out = append(out, link{Index: i + 2, Name: name, MAC: mac, Kind: kind, Ether: kind != "tun"})
		}
		return out
	}
	pins := []node.Card{{MAC: "AA", Name: "eth0"}, {MAC: "bb", Name: "eth1"}}
	for name, c := range map[string]struct {
		links   []link
		want    string // names in the order of the links
		trouble string
	}{
		"as installed":            {at("eth0=aa", "eth1=bb"), "eth0 eth1", ""},
		"swapped":                 {at("eth0=bb", "eth1=aa"), "eth1 eth0", ""},
		"a card before them":      {at("eth0=cc", "eth1=aa", "eth2=bb"), "eth3 eth0 eth1", ""},
		"two cards before them":   {at("eth0=cc", "eth1=dd", "eth2=aa", "eth3=bb"), "eth4 eth5 eth0 eth1", ""},
		"one of them is gone":     {at("eth0=bb"), "eth1", ""},
		"gone, another came":      {at("eth0=cc", "eth1=bb"), "eth0 eth1", ""},
		"a bridge has the name":   {at("eth1=aa/bridge", "ens1=bb"), "eth1 ens1", "eth1 is a bridge"},
		"a bridge wears the MAC":  {at("vmbr0=aa/bridge", "eth5=aa"), "vmbr0 eth0", ""},
		"a tap has the name":      {at("eth0=zz/tun", "eth9=aa", "eth8=bb"), "eth0 eth9 eth1", "eth0 is a tun"},
		"the kernel counts apart": {at("enp1s0=aa", "enp2s0=bb", "enp3s0=cc"), "eth0 eth1 enp3s0", ""},
	} {
		steps, trouble := renames(pins, c.links)
		for _, s := range steps {
			for i, l := range c.links {
				if l.Name == s.To {
					t.Errorf("%s: %v, and %s has that name", name, s, l.MAC)
				}
				if l.Index == s.Index && l.Name == s.From {
					c.links[i].Name = s.To
				}
			}
		}
		var got []string
		for _, l := range c.links {
			got = append(got, l.Name)
		}
		if s := strings.Join(got, " "); s != c.want || !strings.Contains(trouble, c.trouble) || (trouble == "") != (c.trouble == "") {
			t.Errorf("%s: %s, want %s; %q", name, s, c.want, trouble)
		}
		if again, _ := renames(pins, c.links); len(again) > 0 {
			t.Errorf("%s: %v once more", name, again)
		}
	}
}

func TestCheckPins(t *testing.T) {
	n := node.Network{Bridge: "vmbr0", Pins: []node.Card{{MAC: "aa", Name: "nic0"}, {MAC: "bb", Name: "bond0"}}}
	if err := checkNetwork(n); err != nil {
		t.Error(err)
	}
	n.Bond = &node.Bond{Mode: "active-backup", Cards: n.Pins}
	for _, name := range []string{"nic0", "bond0", "vmbr0", "lo", "a/b", "averylongname0000"} {
		n.Pins[1].Name = name
		if err := checkNetwork(n); err == nil {
			t.Errorf("%q passes", name)
		}
	}
}

// The kernel does it, with a link that is up.
func TestKernelPin(t *testing.T) {
	if !own(t) {
		return
	}
	var pins []node.Card
	for i, name := range []string{"eth0", "eth1"} {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: fmt.Sprintf("far%d", i)}))
		l, err := netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.LinkSetUp(l))
		pins = append(pins, node.Card{MAC: l.Attrs().HardwareAddr.String(), Name: []string{"eth1", "lan0"}[i]})
	}
	done, trouble, err := pin(pins)
	if err != nil || trouble != "" || len(done) != 4 {
		t.Fatalf("%v %q %v", done, trouble, err)
	}
	for _, p := range pins {
		l, err := netlink.LinkByName(p.Name)
		must(t, err)
		if l.Attrs().HardwareAddr.String() != p.MAC {
			t.Errorf("%s is %s, want %s", p.Name, l.Attrs().HardwareAddr, p.MAC)
		}
	}
	if done, _, err := pin(pins); err != nil || len(done) > 0 {
		t.Errorf("once more: %v %v", done, err)
	}
}
