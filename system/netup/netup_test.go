package netup

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"joist/system/cmdline"
)

func card(name, mac string, carrier, asked bool) *link {
	hw, _ := net.ParseMAC(mac)
	return &link{Link: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hw}}, carrier: carrier, asked: asked}
}

// The card that the firmware used comes first, and any other when that one has
// no link for a while; a card that was named is the only one.
func TestUsable(t *testing.T) {
	const mac0, mac1 = "52:54:00:00:00:01", "52:54:00:00:00:02"
	both := map[string]*link{"eth0": card("eth0", mac0, true, false), "eth1": card("eth1", mac1, true, false)}
	one := map[string]*link{"eth0": card("eth0", mac0, false, false), "eth1": card("eth1", mac1, true, false)}
	for name, c := range map[string]struct {
		links map[string]*link
		want  Want
		since time.Duration
		cards string
	}{
		"any":                       {both, Want{}, 0, "eth0 eth1"},
		"no cable":                  {one, Want{}, 0, "eth1"},
		"the firmware's":            {both, Want{MAC: strings.ToUpper(mac1)}, 0, "eth1"},
		"the firmware's, no cable":  {one, Want{MAC: mac0}, time.Second, ""},
		"the firmware's, not there": {both, Want{MAC: "52:54:00:00:00:03"}, macTime + time.Second, "eth0 eth1"},
		"named":                     {both, Want{MAC: mac1, Address: cmdline.Address{Device: "eth0"}}, macTime + time.Second, "eth0"},
	} {
		u := &up{Want: c.want, links: c.links, begun: time.Now().Add(-c.since)}
		var got []string
		for _, l := range u.usable() {
			got = append(got, l.Attrs().Name)
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != c.cards {
			t.Errorf("%s: %q", name, s)
		}
	}
}

// What is waited for is said so that a person knows where to look.
func TestMissing(t *testing.T) {
	const mac = "52:54:00:00:00:01"
	for want, u := range map[string]*up{
		"no network card that a driver of this initrd knows": {},
		"no network card has a link":                         {links: map[string]*link{"eth0": card("eth0", mac, false, false)}},
		"no network card eth7":                               {Want: Want{Address: cmdline.Address{Device: "eth7"}}, links: map[string]*link{"eth0": card("eth0", mac, true, false)}},
		"the card 52:54:00:00:00:09 has no link":             {Want: Want{MAC: "52:54:00:00:00:09"}, links: map[string]*link{"eth0": card("eth0", mac, true, false)}},
		"no DHCP server answers on eth0":                     {links: map[string]*link{"eth0": card("eth0", mac, true, true)}},
		"no router advertises a network of IPv6 on eth0":     {Want: Want{IPv6: true}, links: map[string]*link{"eth0": card("eth0", mac, true, true)}},
	} {
		if got := u.missing(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
