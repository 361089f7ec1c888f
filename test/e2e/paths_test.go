package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"joist/api/client"
	"joist/test/vm"
)

// TestLayoutPaths: a disk that two controllers reach is one disk to the
// installer, to the node, which makes guests' volumes on it, and to the installer
// that keeps what is on it; either path alone starts the node. A copy of the disk
// is not taken for a path.
func TestLayoutPaths(t *testing.T) {
	t.Parallel()
	overPaths(t, "local-lvm", `disk-list = ["vda"]`, `disk-list = ["sda"]`)
}

// TestLayoutPathsZFS is the same with a pool.
func TestLayoutPathsZFS(t *testing.T) {
	t.Parallel()
	overPaths(t, "local-zfs", `"ext4"`, `"zfs"`, `disk-list = ["vda"]`, "disk-list = [\"sdb\"]\nzfs.raid = \"raid0\"")
}

func overPaths(t *testing.T, storage string, changes ...string) {
	t.Helper()
	l := newLayout(t, 1)
	l.paths = 2
	l.install(t, changes...)
	l.start(t, l.disks...)
	l.want(t, "names of the disk", "ls -d /sys/block/sd*", "/sys/block/sda\n/sys/block/sdb")
	l.want(t, "disks of the system", "joist node disk list | awk 'NR > 1 {print $1}'", "/dev/sda")
	l.want(t, "alerts", "joist node alerts", "")
	kept := guestOf{n: l.runningNode, kind: "qemu", id: 100}.create(t, client.Params{"memory": "128", "scsi0": storage + ":1", "net0": vmHardware})
	gone := guestOf{n: l.runningNode, kind: "qemu", id: 101}.create(t, client.Params{"memory": "128", "scsi0": storage + ":1"})
	gone.destroy(t)
	kept.runs(t)
	id := l.installation(t)
	l.off(t)

	l.paths = 1
	l.start(t, l.disks...)
	kept.runs(t)
	l.off(t)

	l.paths = 2
	changes[len(changes)-1] += "\n[joist.disk]\nadopt = true\n[joist.install]\ninstallation = \"" + id + "\""
	l.install(t, changes...)
	c := l.machine()
	c.Disks, c.HotPlug = l.attached(l.without(t)), true
	l.Machine = vm.Run(t, c)
	l.login(t)
	kept.runs(t)

	// a copy that comes while the node runs is left as it is
	if err := l.Plug(within(t, time.Minute), "copy", vm.Disk{Path: l.without(t)[0]}); err != nil {
		t.Fatal(err)
	}
	l.until(t, "the copy is there", func(ctx context.Context) error {
		_, err := l.try(ctx, t, "ls /dev/sdc5")
		return err
	})
	const head = "head -c 1M /dev/sdc5 | sha256sum"
	before := strings.TrimSpace(l.run(t, head))
	guestOf{n: l.runningNode, kind: "qemu", id: 102}.create(t, client.Params{"memory": "128", "scsi0": storage + ":1"}).runs(t)
	l.want(t, "the copy", head, before)
	l.want(t, "the copy beside the disk", "cmp -s -n 1048576 /dev/sda5 /dev/sdc5 || echo differs", "differs")
	l.cut(t)
}

// runs starts the guest, which has no system that would end when asked, and
// stops it again.
func (g guestOf) runs(t *testing.T) {
	t.Helper()
	g.start(t)
	g.wantStatus(t, "running")
	g.stop(t)
}
