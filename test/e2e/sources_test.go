package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"joist/test/node"
	"joist/test/vm"
)

// answers is an HTTPS server on the machines' network that gives an answer and
// takes reports. The first requests fail, as those to a server that starts.
type answers struct {
	mu       sync.Mutex
	text     []byte
	failures int
	asked    []map[string]any
	reports  []map[string]any
}

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var body map[string]any
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&body); err != nil || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case "/answer":
		if a.asked = append(a.asked, body); len(a.asked) <= a.failures {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/toml")
		w.Write(a.text)
	case "/installed":
		a.reports = append(a.reports, body)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// serveTLS serves with a certificate that nobody signed, and returns its
// fingerprint.
func serveTLS(t *testing.T, l net.Listener, h http.Handler) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// it ended long ago: the fingerprint is all that counts
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(1.1e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	t.Cleanup(func() { s.Close() })
	go s.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}))
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// TestUnattendedHTTP: a machine without any answer of its own finds a server by
// DHCP, trusts its certificate by fingerprint alone, installs what it says, over
// two cards as one, and reports. The medium's program runs once, before the node
// has its network. A card that is added later takes no other's name.
func TestUnattendedHTTP(t *testing.T) {
	t.Parallel()
	const secondMAC = "52:54:00:4a:00:02"
	l := newLayout(t, 1)
	at, err := l.LAN.Listen("10.77.0.2:443")
	if err != nil {
		t.Fatal(err)
	}
	hook := &answers{failures: 1}
	print := serveTLS(t, at, hook)
	hook.text = []byte(strings.Replace(string(answerFile(t)), `fqdn = "`+fqdn+`"`, "fqdn.source = \"from-dhcp\"\nfqdn.domain = \"test.example\"", 1) +
		"[network.interface-name-pinning]\nenabled = true\nmapping = {\"" + secondMAC + "\" = \"lan2\"}\n" +
		"[joist.network]\nmtu = 1400\nsecond-cidr = \"2001:db8::77/64\"\nbond.mode = \"active-backup\"\nbond.filter.ID_NET_DRIVER = \"virtio_net\"\n" +
		"[post-installation-webhook]\nurl = \"https://10.77.0.2/installed\"\ncert-fingerprint = \"" + print + "\"\nauth-token = \"hook-token\"\n[first-boot]\nsource = \"from-iso\"\nordering = \"before-network\"\n")
	l.img.path = imageWith(t, "--first-boot", []byte("#!/bin/sh\nfor i in 1 2 3 4 5 6; do ls /sys/class/net | grep -c vmbr0 >> /var/lib/vz/program; sleep 1; done; echo it ran\n"))
	l.LAN.DHCPOption(250, "https://10.77.0.2/answer")
	l.LAN.DHCPOption(251, print)
	l.LAN.DHCPOption(12, nodeName)

	twoCards := l.config(l.img)
	twoCards.NICs = append(twoCards.NICs, vm.NIC{Port: vm.NewPort(t, l.LAN, "second"), MAC: secondMAC})
	c := twoCards
	c.NoReboot, c.Media, c.Disks = true, []vm.Medium{{Path: l.img.path}}, attached(l.disks)
	m := vm.Run(t, c)
	ctx := within(t, node.InstallTime)
	if err := node.ChooseUnattended(ctx, m); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`No answer yet \(try 1\): the server replied 503`, `The answer came from https://10\.77\.0\.2 \(DHCP option 250`, node.InstalledLine, `The report was sent`} {
		if _, err := m.WaitFor(ctx, line+"|"+node.ExitLine); err != nil || strings.Contains(m.Serial(0).Tail(3), "Exit status") {
			t.Fatalf("waiting for %s: %v; it said last:\n%s", line, err, m.Serial(0).Tail(40))
		}
	}
	if err := m.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(m.Serial(0).Text(), "hook-token") || strings.Contains(m.Serial(0).Text(), password) {
		t.Error("the console shows a secret")
	}
	hook.mu.Lock()
	defer hook.mu.Unlock()
	if len(hook.asked) != 2 || len(hook.reports) != 1 {
		t.Fatalf("%d requests for an answer, %d reports", len(hook.asked), len(hook.reports))
	}
	asked, _ := json.Marshal(hook.asked[1])
	for _, want := range []string{`"product":"pve"`, `"mac":"` + nodeMAC + `"`, `"system":{"name":"Standard PC`, `"network_interfaces":[{"link":`} {
		if !strings.Contains(string(asked), want) {
			t.Errorf("the request lacks %s: %s", want, asked)
		}
	}

	twoCards.Disks = attached(l.disks)
	twoCards.NICs = append([]vm.NIC{{Port: vm.NewPort(t, l.LAN, "third"), MAC: "52:54:00:4a:00:03"}}, twoCards.NICs...) // the kernel's eth0
	l.Machine = vm.Run(t, twoCards)
	l.login(t)
	l.want(t, "bond", "cat /sys/class/net/bond0/bonding/mode /sys/class/net/bond0/bonding/slaves | wc -w", "4") // active-backup 1, and two cards
	l.want(t, "names of the cards", "cd /sys/class/net; ls -d eth* lan* nic*; cat bond0/bonding/slaves", "eth0\nlan2\nnic0\nnic0 lan2")
	l.want(t, "MTU", "cat /sys/class/net/bond0/mtu /sys/class/net/vmbr0/mtu", "1400\n1400")
	l.want(t, "IPv6", "grep -c '^20010db8000000000000000000000077 .* vmbr0$' /proc/net/if_inet6", "1")
	l.want(t, "bridges while the first start's program ran", "tr -d '\\n' < /var/lib/vz/program; ls /var/lib/joist/firstboot; grep -c 'it ran' /var/log/joist/firstboot.log", "000000state.json\n1")
	report := hook.reports[0]
	machine := strings.TrimSpace(l.run(t, "cat /etc/machine-id"))
	keys, _ := report["ssh-public-host-keys"].(map[string]any)
	key, _ := keys["ed25519"].(string)
	if own := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(l.hostKey))); key != own || report["machine-id"] != machine || report["fqdn"] != fqdn || report["token"] != "hook-token" {
		t.Errorf("the report says key %q (is %q), machine %v (is %s), name %v", key, own, report["machine-id"], machine, report["fqdn"])
	}
	for _, kind := range []string{"ecdsa", "rsa"} { // which sshd loads, too
		own := strings.Join(strings.Fields(l.run(t, "ssh-keygen -y -f /var/lib/joist/node/ssh_host_"+kind+"_key"))[:2], " ")
		if key, _ := keys[kind].(string); key != own {
			t.Errorf("the report's %s key is %q, the node's %q", kind, key, own)
		}
	}
	l.want(t, "host keys of sshd", "/usr/sbin/sshd -T | grep -ci '^hostkey /'; grep -c 'Unable to load' /var/log/joist/sshd.log || true", "3\n0")
	l.kernelTest(t, "joist/hypervisor/network", "^TestKernelBondVLAN$")
	checks := l.run(t, "grep -c '\"code\": \"link-speed-unknown\"' /var/lib/joist/node/install-report.json")
	if strings.TrimSpace(checks) != "1" {
		t.Errorf("the node's report has the check %s times", checks)
	}
}

