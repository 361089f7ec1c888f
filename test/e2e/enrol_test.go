package e2e

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"joist/test/node"
	"joist/test/vm"
)

const (
	down  = "\x1b[B"
	enter = "\r"
)

// confirmKey does what the installer tells a person to do at MokManager's
// screens, which the firmware also shows on the serial line.
func confirmKey(ctx context.Context, m *vm.Machine, password string) error {
	for _, step := range []struct{ screen, keys string }{
		{"Press any key to perform MOK management", " "},
		{"Enroll MOK", down + enter},
		{"View key 0", down + enter},
		{"Yes", down + enter},       // titles of boxes do not come over the line
		{`(?s).`, password + enter}, // it asks for the password
		{"Reboot", enter},
	} {
		if _, err := m.WaitFor(ctx, step.screen); err != nil {
			return err
		}
		time.Sleep(2 * time.Second) // the rest of the screen is drawn behind it
		for _, k := range regexp.MustCompile(`\x1b\[B|.|\r`).FindAllString(step.keys, -1) {
			if err := m.Serial(0).Send(k); err != nil {
				return err
			}
			time.Sleep(300 * time.Millisecond)
		}
	}
	return nil
}

// TestZFSEnrol: a medium whose modules are signed with a key that the machine
// does not know has shim's MokManager ask for it, and its modules load then.
func TestZFSEnrol(t *testing.T) {
	t.Parallel()
	img := medium(t)
	iso, _ := signedMedium(t)
	m, shell := inRescue(t, vm.Config{Firmware: vm.OVMFSecureBoot, Accel: img.accel, Media: []vm.Medium{{Path: iso}}})
	if out, status, err := shell.try(within(t, zfsTime), "modprobe zfs 2>&1"); err != nil || status == "0" {
		t.Fatalf("the modules load before their key is enrolled: %v, %s", err, out)
	}
	said := shell.run(t, zfsTime, "joist-install enrol")
	password := regexp.MustCompile(`\b[0-9]{8}\b`).FindString(said)
	if password == "" {
		t.Fatalf("no password in %q", said)
	}
	shell.Skip()
	if err := shell.Send("reboot\r"); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 2*node.BootTime)
	if err := confirmKey(ctx, m, password); err != nil {
		t.Fatalf("%v; the console shows:\n%s", err, m.Serial(0).Tail(40))
	}
	if err := node.ChooseRescue(ctx, m); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitFor(ctx, "rescue system"); err != nil {
		t.Fatal(err)
	}
	shell = &terminal{Console: m.Serial(0)}
	if err := shell.login(ctx, ""); err != nil {
		t.Fatal(err)
	}
	shell.run(t, zfsTime, "grep -F '[integrity]' /sys/kernel/security/lockdown")
	if got := strings.TrimSpace(shell.run(t, zfsTime, "modprobe zfs && cat /sys/module/zfs/initstate")); got != "live" {
		t.Errorf("the module is %q", got)
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
}
