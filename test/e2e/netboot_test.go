package e2e

import (
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"joist/iso/netboot"
	"joist/test/node"
	"joist/test/vm"
	"joist/test/vm/lan"
)

// netbootAddress is a server of its own beside the segment's DHCP server.
var netbootAddress = netip.MustParseAddr("10.77.0.5")

// netbootFolder is JOIST_NETBOOT, or build/netboot.
func netbootFolder(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("JOIST_NETBOOT")
	if dir == "" {
		root, err := vm.Root()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(root, "build", "netboot")
	}
	if _, err := os.Stat(filepath.Join(dir, netboot.InitrdFile)); err != nil {
		t.Fatalf("%v; run `build/bin/joist build netboot --out build`", err)
	}
	return dir
}

// netServer is what `joist serve` runs, on a segment.
type netServer struct {
	netboot.Server
	web string
}

// serveNetboot offers the netboot folder by HTTP and TFTP. Who names the file
// to start is the test's choice.
func serveNetboot(t *testing.T, sw *lan.Switch, answers []byte) *netServer {
	t.Helper()
	s := &netServer{web: "http://" + netbootAddress.String()}
	s.Offers = netboot.Offers{Server: netbootAddress, Web: s.web}
	s.Say = t.Logf
	where := ""
	if answers != nil {
		file := filepath.Join(t.TempDir(), "answer.toml")
		if err := os.WriteFile(file, answers, 0o600); err != nil {
			t.Fatal(err)
		}
		a, fl, err := netboot.LoadAnswers(file)
		if err != nil || fl.Stops() {
			t.Fatal(err, fl)
		}
		s.Answers, where = &a, s.web+netboot.AnswerPath
	}
	var err error
	if s.Folder, err = netboot.OpenFolder(netbootFolder(t), s.web, where); err != nil {
		t.Fatal(err)
	}
	var at netboot.Sockets
	if at.Web, err = sw.Listen(netbootAddress.String() + ":80"); err != nil {
		t.Fatal(err)
	}
	if at.TFTP, err = sw.ListenUDP(netbootAddress.String() + ":69"); err != nil {
		t.Fatal(err)
	}
	if at.Direct, err = sw.ListenUDP(netbootAddress.String() + ":4011"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx := t.Context() // ends before the cleanups
	wg.Go(func() {
		if err := s.Serve(ctx, at); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		wg.Wait()
		s.Folder.Close()
	})
	return s
}

// proxy answers as `joist serve` does on port 67, for the classes named.
func (s *netServer) proxy(sw *lan.Switch) {
	sw.ProxyDHCP(func(req *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		reply, text := s.Offers.Reply(req, false)
		if text != "" {
			s.Say("%s", text)
		}
		return reply
	})
}

// netMachine is a machine that has nothing but a network card.
func netMachine(t *testing.T, sw *lan.Switch, f vm.Firmware) vm.Config {
	t.Helper()
	return vm.Config{Firmware: f, Memory: node.Memory, Accel: medium(t).accel,
		NICs: []vm.NIC{{Port: vm.NewPort(t, sw, "pxe"), MAC: nodeMAC, PXE: true}}}
}

// TestShortNetboot: the iPXE of QEMU's network card, under a BIOS, is given
// the script's address by a plain DHCP server, and ends at the installer's first
// screen.
func TestShortNetboot(t *testing.T) {
	sw := vm.NewSwitch(t)
	s := serveNetboot(t, sw, nil)
	sw.BootDHCP(func(*dhcpv4.DHCPv4) []dhcpv4.Modifier {
		return []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptBootFileName(s.web + "/" + netboot.IPXEFile))}
	})
	begun := time.Now()
	m := vm.Run(t, netMachine(t, sw, vm.SeaBIOS))
	ctx := within(t, node.BootTime)
	for _, text := range []string{"finished  fetch system", node.InstallerLine} {
		if _, err := m.WaitFor(ctx, text); err != nil {
			t.Fatal(err)
		}
		t.Logf("%q after %s", text, time.Since(begun).Round(time.Second))
	}
}
