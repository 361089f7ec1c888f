// Package netup gets stage 1 onto the network for as long as it fetches the
// system image: it sets links up, asks DHCP on every card that has a cable (or
// takes the address of the kernel command line, or one that a router of IPv6
// advertises), and takes all back afterwards, so that the system finds its
// cards as if they had just been plugged in.
package netup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"joist/system/cmdline"
)

// Want is how the network is to be reached.
type Want struct {
	MAC     string          // the card that the firmware used, "" for any
	Address cmdline.Address // ip=
	IPv6    bool            // an address of IPv6 is needed: the server has one
	Time    time.Duration   // to wait for it
	Say     func(format string, args ...any)
	Look    func() // load drivers of new devices
}

const resolvFile = "/etc/resolv.conf"

// macTime is how long the card that the firmware used is waited for before any
// other will do.
const macTime = 15 * time.Second

// up is one attempt to get onto the network.
type up struct {
	Want
	begun, said time.Time
	links       map[string]*link
	got         chan answer
}

type link struct {
	netlink.Link
	carrier bool
	asked   bool // DHCP or the routers
}

type answer struct {
	name  string
	lease Lease
}

// Up returns when the network can be used. The name is the card's.
func Up(ctx context.Context, w Want) (name string, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.Time)
	defer cancel() // ends what asks on other cards
	u := &up{Want: w, begun: time.Now(), said: time.Now(), links: map[string]*link{}, got: make(chan answer)}
	for {
		w.Look()
		if err := u.refresh(); err != nil {
			return "", err
		}
		for _, l := range u.usable() {
			done, err := u.use(ctx, l)
			if done || err != nil {
				return l.Attrs().Name, err
			}
		}
		select {
		case a := <-u.got:
			return a.name, u.configure(u.links[a.name], a.lease)
		case <-ctx.Done():
			return "", errors.New(u.missing())
		case <-time.After(200 * time.Millisecond):
		}
		if time.Since(u.said) >= 5*time.Second {
			u.said = time.Now()
			u.Say("waiting   network: %s; %d s of %d", u.missing(), int(time.Since(u.begun).Seconds()), int(w.Time.Seconds()))
		}
	}
}

// refresh looks at all cards and sets new ones up.
func (u *up) refresh() error {
	all, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list network cards: %w", err)
	}
	for _, l := range all {
		a := l.Attrs()
		if l.Type() != "device" || a.EncapType != "ether" || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		known := u.links[a.Name]
		if known == nil {
			known = &link{}
			u.links[a.Name] = known
			u.Say("          network card %s, %s", a.Name, a.HardwareAddr)
			if err := netlink.LinkSetUp(l); err != nil {
				u.Say("          set link %s up: %v", a.Name, err) // another card may do
			}
		}
		known.Link = l
		// Drivers that cannot tell say unknown.
		carrier := a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown && a.RawFlags&unix.IFF_RUNNING != 0
		if carrier && !known.carrier {
			u.Say("          %s has a link", a.Name)
		}
		known.carrier = carrier
	}
	return nil
}

// usable are the cards with a cable that may be used.
func (u *up) usable() (out []*link) {
	for name, l := range u.links {
		switch {
		case !l.carrier:
		case u.Address.Device != "":
			if name == u.Address.Device {
				out = append(out, l)
			}
		case u.MAC == "" || strings.EqualFold(l.Attrs().HardwareAddr.String(), u.MAC) || time.Since(u.begun) > macTime:
			out = append(out, l)
		}
	}
	return out
}

// use takes a given address, looks for an advertised one, or begins to ask.
func (u *up) use(ctx context.Context, l *link) (done bool, err error) {
	if u.Address.Static() {
		lease := Lease{Prefix: u.Address.Prefix, DNS: u.Address.DNS}
		if g := u.Address.Gateway; g.IsValid() {
			any := netip.IPv4Unspecified()
			if g.Is6() {
				any = netip.IPv6Unspecified()
			}
			lease.Routes = []Route{{netip.PrefixFrom(any, 0), g}}
		}
		return true, u.configure(l, lease)
	}
	asked := l.asked
	l.asked = true
	if u.IPv6 { // the kernel asks the routers
		ip, ok := advertised(l)
		if ok {
			u.Say("          %s has %s from a router's advertisement", l.Attrs().Name, ip)
		}
		return ok, nil
	}
	if !asked {
		go u.ask(ctx, l.Attrs().Name, l.Attrs().HardwareAddr)
	}
	return false, nil
}

