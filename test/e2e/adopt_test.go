package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"

	"joist/test/node"
)

// TestLayoutAdoptMirror: half of a mirror is not taken for a disk of its own, and
// nothing is written for it; with the other half out of the machine it is adopted
// as the mirror that it is, and says what it lacks.
func TestLayoutAdoptMirror(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 2)
	l.install(t, `disk-list = ["vda"]`, "disk-list = [\"vda\", \"vdb\"]\n[joist.disk]\nraid = \"raid1\"")
	l.start(t, l.disks...)
	l.run(t, "echo kept > /var/lib/vz/kept")
	id := l.installation(t)
	l.off(t)

	adopt := "\nadopt = true\n[joist.install]\ninstallation = \"" + id + "\""
	ctx, cancel := context.WithCancel(within(t, node.InstallTime))
	said := &cutter{text: "[adoption-differs]", cut: cancel}
	if err := l.tryInstall(ctx, t, said, `disk-list = ["vda"]`, "disk-list = [\"vda\"]\n[joist.disk]"+adopt); !errors.Is(err, context.Canceled) {
		t.Fatalf("half of a mirror as a disk of its own: %v", err)
	}
	l.start(t, l.disks...)
	l.want(t, "mirror that was not touched", mirrorHas, "2\n0\nvda5\nvdb5")
	l.off(t)

	l.disks = l.disks[1:]
	l.install(t, `disk-list = ["vda"]`, "disk-list = [\"vda\"]\n[joist.disk]\nraid = \"raid1\""+adopt)
	l.start(t, l.disks...)
	l.want(t, "mirror without a disk", mirrorHas, "2\n1\nvda5")
	l.want(t, "a file of before", "cat /var/lib/vz/kept", "kept")
	if again := l.run(t, "cat /var/lib/joist/node/node.json"); strings.Contains(again, id) {
		t.Error("the node still has the old installation's id")
	}
	l.cut(t)
}
