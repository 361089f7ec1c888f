package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"joist/test/node"
	"joist/test/vm"
)

// TestRescueVerbs: in the rescue system a disk of a mirror without boot parts
// gets them back, partition tables are mended, root gets another password, a slot is chosen. Then the disk
// that was mended starts the node without the other one.
func TestRescueVerbs(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 2)
	l.install(t, `disk-list = ["vda"]`, "disk-list = [\"vda\", \"vdb\"]\n[joist.disk]\nraid = \"raid1\"")
	m, shell := l.startRescue(t)
	ctx := within(t, 2*node.BootTime)
	const most = 5 * time.Minute
	shell.run(t, most, "dd if=/dev/zero of=/dev/vdb2 bs=1M count=4 conv=fsync 2>&1")
	shell.run(t, most, "dd if=/dev/zero of=/dev/vdb bs=512 count=34 conv=fsync 2>&1")
	shell.run(t, most, "dd if=/dev/zero of=/dev/vda bs=512 count=1 seek=$(($(cat /sys/block/vda/size) - 1)) conv=fsync 2>&1")
	out := shell.run(t, most, "joist-install boot 2>&1")
	wantLines(t, out, "disk vda: the backup partition table is missing; it is mended",
		"disk vdb: the primary partition table is missing; the protective MBR is damaged; it is mended", "it is brought up to date from vda", "disk vda starts the system by itself", "disk vdb starts the system by itself")
	wantLines(t, shell.run(t, most, "joist-install slot a 2>&1"), "slot A is started from now on")
	if out, status, err := shell.try(ctx, "joist-install slot B 2>&1"); err != nil || status == "0" {
		t.Errorf("an empty slot was chosen (%v): %s", err, out)
	}
	const other = "quite another one"
	out = shell.run(t, most, "printf '"+other+`\n`+other+`\n`+"' | joist-install password 2>&1")
	wantLines(t, out, "root's password is set", "mounted state read-only on /mnt/state")
	shell.run(t, most, "joist-init keymap de")
	wantLines(t, shell.run(t, most, "cd /tmp && f=$(joist-init support) && tar -tzf $f"), "mnt/state/lib/joist/install/journal.json", "commands/facts.txt")
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}

	c := l.config(l.img)
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

// startRescue boots the medium's rescue entry, which mounts the volumes
// read-only, and returns its shell.
func (l *layout) startRescue(t *testing.T) (*vm.Machine, *terminal) {
	t.Helper()
	c := l.machine()
	c.Media, c.Disks = []vm.Medium{{Path: l.img.path}}, l.attached(l.disks)
	m := vm.Run(t, c)
	return m, rescueShell(t, m, "mounted state read-only on /mnt/state", "mounted local read-only on /mnt/local")
}

// rescueShell chooses the rescue entry in the medium's menu and returns the
// shell once the machine has said these texts.
func rescueShell(t *testing.T, m *vm.Machine, says ...string) *terminal {
	t.Helper()
	ctx := within(t, 2*node.BootTime)
	if err := node.ChooseRescue(ctx, m); err != nil {
		t.Fatal(err)
	}
	for _, text := range says {
		if _, err := m.WaitFor(ctx, text); err != nil {
			t.Fatal(err)
		}
	}
	shell := &terminal{Console: m.Serial(0)}
	if err := shell.login(ctx, ""); err != nil {
		t.Fatal(err)
	}
	shell.quiet(t)
	return shell
}

// A part of docs/recovery.md: what is done to the disks first, and the words
// before its commands and after them.
type recovery struct{ damage, from, to string }

var (
	groupByHand  = recovery{"", "LVM on one disk, with a guest's disk:", "A mirror is started first"}
	mirrorByHand = recovery{"", "A mirror is started first", "A ZFS pool opens for reading only"}
	poolByHand   = recovery{"", "A ZFS pool opens for reading only", "Name every disk of a pool"}
	// the label and the header of LVM's text, but not the text
	groupDamaged = recovery{"vgchange -an joist && dd if=/dev/zero of=/dev/vda5 bs=512 count=9 conv=fsync", "A volume group is described", "A pool that does not open"}
	poolDamaged  = recovery{"", "A pool that does not open", ""}
)

// rescue looks at the disks in the rescue system, which mounts them and then
// does what the documentation says.
func (l *layout) rescue(t *testing.T, parts ...recovery) {
	t.Helper()
	m, shell := l.startRescue(t)
	if len(parts) > 0 {
		shell.run(t, zfsTime, "umount /mnt/state /mnt/local")
	}
	for _, part := range parts {
		if part.damage != "" {
			shell.run(t, zfsTime, part.damage)
		}
		newest := ""
		for _, command := range part.commands(t) {
			out := shell.run(t, 5*time.Minute, strings.ReplaceAll(command, "metadata_offset=12800", "metadata_offset="+newest))
			if all := metadataAt.FindAllStringSubmatch(out, -1); all != nil {
				newest = all[len(all)-1][1]
			}
		}
	}
	shell.powerOff(t, m)
}

var metadataAt = regexp.MustCompile(`metadata at (\d+) length \d+ crc \S+ vg joist`)

// page is a page of the documentation, with the names of a machine's disks.
func page(t *testing.T, name string) string {
	t.Helper()
	root, err := vm.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "/dev/sd", "/dev/vd")
}

// commands are the part's commands.
func (r recovery) commands(t *testing.T) []string {
	t.Helper()
	_, text, ok := strings.Cut(page(t, "recovery.md"), r.from)
	if r.to != "" && ok {
		text, _, ok = strings.Cut(text, r.to)
	}
	if !ok {
		t.Fatalf("docs/recovery.md has no part from %q to %q", r.from, r.to)
	}
	var out []string
	for i, block := range strings.Split(text, "```\n") {
		if i%2 == 0 {
			continue
		}
		for line := range strings.Lines(block) {
			command, _, _ := strings.Cut(line, " # ")
			out = append(out, strings.TrimSpace(command))
		}
	}
	if len(out) < 3 {
		t.Fatalf("docs/recovery.md has %d commands from %q to %q", len(out), r.from, r.to)
	}
	return out
}

func wantLines(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%q is missing in:\n%s", w, out)
		}
	}
}
