package kvm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
)

// The tests below start a real QEMU without disks, held or idle. They need
// root and a cgroup v2 tree, and say so when they have none. JOIST_TEST_QEMU
// names another QEMU than the one in PATH.

const (
	crashEnv = "JOIST_TEST_CRASH" // step at which the process kills itself
	rootEnv  = "JOIST_TEST_ROOT"  // run folder and cgroup of that process
	cgEnv    = "JOIST_TEST_CGROUP"
)

func TestMain(m *testing.M) {
	if step := os.Getenv(crashEnv); step != "" {
		crash(step)
	}
	os.Exit(m.Run())
}

// crash is a daemon that is killed in the middle of a start.
func crash(step string) {
	c := config(os.Getenv(rootEnv), os.Getenv(cgEnv))
	c.Step = func(name string) {
		if name == step {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	_, err := New(c).Start(context.Background(), small())
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(2)
	}
	os.Exit(0)
}

func qemu() string {
	if q := os.Getenv("JOIST_TEST_QEMU"); q != "" {
		return q
	}
	q, _ := exec.LookPath("qemu-system-x86_64")
	return q
}

func config(root, cgroup string) Config {
	return Config{Runs: guest.Runs{Dir: filepath.Join(root, "run")}, Groups: guest.Groups{Dir: cgroup}, QEMU: qemu(),
		FirstUID: 200000, UIDs: 10, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))}
}

func small() guest.Spec {
	return guest.Spec{VMID: 100, Name: "t", Config: map[string]string{"memory": "32", "serial0": "socket", "freeze": "0", "kvm": "0"}}
}

func setUp(t *testing.T) Config {
	t.Helper()
	if qemu() == "" || os.Getuid() != 0 {
		t.Skip("needs root and qemu-system-x86_64")
	}
	for _, base := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(base + "/cgroup.procs"); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(base, "joist-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			guest.Group{Dir: dir}.Kill(5 * time.Second)
			guest.Group{Dir: dir}.Remove()
		})
		return config(t.TempDir(), dir)
	}
	if os.Getenv("JOIST_NEED_TOOLS") != "" {
		t.Fatal("there is no cgroup v2 tree that may be written to: mount one at /sys/fs/cgroup or /sys/fs/cgroup/unified")
	}
	t.Skip("needs a cgroup v2 tree that may be written to")
	return Config{}
}

// nothing fails the test when anything of a guest is left.
func nothing(t *testing.T, c Config) {
	t.Helper()
	if left, _ := os.ReadDir(c.Runs.Dir); len(left) > 0 {
		t.Errorf("left in the run folder: %v", left)
	}
	if ids, _ := c.Groups.List(); len(ids) > 0 {
		t.Errorf("left cgroups: %v", ids)
	}
}

func start(t *testing.T, d *Driver, s guest.Spec) *Machine {
	t.Helper()
	g, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return g.(*Machine)
}

func ended(t *testing.T, m *Machine) {
	t.Helper()
	select {
	case <-m.Done():
	case <-time.After(2 * time.Second):
		t.Fatal("the end was not seen within 2 s")
	}
}

func TestLife(t *testing.T) {
	c := setUp(t)
	d := New(c)
	m := start(t, d, small())
	if _, err := d.Start(t.Context(), small()); !errors.Is(err, guest.ErrRunning) {
		t.Fatalf("second start: %v", err)
	}
	st, err := m.Status(t.Context())
	if err != nil || st.State != guest.Running || st.PID == 0 || st.Mem == 0 || st.Accel != "tcg" || st.Uptime > time.Minute {
		t.Fatalf("%+v %v", st, err)
	}
	checkProcess(t, st.PID)
	checkScreen(t, m)
	checkConsole(t, m)
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st, _ := m.Status(t.Context()); st.State != guest.Paused {
		t.Errorf("%+v", st)
	}
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.SendKey(t.Context(), "ctrl-a"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := m.Stop(ctx, guest.Shutdown); !errors.Is(err, context.DeadlineExceeded) { // the firmware ignores the button
		t.Errorf("shutdown: %v", err)
	}
	if err := m.Stop(t.Context(), guest.Kill); err != nil {
		t.Fatal(err)
	}
	ended(t, m)
	if m.Exit() != "" {
		t.Errorf("exit %q", m.Exit())
	}
	nothing(t, c)
}

// checkProcess looks at what the kernel says of QEMU's rights.
func checkProcess(t *testing.T, pid int) {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t200000\t200000\t200000\t200000", "Gid:\t200000\t200000\t200000\t200000", "Groups:\t \n",
		"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "Seccomp:\t2", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("QEMU's status has no %q", want)
		}
	}
}

func checkScreen(t *testing.T, m *Machine) {
	t.Helper()
	conn, err := m.VNC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 12)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "RFB 003.008\n" {
		t.Errorf("%q %v", b, err)
	}
	pic, err := m.Screendump(t.Context())
	if err != nil || !bytes.HasPrefix(pic, []byte("P6")) {
		t.Errorf("picture of %d bytes: %v", len(pic), err)
	}
}

