package fetch

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"joist/image/boot"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/installer/preflight"
	"joist/installer/probe"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, got, "", "  "); err != nil {
		t.Fatal(err)
	}
	if *update {
		os.MkdirAll("testdata", 0o755)
		os.WriteFile("testdata/"+name, b.Bytes(), 0o644)
	}
	want, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s differs:\n%s", name, b.String())
	}
}

func ack(t testing.TB, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 5)),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)), dhcpv4.WithDNS(net.IPv4(192, 0, 2, 53))}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func option(code uint8, v string) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), []byte(v))
}

func TestFromACK(t *testing.T) {
	o, err := FromACK("eth0", ack(t, option(250, "https://192.0.2.1/answer\x00"), option(251, "AA:BB\n"), option(12, "node7"), option(15, "lab.example."),
		dhcpv4.WithOption(dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: []string{"a.example", "bad name"}})), dhcpv4.WithOption(dhcpv4.OptNTPServers(net.IPv4(192, 0, 2, 7), net.IPv4zero))))
	got := fmt.Sprintf("%+v", o)
	const want = "{Card:eth0 Address:192.0.2.5/24 Gateway:192.0.2.1 DNS:[192.0.2.53] NTP:[192.0.2.7] Host:node7 Domains:[lab.example a.example] URL:https://192.0.2.1/answer Fingerprint:AA:BB}"
	if err != nil || got != want {
		t.Errorf("%v\ngot  %s\nwant %s", err, got, want)
	}
	if l := o.Lease(); l != (probe.Lease{Interface: "eth0", Host: "node7", Domain: "lab.example"}) {
		t.Errorf("%+v", l)
	}
	for _, bad := range []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4zero), dhcpv4.WithYourIP(net.IPv4bcast), dhcpv4.WithNetmask(net.CIDRMask(0, 32))} {
		if o, err := FromACK("eth0", ack(t, bad)); err == nil {
			t.Errorf("passed: %+v", o)
		}
	}
}

