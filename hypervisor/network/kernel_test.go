package network

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/internal/run"
)

// inside marks the process that runs in a network namespace of its own.
const inside = "JOIST_TEST_NETNS"

// own re-runs the test in a new network namespace: a Go program cannot move
// all of its threads.
func own(t *testing.T) bool {
	if os.Getenv(inside) != "" {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.OS{}.Run(t.Context(), run.Cmd{Path: "unshare", Args: []string{"-n", self, "-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=60s"},
		Env: append(os.Environ(), inside+"=1")})
	if err != nil && strings.Contains(err.Error(), "unshare") && !strings.Contains(string(out), "RUN") {
		t.Skipf("no network namespace here: %v", err)
	}
	t.Log(string(out))
	if err == nil && strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		t.Skip("not possible with this kernel")
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in the namespace: %v", err)
	}
	return false
}

// dhcpd is a DHCP server at the other end of a veth, in a namespace beside.
type dhcpd struct {
	mu      sync.Mutex
	ip      net.IP
	seconds uint32
	silent  bool
	seen    []string
	ns      netns.NsHandle
}

func (d *dhcpd) set(ip string, seconds uint32, silent bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ip, d.seconds, d.silent = net.ParseIP(ip), seconds, silent
}

func (d *dhcpd) count(what string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.seen {
		if s == what {
			n++
		}
	}
	return n
}

func (d *dhcpd) handle(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.silent {
		return
	}
	typ, what := dhcpv4.MessageTypeAck, "select"
	asked := m.RequestedIPAddress()
	switch {
	case m.MessageType() == dhcpv4.MessageTypeDiscover:
		typ, what, asked = dhcpv4.MessageTypeOffer, "discover", d.ip
	case m.ServerIdentifier() == nil && !m.ClientIPAddr.IsUnspecified():
		what, asked = "renew", m.ClientIPAddr
	case m.ServerIdentifier() == nil:
		what = "reboot"
	}
	if !asked.Equal(d.ip) {
		typ, what = dhcpv4.MessageTypeNak, what+" refused"
	}
	d.seen = append(d.seen, what)
	r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(typ), dhcpv4.WithYourIP(d.ip), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)), dhcpv4.WithDNS(net.IPv4(192, 0, 2, 1)), dhcpv4.WithLeaseTime(d.seconds),
		dhcpv4.WithOption(dhcpv4.OptDomainName("example.net")), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))))
	if err == nil {
		conn.WriteTo(r.ToBytes(), peer)
	}
}

// serve lays the cable: nic0 here, the server's end in a namespace of its own.
func serve(t *testing.T) *dhcpd {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	must(t, err)
	other, err := netns.New()
	must(t, err)
	must(t, netns.Set(home))
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "nic0", net.HardwareAddr{0x52, 0x54, 0, 0xaa, 0xbb, 1}
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "srv0"}))
	peer, err := netlink.LinkByName("srv0")
	must(t, err)
	must(t, netlink.LinkSetNsFd(peer, int(other)))
	must(t, netns.Set(other))
	defer func() { must(t, netns.Set(home)) }()
	peer, err = netlink.LinkByName("srv0")
	must(t, err)
	ip, err := netlink.ParseAddr("192.0.2.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(peer, ip))
	must(t, netlink.LinkSetUp(peer))
	d := &dhcpd{ns: other}
	d.set("192.0.2.50", 4, false)
	s, err := server4.NewServer("srv0", nil, d.handle)
	must(t, err)
	go s.Serve()
	t.Cleanup(func() { s.Close() })
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// machine is a daemon in a temporary folder.
type machine struct {
	daemon
	ready bool
}

func newMachine(t *testing.T, dir string, n node.Network) *machine {
	m := &machine{}
	n.Bridge, n.MAC = "vmbr0", "52:54:00:aa:bb:01"
	m.daemon = daemon{
		log:    slog.New(slog.NewTextHandler(t.Output(), nil)),
		load:   func() (node.Config, error) { return node.Config{Name: "n1", Network: n}, nil },
		status: filepath.Join(dir, "network.json"), lease: filepath.Join(dir, "lease.json"), resolv: filepath.Join(dir, "resolv.conf"),
		ready: func() error { m.ready = true; return nil }, timeout: 300 * time.Millisecond,
	}
	return m
}

func (m *machine) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.run(ctx) }()
	return func() { cancel(); must(t, <-done) }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 400 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("did not happen: %s", what)
}