// kernelTest runs tests of a package on the node, whose kernel has every driver.
// They work in a network namespace of their own.
func (n *runningNode) kernelTest(t *testing.T, pkg, re string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kernel.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", file, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.connect(within(t, time.Minute), t)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Stdin = bytes.NewReader(b)
	if err := s.Run("cat > /run/kernel.test && chmod 755 /run/kernel.test"); err != nil {
		t.Fatal(err)
	}
	out, err := n.try(within(t, 5*time.Minute), t, "cd /run && ./kernel.test -test.v -test.run '"+re+"'; rm kernel.test")
	if err != nil || !strings.Contains(out, "\n--- PASS") || strings.Contains(out, "--- SKIP") || strings.Contains(out, "--- FAIL") {
		t.Errorf("%v\n%s", err, out)
	}
}

// bootedFrom is the description of the entry that firmware started.
const bootedFrom = `cd /sys/firmware/efi/efivars
g=8be4df61-93ca-11d2-aa0d-00e098032b8c
n=$(cat BootCurrent-$g | od -An -v -tx1 | awk '{print toupper($6 $5)}')
cat Boot$n-$g | tail -c +11 | tr -d '\0' | head -c 5; echo`

// firmwareLayout: an installation that firmware of this kind starts, and the
// installed disk by the entry that the installer made.
func firmwareLayout(t *testing.T, f vm.Firmware) *layout {
	t.Helper()
	t.Parallel()
	l := newLayout(t, 1)
	c := l.config(l.img)
	c.Firmware, c.Vars = f, filepath.Join(t.TempDir(), "vars.fd")
	dir, err := vm.LogDir(t)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	err = node.Install(within(t, node.InstallTime), c, l.img.path, l.disks[0], answerFile(t), &said)
	if werr := os.WriteFile(filepath.Join(dir, "install.log"), said.Bytes(), 0o644); werr != nil {
		t.Error(werr)
	}
	if err != nil {
		t.Fatal(err)
	}
	if failed := regexp.MustCompile(`\[failed\].*`).FindString(said.String()); failed != "" {
		t.Errorf("a step failed: %s", failed)
	}
	c.Disks = attached(l.disks)
	l.Machine = vm.Run(t, c)
	if _, err := l.WaitFor(within(t, node.BootTime), `BdsDxe: starting Boot[0-9A-F]{4} "Joist" from HD\(2,GPT`); err != nil {
		t.Error(err) // OVMF says what it starts
	}
	l.login(t)
	l.want(t, "the entry that was started", bootedFrom, "Joist")
	return l
}

// TestLayoutUEFI: installed and started by UEFI.
func TestLayoutUEFI(t *testing.T) { firmwareLayout(t, vm.OVMF) }

// TestLayoutSecureBoot: the same with Secure Boot enforced.
func TestLayoutSecureBoot(t *testing.T) {
	l := firmwareLayout(t, vm.OVMFSecureBoot)
	l.want(t, "Secure Boot", "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c | tr -d ' '", "1")
}
