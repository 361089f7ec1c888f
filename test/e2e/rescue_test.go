package e2e

import (
	"strings"
	"testing"
	"time"

	"joist/test/node"
	"joist/test/vm"
)

// TestRescueVerbs: in the rescue system a disk of a mirror without boot parts
// gets them back, root gets another password, a slot is chosen. Then the disk
// that was mended starts the node without the other one.
func TestRescueVerbs(t *testing.T) {
	l := newLayout(t, 2)
	l.install(t, `disk-list = ["vda"]`, "disk-list = [\"vda\", \"vdb\"]\n[joist.disk]\nraid = \"raid1\"")
	c := l.config(l.img)
	c.Media, c.Disks = []vm.Medium{{Path: l.img.path}}, attached(l.disks)
	m := vm.Run(t, c)
	ctx := within(t, 2*node.BootTime)
	if err := node.ChooseRescue(ctx, m); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitFor(ctx, "mounted local read-only on /mnt/local"); err != nil {
		t.Fatal(err)
	}
	shell := &terminal{Console: m.Serial(0)}
	if err := shell.login(ctx, ""); err != nil {
		t.Fatal(err)
	}
	const most = 5 * time.Minute
	shell.run(t, most, "dd if=/dev/zero of=/dev/vdb2 bs=1M count=4 conv=fsync 2>&1")
	shell.run(t, most, "dd if=/dev/zero of=/dev/vdb bs=440 count=1 conv=fsync 2>&1")
	out := shell.run(t, most, "joist-install boot 2>&1")
	wantLines(t, out, "it is brought up to date from vda", "disk vda starts the system by itself", "disk vdb starts the system by itself")
	wantLines(t, shell.run(t, most, "joist-install slot a 2>&1"), "slot A is started from now on")
	if out, status, err := shell.try(ctx, "joist-install slot B 2>&1"); err != nil || status == "0" {
		t.Errorf("an empty slot was chosen (%v): %s", err, out)
	}
	const other = "quite another one"
	out = shell.run(t, most, "printf '"+other+`\n`+other+`\n`+"' | joist-install password 2>&1")
	wantLines(t, out, "root's password is set", "mounted state read-only on /mnt/state")
	wantLines(t, shell.run(t, most, "cd /tmp && f=$(joist-init support) && tar -tzf $f"), "mnt/state/lib/joist/install/journal.json", "commands/facts.txt")
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}

	c = l.config(l.img)
	c.Disks = attached(l.disks[1:])
	l.Machine = vm.Run(t, c)
	ip, err := l.LAN.WaitLease(within(t, node.BootTime), l.MAC)
	if err != nil {
		t.Fatal(err)
	}
	api, err := node.Client(l.LAN, ip.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := node.WaitLogin(within(t, node.BootTime), api, other); err != nil {
		t.Fatal(err)
	}
}

func wantLines(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%q is missing in:\n%s", w, out)
		}
	}
}