func v4(t *testing.T, name string) []netip.Prefix {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil
	}
	have, err := addresses(l.Attrs().Index, netlink.FAMILY_V4)
	must(t, err)
	return have
}

func TestKernelDHCP(t *testing.T) {
	if !own(t) {
		return
	}
	d, dir := serve(t), t.TempDir()
	is := func(want string) func() bool {
		return func() bool { return slices.Equal(v4(t, "vmbr0"), []netip.Prefix{netip.MustParsePrefix(want)}) }
	}
	m := newMachine(t, dir, node.Network{Method: "dhcp"})
	stop := m.start(t)
	eventually(t, "lease", is("192.0.2.50/24"))
	eventually(t, "renewal by unicast", func() bool { return d.count("renew") >= 1 })
	br, err := netlink.LinkByName("vmbr0")
	must(t, err)
	if br.Attrs().HardwareAddr.String() != "52:54:00:aa:bb:01" || !m.ready {
		t.Errorf("bridge %v, ready %v", br.Attrs().HardwareAddr, m.ready)
	}
	hasDefault := func() bool {
		r, err := netlink.RouteGet(net.IPv4(198, 51, 100, 1))
		return err == nil && len(r) == 1 && r[0].Gw.Equal(net.IPv4(192, 0, 2, 1))
	}
	eventually(t, "default route", hasDefault)
	resolv, _ := os.ReadFile(m.resolv)
	if !strings.Contains(string(resolv), "search example.net\nnameserver 192.0.2.1\n") {
		t.Errorf("resolv.conf: %s", resolv)
	}

	t.Log("another address in the same subnet: the old one is refused")
	d.set("192.0.2.51", 4, false)
	eventually(t, "new address alone", is("192.0.2.51/24"))
	eventually(t, "default route again", hasDefault)
	eventually(t, "status", func() bool {
		b, _ := os.ReadFile(m.status)
		return strings.Contains(string(b), `"192.0.2.51/24"`) && strings.Contains(string(b), `"up": true`)
	})

	t.Log("taken away by hand: bridge, then address")
	must(t, netlink.LinkDel(br))
	eventually(t, "bridge, port and address again", is("192.0.2.51/24"))
	eventually(t, "default route after that", hasDefault)

	t.Log("a restart of the process touches nothing, and asks for the same address")
	d.set("192.0.2.51", 600, false)
	n := d.count("renew")
	eventually(t, "long lease", func() bool { return d.count("renew") > n })
	stop()
	index := v4(t, "vmbr0")
	watch := make(chan netlink.AddrUpdate, 16)
	done := make(chan struct{})
	must(t, netlink.AddrSubscribe(watch, done))
	reboots := d.count("reboot")
	stop = newMachine(t, dir, node.Network{Method: "dhcp"}).start(t)
	eventually(t, "INIT-REBOOT", func() bool { return d.count("reboot") > reboots })
	time.Sleep(300 * time.Millisecond)
	close(done)
	for u := range watch {
		if u.LinkAddress.IP.To4() != nil {
			t.Errorf("restart changed an address: %+v", u)
		}
	}
	if !slices.Equal(index, v4(t, "vmbr0")) {
		t.Errorf("addresses %v, were %v", v4(t, "vmbr0"), index)
	}
	stop()

	t.Log("restart with the server away: the address stays")
	d.set("192.0.2.51", 600, true)
	stop = newMachine(t, dir, node.Network{Method: "dhcp"}).start(t)
	time.Sleep(2 * time.Second)
	if !is("192.0.2.51/24")() {
		t.Errorf("addresses %v", v4(t, "vmbr0"))
	}
	stop()
}

