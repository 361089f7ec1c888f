package e2e

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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
// to start is the test's choice; answer is joist.answer, "" for a person.
func serveNetboot(t *testing.T, sw *lan.Switch, answer string) *netServer {
	t.Helper()
	s := &netServer{web: "http://" + netbootAddress.String()}
	s.Offers = netboot.Offers{Server: netbootAddress, Web: s.web}
	s.Say = t.Logf
	var err error
	if s.Folder, err = netboot.OpenFolder(netbootFolder(t), s.web, answer); err != nil {
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

// proxy answers as `joist serve` does on port 67, one class of firmware.
func (s *netServer) proxy(sw *lan.Switch, class string) {
	sw.ProxyDHCP(func(req *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		if !strings.HasPrefix(req.ClassIdentifier(), class) {
			return nil
		}
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
	t.Parallel()
	sw := vm.NewSwitch(t)
	s := serveNetboot(t, sw, "")
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

// TestNetbootInstall: a machine with Secure Boot and an empty disk starts by
// UEFI's HTTP boot, beside a DHCP server that knows nothing of it, installs
// itself with the answer of a labelled volume, and is a node.
func TestNetbootInstall(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	s := serveNetboot(t, n.LAN, "auto")
	s.proxy(n.LAN, "HTTPClient")
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := vm.CreateDisk(t.Context(), disk, node.DiskSize); err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(t.TempDir(), "answer.iso")
	if err := node.AnswerVolume(t.Context(), volume, answerFile(t)); err != nil {
		t.Fatal(err)
	}
	c := n.config(medium(t))
	c.Media = []vm.Medium{{Path: volume}}
	c.Firmware, c.NoReboot = vm.OVMFSecureBoot, true
	c.Disks = []vm.Disk{{Path: disk}}
	c.NICs[0].PXE = true
	c.Extra = httpOnly()
	ctx := within(t, node.InstallTime)
	m := vm.Run(t, c)
	for _, text := range []string{`(?i)secure ?boot enabled|locked down from EFI Secure Boot`, "finished  fetch system", node.InstalledLine} {
		if _, err := m.WaitFor(ctx, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	c.NICs[0].PXE, c.NoReboot, c.Extra, c.Media = false, false, nil, nil
	n.Machine = vm.Run(t, c)
	n.login(t)
}

// httpOnly keeps OVMF from trying PXE first, which nobody answers (OvmfPkg's
// README, "Network support").
func httpOnly() []string {
	return []string{"-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=no", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no"}
}

// TestNetbootPXE: GRUB by TFTP, under a BIOS as a plain DHCP server names it,
// under UEFI as the proxy does.
func TestNetbootPXE(t *testing.T) {
	t.Parallel()
	for _, f := range []vm.Firmware{vm.SeaBIOS, vm.OVMF} {
		t.Run(f.String(), func(t *testing.T) {
			sw := vm.NewSwitch(t)
			s := serveNetboot(t, sw, "")
			if f == vm.SeaBIOS {
				sw.BootDHCP(func(*dhcpv4.DHCPv4) []dhcpv4.Modifier {
					server := net.IP(netbootAddress.AsSlice())
					return []dhcpv4.Modifier{dhcpv4.WithServerIP(server), func(m *dhcpv4.DHCPv4) { m.BootFileName = netboot.BIOSFile }}
				})
			} else {
				s.proxy(sw, "PXEClient")
			}
			m := vm.Run(t, netMachine(t, sw, f))
			ctx := within(t, node.InstallTime) // GRUB fetches some hundred kB in a second on a software CPU
			if _, err := m.WaitFor(ctx, node.MenuLine); err != nil {
				t.Fatal(err)
			}
			if _, err := m.WaitFor(ctx, "finished  fetch system"); err != nil {
				t.Fatal(err)
			}
		})
	}
}