// advertised is a global IPv6 address that the kernel has made and tested.
func advertised(l *link) (ip net.IP, ok bool) {
	list, err := netlink.AddrList(l, netlink.FAMILY_V6)
	if err != nil {
		return nil, false
	}
	for _, a := range list {
		if a.IP.IsGlobalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			return a.IP, true
		}
	}
	return nil, false
}

// ask asks DHCP on one card until somebody answers.
func (u *up) ask(ctx context.Context, name string, mac net.HardwareAddr) {
	u.Say("          asking DHCP on %s", name)
	for ctx.Err() == nil {
		lease, err := request(ctx, name, mac)
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case u.got <- answer{name, lease}:
		case <-ctx.Done():
		}
		return
	}
}

func request(ctx context.Context, name string, mac net.HardwareAddr) (Lease, error) {
	c, err := nclient4.New(name, nclient4.WithTimeout(3*time.Second), nclient4.WithRetry(2), nclient4.WithHWAddr(mac))
	if err != nil {
		return Lease{}, err
	}
	defer c.Close()
	m, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithRequestedOptions(dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionDNSDomainSearchList))
	if err != nil {
		return Lease{}, err
	}
	// A proxy's offer has no address (PXE 2.1, 2.2.3).
	isOffer := nclient4.IsMessageType(dhcpv4.MessageTypeOffer)
	offer, err := c.SendAndRead(ctx, nclient4.DefaultServers, m, func(p *dhcpv4.DHCPv4) bool { return isOffer(p) && !p.YourIPAddr.IsUnspecified() })
	if err != nil {
		return Lease{}, err
	}
	l, err := c.RequestFromOffer(ctx, offer)
	if err != nil {
		return Lease{}, err
	}
	return readLease(l.ACK)
}

// configure gives the card its address.
func (u *up) configure(l *link, lease Lease) error {
	name := l.Attrs().Name
	if lease.MTU != 0 {
		if err := netlink.LinkSetMTU(l, lease.MTU); err != nil {
			u.Say("          set MTU of %s to %d: %v", name, lease.MTU, err)
		}
	}
	addr := &netlink.Addr{IPNet: ipNet(lease.Prefix)}
	if lease.Prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD // stage 1 does not wait for what two people cannot have typed
	}
	if err := netlink.AddrReplace(l, addr); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, lease.Prefix, err)
	}
	for _, r := range lease.Routes {
		route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(r.To.Masked())}
		if !r.Via.IsUnspecified() {
			route.Gw = r.Via.AsSlice()
			route.Flags = int(netlink.FLAG_ONLINK) // a gateway outside of the subnet is unusual, not wrong
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("set route to %s by %s: %w", r.To, r.Via, err)
		}
	}
	from := ""
	if lease.Servers != "" {
		from = " from DHCP server " + lease.Servers
	}
	u.Say("          %s has %s%s", name, lease.Prefix, from)
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return err
	}
	return os.WriteFile(resolvFile, []byte(lease.resolvConf()), 0o644)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// missing says what the network lacks.
func (u *up) missing() string {
	if len(u.links) == 0 {
		return "no network card that a driver of this initrd knows"
	}
	if u.Address.Device != "" && u.links[u.Address.Device] == nil {
		return "no network card " + u.Address.Device
	}
	cable := false
	var asked []string
	for _, name := range slices.Sorted(maps.Keys(u.links)) {
		l := u.links[name]
		cable = cable || l.carrier
		if l.asked {
			asked = append(asked, name)
		}
	}
	switch {
	case !cable:
		return "no network card has a link"
	case len(asked) == 0:
		return "the card " + u.MAC + " has no link"
	case u.IPv6:
		return "no router advertises a network of IPv6 on " + strings.Join(asked, ", ")
	}
	return "no DHCP server answers on " + strings.Join(asked, ", ")
}

// Down takes addresses and links back.
func Down() error {
	all, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list network cards: %w", err)
	}
	var errs []error
	for _, l := range all {
		if l.Type() != "device" || l.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		list, err := netlink.AddrList(l, netlink.FAMILY_V4)
		errs = append(errs, err)
		for _, a := range list {
			errs = append(errs, netlink.AddrDel(l, &a))
		}
		errs = append(errs, netlink.LinkSetDown(l)) // takes routes and addresses of IPv6 with it
	}
	return errors.Join(errs...)
}
