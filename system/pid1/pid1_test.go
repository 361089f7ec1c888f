package pid1

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/internal/run"
	"joist/system/cmdline"
	"joist/system/service"
)

func TestServicesOfEveryModeHaveAnOrder(t *testing.T) {
	for mode, want := range map[cmdline.Mode]string{
		cmdline.Node:    "udevd network joistd firstboot chrony sshd lxcfs dmeventd ovsdb ovs-vswitchd dashboard-tty1 dashboard-ttyS0 login-tty2 login-tty3",
		cmdline.Install: "udevd",
		cmdline.Rescue:  "udevd",
	} {
		specs, err := service.Order(services(mode, []string{"tty1", "ttyS0"}, node.KeysFile))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range specs {
			names = append(names, s.Name)
			if !filepath.IsAbs(s.Argv[0]) {
				t.Errorf("%s: %s", s.Name, s.Argv[0])
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s", mode, got)
		}
	}
}

func TestSessionsFollowTheConsoles(t *testing.T) {
	for consoles, want := range map[string]string{"ttyS0": "dashboard-ttyS0", "": "", "tty1": "dashboard-tty1 login-tty2 login-tty3"} {
		var names []string
		for _, s := range sessions(strings.Fields(consoles)) {
			names = append(names, s.Name)
			if !s.Session || s.TTY == "" {
				t.Errorf("%s has no session", s.Name)
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: got %q", consoles, got)
		}
	}
}

func TestPresent(t *testing.T) {
	root := t.TempDir()
	os.WriteFile(filepath.Join(root, "empty"), nil, 0o644)
	os.WriteFile(filepath.Join(root, "full"), []byte("x"), 0o644)
	for needs, want := range map[string]bool{"": true, "/full": true, "/full /empty": false, "/none": false} {
		if got := present(root, service.Spec{Needs: strings.Fields(needs)}); got != want {
			t.Errorf("%q: got %v", needs, got)
		}
	}
}

// Every phase must come after those that it waits for, or it waits for none.
func TestPhasesWaitForEarlierOnes(t *testing.T) {
	for _, mode := range []cmdline.Mode{cmdline.Node, cmdline.Install, cmdline.Rescue} {
		s := &system{opt: cmdline.Options{Mode: mode}}
		seen := map[string]bool{}
		for _, p := range s.phases() {
			for _, a := range p.After {
				if !seen[a] {
					t.Errorf("%s: %q waits for %q, which is not before it", mode, p.Name, a)
				}
			}
			if seen[p.Name] {
				t.Errorf("%s: %q is there twice", mode, p.Name)
			}
			seen[p.Name] = true
		}
	}
}

func TestServicesOfANodeWaitForNoDevices(t *testing.T) {
	s := &system{opt: cmdline.Options{Mode: cmdline.Node}}
	for _, p := range s.phases() {
		if p.Name == phaseServices && len(p.After) > 0 {
			t.Errorf("services wait for %q", p.After)
		}
		if p.Name == phasePool && strings.Join(p.After, " ") != phaseDisks {
			t.Errorf("the pool waits for %q", p.After)
		}
	}
	for _, l := range late {
		found := false
		for _, spec := range services(cmdline.Node, nil, node.KeysFile) {
			found = found || spec.Name == l.service
		}
		if !found {
			t.Errorf("%s is no service", l.service)
		}
	}
}

// SSH waits for nothing of the node where the image brings root's keys.
func TestKeysOfImage(t *testing.T) {
	for _, keys := range []string{node.KeysFile, node.ImageKeysFile} {
		for _, s := range services(cmdline.Node, nil, keys) {
			if s.Name == "sshd" && !slices.Equal(s.Needs, []string{"/usr/sbin/sshd", keys, sshKey}) {
				t.Errorf("sshd needs %v", s.Needs)
			}
		}
	}
}

func TestTriggerTellsSubsystemsApart(t *testing.T) {
	one := strings.Join(trigger("--subsystem-match=", first), " ")
	two := strings.Join(trigger("--subsystem-nomatch=", append(append([]string(nil), noise...), first...)), " ")
	for _, sub := range first {
		if !strings.Contains(one, "--subsystem-match="+sub) || !strings.Contains(two, "--subsystem-nomatch="+sub) {
			t.Errorf("%s is not handled once", sub)
		}
		if slices.Contains(noise, sub) {
			t.Errorf("%s is no noise", sub)
		}
	}
}

func TestHasCard(t *testing.T) {
	sys := t.TempDir()
	add := func(name, mac string, device bool) {
		d := filepath.Join(sys, "class/net", name)
		os.MkdirAll(d, 0o755)
		os.WriteFile(d+"/address", []byte(mac+"\n"), 0o644)
		if device {
			os.Mkdir(d+"/device", 0o755)
		}
	}
	add("vmbr0", "52:54:00:00:00:01", false)
	add("eth0", "52:54:00:00:00:02", true)
	for mac, want := range map[string]bool{"52:54:00:00:00:01": false, "52:54:00:00:00:02": true, "": false} {
		if hasCard(sys, mac) != want {
			t.Errorf("%q: got %v", mac, !want)
		}
	}
	add("eth1", "52:54:00:AA:00:01", true)
	if !hasCard(sys, "52:54:00:aa:00:01") {
		t.Error("case counts")
	}
}

func TestEnded(t *testing.T) {
	list := []node.Phase{{Name: "a", State: node.PhaseFailed}, {Name: "b", State: node.PhaseRunning}}
	if !ended(list, "a") || ended(list, "b") || ended(list, "c") {
		t.Error("states are misread")
	}
	if (node.InitReply{Phases: list}).Booted() || !(node.InitReply{Phases: list[:1]}).Booted() {
		t.Error("Booted is wrong")
	}
}

func TestMonitorTouchesOneDevice(t *testing.T) {
	r := &run.Script{}
	if err := setMonitor(context.Background(), r, "/dev/vda5", "UUID", true); err != nil {
		t.Fatal(err)
	}
	want := `lvm lvchange --devices /dev/vda5 --config "backup{backup=0 archive=0} activation{monitoring=0}" --monitor y --select "vg_uuid=UUID && lv_name=data"`
	if got := r.Calls(); len(got) != 1 || got[0] != want {
		t.Errorf("got %s", got)
	}
}

func TestListensWantsAReader(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	if err := listens(short, fifo); !errors.Is(err, unix.ENXIO) {
		t.Errorf("nobody reads: got %v", err)
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := listens(t.Context(), fifo); err != nil {
		t.Error(err)
	}
}

func TestAnswerKeyboard(t *testing.T) {
	for text, want := range map[string]string{
		"[global]\nkeyboard = \"de-ch\" # Bern\n": "de-ch", "global.keyboard='fr'": "fr", "# keyboard = \"de\"\n": "", "keyboard = 7": "",
	} {
		if got := answerKeyboard(text); got != want {
			t.Errorf("%q: got %q", text, got)
		}
	}
}

func TestTargets(t *testing.T) {
	got := targets("22 1 0:20 / / ro - squashfs /dev/dm-0 ro\n30 22 253:1 / /var/a\\040b rw,noatime shared:1 - ext4 /dev/dm-1 rw\n")
	if strings.Join(got, "|") != "/|/var/a b" {
		t.Errorf("got %q", got)
	}
}

func TestStays(t *testing.T) {
	for target, want := range map[string]bool{"/": true, "/etc": true, "/proc": true, "/sys/fs/cgroup": true, "/run/joist/medium": true,
		"/var": false, "/var/lib/vz": false, "/mnt/state": false, "/tmp": false, "/runner": false} {
		if stays(target) != want {
			t.Errorf("%s", target)
		}
	}
}

func TestVolumeGoesByUUID(t *testing.T) {
	sys := t.TempDir()
	add := func(dev, name, uuid string) {
		d := filepath.Join(sys, "block", dev, "dm")
		os.MkdirAll(d, 0o755)
		os.WriteFile(d+"/name", []byte(name+"\n"), 0o644)
		os.WriteFile(d+"/uuid", []byte(uuid+"\n"), 0o644)
	}
	vg := "lgwFzo-QM52-adFd-n3oS-sYbY-Unvx-tbFQuO"
	own := "LVM-lgwFzoQM52adFdn3oSsYbYUnvxtbFQuO"
	add("dm-0", "joist_system", "JOIST-00")
	add("dm-1", "joist-state", "LVM-"+strings.Repeat("x", 64))
	add("dm-2", "joist-state", own+strings.Repeat("y", 32))
	add("dm-3", "joist-vm--100--state", own+strings.Repeat("z", 32))
	if got, err := volume(sys, vg, "state"); got != "/dev/dm-2" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := volume(sys, vg, "vm-100-state"); got != "/dev/dm-3" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := volume(sys, vg, "swap"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestActivateTouchesOneDevice(t *testing.T) {
	r := &run.Script{}
	if err := activate(context.Background(), r, "/dev/vda5", "UUID", "state", "local"); err != nil {
		t.Fatal(err)
	}
	want := `lvm lvchange --devices /dev/vda5 --config "backup{backup=0 archive=0} activation{monitoring=0}" -ay --select "vg_uuid=UUID && (lv_name=state || lv_name=local)"`
	if got := r.Calls(); len(got) != 1 || got[0] != want {
		t.Errorf("got %s", got)
	}
}

func TestCheckTakesRepairedForGood(t *testing.T) {
	for code, ok := range map[int]bool{0: true, 1: true, 2: true, 3: true, 4: false, 8: false, -1: false} {
		r := &run.Script{Answer: func(c run.Cmd) ([]byte, error) {
			if code == 0 {
				return nil, nil
			}
			return nil, &run.Error{Cmd: c, Exit: code, Err: errors.New("x")}
		}}
		if err := check(context.Background(), r, "ext4", "/dev/dm-1", nil); (err == nil) != ok {
			t.Errorf("status %d: %v", code, err)
		}
	}
}

func TestEarlyList(t *testing.T) {
	var b strings.Builder
	for _, i := range early() {
		b.WriteString(i.String() + "\n")
	}
	for _, want := range []string{"mount cgroup2 /sys/fs/cgroup nsdelegate,memory_recursiveprot", "dir /run/lock 0777", "link /dev/fd -> /proc/self/fd"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("missing %q in\n%s", want, b.String())
		}
	}
}

func TestTerm(t *testing.T) {
	for tty, want := range map[string]string{"tty1": "linux", "ttyS0": "vt220", "hvc0": "vt220"} {
		if got := term(tty); got != want {
			t.Errorf("%s: %s", tty, got)
		}
	}
}
