package vm

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"joist/test/faults"
	"joist/test/vm/lan"
	"joist/test/vm/rfb"
)

// TestPXE boots machines with nothing but a network card: the boot ROM (iPXE)
// and OVMF ask the switch for an address.
func TestPXE(t *testing.T) {
	if testing.Short() {
		t.Skip("runs machines")
	}
	Need(t, qemuBinary)
	for _, f := range []Firmware{SeaBIOS, OVMF, OVMFSecureBoot} {
		t.Run(f.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			sw := NewSwitch(t)
			const text = "52:54:00:4a:00:77"
			mac, err := lan.ParseMAC(text)
			if err != nil {
				t.Fatal(err)
			}
			want := netip.MustParseAddr("10.77.0.42")
			if err := sw.SetLease(mac, want); err != nil {
				t.Fatal(err)
			}
			// UEFI takes no address from a server that names no boot file.
			sw.BootDHCP(func(*dhcpv4.DHCPv4) []dhcpv4.Modifier {
				return []dhcpv4.Modifier{dhcpv4.WithServerIP(lan.Gateway.AsSlice()), dhcpv4.WithOption(dhcpv4.OptBootFileName("nothing"))}
			})
			start := time.Now()
			m := Run(t, Config{
				Firmware: f, Memory: 512, CPUs: 1,
				NICs: []NIC{{Port: NewPort(t, sw, "a"), MAC: text, PXE: true}},
			})
			got, err := sw.WaitLease(ctx, mac)
			if err != nil || got != want {
				t.Fatalf("lease %v, %v", got, err)
			}
			t.Logf("lease %s after %s", got, time.Since(start).Round(100*time.Millisecond))
			if _, err := m.Screen(ctx); err != nil {
				t.Error(err)
			}
			if dir := os.Getenv("JOIST_TEST_SCREENS"); dir != "" {
				if err := m.Screendump(ctx, filepath.Join(dir, f.String()+".png")); err != nil {
					t.Error(err)
				}
			}
			if err := m.Reset(ctx); err != nil {
				t.Error(err)
			}
			if err := m.Quit(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMedia attaches everything at once, in a machine whose CPUs never run.
func TestMedia(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a machine")
	}
	Need(t, qemuBinary, "qemu-img", "xorriso")
	ctx, dir := t.Context(), t.TempDir()
	iso, base, over := filepath.Join(dir, "answer.iso"), filepath.Join(dir, "base"), filepath.Join(dir, "over")
	if err := CreateVolume(ctx, iso, "joist-answer", map[string][]byte{"answer.toml": []byte("[global]\n")}); err != nil {
		t.Fatal(err)
	}
	if err := ExtractFile(ctx, iso, "/answer.toml", filepath.Join(dir, "answer.toml")); err != nil {
		t.Fatal(err)
	}
	if err := CreateDisk(ctx, base, 1<<30); err != nil {
		t.Fatal(err)
	}
	if err := Overlay(ctx, base, over); err != nil {
		t.Fatal(err)
	}
	sata, nvme := filepath.Join(dir, "sata"), filepath.Join(dir, "nvme")
	for _, path := range []string{sata, nvme} {
		if err := CreateDisk(ctx, path, 1<<30); err != nil {
			t.Fatal(err)
		}
	}
	raw := filepath.Join(dir, "raw")
	if err := os.WriteFile(raw, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	m := Run(t, Config{
		Media: []Medium{{Path: iso}, {Path: iso, Kind: USBStick}, {}},
		Disks: []Disk{{Path: over}, {Path: raw, Format: "raw", Bus: VirtioSCSI}, {Path: sata, Bus: SATA}, {Path: nvme, Bus: NVMe, SectorSize: 4096}},
		NICs:  []NIC{{}, {User: "restrict=on"}}, Serials: 2, CPUFlags: []string{"-svm"},
		Clock: time.Unix(1e9, 0), Extra: []string{"-S"}, Accel: TCG,
	})
	for name, err := range map[string]error{
		"eject CD":    m.Eject(ctx, 0),
		"insert CD":   m.Insert(ctx, 2, iso),
		"eject stick": m.Eject(ctx, 1),
		"cut link":    m.SetLink(ctx, 1, false),
		"press":       m.Press(ctx, "ctrl-alt-delete", "ret"),
		"power":       m.PowerDown(ctx),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err := m.WaitFor(short, "never said")
	for _, part := range []string{"VM status: paused", "CPU#0", "HLT=0", "IRR"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error of a wait lacks %q: %v", part, err)
		}
	}
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
	if m.Running() {
		t.Error("still running")
	}
}

// TestPlug puts disks into a running machine and takes them out again.
func TestPlug(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a machine")
	}
	Need(t, qemuBinary)
	ctx, dir := t.Context(), tempDir(t)
	d, err := faults.Create(filepath.Join(dir, "disk.img"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s, err := faults.Serve(d, filepath.Join(dir, "nbd"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := Run(t, Config{Memory: 128, CPUs: 1, Accel: TCG, HotPlug: true, Disks: []Disk{{NBD: s.Path}}, Extra: []string{"-S"}})
	raw := filepath.Join(dir, "disk.img")
	for range 2 { // the same name can be used again
		for name, disk := range map[string]Disk{"a": {Path: raw, Format: "raw", Serial: "A"}, "b": {NBD: s.Path, SectorSize: 4096}} {
			if err := m.Plug(ctx, name, disk); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Plug(ctx, "a", Disk{Path: raw, Format: "raw"}); err == nil {
			t.Error("two disks of one name")
		}
		for _, name := range []string{"a", "b"} {
			if err := m.Unplug(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.Unplug(ctx, "a"); err == nil {
		t.Error("a disk that is not there was taken out")
	}
	plain := Run(t, Config{Memory: 128, CPUs: 1, Accel: TCG, Extra: []string{"-S"}})
	if err := plain.Plug(ctx, "a", Disk{Path: raw, Format: "raw"}); err == nil {
		t.Error("a disk without a controller")
	}
}

// TestStartFails: what QEMU says about a wrong configuration is in the error.
func TestStartFails(t *testing.T) {
	if testing.Short() {
		t.Skip("runs QEMU")
	}
	Need(t, qemuBinary)
	_, err := Start(t.Context(), Config{Accel: TCG, Disks: []Disk{{Path: "/does/not/exist"}}})
	if err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("got %v", err)
	}
}

// TestRFB looks at a machine's screen over VNC, with a password as the node's
// console has it.
func TestRFB(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a machine")
	}
	Need(t, qemuBinary)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	socket := filepath.Join(tempDir(t), "vnc")
	m := Run(t, Config{Memory: 128, CPUs: 1, Accel: TCG, Extra: []string{"-vnc", "unix:" + socket + ",password=on"}})
	if err := m.QMP(ctx, "set_password", map[string]any{"protocol": "vnc", "password": "12345678"}, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := rfb.New(conn, "12345678")
	if err != nil {
		t.Fatal(err)
	}
	for {
		img, err := c.Screen(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if rfb.Colours(img) > 1 { // a text: SeaBIOS's, or QEMU's that nothing is drawn yet
			t.Logf("%q shows %v in %d colours", c.Name, img.Rect, rfb.Colours(img))
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}
