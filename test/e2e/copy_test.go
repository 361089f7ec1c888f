package e2e

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"joist/test/vm"
)

// TestCopyDisk: a disk that is copied to a larger one in the rescue system, by
// the command of docs/replace-disk.md, starts the node as the old one did, and
// its backup partition table moves to its end.
func TestCopyDisk(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 0)
	for _, size := range []int64{20 << 30, 21 << 30} { // it is read whole
		path := filepath.Join(t.TempDir(), "disk.qcow2")
		if err := vm.CreateDisk(t.Context(), path, size); err != nil {
			t.Fatal(err)
		}
		l.disks = append(l.disks, path)
	}
	both := l.disks
	l.disks = both[:1]
	l.install(t)
	l.start(t, l.disks...)
	l.run(t, "echo kept > /var/lib/vz/kept")
	id := l.run(t, "cat /etc/machine-id")
	l.off(t)

	copies := regexp.MustCompile(`(?m)^dd if=/dev/vda of=/dev/vdb .*$`).FindString(page(t, "replace-disk.md"))
	if copies == "" {
		t.Fatal("docs/replace-disk.md does not say how to copy a disk")
	}
	l.disks = both
	m, shell := l.startRescue(t)
	shell.run(t, 20*time.Minute, copies)
	shell.powerOff(t, m)

	l.start(t, both[1])
	l.want(t, "machine id", "cat /etc/machine-id", strings.TrimSpace(id))
	l.want(t, "a file", "cat /var/lib/vz/kept", "kept")
	l.want(t, "end of the disk", `dd if=/dev/vda bs=512 skip=$(($(cat /sys/block/vda/size) - 1)) count=1 2>/dev/null | head -c 8`, "EFI PART")
	l.want(t, "alerts", "joist node alerts", "")
}