func FuzzFromACK(f *testing.F) {
	f.Add(ack(f, option(250, "https://192.0.2.1/a"), option(251, strings.Repeat("ab", 32)), option(12, "n7"), option(15, "example.com")).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		o, err := FromACK("eth0", m)
		if err != nil {
			return
		}
		if !machine(o.Address.Addr()) || o.Address.Bits() == 0 {
			t.Errorf("%+v", o)
		}
		for _, d := range append(o.Domains, o.Host) {
			if strings.ContainsAny(d, " \n\x00/;") {
				t.Errorf("%q", d)
			}
		}
		s, _ := o.Source()
		if fs := s.Check("x"); !fs.Stops() {
			if u, err := answer.WebAddress(s.URL); err != nil || u.Hostname() == "" {
				t.Errorf("%q passes: %v", s.URL, err)
			}
			if _, err := Request(t.Context(), s, nil); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzReply is a whole reply of an answer server, head and all.
func FuzzReply(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/toml\r\nDate: Sun, 29 Nov 2026 18:00:00 GMT\r\n\r\n[global]\nfqdn = \"n1.example.com\"\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 35\r\n\r\n{\"global\": {\"root-password\": \"abc\"}}"))
	f.Add([]byte("HTTP/1.1 404 Not Found\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
		if err != nil {
			return
		}
		r, err := ReadReply(resp)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		if len(r.Text) == 0 || len(r.Text) > maxReply {
			t.Errorf("%d bytes", len(r.Text))
		}
		a, fs := answer.Load(bytes.NewReader(r.Text), "answer of a server")
		for _, x := range fs {
			if x.Code == "" || strings.ContainsAny(x.String(), "\x1b\r") {
				t.Errorf("%q", x.String())
			}
		}
		_ = a.String()
	})
}

// What the kernel's command line and DNS say is written by whoever may write
// there: what passes is an address that can be asked.
func FuzzSearch(f *testing.F) {
	f.Add("auto", "", "https://example.com/a")
	f.Add("https://example.com/a", strings.Repeat("ab", 32), "")
	f.Add("partition:x", "", "http://[::1")
	f.Fuzz(func(t *testing.T, word, fingerprint, record string) {
		s, fs := ParseSearch(word, fingerprint)
		if !fs.Stops() && s.Source.URL != "" {
			if _, err := Request(t.Context(), s.Source, nil); err != nil {
				t.Errorf("joist.answer=%q: %v", word, err)
			}
		}
		x, err := fromTXT("example.com", []string{record}, []string{fingerprint})
		if err != nil {
			t.Fatal(err)
		}
		if fs := x.Check(x.From); fs.Stops() {
			return
		}
		if _, err := Request(t.Context(), x, nil); err != nil {
			t.Errorf("record %q: %v", record, err)
		}
	})
}

const pin = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestParseSearch(t *testing.T) {
	for word, want := range map[string]string{
		"": "auto  ", "auto": "auto  ", "iso": "iso  ", "partition": "partition  ", "partition:SEED": "partition SEED ", "url": "url  ",
		"https://example.com/a?b=c": "url  https://example.com/a?b=c", "ftp://example.com": "!", "https://u:p@example.com": "!", "http://": "!", "off": "!", "partition:": "!",
	} {
		s, fs := ParseSearch(word, "")
		got := s.Kind + " " + s.Label + " " + s.Source.URL
		if fs.Stops() {
			got = "!"
		}
		if got != want {
			t.Errorf("%q: %q %v", word, got, fs)
		}
	}
	if _, fs := ParseSearch("http://example.com", pin); !fs.Stops() {
		t.Error("a fingerprint for http")
	}
	if s, fs := ParseSearch("https://example.com", pin); fs.Stops() || s.Source.Fingerprint != pin {
		t.Errorf("%+v %v", s, fs)
	}
}

// fakeNet answers from lists; what runs out repeats its last.
type fakeNet struct {
	offers [][]Offer
	txt    map[string][]string
	dns    error
	posts  []error
	text   string
	asked  answer.Source
	n, m   int
	waits  int // tries until the last card has a lease
}

func (f *fakeNet) Offers(context.Context) ([]Offer, error) {
	if len(f.offers) == 0 {
		return nil, errors.New("no DHCP server answers on eth0")
	}
	o := f.offers[min(f.n, len(f.offers)-1)]
	f.n++
	if o == nil || f.n < f.waits {
		return o, errors.New("no DHCP server answers on eth1")
	}
	return o, nil
}

func (f *fakeNet) TXT(_ context.Context, _ Offer, name string) ([]string, error) {
	if f.dns != nil {
		return nil, f.dns
	}
	if r, ok := f.txt[name]; ok {
		return r, nil
	}
	return nil, &net.DNSError{IsNotFound: true}
}

func (f *fakeNet) Post(_ context.Context, s answer.Source) (Reply, error) {
	f.asked = s
	var err error
	if len(f.posts) > 0 {
		err = f.posts[min(f.m, len(f.posts)-1)]
	}
	f.m++
	return Reply{Text: []byte(f.text)}, err
}

func TestFind(t *testing.T) {
	said := map[string]bool{"answer-ambiguous": true} // that of volumes is provoked by the installer's own tests
	t.Cleanup(func() {
		for _, r := range append(Findings(), answer.Row{Code: "answer-source-invalid"}) {
			if !said[r.Code] {
				t.Errorf("%s was not provoked", r.Code)
			}
			delete(said, r.Code)
		}
		if delete(said, ""); len(said) > 0 {
			t.Errorf("not in the table: %v", said)
		}
	})
	plainOffer := Offer{Card: "eth0", DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Domains: []string{"lab.example"}}
	named := plainOffer
	named.URL, named.Fingerprint = "https://192.0.2.1/a", pin
	txt := map[string][]string{"proxmox-auto-installer.lab.example": {"https://dns.example/a"}, "proxmox-auto-installer-cert-fingerprint.lab.example": {pin}}
	refused := errors.New("connection refused")
	for _, c := range []struct {
		name     string
		net      fakeNet
		source   answer.Source
		url, pin string
		code     string
		tries    int
	}{
		{"by DHCP", fakeNet{offers: [][]Offer{{plainOffer, named}}, txt: txt}, answer.Source{}, "https://192.0.2.1/a", pin, "", 1},
		{"by DNS", fakeNet{offers: [][]Offer{{plainOffer}}, txt: txt}, answer.Source{}, "https://dns.example/a", pin, "", 1},
		{"a pin of one's own", fakeNet{offers: [][]Offer{{plainOffer}}, txt: txt}, answer.Source{Fingerprint: strings.Repeat("b", 64)}, "https://dns.example/a", strings.Repeat("b", 64), "", 1},
		{"given", fakeNet{offers: [][]Offer{{named}}}, answer.Source{URL: "http://given.example/"}, "http://given.example/", "", "", 1},
		{"late lease, late server", fakeNet{offers: [][]Offer{nil, nil, {named}}, posts: []error{refused, &StatusError{Code: 404}, &StatusError{Code: 503}, nil}}, answer.Source{}, "https://192.0.2.1/a", pin, "", 4},
		{"the second card's lease names it", fakeNet{offers: [][]Offer{{plainOffer}, {plainOffer}, {plainOffer, named}}, waits: 3}, answer.Source{}, "https://192.0.2.1/a", pin, "", 1},
		{"nobody names one", fakeNet{offers: [][]Offer{{plainOffer}}}, answer.Source{}, "", "", "answer-not-found", 0},
		{"two records", fakeNet{offers: [][]Offer{{plainOffer}}, txt: map[string][]string{"proxmox-auto-installer.lab.example": {"https://a", "https://b"}}}, answer.Source{}, "", "", "answer-source-invalid", 0},
		{"a bad address", fakeNet{offers: [][]Offer{{{Card: "eth0", URL: "tftp://x"}}}}, answer.Source{}, "", "", "answer-source-invalid", 0},
		{"refused", fakeNet{offers: [][]Offer{{named}}, posts: []error{&StatusError{Code: 403}}}, answer.Source{}, "https://192.0.2.1/a", pin, "answer-refused", 1},
		{"another certificate", fakeNet{offers: [][]Offer{{named}}, posts: []error{fmt.Errorf("x: %w", &PinError{pin, "b"})}}, answer.Source{}, "https://192.0.2.1/a", pin, "answer-refused", 1},
		{"silent for ten minutes", fakeNet{offers: [][]Offer{{named}}, posts: []error{refused}}, answer.Source{}, "https://192.0.2.1/a", pin, "answer-server-silent", 24},
		{"no lease for ten minutes", fakeNet{}, answer.Source{}, "", "", "answer-server-silent", 0},
		{"no DNS for ten minutes", fakeNet{offers: [][]Offer{{plainOffer}}, dns: errors.New("timeout")}, answer.Source{}, "", "", "answer-server-silent", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			now, lines := time.Unix(1.8e9, 0), 0
			begun := now
			c.net.text = "x"
			f := Finder{Net: &c.net, Say: func(string, ...any) { lines++ }, Now: func() time.Time { return now },
				Sleep: func(_ context.Context, d time.Duration) bool { now = now.Add(d); return true }}
			_, _, fs := f.Find(t.Context(), c.source)
			code := ""
			if len(fs) > 0 {
				code = fs[0].Code
				said[code] = true
				if fs[0].Hint == "" {
					t.Error("no cure")
				}
			}
			if code != c.code || c.net.asked.URL != c.url || c.net.asked.Fingerprint != c.pin || c.net.m != c.tries {
				t.Errorf("%q %+v after %d tries: %v", code, c.net.asked, c.net.m, fs)
			}
			if d := now.Sub(begun); d > Patience || code == "answer-server-silent" && d < Patience-time.Minute || lines == 0 && code == "" {
				t.Errorf("%v, %d lines", d, lines)
			}
		})
	}
	f := Finder{Net: &fakeNet{}, Say: func(string, ...any) {}, Now: time.Now, Sleep: func(context.Context, time.Duration) bool { return false }}
	if _, _, fs := f.Find(t.Context(), answer.Source{}); !fs.Stops() {
		t.Error("an interrupted search goes on")
	}
	asked := 0
	f.Sleep = func(context.Context, time.Duration) bool { return true }
	f.Else = func() bool { asked++; return asked == 2 }
	if r, _, fs := f.Find(t.Context(), answer.Source{}); fs.Stops() || r.Text != nil || asked != 2 {
		t.Errorf("an answer elsewhere: %v after %d looks", fs, asked)
	}
}

