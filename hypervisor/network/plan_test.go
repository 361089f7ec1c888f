package network

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"joist/api/node"
)

func TestChoose(t *testing.T) {
	eth0 := link{Index: 2, Name: "eth0", MAC: "52:54:00:00:00:01", Kind: "device", Ether: true}
	eth1 := link{Index: 3, Name: "eth1", MAC: "52:54:00:00:00:02", Kind: "device", Ether: true}
	lo := link{Index: 1, Name: "lo", Kind: "device"}
	br := link{Index: 4, Name: "vmbr0", MAC: eth0.MAC, Kind: "bridge", Ether: true}
	tap := link{Index: 5, Name: "tap100i0", MAC: eth1.MAC, Kind: "tuntap", Ether: true}
	veth := link{Index: 6, Name: "veth101i0", MAC: eth1.MAC, Kind: "veth", Ether: true}
	for name, c := range map[string]struct {
		mac, link string
		have      []link
		want, err string
	}{
		"by address":                {"52:54:00:00:00:02", "eth0", []link{lo, br, veth, tap, eth0, eth1}, "eth1", ""},
		"by address, upper case":    {"52:54:00:00:00:0A", "", []link{{Index: 9, Name: "x", MAC: "52:54:00:00:00:0a", Kind: "device", Ether: true}, eth1}, "x", ""},
		"replaced card, same name":  {"00:00:00:00:00:09", "eth1", []link{lo, eth0, eth1}, "eth1", ""},
		"only one card":             {"00:00:00:00:00:09", "enp1s0", []link{lo, br, tap, veth, eth0}, "eth0", ""},
		"two cards, neither is it":  {"00:00:00:00:00:09", "enp1s0", []link{eth0, eth1}, "", "there are eth0 52:54:00:00:00:01, eth1 52:54:00:00:00:02"},
		"no card":                   {"00:00:00:00:00:09", "enp1s0", []link{lo, br}, "", "there is none"},
		"a bridge wears its port's": {"52:54:00:00:00:01", "vmbr0", []link{lo, br}, "", "there is none"},
	} {
		got, err := choose(node.Network{Bridge: "vmbr0", MAC: c.mac, Link: c.link}, c.have)
		if got.Name != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", name, got.Name, err)
		}
	}
}

func TestMembers(t *testing.T) {
	card := func(i int, name, mac, kind string) link {
		return link{Index: i, Name: name, MAC: mac, Kind: kind, Ether: true}
	}
	have := []link{card(2, "eth0", "52:54:00:00:00:01", "device"), card(3, "eth1", "52:54:00:00:00:02", "device"), card(4, "bond0", "52:54:00:00:00:01", "bond")}
	b := node.Bond{Cards: []node.Card{{MAC: "52:54:00:00:00:02", Name: "eth9"}, {MAC: "52:54:00:00:00:01", Name: "eth0"}, {MAC: "52:54:00:00:00:09", Name: "eth1"}, {MAC: "52:54:00:00:00:08", Name: "eth7"}}}
	got, missing := members(b, have)
	if len(got) != 2 || got[0].Name != "eth1" || got[1].Name != "eth0" || len(missing) != 2 || missing[0] != "52:54:00:00:00:09 (eth1)" {
		t.Errorf("%v, missing %v", got, missing)
	}
	replaced := []link{have[0], card(3, "eth1", "52:54:00:00:00:77", "device")}
	if got, missing := members(node.Bond{Cards: []node.Card{{MAC: "52:54:00:00:00:01", Name: "eth0"}, {MAC: "52:54:00:00:00:02", Name: "eth1"}}}, replaced); len(got) != 2 || missing != nil {
		t.Errorf("a replaced card: %v, missing %v", got, missing)
	}
}

func TestCheckNetwork(t *testing.T) {
	card := []node.Card{{MAC: "52:54:00:00:00:01", Name: "eth0"}}
	for _, ok := range []node.Network{{Bridge: "vmbr0"}, {Bridge: "vmbr0", VLAN: 4094, MTU: 9000}, {Bridge: "vmbr0", Bond: &node.Bond{Mode: "802.3ad", Hash: "layer3+4", LACPRate: "fast", Cards: card}}} {
		if err := checkNetwork(ok); err != nil {
			t.Errorf("%+v: %v", ok, err)
		}
	}
	for _, bad := range []node.Network{
		{Bridge: "../x"}, {Bridge: "vmbr0", VLAN: 4095}, {Bridge: "vmbr0", VLAN: -1}, {Bridge: "averylongname12", VLAN: 10}, {Bridge: "vmbr0", MTU: 100},
		{Bridge: "vmbr0", Bond: &node.Bond{Mode: "fast", Cards: card}}, {Bridge: "vmbr0", Bond: &node.Bond{Mode: "802.3ad"}}, {Bridge: "vmbr0", Bond: &node.Bond{Mode: "802.3ad", Hash: "x", Cards: card}},
	} {
		if checkNetwork(bad) == nil {
			t.Errorf("%+v passed", bad)
		}
	}
}

