package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/api/node"
	"joist/installer/answer"
	"joist/installer/apply"
	"joist/installer/fetch"
	"joist/installer/plan"
	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/installer/wire"
	"joist/internal/host"
)

// cable is a network whose links are known once they are raised.
type cable struct {
	noNetwork
	root, carrier string
	ahead         time.Duration
}

func (c cable) Raise(_ context.Context, cards []string) {
	for _, n := range cards {
		os.WriteFile(filepath.Join(c.root, "sys/class/net", n, "carrier"), []byte(c.carrier), 0o644)
		os.WriteFile(filepath.Join(c.root, "sys/class/net", n, "speed"), []byte("10"), 0o644)
	}
}

func (c cable) Ask(context.Context, []string) ([]fetch.Offer, error) {
	return []fetch.Offer{{Card: "eth0", Host: "n7", Domains: []string{"example.com"}}}, nil
}

func (c cable) Clock(context.Context) (time.Duration, string, bool) {
	return c.ahead, "the time server 192.0.2.7", c.ahead != 0
}

func (cable) Use(context.Context, string, wire.Static) (netip.Prefix, error) {
	return netip.MustParsePrefix("192.0.2.5/24"), nil
}

func codes(f probe.Facts) string {
	var out []string
	for _, x := range preflight.Check(f) {
		out = append(out, x.Code)
	}
	return " " + strings.Join(out, " ") + " "
}

// What only a raised link, a lease or another clock can tell gets into the
// facts, and so into the findings.
func TestRaiseAndAsk(t *testing.T) {
	for _, c := range []struct {
		carrier string
		ahead   time.Duration
		want    []string
		not     []string
	}{
		{"0", 0, []string{"no-carrier"}, []string{"link-slow", "clock-skew"}},
		{"1", 2 * time.Hour, []string{"link-slow", "clock-skew"}, []string{"no-carrier"}},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "sys/class/net/eth0")
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "device"), 0o755), os.WriteFile(filepath.Join(dir, "type"), []byte("1"), 0o644)); err != nil {
			t.Fatal(err)
		}
		s := &session{h: &host.Host{Root: root, Log: slog.New(slog.DiscardHandler)}, m: probe.Machine{Root: root}, net: cable{root: root, carrier: c.carrier, ahead: c.ahead}}
		f := probe.Facts{Time: time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)}
		var err error
		if f.NICs, err = s.m.NICs(); err != nil || len(f.NICs) != 1 || f.NICs[0].Carrier != "unknown" {
			t.Fatalf("%+v %v", f.NICs, err)
		}
		s.raise(t.Context(), &f)
		s.ask(t.Context(), &f)
		got := codes(f)
		for _, w := range c.want {
			if !strings.Contains(got, " "+w+" ") {
				t.Errorf("carrier %s: no %s in %s", c.carrier, w, got)
			}
		}
		for _, w := range c.not {
			if strings.Contains(got, " "+w+" ") {
				t.Errorf("carrier %s: %s in %s", c.carrier, w, got)
			}
		}
		if len(f.Leases) != 1 || f.Leases[0] != (probe.Lease{Interface: "eth0", Host: "n7", Domain: "example.com"}) {
			t.Errorf("%+v", f.Leases)
		}
	}
}

// A report that cannot be sent is said, and that the node is installed.
func TestReportFails(t *testing.T) {
	root := t.TempDir()
	h := &host.Host{Root: root, Log: slog.New(slog.DiscardHandler)}
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "etc"), 0o755), os.WriteFile(filepath.Join(root, "etc/debian_version"), []byte("13.2\n"), 0o644),
		os.MkdirAll(h.Path(node.RunDir), 0o755), node.WriteJSON(h.Path(apply.DoneFile), 0o600, apply.Installed{MachineID: "x"})); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s := &session{h: h, net: cable{root: root}, out: consoles{{name: "test", out: &out}}}
	p := plan.Plan{Answer: answer.Answer{Webhook: answer.Webhook{URL: "https://192.0.2.1/x?key=s3cret", Token: "t0ken"}}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody waits here
	s.report(ctx, p, probe.Facts{})
	if s := out.String(); !strings.Contains(s, "could not be sent") || !strings.Contains(s, "installed all the same") || strings.Contains(s, "s3cret") || strings.Contains(s, "t0ken") {
		t.Error(s)
	}
	out.Reset()
	s.report(ctx, plan.Plan{}, probe.Facts{})
	if out.Len() > 0 {
		t.Errorf("a report that nobody asked for: %s", out.String())
	}
}

// The program that runs before the network is fetched over the card that the
// node will use, and looked at before anything is written.
func TestFetchProgram(t *testing.T) {
	text := "#!/bin/sh\n"
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }))
	defer web.Close()
	var out bytes.Buffer
	s := &session{net: wired{}, out: consoles{{name: "test", out: &out}}}
	p := plan.Plan{Answer: answer.Answer{FirstBoot: answer.FirstBoot{Source: answer.FromURL, URL: answer.Secret(web.URL + "/x?key=s3cret"), Ordering: node.OrderingBefore}}}
	if b, err := s.program(t.Context(), p); err != nil || string(b) != text {
		t.Errorf("%q %v", b, err)
	}
	text = "<html>"
	if _, err := s.program(t.Context(), p); err == nil || !strings.Contains(err.Error(), "nothing was written") || strings.Contains(err.Error()+out.String(), "s3cret") {
		t.Errorf("%v, said %s", err, out.String())
	}
	s.net = noNetwork{}
	if _, err := s.program(t.Context(), p); err == nil {
		t.Error("fetched without a network")
	}
}

// wired is this machine's network.
type wired struct{ noNetwork }

func (wired) Use(context.Context, string, wire.Static) (netip.Prefix, error) {
	return netip.Prefix{}, nil
}

func (wired) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}
