// Package wire talks to the networks of a machine that is being installed: it
// raises links, asks DHCP, gives cards their addresses and asks name and time
// servers. Nothing of it outlives the installer.
package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"joist/installer/fetch"
)

// Limits of what is waited for.
const (
	linkTime = 5 * time.Second // a link that is up is known long before
	dhcpTime = 2 * time.Second // the first try; the second takes twice as long
	nameTime = 5 * time.Second
)

// Wire is the network of the machine. Its methods are for one goroutine.
type Wire struct {
	Log    *slog.Logger
	offers []fetch.Offer
}

// Raise enables the cards and waits until each has a link, five seconds at
// most: before that a missing cable and a negotiation look the same.
func (w *Wire) Raise(ctx context.Context, cards []string) {
	for _, c := range cards {
		l, err := netlink.LinkByName(c)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			w.Log.Warn("cannot raise link", "card", c, "error", err)
		}
	}
	end := time.Now().Add(linkTime)
	for time.Now().Before(end) && ctx.Err() == nil {
		if !slices.ContainsFunc(cards, func(c string) bool { return !hasLink(c) }) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func hasLink(card string) bool {
	l, err := netlink.LinkByName(card)
	return err == nil && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// Ask asks for a lease on each of the cards that has a link and no lease, all
// at the same time, and gives them their addresses. It returns all leases in
// the cards' order; the error says which cards got none, or that none has a link.
func (w *Wire) Ask(ctx context.Context, cards []string) ([]fetch.Offer, error) {
	var wait sync.WaitGroup
	got, errs := make([]*fetch.Offer, len(cards)), make([]error, len(cards))
	linked := 0
	for i, c := range cards {
		switch j := slices.IndexFunc(w.offers, func(o fetch.Offer) bool { return o.Card == c }); {
		case j >= 0:
			got[i] = &w.offers[j]
		case hasLink(c):
			linked++
			wait.Go(func() {
				o, err := ask(ctx, c)
				if err != nil {
					errs[i] = err
					return
				}
				got[i] = &o
			})
		}
	}
	wait.Wait()
	var out []fetch.Offer
	for i, o := range got {
		if o == nil {
			continue
		}
		if !slices.ContainsFunc(w.offers, func(x fetch.Offer) bool { return x.Card == cards[i] }) {
			if err := configure(o.Card, o.Address, o.Gateway); err != nil {
				errs[i] = err
				continue
			}
			w.Log.Info("lease", "card", o.Card, "address", o.Address)
		}
		out = append(out, *o)
	}
	w.offers = out
	err := errors.Join(errs...)
	if err == nil && len(out) == 0 {
		err = errors.New("no network card has a link")
	}
	return out, err
}

// ask does one exchange.
func ask(ctx context.Context, card string) (fetch.Offer, error) {
	c, err := nclient4.New(card, nclient4.WithTimeout(dhcpTime), nclient4.WithRetry(2))
	if err != nil {
		return fetch.Offer{}, fmt.Errorf("ask DHCP on %s: %w", card, err)
	}
	defer c.Close()
	l, err := c.Request(ctx, dhcpv4.WithRequestedOptions(fetch.Options()...))
	if err != nil {
		return fetch.Offer{}, fmt.Errorf("no DHCP server answers on %s", card)
	}
	return fetch.FromACK(card, l.ACK)
}

// configure gives a card an address; the first card with a router gets the
// default route.
func configure(card string, address netip.Prefix, router netip.Addr) error {
	l, err := netlink.LinkByName(card)
	if err != nil {
		return fmt.Errorf("find %s: %w", card, err)
	}
	mask := net.CIDRMask(address.Bits(), address.Addr().BitLen())
	if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: mask}}); err != nil {
		return fmt.Errorf("set address %s on %s: %w", address, card, err)
	}
	if !router.IsValid() {
		return nil
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: router.AsSlice()}
	if !address.Contains(router) && !router.IsLinkLocalUnicast() {
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("set the route by %s on %s: %w", router, card, err)
	}
	return nil
}

// Static is an address that an answer gives.
type Static struct {
	Address netip.Prefix
	Gateway netip.Addr
	DNS     []netip.Addr
	VLAN    int
}

// Use makes the card reach its network as the answer says, and returns the
// address that it has there: a static one or a lease, behind a tag or not.
// Leases that are there stay, for others.
func (w *Wire) Use(ctx context.Context, card string, s Static) (netip.Prefix, error) {
	w.Raise(ctx, []string{card})
	if s.VLAN > 0 {
		tagged, err := tag(card, s.VLAN)
		if err != nil {
			return netip.Prefix{}, err
		}
		card = tagged
	}
	if s.Address.IsValid() {
		if err := configure(card, s.Address, s.Gateway); err != nil {
			return netip.Prefix{}, err
		}
		w.offers = append([]fetch.Offer{{Card: card, Address: s.Address, Gateway: s.Gateway, DNS: s.DNS}}, w.offers...)
		return s.Address, nil
	}
	offers, err := w.Ask(ctx, append(w.cards(), card))
	i := slices.IndexFunc(offers, func(o fetch.Offer) bool { return o.Card == card })
	if i < 0 {
		return netip.Prefix{}, errors.Join(err, fmt.Errorf("no DHCP server answers on %s", card))
	}
	return offers[i].Address, nil
}

func (w *Wire) cards() (out []string) {
	for _, o := range w.offers {
		out = append(out, o.Card)
	}
	return out
}

// tag makes a tagged link on a card.
func tag(card string, vlan int) (string, error) {
	l, err := netlink.LinkByName(card)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", card, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = fmt.Sprintf("tag%d", vlan), l.Attrs().Index
	err = netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: vlan, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return "", fmt.Errorf("make a link with tag %d on %s: %w", vlan, card, err)
	}
	if l, err = netlink.LinkByName(attrs.Name); err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return "", fmt.Errorf("bring up the link with tag %d on %s: %w", vlan, card, err)
	}
	return attrs.Name, nil
}

// resolver asks the name servers of all networks that are reached, in turn.
func (w *Wire) resolver(only ...netip.Addr) *net.Resolver {
	servers := only
	if len(servers) == 0 {
		for _, o := range w.offers {
			servers = append(servers, o.DNS...)
		}
	}
	next := 0
	var mu sync.Mutex
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if len(servers) == 0 {
			return nil, errors.New("no name server is known")
		}
		mu.Lock()
		s := servers[next%len(servers)]
		next++
		mu.Unlock()
		var d net.Dialer
		return d.DialContext(ctx, network, netip.AddrPortFrom(s, 53).String())
	}}
}

// TXT asks the name servers of a lease.
func (w *Wire) TXT(ctx context.Context, o fetch.Offer, name string) ([]string, error) {
	if len(o.DNS) == 0 {
		return nil, &net.DNSError{Err: "the lease names no server", Name: name, IsNotFound: true}
	}
	ctx, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	return w.resolver(o.DNS...).LookupTXT(ctx, name+".") // the dot keeps search lists out
}

// Dial connects, with the leases' name servers.
func (w *Wire) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 15 * time.Second, Resolver: w.resolver()}
	return d.DialContext(ctx, network, addr)
}