func TestResolvConf(t *testing.T) {
	for want, w := range map[string]wish{
		"search example.com\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 192.0.2.2\n": {
			Search: "example.com", DNS: []string{"192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3"}},
		"nameserver 192.0.2.1\n": {Search: "x\nnameserver 203.0.113.66", DNS: []string{"no", "192.0.2.1", "1.1.1.1\noptions"}},
		"":                       {},
	} {
		if got := resolvConf(w); got != "# Written by joistd network; changes are lost.\n"+want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestWishes(t *testing.T) {
	n := node.Network{CIDR: "192.0.2.10/24", Gateway: "192.0.2.1", DNS: []string{"192.0.2.53"}, Search: "lan"}
	w, err := staticWish(n)
	if err != nil || w.Address.String() != n.CIDR || w.Gateway.String() != n.Gateway {
		t.Errorf("static: %+v, %v", w, err)
	}
	for _, bad := range []string{"", "192.0.2.10", "127.0.0.1/8", "0.0.0.0/0"} {
		if _, err := staticWish(node.Network{CIDR: bad}); err == nil {
			t.Errorf("static address %q passed", bad)
		}
	}
	for name, c := range map[string]struct {
		n    node.Network
		four string
		six  *six
	}{
		"IPv6 alone":    {node.Network{CIDR: "2001:db8::5/64", Gateway: "fe80::1"}, "invalid Prefix", &six{netip.MustParsePrefix("2001:db8::5/64"), netip.MustParseAddr("fe80::1")}},
		"both, 4 first": {node.Network{CIDR: "192.0.2.10/24", SecondCIDR: "2001:db8::5/64"}, "192.0.2.10/24", &six{Address: netip.MustParsePrefix("2001:db8::5/64")}},
		"both, 6 first": {node.Network{CIDR: "2001:db8::5/64", SecondCIDR: "192.0.2.10/24"}, "192.0.2.10/24", &six{Address: netip.MustParsePrefix("2001:db8::5/64")}},
	} {
		w, err := staticWish(c.n)
		if err != nil || w.Address.String() != c.four || !reflect.DeepEqual(w.Six, c.six) {
			t.Errorf("%s: %+v %+v, %v", name, w, w.Six, err)
		}
	}
	for _, bad := range []node.Network{
		{CIDR: "192.0.2.10/24", SecondCIDR: "192.0.2.11/24"}, {CIDR: "2001:db8::5/64", SecondCIDR: "2001:db8::6/64"},
		{CIDR: "192.0.2.10/24", Gateway: "fe80::1"}, {CIDR: "fe80::5/64"}, {CIDR: "::ffff:192.0.2.10/120"},
	} {
		if w, err := staticWish(bad); err == nil {
			t.Errorf("%+v passed as %+v", bad, w)
		}
	}
	if w := leaseWish(lease{Address: netip.MustParsePrefix("192.0.2.5/24")}, node.Network{SecondCIDR: "2001:db8::5/64"}); w.Six == nil || w.Address.String() != "192.0.2.5/24" {
		t.Errorf("lease and static IPv6: %+v", w)
	}
	six := []address{{netip.MustParsePrefix("fe80::1/64"), true}, {netip.MustParsePrefix("2001:db8::5/64"), true}, {netip.MustParsePrefix("2001:db8::6/64"), true}, {netip.MustParsePrefix("2001:db8::7/64"), false}}
	if got := staleSix(six, six[1].Prefix); !reflect.DeepEqual(got, []netip.Prefix{six[2].Prefix}) {
		t.Errorf("stale: %v", got)
	}
	l := lease{DNS: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.53")}, Search: "dhcp.example"}
	if got := leaseWish(l, n); !reflect.DeepEqual(got.DNS, []string{"192.0.2.1", "192.0.2.53"}) || got.Search != "lan" {
		t.Errorf("lease: %+v", got)
	}
	have := []netip.Prefix{netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("2001:db8::5/64"), netip.MustParsePrefix("192.0.2.10/24")}
	if got := listed(have); !reflect.DeepEqual(got, []string{"192.0.2.10/24", "2001:db8::5/64"}) {
		t.Errorf("listed: %v", got)
	}
	if got := listed(nil); got == nil {
		t.Error("an empty list is nil: null in JSON")
	}
}

func TestNames(t *testing.T) {
	for s, ok := range map[string]bool{"tap100i0": true, "vmbr0": true, "tap999999999i1": true, "tap999999999i12": true, "": false, "..": false,
		"a/b": false, "-x": false, "a b": false, "0123": false, "tap9999999999i12": false, "eth0:1": false, "eth0.5": false} {
		if (checkName(s) == nil) != ok {
			t.Errorf("checkName(%q): %v", s, checkName(s))
		}
	}
	if !tapRE.MatchString(TapName(100, 3)) || checkName(TapName(999999999, 31)) != nil {
		t.Error("tap names do not fit their own rule")
	}
}

func ackMessage(t testing.TB, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithHwAddr(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}),
		dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 5)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))), dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)),
		dhcpv4.WithDNS(net.IPv4(192, 0, 2, 53)), dhcpv4.WithLeaseTime(3600)}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestLeaseOf(t *testing.T) {
	now := time.Now()
	l, err := leaseOf(ackMessage(t), now)
	if err != nil || l.Address.String() != "192.0.2.5/24" || l.Gateway.String() != "192.0.2.1" || l.T1 != 30*time.Minute || l.T2 != 3150*time.Second {
		t.Errorf("%+v, %v", l, err)
	}
	_, dst, _ := net.ParseCIDR("198.51.100.0/24")
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	l, err = leaseOf(ackMessage(t, dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
		&dhcpv4.Route{Dest: dst, Router: net.IPv4(192, 0, 2, 2)}, &dhcpv4.Route{Dest: all, Router: net.IPv4(192, 0, 2, 3)})),
		dhcpv4.WithOption(dhcpv4.OptDomainName("a b\nnameserver 6.6.6.6")), dhcpv4.WithLeaseTime(0xffffffff)), now)
	if err != nil || l.Gateway.String() != "192.0.2.3" || len(l.Routes) != 1 || l.Search != "" || l.Length != forever || l.left(l.T1, now) != forever {
		t.Errorf("%+v, %v", l, err)
	}
	for name, m := range map[string]dhcpv4.Modifier{
		"no address": dhcpv4.WithYourIP(net.IPv4zero), "loopback": dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1)),
		"broadcast": dhcpv4.WithYourIP(net.IPv4bcast), "mask": dhcpv4.WithNetmask(net.CIDRMask(0, 32)),
	} {
		if l, err := leaseOf(ackMessage(t, m), now); err == nil {
			t.Errorf("%s: passed as %+v", name, l)
		}
	}
}

