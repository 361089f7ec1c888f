package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/api/client"
	"joist/test/node"
	"joist/test/vm"
)

// layout is a node on disks of its own.
type layout struct {
	*runningNode
	img   isoImage
	disks []string
	vars  string // what UEFI firmware keeps, "" for BIOS
	uefi  vm.Firmware
	// sector is the disks' logical sector size in bytes, 0 for 512.
	sector int
	paths  int      // SCSI controllers that reach each disk; 0: buses say
	buses  []vm.Bus // of each disk; those beyond are virtio's
	beside []string // raw disks of others
}

// newLayout makes empty disks.
func newLayout(t *testing.T, disks int) *layout {
	t.Helper()
	l := &layout{runningNode: newNode(t), img: medium(t)}
	dir := t.TempDir()
	for i := range disks {
		path := filepath.Join(dir, fmt.Sprintf("disk%d.qcow2", i+1))
		if err := vm.CreateDisk(t.Context(), path, node.DiskSize); err != nil {
			t.Fatal(err)
		}
		l.disks = append(l.disks, path)
	}
	return l
}

// byUEFI gives it UEFI firmware, which finds a disk that is there by the entry
// the installer made for it.
func (l *layout) byUEFI(t *testing.T) *layout {
	l.vars, l.uefi = filepath.Join(t.TempDir(), "vars.fd"), vm.OVMF
	return l
}

// machine is the node's machine without its drives.
func (l *layout) machine() vm.Config {
	c := l.config(l.img)
	if l.vars != "" {
		c.Firmware, c.Vars = l.uefi, l.vars
	}
	return c
}

// install installs on all disks with the tests' answer, changed by pairs of
// old and new text. The console is kept with the test's logs.
func (l *layout) install(t *testing.T, changes ...string) {
	t.Helper()
	if err := l.tryInstall(within(t, node.InstallTime), t, nil, changes...); err != nil {
		t.Fatal(err)
	}
}

// tryInstall is install that may fail; said gets the console as it comes.
func (l *layout) tryInstall(ctx context.Context, t *testing.T, said io.Writer, changes ...string) error {
	t.Helper()
	dir, err := vm.LogDir(t)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "install.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := l.machine()
	c.Disks, c.Said = l.attached(l.disks), said
	answer := strings.NewReplacer(changes...).Replace(string(answerFile(t)))
	return node.Install(ctx, c, l.img.path, "", []byte(answer), log)
}

// cutter takes the power away when the console says a text.
type cutter struct {
	text string
	said []byte
	cut  context.CancelFunc
}

func (c *cutter) Write(b []byte) (int, error) {
	if c.said = append(c.said, b...); bytes.Contains(c.said, []byte(c.text)) {
		c.cut()
	}
	return len(b), nil
}

func attached(paths []string) []vm.Disk {
	var out []vm.Disk
	for _, p := range paths {
		out = append(out, vm.Disk{Path: p, Sparse: true})
	}
	return out
}

// attached are disks as the machine has them.
func (l *layout) attached(paths []string) []vm.Disk {
	out := attached(paths)
	for i := range out {
		out[i].SectorSize, out[i].Paths, out[i].Bus = l.sector, l.paths, l.bus(i)
	}
	for _, path := range l.beside {
		out = append(out, vm.Disk{Path: path, Format: "raw"})
	}
	return out
}

// drive is how the kernel calls the n-th disk, counted from 1.
func (l *layout) drive(n int) string {
	bus, before := l.bus(n-1), 0
	for i := range n - 1 {
		if l.bus(i) == bus {
			before++
		}
	}
	switch bus {
	case vm.NVMe:
		return fmt.Sprintf("nvme%dn1", before)
	case vm.SATA:
		return fmt.Sprintf("sd%c", 'a'+before)
	default:
		return fmt.Sprintf("vd%c", 'a'+before)
	}
}

func (l *layout) bus(i int) vm.Bus {
	if i < len(l.buses) {
		return l.buses[i]
	}
	return vm.VirtioBlk
}

// start boots from these disks and logs in.
func (l *layout) start(t *testing.T, disks ...string) {
	t.Helper()
	c := l.machine()
	c.Disks = l.attached(disks)
	l.Machine = vm.Run(t, c)
	l.login(t)
}