func server(t *testing.T, h http.HandlerFunc) (s *httptest.Server, fingerprint string) {
	t.Helper()
	s = httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	sum := sha256.Sum256(s.Certificate().Raw)
	return s, hex.EncodeToString(sum[:])
}

func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

func TestPost(t *testing.T) {
	body, head := "", http.Header{}
	s, print := server(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body, head = string(b), r.Header
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/", http.StatusTemporaryRedirect)
		case "/empty":
		case "/page":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, "<html>")
		default:
			if r.Header.Get("Authorization") != "Bearer rack:s3cret" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprint(w, "[global]\n")
		}
	})
	ok := answer.Source{URL: s.URL + "/", Fingerprint: strings.ToUpper(print), Token: "rack:s3cret"}
	r, err := Post(t.Context(), ok, []byte(`{"a":1}`), dial)
	if err != nil || string(r.Text) != "[global]\n" || body != `{"a":1}` || time.Since(r.Date).Abs() > time.Minute {
		t.Errorf("%q %v, sent %q, %v", r.Text, err, body, r.Date)
	}
	if head.Get("Accept") != "application/json, application/toml;q=0.5" || head.Get("Content-Type") != "application/json" {
		t.Errorf("%v", head)
	}
	for name, c := range map[string]struct {
		edit  func(*answer.Source)
		final bool
		says  string
	}{
		"another certificate": {func(s *answer.Source) { s.Fingerprint = pin }, true, print},
		"nobody vouches":      {func(s *answer.Source) { s.Fingerprint = "" }, true, "fingerprint"},
		"no token":            {func(s *answer.Source) { s.Token = "" }, true, "token"},
		"moved":               {func(s *answer.Source) { s.URL += "moved" }, true, "POST"},
		"empty":               {func(s *answer.Source) { s.URL += "empty" }, false, "server"},
		"a page":              {func(s *answer.Source) { s.URL += "page?token=s3cret" }, false, "server"},
		"nobody there":        {func(s *answer.Source) { s.URL = "https://127.0.0.1:1/?key=s3cret" }, false, "server"},
	} {
		src := ok
		c.edit(&src)
		_, err := Post(t.Context(), src, nil, dial)
		if err == nil || Final(err) != c.final || !strings.Contains(cure(err), c.says) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, final %v, cure %q", name, err, Final(err), cure(err))
		}
	}
}

