package pid1

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/internal/run"
	"joist/system/cmdline"
	"joist/system/service"
)

func TestServicesOfEveryModeHaveAnOrder(t *testing.T) {
	for mode, want := range map[cmdline.Mode]string{
		cmdline.Node:    "udevd network joistd chrony sshd lxcfs dashboard-tty1 dashboard-ttyS0",
		cmdline.Install: "udevd",
		cmdline.Rescue:  "udevd",
	} {
		specs, err := service.Order(services(mode, []string{"tty1", "ttyS0"}))
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

func TestPresentLeavesOutWhatIsNotThere(t *testing.T) {
	root := t.TempDir()
	os.WriteFile(filepath.Join(root, "empty"), nil, 0o644)
	os.WriteFile(filepath.Join(root, "full"), []byte("x"), 0o644)
	kept, left := present(root, []service.Spec{{Name: "a", Needs: []string{"/full"}}, {Name: "b", Needs: []string{"/full", "/empty"}},
		{Name: "c", Needs: []string{"/none"}}, {Name: "d", After: []string{"a", "b"}}})
	if strings.Join(left, " ") != "b c" || len(kept) != 2 || strings.Join(kept[1].After, " ") != "a" {
		t.Errorf("kept %+v, left %q", kept, left)
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
	add("dm-0", "joist-system", "JOIST-00")
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
		if err := check(context.Background(), r, "/dev/dm-1", nil); (err == nil) != ok {
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