func TestLoadLease(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lease.json")
	if l, err := loadLease(file, "52:54:00:00:00:01"); err != nil || l.known() {
		t.Errorf("no file: %+v, %v", l, err)
	}
	want, err := leaseOf(ackMessage(t), time.Now().Round(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := node.WriteJSON(file, 0o600, want); err != nil {
		t.Fatal(err)
	}
	if got, err := loadLease(file, "52:54:00:00:00:01"); err != nil || got.Address != want.Address || !got.valid(time.Now()) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, _ := loadLease(file, "52:54:00:00:00:02"); got.known() {
		t.Error("took another card's lease")
	}
	if want.valid(time.Now().Add(2*time.Hour)) || want.valid(time.Now().Add(-time.Hour)) {
		t.Error("a lease of the past or the future is valid")
	}
	os.WriteFile(file, []byte("{"), 0o600)
	if _, err := loadLease(file, ""); err == nil {
		t.Error("broken file passed")
	}
}

func FuzzLease(f *testing.F) {
	f.Add(ackMessage(f).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := leaseOf(m, time.Now())
		if err != nil {
			return
		}
		if !l.known() || l.T1 > l.T2 || l.T2 > l.Length || l.T1 <= 0 {
			t.Errorf("%+v", l)
		}
		if _, err := json.Marshal(l); err != nil {
			t.Error(err)
		}
		if s := resolvConf(leaseWish(l, node.Network{})); strings.Count(s, "search") > 1 {
			t.Error(s)
		}
	})
}