// off switches the machine off.
func (l *layout) off(t *testing.T) {
	t.Helper()
	ctx := within(t, 5*time.Minute)
	if err := l.API.Post(ctx, "/nodes/"+l.Name+"/status", client.Params{"command": "shutdown"}, nil); err != nil {
		t.Fatal(err)
	}
	l.closeSSH()
	if err := l.Wait(ctx); err != nil {
		t.Fatalf("%v; it said last:\n%s", err, l.Serial(0).Tail(40))
	}
}

// cut takes its power away.
func (l *layout) cut(t *testing.T) {
	t.Helper()
	l.closeSSH()
	if err := l.Kill(); err != nil {
		t.Fatal(err)
	}
}

func (n *runningNode) want(t *testing.T, what, script, want string) {
	t.Helper()
	if got := strings.TrimSpace(n.run(t, script)); got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// installation is the id by which an answer names what it replaces.
func (l *layout) installation(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(l.run(t, `sed -n 's/.*"installation_id": "\([0-9a-f]*\)".*/\1/p' /var/lib/joist/node/node.json`))
}

const (
	volumes   = `awk '$2 == "/var" || $2 == "/var/lib/vz" {print $2, $3}' /proc/mounts | sort`
	espMarks  = `od -An -tx8 -j $((1024 + 128 + 48)) -N 8 /dev/vda` // attributes of entry 2 of the table in sector 1
	mirrorHas = `cat /sys/block/md127/md/raid_disks /sys/block/md127/md/degraded; ls /sys/block/md127/slaves`
)

// TestLayoutXFS: state and local on XFS, which survives a power cut. A copy of
// the disk beside it is never taken for it.
func TestLayoutXFS(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 1).byUEFI(t)
	l.install(t, `"ext4"`, `"xfs"`)
	l.start(t, l.disks...)
	l.want(t, "file systems", volumes, "/var xfs\n/var/lib/vz xfs")
	l.want(t, "attributes of the boot partition", espMarks, "0000000000000000")
	l.run(t, "echo kept > /var/lib/vz/kept; sync; echo lost > /var/lib/vz/lost")
	l.cut(t)
	l.start(t, l.disks...)
	l.want(t, "a file that was written out", "cat /var/lib/vz/kept", "kept")
	l.run(t, "echo more > /var/lib/vz/more; sync /var/lib/vz/more")
	l.cut(t)
	l.rescue(t) // with a log that is not replayed
	l.copied(t)
}

// copied starts from a disk whose copy is there, too.
func (l *layout) copied(t *testing.T) {
	t.Helper()
	c := l.config(l.img)
	c.Disks = attached(slices.Concat(l.without(t), l.without(t))) // the base must not change
	m := vm.Run(t, c)
	if _, err := m.WaitFor(within(t, node.BootTime), "are copies of each other"); err != nil {
		t.Errorf("with a copy beside the disk: %v\n%s", err, m.Serial(0).Tail(20))
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
}

// TestLayout4Kn: a disk whose logical sectors have 4096 bytes.
func TestLayout4Kn(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 1).byUEFI(t)
	l.sector = 4096
	l.install(t)
	l.start(t, l.disks...)
	l.want(t, "sectors", "cat /sys/block/vda/queue/logical_block_size", "4096")
	l.want(t, "file systems", volumes, "/var ext4\n/var/lib/vz ext4")
	l.want(t, "boot parts", "joist node disk list | awk 'NR == 2 {print $1}'", "/dev/vda")
	l.want(t, "alerts", "joist node alerts", "")
	l.run(t, "echo kept > /var/lib/vz/kept; sync")
	l.cut(t)
	l.start(t, l.disks...)
	l.want(t, "a file that was written out", "cat /var/lib/vz/kept", "kept")
}

// TestLayoutCutOff: an installation that lost power is begun anew by the next
// unattended start, with the same answer, and one that did not is started.
func TestLayoutCutOff(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 1)
	l.cutOff(t, "[started]  format /dev/joist/local")
}