func TestKernelStatic(t *testing.T) {
	if !own(t) {
		return
	}
	serve(t)
	dir := t.TempDir()
	m := newMachine(t, dir, node.Network{Method: "static", CIDR: "192.0.2.9/24", Gateway: "192.0.2.1", DNS: []string{"192.0.2.53"}})
	stop := m.start(t)
	defer func() { stop() }()
	want := []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24")}
	eventually(t, "address", func() bool { return slices.Equal(v4(t, "vmbr0"), want) })
	br, err := netlink.LinkByName("vmbr0")
	must(t, err)
	must(t, netlink.AddrDel(br, &netlink.Addr{IPNet: ipNet(want[0])}))
	eventually(t, "address again", func() bool { return slices.Equal(v4(t, "vmbr0"), want) })
	nic, err := netlink.LinkByName("nic0")
	must(t, err)
	must(t, netlink.LinkSetNoMaster(nic))
	eventually(t, "port again", func() bool {
		l, err := netlink.LinkByName("nic0")
		return err == nil && l.Attrs().MasterIndex == br.Attrs().Index
	})
	stop()
	stop = newMachine(t, dir, node.Network{Method: "static", CIDR: "192.0.2.10/24", Gateway: "192.0.2.1"}).start(t)
	want[0] = netip.MustParsePrefix("192.0.2.10/24")
	eventually(t, "changed address", func() bool { return slices.Equal(v4(t, "vmbr0"), want) })
}

