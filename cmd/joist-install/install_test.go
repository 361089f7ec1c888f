package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/api/node"
	"joist/installer/answer"
	"joist/installer/fetch"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/finding"
	"joist/internal/host"
)

// mounter plays mount(2): mounting puts the file there, unmounting removes it.
type mounter struct {
	root  string
	calls []string
}

func (m *mounter) Mount(x host.Mount) error {
	m.calls = append(m.calls, "mount "+x.Source)
	return os.WriteFile(filepath.Join(m.root, x.Target, answerName), []byte("[global]\nfqdn = \"from-volume\"\n"), 0o600)
}

func (m *mounter) Unmount(t string) error {
	m.calls = append(m.calls, "unmount "+t)
	return os.Remove(filepath.Join(m.root, t, answerName))
}

func (m *mounter) Power(host.PowerAction) error { return errors.New("not in a test") }

// server is a network on which an answer server is.
type server struct {
	noNetwork
	text, asked string
}

func (s *server) Ask(context.Context, []string) ([]fetch.Offer, error) {
	return []fetch.Offer{{Card: "eth0", Host: "n7"}}, nil
}

func (s *server) Dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		r, err := http.ReadRequest(bufio.NewReader(there))
		if err != nil {
			return
		}
		b, _ := io.ReadAll(r.Body)
		s.asked = string(b)
		fmt.Fprintf(there, "HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Length: %d\r\n\r\n%s", time.Now().UTC().Format(http.TimeFormat), len(s.text), s.text)
	}()
	return here, nil
}