// cutOff takes the power away when the installer says a text.
func (l *layout) cutOff(t *testing.T, text string, changes ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t, node.InstallTime))
	if err := l.tryInstall(ctx, t, &cutter{text: text, cut: cancel}, changes...); !errors.Is(err, context.Canceled) {
		t.Fatalf("the first try: %v", err)
	}
	l.install(t, changes...)
	c := l.machine()
	volume := filepath.Join(t.TempDir(), "answer.iso")
	if err := node.AnswerVolume(t.Context(), volume, []byte(strings.NewReplacer(changes...).Replace(string(answerFile(t))))); err != nil {
		t.Fatal(err)
	}
	c.Media, c.Disks = []vm.Medium{{Path: l.img.path}, {Path: volume}}, l.attached(l.disks)
	l.Machine = vm.Run(t, c)
	if err := node.ChooseUnattended(within(t, node.BootTime), l.Machine); err != nil {
		t.Fatal(err)
	}
	if _, err := l.WaitFor(within(t, node.BootTime), `Starting installation [0-9a-f]{16} from /dev/vda`); err != nil {
		t.Fatal(err)
	}
	l.login(t)
}

// TestLayoutMirror: either disk starts the node without the other, says so, and
// the other one is taken back with what it missed.
func TestLayoutMirror(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 2)
	l.install(t, `disk-list = ["vda"]`, "disk-list = [\"vda\", \"vdb\"]\n[joist.disk]\nraid = \"raid1\"")
	l.start(t, l.disks...)
	l.want(t, "mirror", mirrorHas, "2\n0\nvda5\nvdb5")
	l.run(t, "echo both > /var/lib/vz/both")
	l.off(t)

	l.start(t, l.disks[1])
	l.want(t, "mirror without its first disk", mirrorHas, "2\n1\nvda5")
	l.want(t, "a file of before", "cat /var/lib/vz/both", "both")
	if _, err := l.WaitFor(within(t, time.Minute), `the mirror lacks 1 of 2 disks`); err != nil {
		t.Error(err)
	}
	l.run(t, "echo alone > /var/lib/vz/alone")
	l.off(t)

	l.start(t, l.disks...)
	l.until(t, "the mirror is whole", func(ctx context.Context) error {
		out, err := l.try(ctx, t, mirrorHas)
		if err == nil && strings.Join(strings.Fields(out), " ") != "2 0 vda5 vdb5" {
			err = fmt.Errorf("it has %s", strings.Fields(out))
		}
		return err
	})
	l.want(t, "a file of the time alone", "cat /var/lib/vz/alone", "alone")
	l.off(t)

	// the disk that was away has everything
	l.start(t, l.disks[0])
	l.want(t, "files on the first disk", "cat /var/lib/vz/both /var/lib/vz/alone", "both\nalone")
	l.cut(t)
	l.rescue(t, mirrorByHand)
}

// TestLayoutAdopt: a node is installed over, and its guests are still there, a
// virtual machine and a container. They are after the group's description and
// the thin pool's table were mended, too.
func TestLayoutAdopt(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 1)
	l.install(t)
	l.start(t, l.disks...)
	g := guestOf{n: l.runningNode, kind: "qemu", id: 100}.create(t, client.Params{"memory": "128", "scsi0": "local-lvm:1", "net0": vmHardware})
	archive := l.upload(t, "vztmpl", "debian-13-standard_test_amd64.tar.zst", template(t))
	ct := guestOf{n: l.runningNode, kind: "lxc", id: 101}.create(t, client.Params{"ostemplate": archive, "rootfs": "local-lvm:2", "memory": guestMemory, "net0": ctNetwork})
	l.run(t, "echo image > /var/lib/vz/template/iso/kept.iso")
	id := l.installation(t)
	l.off(t)
	l.rescue(t, groupByHand)

	l.install(t, `disk-list = ["vda"]`, "disk-list = [\"vda\"]\n[joist.disk]\nadopt = true\n[joist.install]\ninstallation = \""+id+"\"")
	l.start(t, l.disks...)
	if again := l.run(t, "cat /var/lib/joist/node/node.json"); strings.Contains(again, id) {
		t.Error("the node still has the old installation's id")
	}
	whole := func() {
		t.Helper()
		l.want(t, "a file of local", "cat /var/lib/vz/template/iso/kept.iso", "image")
		for _, g := range []guestOf{g, ct} {
			g.start(t)
			g.wantStatus(t, "running")
			g.stop(t)
		}
	}
	whole()
	l.off(t)
	l.rescue(t, groupDamaged)
	l.start(t, l.disks...)
	whole()
	l.task(t, taskTime, http.MethodDelete, "/nodes/"+l.Name+"/storage/local/content/local:iso/kept.iso", nil)
}

