package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// errNak is a server's refusal.
var errNak = errors.New("the DHCP server refused the address")

// exchanger does one exchange with DHCP servers. All errors but errNak mean
// that nobody gave a usable answer.
type exchanger interface {
	// Select finds a server and takes what it offers; want is asked for.
	Select(ctx context.Context, want netip.Addr) (lease, error)
	// Confirm asks whether l holds: everybody as a machine that just started
	// (rebooting), its server (renewing), or everybody (rebinding).
	Confirm(ctx context.Context, l lease, s state) (lease, error)
}

// client walks the state machine. It owns no address: what should be set is
// sent to set, what must go to drop, and both are idempotent.
type client struct {
	log     *slog.Logger
	ask     exchanger
	carrier <-chan bool // true also stands for "was away for a moment"
	set     func(ctx context.Context, l lease)
	drop    func(ctx context.Context)
	trouble func(ctx context.Context, err error) // nobody answered

	last   lease      // granted last, zero when none is known
	prefer netip.Addr // asked for when a new lease is chosen
	held   bool       // last is set as address
	up     bool
	tries  int
}

// run walks until ctx ends. The address stays then: the next process adopts it.
func (c *client) run(ctx context.Context) {
	s := idle
	for {
		e := c.act(ctx, s)
		if ctx.Err() != nil {
			return
		}
		n, ok := next(s, e)
		switch {
		case !ok:
			c.log.Error("dhcp: event does not belong to state", "state", s, "event", e)
		case n != s:
			c.log.Info("dhcp", "from", s, "event", e, "to", n)
			c.tries = 0
		}
		s = n
	}
}

// act does what s is for and returns what came of it.
func (c *client) act(ctx context.Context, s state) event {
	switch s {
	case idle:
		if c.up {
			return linkUp
		}
		return c.wait(ctx, forever, linkDown)
	case rebooting:
		return c.reboot(ctx)
	case selecting:
		return c.choose(ctx)
	case bound:
		return c.wait(ctx, c.last.left(c.last.T1, time.Now()), t1)
	case renewing:
		return c.extend(ctx, s, c.last.T2, t2)
	case rebinding:
		return c.extend(ctx, s, c.last.Length, leaseEnd)
	default:
		c.drop(ctx)
		c.last, c.held = lease{}, false
		return dropped
	}
}

func (c *client) reboot(ctx context.Context) event {
	if !c.last.known() {
		return unknown
	}
	e, err := c.confirm(ctx, rebooting)
	if e != silence {
		return e
	}
	if c.last.valid(time.Now()) {
		c.log.Warn("dhcp: nobody answered, the last lease still runs", "address", c.last.Address, "err", err)
		c.accept(ctx, c.last)
		return keep
	}
	return silence
}

// choose asks for a new lease, the last address preferred.
func (c *client) choose(ctx context.Context) event {
	l, err := c.ask.Select(ctx, c.prefer)
	if err == nil {
		c.accept(ctx, l)
		return ack
	}
	if ctx.Err() != nil {
		return silence
	}
	c.trouble(ctx, err)
	c.log.Warn("dhcp: no lease", "try", c.tries+1, "err", err)
	pause := backoff(c.tries, jitter)
	c.tries++
	if errors.Is(err, errNak) {
		return c.wait(ctx, pause, nak)
	}
	return c.wait(ctx, pause, silence)
}

// extend asks for more time; after end, the state is over with event over.
func (c *client) extend(ctx context.Context, s state, end time.Duration, over event) event {
	if c.last.left(end, time.Now()) <= 0 {
		return over
	}
	e, err := c.confirm(ctx, s)
	if e != silence || ctx.Err() != nil {
		return e
	}
	left := c.last.left(end, time.Now())
	c.log.Warn("dhcp: no answer", "state", s, "left", left.Round(time.Second), "err", err)
	if pause := retryIn(left); pause < left {
		return c.wait(ctx, pause, silence)
	}
	return c.wait(ctx, left, over)
}

func (c *client) confirm(ctx context.Context, s state) (event, error) {
	l, err := c.ask.Confirm(ctx, c.last, s)
	switch {
	case err == nil:
		c.accept(ctx, l)
		return ack, nil
	case errors.Is(err, errNak):
		c.prefer = netip.Addr{}
		return nak, err
	default:
		return silence, err
	}
}

