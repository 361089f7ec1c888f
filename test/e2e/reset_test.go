package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"joist/api/client"
	"joist/test/node"
	"joist/test/vm"
)

// TestNodeReset: a node is made anew on its own disk, without a medium, under
// another name and with its data, then without.
func TestNodeReset(t *testing.T) {
	t.Parallel()
	const renamed = "node2.test.example"
	n := startNode(t, nil)
	n.run(t, "echo kept > /var/lib/vz/template/iso/kept.txt; sync")
	before := n.installation(t)
	text := strings.ReplaceAll(string(answerFile(t)), fqdn, renamed)
	ctx := within(t, 2*node.InstallTime)
	// nothing happens by mistake
	if err := n.API.Post(ctx, "/nodes/"+n.Name+"/reset", client.Params{"data": "keep", "answer": "[global]\nfqdm = 1\n"}, nil); err == nil {
		t.Fatal("an answer with mistakes is taken")
	}
	if err := n.API.Post(ctx, "/nodes/"+n.Name+"/reset", client.Params{"data": "keep", "answer": text}, nil); err != nil {
		t.Fatal(err)
	}
	n.closeSSH()
	if _, err := n.WaitFor(ctx, "Joist is down"); err != nil {
		t.Fatalf("%v; it said last:\n%s", err, n.Serial(0).Tail(40))
	}
	n.Name = "node2"
	n.becomesNode(t)
	n.want(t, "name", "hostname -f", renamed)
	n.want(t, "data", "cat /var/lib/vz/template/iso/kept.txt", "kept")
	n.wantDisk(t, "joist-bios joist-esp joist-a joist-b joist-data")
	n.want(t, "answer on the boot partition", `head -c 256M /dev/vda2 | grep -ac "`+password+`"; true`, "0")
	if after := n.installation(t); after == before {
		t.Errorf("the installation is still %s", after)
	}

	// and again from the node itself, without its data
	n.run(t, "cat > /tmp/answer.toml <<'END'\n"+string(answerFile(t))+"END\njoist node reset --wipe --answer /tmp/answer.toml")
	n.closeSSH()
	if _, err := n.WaitFor(ctx, "Joist is down"); err != nil {
		t.Fatalf("%v; it said last:\n%s", err, n.Serial(0).Tail(40))
	}
	n.Name, n.hostKey = nodeName, nil
	n.becomesNode(t)
	n.want(t, "name", "hostname -f", fqdn)
	n.want(t, "data", "ls /var/lib/vz/template/iso | wc -l", "0")
}

// reset has a node with this answer made anew on its own disks, and waits until
// it has started.
func (l *layout) reset(t *testing.T, data, name, text string) {
	t.Helper()
	ctx := within(t, 2*node.InstallTime)
	if err := l.API.Post(ctx, "/nodes/"+l.Name+"/reset", client.Params{"data": data, "answer": text}, nil); err != nil {
		t.Fatal(err)
	}
	l.closeSSH()
	if _, err := l.WaitFor(ctx, "Joist is down"); err != nil {
		t.Fatalf("%v; it said last:\n%s", err, l.Serial(0).Tail(40))
	}
	l.Name, l.hostKey = name, nil
	l.becomesNode(t)
}

// wantMarks looks at the marks of all disks, and that none of them holds a secret
// of the answer.
func (l *layout) wantMarks(t *testing.T) {
	t.Helper()
	for _, d := range []string{"vda", "vdb"} {
		l.want(t, "marks of "+d, strings.ReplaceAll(espMarks, "/dev/vda", "/dev/"+d), "0000000000000000")
		l.want(t, "answer on "+d, "head -c 256M /dev/"+d+`2 | grep -ac "`+password+`"; true`, "0")
	}
	l.want(t, "alerts", "joist node alerts", "")
}

// TestNodeResetMirror: a node on a mirror is made anew with its data, under
// another name; then either disk starts it alone.
func TestNodeResetMirror(t *testing.T) {
	t.Parallel()
	const renamed = "node2.test.example"
	const two = "disk-list = [\"vda\", \"vdb\"]\n[joist.disk]\nraid = \"raid1\""
	l := newLayout(t, 2)
	l.install(t, `disk-list = ["vda"]`, two)
	l.start(t, l.disks...)
	l.want(t, "mirror", mirrorHas, "2\n0\nvda5\nvdb5")
	l.run(t, "echo kept > /var/lib/vz/template/iso/kept.txt; sync")
	before := l.installation(t)
	// the layout that is kept counts, and all disks of the node
	l.reset(t, "keep", "node2", strings.ReplaceAll(string(answerFile(t)), fqdn, renamed))
	whole := func(when, disks string) {
		t.Helper()
		l.want(t, "mirror "+when, mirrorHas, disks)
		l.want(t, "name "+when, "hostname -f", renamed)
		l.want(t, "data "+when, "cat /var/lib/vz/template/iso/kept.txt", "kept")
		if after := l.installation(t); after == before {
			t.Errorf("%s the installation is still %s", when, after)
		}
	}
	whole("on both disks", "2\n0\nvda5\nvdb5")
	l.wantMarks(t)
	l.off(t)
	for _, d := range l.disks {
		// each in an overlay: the two halves must not go on by themselves
		over := filepath.Join(t.TempDir(), "over.qcow2")
		if err := vm.Overlay(t.Context(), d, over); err != nil {
			t.Fatal(err)
		}
		l.start(t, over)
		whole("on "+filepath.Base(d)+" alone", "2\n1\nvda5")
		l.cut(t)
	}
}

// TestNodeResetPool: a node on a ZFS mirror is made anew without its data.
func TestNodeResetPool(t *testing.T) {
	t.Parallel()
	const renamed = "node2.test.example"
	changes := []string{`"ext4"`, `"zfs"`, `disk-list = ["vda"]`, "disk-list = [\"vda\", \"vdb\"]\nzfs.raid = \"raid1\""}
	l := newLayout(t, 2)
	l.install(t, changes...)
	l.start(t, l.disks...)
	l.run(t, "echo lost > /var/lib/vz/template/iso/lost.txt; sync")
	guid, before := l.run(t, "zpool get -H -o value guid rpool"), l.installation(t)
	// a layout of one disk does not take both
	err := l.API.Post(within(t, node.BootTime), "/nodes/"+l.Name+"/reset", client.Params{"data": "wipe", "answer": string(answerFile(t))}, nil)
	if err == nil || !strings.Contains(err.Error(), "takes exactly one disk") {
		t.Fatalf("a layout of one disk: %v", err)
	}
	text := strings.NewReplacer(changes...).Replace(string(answerFile(t)))
	l.reset(t, "wipe", "node2", strings.ReplaceAll(text, fqdn, renamed))
	l.want(t, "name", "hostname -f", renamed)
	l.want(t, "data", "ls /var/lib/vz/template/iso | wc -l", "0")
	l.want(t, "file systems", volumes, "/var zfs\n/var/lib/vz zfs")
	l.want(t, "members of the pool", "zpool status -P rpool | grep -c '/dev/vd[ab]5 *ONLINE'", "2")
	l.want(t, "what is wrong with pools", "zpool status -x", "all pools are healthy")
	if after := l.run(t, "zpool get -H -o value guid rpool"); after == guid || l.installation(t) == before {
		t.Errorf("pool and installation are still %s, %s", after, before)
	}
	l.wantMarks(t)
	l.off(t)
	l.start(t, l.disks[1])
	l.want(t, "name on the second disk alone", "hostname -f", renamed)
	l.cut(t)
}