// Both families, and more than one card with a tag, as far as the kernel has
// the drivers.
func TestKernelDualStack(t *testing.T) {
	if !own(t) {
		return
	}
	serve(t)
	dir := t.TempDir()
	m := newMachine(t, dir, node.Network{Method: "static", CIDR: "192.0.2.9/24", SecondCIDR: "2001:db8::9/64", SecondGateway: "2001:db8::1", MTU: 1400})
	stop := m.start(t)
	six := func() []netip.Prefix {
		l, err := netlink.LinkByName("vmbr0")
		if err != nil {
			return nil
		}
		all, err := list(l.Attrs().Index, netlink.FAMILY_V6)
		must(t, err)
		var out []netip.Prefix
		for _, a := range all {
			if a.Permanent && !a.Prefix.Addr().IsLinkLocalUnicast() {
				out = append(out, a.Prefix)
			}
		}
		return out
	}
	eventually(t, "IPv6 address", func() bool { return slices.Equal(six(), []netip.Prefix{netip.MustParsePrefix("2001:db8::9/64")}) })
	eventually(t, "IPv4 address", func() bool {
		return slices.Equal(v4(t, "vmbr0"), []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24")})
	})
	eventually(t, "IPv6 route", func() bool {
		r, err := netlink.RouteGet(net.ParseIP("2001:db8:1::1"))
		return err == nil && len(r) == 1 && r[0].Gw.Equal(net.ParseIP("2001:db8::1"))
	})
	for _, name := range []string{"vmbr0", "nic0"} {
		l, err := netlink.LinkByName(name)
		must(t, err)
		if l.Attrs().MTU != 1400 {
			t.Errorf("MTU of %s is %d", name, l.Attrs().MTU)
		}
	}
	stop()
	stop = newMachine(t, dir, node.Network{Method: "static", CIDR: "2001:db8::a/64"}).start(t)
	defer func() { stop() }()
	eventually(t, "another IPv6 address alone", func() bool {
		return slices.Equal(six(), []netip.Prefix{netip.MustParsePrefix("2001:db8::a/64")}) && len(v4(t, "vmbr0")) == 0
	})
}

func TestKernelBondVLAN(t *testing.T) {
	if !own(t) {
		return
	}
	serve(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "probe"
	if err := netlink.LinkAdd(netlink.NewLinkBond(attrs)); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("the kernel has no bonding driver")
	}
	n := node.Network{Bridge: "vmbr0", MAC: "52:54:00:aa:bb:01", VLAN: 10, Bond: &node.Bond{Mode: "active-backup", Cards: []node.Card{{MAC: "52:54:00:aa:bb:01", Name: "nic0"}, {MAC: "52:54:00:aa:bb:99", Name: "nic9"}}}}
	for range 2 { // the second time nothing is left to do
		b, err := ensure(n)
		must(t, err)
		if b.onName != "vmbr0v10" || b.port.Name != bondName || !strings.Contains(b.trouble, "nic9") {
			t.Errorf("%+v", b)
		}
	}
	nic, err := netlink.LinkByName("nic0")
	must(t, err)
	bond, err := netlink.LinkByName(bondName)
	must(t, err)
	if nic.Attrs().MasterIndex != bond.Attrs().Index {
		t.Error("nic0 is not in the bond")
	}
	tagged, err := netlink.LinkByName("vmbr0v10")
	must(t, err)
	if v, ok := tagged.(*netlink.Vlan); !ok || v.VlanId != 10 {
		t.Errorf("%+v", tagged)
	}
	must(t, converge(base{on: tagged.Attrs().Index, port: link{Index: bond.Attrs().Index}}, wish{Known: true, Address: netip.MustParsePrefix("192.0.2.77/24")}, unix.RTPROT_STATIC))
	if !slices.Equal(v4(t, "vmbr0v10"), []netip.Prefix{netip.MustParsePrefix("192.0.2.77/24")}) || len(v4(t, "vmbr0")) > 0 {
		t.Errorf("addresses: %v, on the bridge %v", v4(t, "vmbr0v10"), v4(t, "vmbr0"))
	}

	t.Log("another mode: the bond is made anew")
	n.Bond.Mode, n.VLAN = "balance-xor", 0
	_, err = ensure(n)
	must(t, err)
	bond, err = netlink.LinkByName(bondName)
	must(t, err)
	if b, ok := bond.(*netlink.Bond); !ok || b.Mode != netlink.BOND_MODE_BALANCE_XOR {
		t.Errorf("%+v", bond)
	}
}

func TestKernelTap(t *testing.T) {
	if !own(t) {
		return
	}
	serve(t)
	_, err := ensure(node.Network{Bridge: "vmbr0", MAC: "52:54:00:aa:bb:01"})
	must(t, err)
	mac := net.HardwareAddr{0xbc, 0x24, 0x11, 1, 2, 3}
	f, err := OpenTap(TapName(100, 0), "vmbr0", mac)
	if err != nil && errors.Is(err, os.ErrNotExist) {
		t.Skip("no /dev/net/tun")
	}
	must(t, err)
	l, err := netlink.LinkByName("tap100i0")
	must(t, err)
	br, err := netlink.LinkByName("vmbr0")
	must(t, err)
	a := l.Attrs()
	if a.MasterIndex != br.Attrs().Index || a.Flags&net.FlagUp == 0 || a.HardwareAddr.String() != "fe:24:11:01:02:03" || a.TxQLen != txQueue {
		t.Errorf("tap %+v", a)
	}
	if br.Attrs().HardwareAddr.String() != "52:54:00:aa:bb:01" {
		t.Errorf("the tap changed the bridge's address to %v", br.Attrs().HardwareAddr)
	}
	if b, _ := os.ReadFile("/proc/sys/net/ipv6/conf/tap100i0/disable_ipv6"); len(b) > 0 && b[0] != '1' {
		t.Error("the host speaks IPv6 on the tap")
	}
	if _, err := OpenTap(TapName(100, 0), "vmbr0", mac); !errors.Is(err, ErrTapBusy) {
		t.Errorf("second opening: %v", err)
	}
	if _, err := OpenTap("tap1", "nic0", mac); err == nil {
		t.Error("a tap in something that is no bridge")
	}
	stale, err := StaleTaps(func(id int) bool { return id != 100 })
	if err != nil || !slices.Equal(stale, []string{"tap100i0"}) {
		t.Errorf("stale: %v, %v", stale, err)
	}
	if stale, _ := StaleTaps(func(int) bool { return true }); len(stale) != 0 {
		t.Errorf("stale: %v", stale)
	}
	must(t, f.Close())
	eventually(t, "tap gone with its holder", func() bool { _, err := netlink.LinkByName("tap100i0"); return err != nil })
	must(t, RemoveTap("tap100i0"))
	if err := RemoveTap("nic0"); err == nil {
		t.Error("removed a link that is no tap")
	}
}