func checkConsole(t *testing.T, m *Machine) {
	t.Helper()
	one, err := m.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two, err := m.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	one.Close()
	two.Close()
	if _, err := two.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
}

func TestKilledQEMU(t *testing.T) {
	c := setUp(t)
	d := New(c)
	m := start(t, d, small())
	syscall.Kill(m.Record().Process.PID, syscall.SIGKILL)
	ended(t, m)
	if !strings.Contains(m.Exit(), "killed by signal 9") {
		t.Errorf("exit %q", m.Exit())
	}
	nothing(t, c)
}

// TestRestart is a daemon that goes away and comes back.
func TestRestart(t *testing.T) {
	c := setUp(t)
	first := New(c)
	pid := start(t, first, small()).Record().Process.PID
	first.Close()
	second := New(c)
	found, err := second.Find(t.Context())
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	m := found[0].(*Machine)
	if st, err := m.Status(t.Context()); err != nil || st.State != guest.Running || st.PID != pid {
		t.Fatalf("%+v %v", st, err)
	}
	again, err := second.Find(t.Context())
	if err != nil || len(again) != 1 || again[0] != found[0] {
		t.Fatal(again, err)
	}
	// A third process (stop-guests) ends it while the second holds a monitor.
	third := New(c)
	theirs, err := third.Find(t.Context())
	if err != nil || len(theirs) != 1 {
		t.Fatal(theirs, err)
	}
	if err := theirs[0].Stop(t.Context(), guest.Kill); err != nil {
		t.Fatal(err)
	}
	ended(t, m)
	if m.Exit() != "" {
		t.Errorf("exit %q", m.Exit())
	}
	nothing(t, c)
}

func TestFailedStart(t *testing.T) {
	c := setUp(t)
	d := New(c)
	s := small()
	s.Config["cpu"] = "NoSuchModel"
	if _, err := d.Start(t.Context(), s); err == nil || !strings.Contains(err.Error(), "NoSuchModel") {
		t.Errorf("error %v", err)
	}
	nothing(t, c)
}

// TestDevices lets QEMU make each kind of device; the CPUs stay held.
func TestDevices(t *testing.T) {
	for name, conf := range map[string]map[string]string{
		"spine": {"scsihw": "virtio-scsi-single", "scsi0": "a:b,iothread=1,discard=on,ssd=1", "scsi9": "a:b", "ide2": "a:b,media=cdrom",
			"vmgenid": uuid, "agent": "1", "smbios1": "uuid=" + uuid, "boot": "order=scsi0;ide2", "cores": "2"},
		"lsi":      {"scsi0": "a:b,cache=writeback,aio=threads", "scsi8": "none,media=cdrom", "ide0": "a:b", "vga": "cirrus"},
		"q35":      {"machine": "q35", "ide2": "none,media=cdrom", "sata3": "a:b,serial=x", "virtio0": "a:b,iothread=1", "virtio9": "a:b"},
		"virtio":   {"scsihw": "virtio-scsi-pci", "scsi0": "a:b", "scsi30": "a:b", "vga": "none", "bios": "ovmf", "cpu": "x86-64-v3"},
		"uefi-q35": {"machine": "q35", "bios": "ovmf", "efidisk0": "a:b", "localtime": "1", "acpi": "0"},
	} {
		t.Run(name, func(t *testing.T) {
			c := setUp(t)
			c.Firmware = "/usr/share/OVMF"
			if _, err := os.Stat(c.Firmware + "/OVMF_VARS_4M.fd"); err != nil && conf["bios"] != "" {
				t.Skip(err)
			}
			s := small()
			s.Volumes = map[string]guest.Volume{}
			for k, v := range conf {
				s.Config[k] = v
				if !strings.HasPrefix(v, "a:b") {
					continue
				}
				img := filepath.Join(t.TempDir(), k)
				if err := os.WriteFile(img, make([]byte, 4<<20), 0o600); err != nil {
					t.Fatal(err)
				}
				s.Volumes[k] = guest.Volume{ID: "a:b", Path: img, Format: "raw", ReadOnly: strings.Contains(v, "cdrom")}
			}
			s.Config["freeze"] = "1"
			m := start(t, New(c), s)
			if st, err := m.Status(t.Context()); err != nil || st.State != guest.Paused {
				t.Errorf("%+v %v", st, err)
			}
			if b, _ := os.ReadFile(filepath.Join(c.Runs.Folder(100), logFile)); len(b) > 0 {
				t.Errorf("QEMU says: %s", b)
			}
			if err := m.Stop(t.Context(), guest.Kill); err != nil {
				t.Fatal(err)
			}
			nothing(t, c)
		})
	}
}