func installed(t *testing.T) (plan.Plan, probe.Facts) {
	t.Helper()
	f := probe.Facts{
		Time:     time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC),
		Firmware: probe.Firmware{Mode: probe.UEFI, SecureBoot: true},
		CPU:      probe.CPU{Model: "Model X", Count: 8, Cores: 4, Sockets: 1, Virtualisation: "svm", Flags: []string{"fpu", "svm"}, KVM: true},
		Memory:   probe.Memory{Total: 4 << 30},
		Disks:    []probe.Disk{{Name: "vda", Size: 64e9, Sector: 512, Bus: "virtio", Udev: map[string]string{"ID_SERIAL": "A"}}, {Name: "vdb", Size: 20e9, Sector: 512}},
		NICs:     []probe.NIC{{Name: "eth0", MAC: "52:54:00:00:00:01", Carrier: "up", Speed: 1000, Udev: map[string]string{"INTERFACE": "eth0"}}, {Name: "eth1", MAC: "52:54:00:00:00:02", Carrier: "down"}},
		DMI:      probe.DMI{System: map[string]string{"serial": "JH7", "uuid": "6fb36fd4-77a1-57e6-13ae-000000cb48d7"}},
	}
	a := answer.Answer{
		Global:  answer.Global{FQDN: "Node1.example.com", RootPassword: "topsecret"},
		Disk:    answer.Disk{Filesystem: answer.Ext4, List: []string{"vda"}},
		Webhook: answer.Webhook{URL: "https://example.com", Token: "hook-token"},
	}
	p := plan.Plan{Firmware: f.Firmware, Answer: a, NIC: f.NICs[0], Disk: f.Disks[0], InstallationID: "0123456789abcdef",
		Image: plan.Image{Manifest: boot.Manifest{Version: "0.1.0", BuildID: "0011223344556677"}}, Checks: preflight.MakeReport(f, f.Disks[:1], f.Disks[:1], nil)}
	return p, f
}

func TestIdentity(t *testing.T) {
	p, f := installed(t)
	b, err := Identity(f, p.Image)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "identity.json", b)
}

func TestNotice(t *testing.T) {
	p, f := installed(t)
	b, err := Notice(p, f, Running{Debian: "13.2", Sysname: "Linux", Release: "6.12.1-amd64", Build: "#1 SMP", Hardware: "x86_64",
		Address: "192.0.2.5/24", MachineID: "0123456789abcdef0123456789abcdef", HostKeys: map[string]string{"ed25519": "ssh-ed25519 AAAA", "ecdsa": "ecdsa-sha2-nistp256 AAAA", "rsa": "ssh-rsa AAAA"}})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "notice.json", b)
	if strings.Contains(string(b), "topsecret") {
		t.Error("it holds the password")
	}
}

func TestSend(t *testing.T) {
	n, fail := 0, 0
	var got []byte
	s, print := server(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n <= fail {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		got, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusNoContent)
	})
	now := func(context.Context, time.Duration) bool { return true }
	hook := answer.Webhook{URL: answer.Secret(s.URL), Fingerprint: print}
	for _, c := range []struct {
		fail int
		ok   bool
	}{{0, true}, {noticeTries - 1, true}, {noticeTries, false}} {
		n, fail, got = 0, c.fail, nil
		err := Send(t.Context(), hook, []byte(`{"a":1}`), dial, now)
		if (err == nil) != c.ok || c.ok && string(got) != `{"a":1}` || n != min(c.fail+1, noticeTries) {
			t.Errorf("%d failures: %v after %d tries, got %q", c.fail, err, n, got)
		}
	}
	n, fail = 0, 0
	hook.Fingerprint = pin
	if err := Send(t.Context(), hook, nil, dial, now); err == nil || n != 0 {
		t.Errorf("%v, %d requests reached a server with another certificate", err, n)
	}
}