// TestLayoutReplace: a disk of a mirror that is gone is replaced by a blank one,
// that one by another while it is there, which starts the node without the
// first. Each is on a bus of its own. The first start runs a program once.
func TestLayoutReplace(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 2).byUEFI(t)
	l.buses = []vm.Bus{vm.SATA, vm.NVMe}
	l.LAN.DNS(webName, webAddress)
	l.serve(t, webAddress.String()+":80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "#!/bin/sh\necho once >> /var/lib/vz/program; echo it runs\n")
	}))
	l.install(t, `disk-list = ["vda"]`, "disk-list = [\"sda\", \"nvme0n1\"]\nlvm.hdsize = 20\n[joist.disk]\nraid = \"raid1\"\n[first-boot]\nsource = \"from-url\"\nurl = \"http://"+webName+"/program\"")
	l.replace(t, 2, func() { l.want(t, "mirror", mirrorHas, "2\n0\nnvme0n1p5\nsda5") })
	l.exchange(t, 2, func() { l.want(t, "mirror", mirrorHas, "2\n0\nsda5\nvda5") })
	l.buses = nil
	l.start(t, l.disks[1])
	l.want(t, "mirror on the new disk", mirrorHas, "2\n1\nvda5")
	l.want(t, "files of before", "cat /var/lib/vz/both /var/lib/vz/program", "both\nonce")
	l.want(t, "attributes of the boot partition", espMarks, "0000000000000000")
	l.want(t, "what the first start left", "ls /var/lib/joist/firstboot; grep -c 'it runs' /var/log/joist/firstboot.log", "state.json\n1")
	l.cut(t)
}

// replaceTime is for copying a whole mirror, empty as it is.
const replaceTime = 20 * time.Minute

// replace puts a blank disk in the place of the n-th, counted from 1, replaces
// it and switches the node off.
func (l *layout) replace(t *testing.T, n int, whole func()) {
	t.Helper()
	l.disks[n-1] = filepath.Join(t.TempDir(), "blank.qcow2")
	if err := vm.CreateDisk(t.Context(), l.disks[n-1], node.DiskSize); err != nil {
		t.Fatal(err)
	}
	l.start(t, l.disks...)
	says := func(command, text string) {
		t.Helper()
		l.until(t, text, func(ctx context.Context) error {
			out, err := l.try(ctx, t, command)
			if err == nil && !strings.Contains(out, text) {
				err = fmt.Errorf("%s:\n%s", command, out)
			}
			return err
		})
	}
	says("joist node alerts", "data-degraded")
	says("joist node first-boot | tail -n 1 | tr -s ' '", "erase secrets done")
	l.run(t, "joist node check && ! joist node check | grep 'chrony does not answer' && echo both > /var/lib/vz/both")
	begun := time.Now()
	out, err := l.try(within(t, replaceTime), t, "joist node disk list && joist node disk replace missing "+l.drive(n)+" 2>&1 && joist node disk list")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("replaced in %v\n%s", time.Since(begun).Round(time.Second), out)
	whole()
	l.want(t, "alerts", "joist node alerts", "")
	l.off(t)
}

// exchange puts a blank disk beside the others, replaces the n-th by it, which
// is there, and switches the node off.
func (l *layout) exchange(t *testing.T, n int, whole func()) {
	t.Helper()
	blank := filepath.Join(t.TempDir(), "blank.qcow2")
	if err := vm.CreateDisk(t.Context(), blank, node.DiskSize); err != nil {
		t.Fatal(err)
	}
	l.start(t, append(slices.Clone(l.disks), blank)...)
	command := "joist node disk replace " + l.drive(n) + " " + l.drive(len(l.disks)+1)
	out, err := l.try(within(t, replaceTime), t, command+" --check 2>&1 && "+command+" 2>&1")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("exchanged\n%s", out)
	whole()
	l.want(t, "alerts", "joist node alerts", "")
	l.want(t, "the old disk's table", "dd if=/dev/"+l.drive(n)+" bs=512 skip=1 count=1 2>/dev/null | grep -c 'EFI PART' || true", "0")
	l.off(t)
	l.disks[n-1] = blank
}
