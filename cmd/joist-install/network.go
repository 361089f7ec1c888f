package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/installer/answer"
	"joist/installer/apply"
	"joist/installer/fetch"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/installer/wire"
	"joist/internal/run"
	"joist/system/firstboot"
)

// network is what the installer does to the machine's cards; installer/wire
// does it.
type network interface {
	Raise(ctx context.Context, cards []string)
	Ask(ctx context.Context, cards []string) ([]fetch.Offer, error)
	TXT(ctx context.Context, o fetch.Offer, name string) ([]string, error)
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
	Use(ctx context.Context, card string, s wire.Static) (netip.Prefix, error)
	Clock(ctx context.Context) (ahead time.Duration, server string, ok bool)
}

// driver loads what tells whether firmware has locked virtualisation; without
// it that stays unknown.
func (s *session) driver(ctx context.Context) {
	if _, err := s.h.Run.Run(ctx, run.Cmd{Path: "modprobe", Args: []string{"msr"}}); err != nil {
		s.h.Log.Info("no msr driver", "error", err)
	}
}

// raise enables the cards, so that the facts say which have a link.
func (s *session) raise(ctx context.Context, f *probe.Facts) {
	s.net.Raise(ctx, cardNames(*f))
	nics, err := s.m.NICs()
	if err != nil {
		f.Problems = append(f.Problems, err.Error())
		return
	}
	f.NICs = nics
}

// ask adds to the facts what the networks say: names, and the time.
func (s *session) ask(ctx context.Context, f *probe.Facts) {
	offers, err := s.net.Ask(ctx, cardNames(*f))
	if err != nil {
		s.h.Log.Info("no lease", "error", err)
	}
	f.Leases = leases(offers)
	if ahead, server, ok := s.net.Clock(ctx); ok {
		f.Reference = &probe.Reference{Time: f.Time.Add(ahead), Source: server}
	}
}

func leases(offers []fetch.Offer) (out []probe.Lease) {
	for _, o := range offers {
		out = append(out, o.Lease())
	}
	return out
}

func cardNames(f probe.Facts) (out []string) {
	for _, n := range f.NICs {
		out = append(out, n.Name)
	}
	return out
}

// askers is what a search for the answer asks.
type askers struct {
	s    *session
	f    *probe.Facts
	body []byte
}

func (a *askers) Offers(ctx context.Context) ([]fetch.Offer, error) {
	offers, err := a.s.net.Ask(ctx, cardNames(*a.f))
	if len(offers) > 0 {
		a.f.Leases = leases(offers)
	}
	return offers, err
}

func (a *askers) TXT(ctx context.Context, o fetch.Offer, name string) ([]string, error) {
	return a.s.net.TXT(ctx, o, name)
}

func (a *askers) Post(ctx context.Context, s answer.Source) (fetch.Reply, error) {
	return fetch.Post(ctx, s, a.body, a.s.net.Dial)
}

// noNetwork stands in where the machine is a file, or somebody else's.
type noNetwork struct{}

var errNoNetwork = errors.New("the network is not used here")

func (noNetwork) Raise(context.Context, []string)                      {}
func (noNetwork) Ask(context.Context, []string) ([]fetch.Offer, error) { return nil, errNoNetwork }
func (noNetwork) TXT(context.Context, fetch.Offer, string) ([]string, error) {
	return nil, errNoNetwork
}
func (noNetwork) Dial(context.Context, string, string) (net.Conn, error) { return nil, errNoNetwork }
func (noNetwork) Use(context.Context, string, wire.Static) (netip.Prefix, error) {
	return netip.Prefix{}, errNoNetwork
}
func (noNetwork) Clock(context.Context) (time.Duration, string, bool) { return 0, "", false }

// report tells the webhook that the node is installed. What goes wrong is
// said, and undoes nothing.
func (s *session) report(ctx context.Context, p plan.Plan, f probe.Facts) {
	w := p.Answer.Webhook
	if w.URL == "" {
		return
	}
	err := s.sendReport(ctx, p, f)
	if err == nil {
		s.say("The report was sent.")
		return
	}
	s.h.Log.Error("report not sent", "error", err)
	s.say("The report of post-installation-webhook could not be sent: %v.\nThe node is installed all the same; the machine goes on in %v.", err, errorPause)
	sleep(ctx, errorPause)
}

func (s *session) sendReport(ctx context.Context, p plan.Plan, f probe.Facts) error {
	r, err := s.running()
	if err != nil {
		return err
	}
	address, err := s.net.Use(ctx, p.NIC.Name, staticOf(p.Answer))
	if err != nil {
		return err
	}
	r.Address = address.String()
	body, err := fetch.Notice(p, f, r)
	if err != nil {
		return err
	}
	return fetch.Send(ctx, p.Answer.Webhook, body, s.net.Dial, sleep)
}

// program fetches the first-boot program that the node could not: it runs
// before the node has a network.
func (s *session) program(ctx context.Context, p plan.Plan) ([]byte, error) {
	s.say("Fetching the first-boot program.")
	if _, err := s.net.Use(ctx, p.NIC.Name, staticOf(p.Answer)); err != nil {
		return nil, fmt.Errorf("fetch the first-boot program: %w", err)
	}
	w := p.Answer.FirstBoot
	text, err := firstboot.HTTP{Say: func(l string) { s.say("%s", l) }, Dial: s.net.Dial}.
		Fetch(ctx, node.FirstBootRequest{URL: w.URL.Reveal(), Fingerprint: w.Fingerprint})
	if err == nil {
		err = answer.CheckProgram(text)
	}
	if err != nil {
		return nil, fmt.Errorf("get the first-boot program: %w; nothing was written", err)
	}
	return text, nil
}

// staticOf is how the answer says that the network is reached. What it says was
// checked when it was read.
func staticOf(a answer.Answer) wire.Static {
	out := wire.Static{VLAN: a.Link.VLAN}
	if a.Network.Source != answer.FromAnswer {
		return out
	}
	out.Address, _ = netip.ParsePrefix(a.Network.CIDR)
	out.Gateway, _ = netip.ParseAddr(a.Network.Gateway)
	for _, d := range a.Network.DNS {
		if ip, err := netip.ParseAddr(d); err == nil {
			out.DNS = append(out.DNS, ip)
		}
	}
	return out
}

// running is what the report says of the system and the node.
func (s *session) running() (fetch.Running, error) {
	var r fetch.Running
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return r, fmt.Errorf("ask the kernel its version: %w", err)
	}
	r.Sysname, r.Release = unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:])
	r.Build, r.Hardware = unix.ByteSliceToString(u.Version[:]), unix.ByteSliceToString(u.Machine[:])
	debian, err := os.ReadFile(s.h.Path("/etc/debian_version"))
	if err != nil {
		return r, fmt.Errorf("read Debian's version: %w", err)
	}
	r.Debian = strings.TrimSpace(string(debian))
	done, err := apply.ReadDone(s.h)
	r.MachineID, r.HostKeys = done.MachineID, done.HostKeys
	return r, err
}