func (c *client) accept(ctx context.Context, l lease) {
	c.last, c.prefer, c.held = l, l.Address.Addr(), true
	c.set(ctx, l)
}

// wait returns e after d, or sooner what happens sooner: a change of the
// carrier, or the end of a lease whose address is still set.
func (c *client) wait(ctx context.Context, d time.Duration, e event) event {
	if c.held {
		if end := c.last.left(c.last.Length, time.Now()); end < d {
			d, e = end, leaseEnd
		}
	}
	var timer <-chan time.Time
	if d != forever {
		t := time.NewTimer(max(d, 0))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return e
	case <-timer:
		return e
	case c.up = <-c.carrier:
		if c.up {
			return linkUp
		}
		return linkDown
	}
}

// wire is the exchanger that speaks DHCP on a link. A socket lives for one
// exchange: between two the kernel has nothing to deliver to us.
type wire struct {
	link     string
	mac      net.HardwareAddr
	hostname string
	timeout  time.Duration // for the first answer; doubles twice
}

// requested is what we can make use of.
var requested = dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
	dhcpv4.OptionDomainName, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionIPAddressLeaseTime,
	dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue)

func (w wire) options(more ...dhcpv4.Modifier) []dhcpv4.Modifier {
	m := []dhcpv4.Modifier{requested, dhcpv4.WithHwAddr(w.mac)}
	if w.hostname != "" {
		m = append(m, dhcpv4.WithOption(dhcpv4.OptHostName(w.hostname)))
	}
	return append(m, more...)
}

func (w wire) Select(ctx context.Context, want netip.Addr) (lease, error) {
	c, err := nclient4.New(w.link, nclient4.WithTimeout(w.timeout), nclient4.WithRetry(2), nclient4.WithHWAddr(w.mac))
	if err != nil {
		return lease{}, fmt.Errorf("ask for a lease on %s: %w", w.link, err)
	}
	defer c.Close()
	opts := w.options()
	offerOpts := opts
	if want.IsValid() {
		offerOpts = w.options(dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(want.AsSlice())))
	}
	offer, err := c.DiscoverOffer(ctx, offerOpts...)
	if err != nil {
		return lease{}, fmt.Errorf("no DHCP server answers on %s: %w", w.link, err)
	}
	l, err := c.RequestFromOffer(ctx, offer, opts...)
	var refused *nclient4.ErrNak
	if errors.As(err, &refused) {
		return lease{}, errNak
	}
	if err != nil {
		return lease{}, fmt.Errorf("take the offered lease on %s: %w", w.link, err)
	}
	return leaseOf(l.ACK, time.Now())
}

func (w wire) Confirm(ctx context.Context, l lease, s state) (lease, error) {
	opts := []nclient4.ClientOpt{nclient4.WithTimeout(w.timeout), nclient4.WithRetry(2), nclient4.WithHWAddr(w.mac)}
	to := nclient4.DefaultServers
	ip := net.IP(l.Address.Addr().AsSlice())
	mods := w.options(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest))
	switch s {
	case rebooting: // address in option 50, ciaddr empty: RFC 2131, 4.3.2
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip)))
	case renewing: // unicast from the address itself
		mods = append(mods, dhcpv4.WithClientIP(ip))
		opts = append(opts, nclient4.WithUnicast(&net.UDPAddr{IP: ip, Port: nclient4.ClientPort}))
		to = &net.UDPAddr{IP: l.Server.AsSlice(), Port: nclient4.ServerPort}
	default:
		mods = append(mods, dhcpv4.WithClientIP(ip))
	}
	c, err := nclient4.New(w.link, opts...)
	if err != nil {
		return lease{}, fmt.Errorf("ask for the lease of %s: %w", l.Address, err)
	}
	defer c.Close()
	m, err := dhcpv4.New(mods...)
	if err != nil {
		return lease{}, err
	}
	answer, err := c.SendAndRead(ctx, to, m, nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak))
	if err != nil {
		return lease{}, fmt.Errorf("ask for the lease of %s: %w", l.Address, err)
	}
	if answer.MessageType() == dhcpv4.MessageTypeNak {
		return lease{}, errNak
	}
	return leaseOf(answer, time.Now())
}
