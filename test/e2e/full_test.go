package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"joist/api/client"
)

// TestLocalFull: `local` is filled to the last byte; the API, tasks and the
// state go on, uploads fail with a sentence, and space that is freed can be
// used again.
func TestLocalFull(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	refused(t, n.uploadZeros(within(t, uploadTime), "huge.iso", n.avail(t)+1, nil), "full")
	n.fillLocal(t)
	refused(t, n.uploadZeros(within(t, uploadTime), "small.iso", 1<<20, nil), "full")
	if left := n.spooled(t); len(left) > 0 {
		t.Errorf("refused uploads left %v", left)
	}

	n.login(t)
	vm := guestOf{n: n, kind: "qemu", id: 100}.create(t, client.Params{"memory": "128", "scsi0": "local-lvm:1", "net0": vmHardware})
	vm.start(t)
	vm.wantStatus(t, "running")
	vm.set(t, client.Params{"description": "made while local is full"})
	n.restartsDaemon(t)
	if got := vm.text(t, "description"); !strings.HasPrefix(got, "made while local is full") {
		t.Errorf("description %q", got)
	}
	vm.wantStatus(t, "running")
	vm.stop(t)
	vm.destroy(t)

	boot := n.bootID(t)
	n.Serial(0).Skip()
	n.restart(t)
	n.awaitBoot(t, boot)
	n.run(t, "rm /var/lib/vz/fill-*")
	if err := n.uploadZeros(within(t, uploadTime), "small.iso", 1<<20, nil); err != nil {
		t.Fatal(err)
	}
	n.task(t, taskTime, http.MethodDelete, "/nodes/"+n.Name+"/storage/local/content/local:iso/small.iso", nil)
}

// avail is what local says it has left.
func (n *runningNode) avail(t testing.TB) int64 {
	t.Helper()
	var s struct {
		Avail int64 `json:"avail"`
	}
	if err := n.API.Get(within(t, time.Minute), "/nodes/"+n.Name+"/storage/local/status", nil, &s); err != nil {
		t.Fatal(err)
	}
	return s.Avail
}

// fillLocal takes every block, root's reserve included: in ever smaller pieces
// that cost the emulated disk nothing, and at last by writing.
func (n *runningNode) fillLocal(t testing.TB) {
	t.Helper()
	n.run(t, `cd /var/lib/vz || exit
n=1
for size in 4G 256M 16M 1M 64K 4K; do
  while fallocate -l $size fill-$n 2>/dev/null; do n=$((n + 1)); done
done
head -c 16777216 /dev/zero >fill-last 2>/dev/null
sync -f .`)
	// statfs(2) still shows the 4096 clusters that ext4 keeps for itself
	// (s_resv_clusters): what counts is that not one more block can be written.
	if room := strings.TrimSpace(n.run(t, `head -c 4096 /dev/zero 2>/dev/null >/var/lib/vz/fill-probe && sync /var/lib/vz/fill-probe && echo room; true`)); room != "" {
		t.Fatalf("local still takes a block")
	}
}

// restartsDaemon ends joistd and waits for the next one.
func (n *runningNode) restartsDaemon(t testing.TB) {
	t.Helper()
	old := n.process(t, daemonCommand).pid
	n.run(t, fmt.Sprintf("kill %d", old))
	ctx := within(t, 2*time.Minute)
	for ctx.Err() == nil {
		if now := n.processes(t, daemonCommand); len(now) == 1 && now[0].pid != old && n.answers(ctx) == nil {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	t.Fatal("the daemon did not come back")
}