// TestBlockDevice uses a loop device as the disk, and a qcow2 image.
func TestBlockDevice(t *testing.T) {
	c := setUp(t)
	dir := t.TempDir()
	img, qcow := filepath.Join(dir, "disk"), filepath.Join(dir, "disk.qcow2")
	if err := os.WriteFile(img, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", img).Output()
	if err != nil {
		t.Skip("no loop device: ", err)
	}
	loop := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", loop).Run()
	s := small()
	s.Config["scsihw"], s.Config["scsi0"] = "virtio-scsi-single", "a:b,iothread=1,discard=on"
	s.Volumes = map[string]guest.Volume{"scsi0": {ID: "a:b", Path: loop, Format: "raw"}}
	if exec.Command("qemu-img", "create", "-q", "-f", "qcow2", qcow, "8M").Run() == nil {
		s.Config["virtio1"] = "a:c"
		s.Volumes["virtio1"] = guest.Volume{ID: "a:c", Path: qcow, Format: "qcow2"}
	}
	m := start(t, New(c), s)
	if st, err := m.Status(t.Context()); err != nil || st.State != guest.Running {
		t.Errorf("%+v %v", st, err)
	}
	if err := m.Stop(t.Context(), guest.Kill); err != nil {
		t.Fatal(err)
	}
	nothing(t, c)
}

// taps makes bare tap devices without a bridge.
type taps struct{ removed []string }

func (*taps) OpenTap(name, bridge string, mac net.HardwareAddr) (*os.File, error) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	return f, unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, req)
}

func (x *taps) RemoveTap(name string) error {
	x.removed = append(x.removed, name)
	return nil
}

// TestHardware uses a tap and, where they work, /dev/kvm and vhost.
func TestHardware(t *testing.T) {
	c := setUp(t)
	if _, err := (&taps{}).OpenTap("tap999i9", "", nil); err != nil {
		t.Skip("no tap device: ", err)
	}
	x := &taps{}
	c.Tapper, c.KVM, c.VHost = x, "/dev/kvm", "/dev/vhost-net"
	if v, err := exec.Command(c.QEMU, "--version").Output(); err != nil || strings.Contains(string(v), "version 7.") {
		c.KVM = "" // that one cannot take /dev/kvm as a descriptor
	}
	t.Logf("host: %+v", New(c).probe())
	s := small()
	s.Config["kvm"], s.Config["net0"] = "1", "virtio=BC:24:11:00:00:01,bridge=vmbr0,link_down=1"
	m := start(t, New(c), s)
	if st, err := m.Status(t.Context()); err != nil || st.State != guest.Running {
		t.Errorf("%+v %v", st, err)
	}
	if _, err := os.Stat("/sys/class/net/tap100i0"); err != nil {
		t.Error(err)
	}
	if err := m.Stop(t.Context(), guest.Kill); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(x.removed, []string{"tap100i0"}) {
		t.Error(x.removed)
	}
	nothing(t, c)
}

func TestRace(t *testing.T) {
	c := setUp(t)
	d, other := New(c), New(c) // two daemons, two calls each
	var wg sync.WaitGroup
	var mu sync.Mutex
	var running []guest.Guest
	for i := range 4 {
		wg.Go(func() {
			g, err := []*Driver{d, other}[i%2].Start(t.Context(), small())
			if err == nil {
				mu.Lock()
				running = append(running, g)
				mu.Unlock()
			} else if !errors.Is(err, guest.ErrRunning) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(running) != 1 || len(c.Groups.Group(100).PIDs()) != 1 {
		t.Fatalf("%d starts succeeded, processes %v", len(running), c.Groups.Group(100).PIDs())
	}
	if err := running[0].Stop(t.Context(), guest.Kill); err != nil {
		t.Fatal(err)
	}
	other.Close()
	d.Close()
	nothing(t, c)
}

// TestKilledAtEachStep kills the daemon at every step of a start. Whatever is
// left, the next daemon finds either the running guest or nothing, and after
// another start there is exactly one QEMU.
func TestKilledAtEachStep(t *testing.T) {
	for _, step := range []string{"claimed", "grouped", "opened", "started", "recorded", "greeted", "running", "done"} {
		t.Run(step, func(t *testing.T) {
			c := setUp(t)
			root := filepath.Dir(c.Runs.Dir)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), crashEnv+"="+step, rootEnv+"="+root, cgEnv+"="+c.Groups.Dir)
			cmd.Stderr = os.Stderr
			var status *exec.ExitError
			if err := cmd.Run(); !errors.As(err, &status) || status.ExitCode() != -1 {
				t.Fatalf("the first daemon was to be killed: %v", err)
			}
			d := New(c)
			found, err := d.Find(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			survives := step == "running" || step == "done"
			if got := len(found) == 1; got != survives {
				t.Errorf("found %d guests", len(found))
			}
			if !survives {
				nothing(t, c)
			}
			g, err := d.Start(t.Context(), small())
			if survives {
				if !errors.Is(err, guest.ErrRunning) {
					t.Fatalf("start beside a running guest: %v", err)
				}
				g = found[0]
			} else if err != nil {
				t.Fatal(err)
			}
			if pids := c.Groups.Group(100).PIDs(); len(pids) != 1 {
				t.Errorf("processes %v, want one", pids)
			}
			if err := g.Stop(t.Context(), guest.Kill); err != nil {
				t.Fatal(err)
			}
			nothing(t, c)
		})
	}
}
