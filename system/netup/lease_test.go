package netup

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ack(t *testing.T, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 7))}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	// what travels is bytes
	if m, err = dhcpv4.FromBytes(m.ToBytes()); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestReadLease(t *testing.T) {
	server, gw := net.IPv4(192, 0, 2, 1).To4(), net.IPv4(192, 0, 2, 254).To4()
	_, other, _ := net.ParseCIDR("198.51.100.0/24")
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	for name, c := range map[string]struct {
		m      *dhcpv4.DHCPv4
		want   Lease
		resolv string
	}{
		"usual": {ack(t, dhcpv4.WithNetmask(net.CIDRMask(26, 32)), dhcpv4.WithRouter(gw), dhcpv4.WithDNS(server, gw), dhcpv4.WithDomainSearchList("a.example", "b.example"),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)), dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x05, 0xaa})),
			Lease{Prefix: prefix("192.0.2.7/26"), Routes: []Route{{prefix("0.0.0.0/0"), addr("192.0.2.254")}}, DNS: []netip.Addr{addr("192.0.2.1"), addr("192.0.2.254")},
				Search: []string{"a.example", "b.example"}, MTU: 1450, Servers: "192.0.2.1"},
			"nameserver 192.0.2.1\nnameserver 192.0.2.254\nsearch a.example b.example\n"},
		"little": {ack(t), Lease{Prefix: prefix("192.0.2.7/24")}, ""},
		"routes replace the router": {ack(t, dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(gw),
			dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(&dhcpv4.Route{Dest: other, Router: gw}))),
			Lease{Prefix: prefix("192.0.2.7/24"), Routes: []Route{{prefix("198.51.100.0/24"), addr("192.0.2.254")}}}, ""},
		"a name that is none, an absurd MTU": {ack(t, dhcpv4.WithOption(dhcpv4.OptDomainName("x\nnameserver 203.0.113.1")), dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0, 68})),
			Lease{Prefix: prefix("192.0.2.7/24"), Search: []string{"x\nnameserver 203.0.113.1"}}, ""},
	} {
		got, err := readLease(c.m)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if s := got.resolvConf(); s != c.resolv {
			t.Errorf("%s: %q", name, s)
		}
	}
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"no address": ack(t, dhcpv4.WithYourIP(net.IPv4zero)), "a mask with holes": ack(t, dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0})),
	} {
		if l, err := readLease(m); err == nil {
			t.Errorf("%s was taken: %+v", name, l)
		}
	}
}
