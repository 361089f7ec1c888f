package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"joist/api/node"
	"joist/installer/answer"
	"joist/installer/probe"
	"joist/internal/finding"
)

// Every card has a name on the node that goes with its hardware address.
func TestPins(t *testing.T) {
	card := func(name, mac string) probe.NIC { return probe.NIC{Name: name, MAC: mac, Carrier: "up"} }
	three := []probe.NIC{card("eth0", "52:54:00:00:00:01"), card("eth1", "52:54:00:00:00:02"), card("eth2", "52:54:00:00:00:03")}
	for name, c := range map[string]struct {
		cards   []probe.NIC
		on      bool
		mapping map[string]string
		want    string
		missing bool
	}{
		"as they are": {three, false, nil, "01=eth0 02=eth1 03=eth2", false},
		"numbered":    {three, true, nil, "01=nic0 02=nic1 03=nic2", false},
		"some named":  {three, true, map[string]string{"52:54:00:00:00:02": "lan", "52:54:00:00:00:03": "nic0"}, "01=nic1 02=lan 03=nic0", false},
		"not there":   {three[:1], true, map[string]string{"52:54:00:00:00:FF": "lan"}, "01=nic0", true},
		"twins":       {append(three[:1:1], card("eth9", "52:54:00:00:00:01"), three[1]), false, nil, "02=eth1", false},
	} {
		f, a := facts(64e9), ans()
		f.NICs = c.cards
		a.Network = answer.Network{Pinning: c.on, Mapping: c.mapping}
		p, fs := made(f, a, image(), identity(t))
		var got []string
		conf := p.NodeConfig("x").Network
		for _, x := range conf.Pins {
			got = append(got, fmt.Sprintf("%s=%s", x.MAC[15:], x.Name))
		}
		missing := slices.ContainsFunc(fs, func(x finding.Finding) bool { return x.Code == "pinning-card-missing" })
		if s := strings.Join(got, " "); s != c.want || missing != c.missing || fs.Stops() {
			t.Errorf("%s: %s, want %s; %v", name, s, c.want, fs)
		}
		if name != "twins" && !slices.ContainsFunc(conf.Pins, func(x node.Card) bool { return x.MAC == conf.MAC && x.Name == conf.Link }) {
			t.Errorf("%s: the bridge's card is %s, the names are %v", name, conf.Link, conf.Pins)
		}
	}
}