func TestFindAnswer(t *testing.T) {
	for _, c := range []struct {
		name, medium string
		labels       []string
		fqdn, code   string
		mounts       int
		search       string
		baked        string
	}{
		{name: "none", code: "answer-not-found"},
		{name: "medium first", medium: "[global]\nfqdn = \"on-medium\"\n", labels: []string{"PROXMOX-AIS"}, fqdn: "on-medium"},
		{name: "fat cuts our label", labels: []string{"JOIST-ANSWE"}, fqdn: "from-volume", mounts: 2},
		{name: "ours before theirs", labels: []string{"proxmox-ais", "JOIST-ANSWE"}, fqdn: "from-volume", mounts: 2},
		{name: "two", labels: []string{"proxmox-ais", "PROXMOX-AIS"}, code: "answer-ambiguous"},
		{name: "the medium's server before volumes", labels: []string{"proxmox-ais"}, baked: "url = \"http://192.0.2.9/\"\n", fqdn: "from-server"},
		{name: "a broken server file", labels: []string{"proxmox-ais"}, baked: "ulr = \"http://192.0.2.9/\"\n", code: "answer-source-invalid"},
		{name: "a server by the kernel", search: "http://192.0.2.9/", medium: "[global]\nfqdn = \"on-medium\"\n", fqdn: "from-server"},
		{name: "medium only", search: "iso", labels: []string{"proxmox-ais"}, code: "answer-not-found"},
		{name: "volume only", search: "partition", medium: "[global]\nfqdn = \"on-medium\"\n", labels: []string{"proxmox-ais"}, fqdn: "from-volume", mounts: 2},
		{name: "volume by label", search: "partition:SEED", labels: []string{"proxmox-ais", "seed"}, fqdn: "from-volume", mounts: 2},
		{name: "no such label", search: "partition:SEED", labels: []string{"proxmox-ais"}, code: "answer-not-found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			write := func(name string, b []byte) {
				p := filepath.Join(root, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, b, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if c.medium != "" {
				write(probe.MediumDir+"/joist/answer.toml", []byte(c.medium))
			}
			for i, l := range c.labels {
				b := make([]byte, 4096)
				copy(b[0x52:], "FAT32")
				copy(b[0x47:], (l + "           ")[:11])
				n := string(rune('a' + i))
				write("sys/block/sd"+n+"/size", []byte("8"))
				write("dev/sd"+n, b)
			}
			sys := &mounter{root: root}
			h := &host.Host{Root: root, Sys: sys, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
			if c.baked != "" {
				write(probe.MediumDir+"/joist/answer-source.toml", []byte(c.baked))
			}
			net := &server{text: "[global]\nfqdn = \"from-server\"\n"}
			search, _ := fetch.ParseSearch(c.search, "")
			s := &session{h: h, m: probe.Machine{Root: root, Now: time.Now}, net: net, out: consoles{}}
			f := probe.Facts{NICs: []probe.NIC{{Name: "eth0", MAC: "52:54:00:00:00:01"}}, Time: time.Now()}
			a, fs := s.findAnswer(t.Context(), search, &f, plan.Image{})
			if c.fqdn == "from-server" && (!strings.Contains(net.asked, "52:54:00:00:00:01") || f.Reference == nil || len(f.Leases) != 1 || f.Leases[0].Host != "n7") {
				t.Errorf("asked %q; reference %v, leases %v", net.asked, f.Reference, f.Leases)
			}
			if a.Global.FQDN != c.fqdn || len(sys.calls) != c.mounts || c.code != "" && (len(fs) == 0 || fs[0].Code != c.code) {
				t.Errorf("%q %v %v", a.Global.FQDN, sys.calls, fs)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]options{
		"":                                      {command: "run"},
		"run --consoles tty1,ttyS0":             {command: "run", consoles: "tty1,ttyS0"},
		"--unattended --plan":                   {command: "run", unattended: true, planOnly: true},
		"plan --answer a.toml --facts f.json":   {command: "plan", answer: "a.toml", facts: "f.json"},
		"slot B":                                {command: "slot", argument: "B"},
		"password":                              {command: "password"},
		"run --unattended --answer answer.toml": {command: "run", unattended: true, answer: "answer.toml"},
	} {
		if got, err := parse(strings.Fields(in)); err != nil || got != want {
			t.Errorf("%q: %+v %v", in, got, err)
		}
	}
	os.Stderr, _ = os.Open(os.DevNull)
	for _, in := range []string{"format", "run x", "run --force", "slot", "slot A B", "password x", "boot x"} {
		if _, err := parse(strings.Fields(in)); err == nil {
			t.Errorf("%q is accepted", in)
		}
	}
}

func TestOpenConsolesStaysBelowDev(t *testing.T) {
	for _, n := range []string{"/etc/passwd", "../etc/passwd", "", "no-such-tty"} {
		if cs, err := openConsoles(n); n != "" && err == nil {
			t.Errorf("%q opened %v", n, cs)
		}
	}
}

// The certificate of the medium's modules is known by its hash, as the
// firmware's keys are.
func TestReadImage(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	const id = "0123456789abcdef"
	hash := strings.Repeat("0", 64)
	write(buildFile, `{"build_id": "`+id+`"}`)
	dir := probe.MediumDir + "/joist/" + id
	write(dir+"/manifest.json", `{"build_id": "`+id+`", "version": "1.2.3", "built": "2026-01-02T03:04:05Z", "kernel": "6.12", "verity_root": "`+hash+`",
		"files": {"vmlinuz": {"size": 1, "sha256": "`+hash+`"}, "initrd": {"size": 1, "sha256": "`+hash+`"}, "system.sqfs": {"size": 1, "sha256": "`+hash+`"}}}`)
	h := &host.Host{Root: root}
	if img, err := readImage(h); err != nil || img.ModuleKey != "" {
		t.Fatalf("without a certificate: %q, %v", img.ModuleKey, err)
	}
	write(dir+"/boot/"+plan.ModuleCert, "certificate")
	const sum = "03d66dd08835c1ca3f128cceacd1f31ac94163096b20f445ae84285bc0832d72" // sha256sum
	if img, err := readImage(h); err != nil || img.ModuleKey != sum {
		t.Errorf("%q, %v", img.ModuleKey, err)
	}
}

// TestKeepReport: a support bundle gets plan, answer and findings, no secret.
func TestKeepReport(t *testing.T) {
	s := &session{h: &host.Host{Root: t.TempDir(), Log: slog.New(slog.DiscardHandler)}}
	s.answer.Global.FQDN, s.answer.Global.RootPassword = "n1.example.com", "topsecret1"
	var fs finding.List
	fs.Warnf("clock", "machine", "set it", "the clock is wrong")
	s.keepReport(plan.Plan{}, fs) // without the folder: said, and no more
	if err := os.MkdirAll(s.h.Path(node.RunDir), 0o755); err != nil {
		t.Fatal(err)
	}
	s.keepReport(plan.Plan{InstallationID: "0011223344556677"}, fs)
	b, err := os.ReadFile(s.h.Path(reportFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0011223344556677", "n1.example.com", "the clock is wrong"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is missing in %s", want, b)
		}
	}
	if strings.Contains(string(b), "topsecret1") {
		t.Errorf("the password is in %s", b)
	}
}

func TestStaticOf(t *testing.T) {
	a := answer.Answer{Network: answer.Network{Source: answer.FromAnswer, CIDR: "192.0.2.5/24", Gateway: "192.0.2.1", DNS: []string{"192.0.2.53"}}, Link: answer.Link{VLAN: 7}}
	if got := fmt.Sprint(staticOf(a)); got != "{192.0.2.5/24 192.0.2.1 [192.0.2.53] 7}" {
		t.Error(got)
	}
	if got := staticOf(answer.Answer{Network: answer.Network{Source: answer.FromDHCP}}); got.Address.IsValid() {
		t.Error(got)
	}
}
