package e2e

import (
	"strings"
	"testing"

	"joist/api/client"
	"joist/test/node"
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
