package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"joist/api/client"
	"joist/test/node"
	"joist/test/vm"
	"joist/test/vm/lan"
)

// clusterTime is how long the nodes may take to agree on something, three of
// them on software CPUs that share real ones.
const clusterTime = 6 * time.Minute

// peerMAC is the address of node i's network card.
func peerMAC(i int) string { return fmt.Sprintf("52:54:00:4a:00:%02x", i) }

// joinToken is the answer to POST /cluster/config/token.
type joinToken struct {
	Token, Fingerprint, Address string
}

// token makes one; a node that was alone begins anew as a cluster.
func (n *runningNode) token(t testing.TB) (j joinToken) {
	t.Helper()
	if err := n.API.Post(within(t, time.Minute), "/cluster/config/token", nil, &j); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // it answers before it begins anew
	n.until(t, "it can be joined", func(ctx context.Context) error { return n.API.Get(ctx, "/cluster/config/join", nil, nil) })
	return j
}

// until repeats f, and logs in again when the cluster's tickets have replaced
// the node's own.
func (n *runningNode) until(t testing.TB, what string, f func(context.Context) error) {
	t.Helper()
	ctx := within(t, clusterTime)
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		if strings.Contains(err.Error(), "(401)") {
			n.API.Login(ctx, "root@pam", password)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %s: %v", n.Name, what, err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// wantMembers waits for the nodes' parts: "node1 voter".
func (n *runningNode) wantMembers(t testing.TB, want ...string) {
	t.Helper()
	n.until(t, fmt.Sprintf("members are %v", want), func(ctx context.Context) error {
		var rows []struct {
			Node, Member, State string
			Online              int
		}
		if err := n.API.Get(ctx, "/cluster/config/nodes", nil, &rows); err != nil {
			return err
		}
		got := []string{}
		for _, r := range rows {
			if r.State != "member" || r.Online != 1 {
				return fmt.Errorf("%+v", rows)
			}
			got = append(got, r.Node+" "+r.Member)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// wantGuests waits for the list of all guests: "100@node1 stopped".
func (n *runningNode) wantGuests(t testing.TB, want ...string) {
	t.Helper()
	n.until(t, fmt.Sprintf("guests are %v", want), func(ctx context.Context) error {
		var rows []struct {
			VMID         int
			Node, Status string
		}
		if err := n.API.Get(ctx, "/cluster/resources", client.Params{"type": "vm"}, &rows); err != nil {
			return err
		}
		got := []string{}
		for _, r := range rows {
			got = append(got, fmt.Sprintf("%d@%s %s", r.VMID, r.Node, r.Status))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// settle waits for the end of an operation on the node's membership.
func (n *runningNode) settle(t testing.TB, want string) {
	t.Helper()
	n.until(t, "the operation ends", func(ctx context.Context) error {
		var o struct {
			Operation, State, Reason, Error string
			Running                         int
		}
		if err := n.API.Get(ctx, "/nodes/"+n.Name+"/membership", nil, &o); err != nil {
			return err
		}
		if o.Running == 1 || o.State == "" {
			return fmt.Errorf("%+v", o)
		}
		if o.State != want || want == "gone" && !strings.Contains(o.Reason, "token") {
			t.Fatalf("%s: %+v, want %s", n.Name, o, want)
		}
		return nil
	})
}

// namedAnswer is the tests' answer file for another name, and what is to be
// added to it.
func namedAnswer(t testing.TB, name, more string) []byte {
	t.Helper()
	return append([]byte(strings.ReplaceAll(string(answerFile(t)), nodeName+".", name+".")), more...)
}

// installNode installs a node of another name on the network and boots it.
func installNode(t *testing.T, sw *lan.Switch, i int, more string) *runningNode {
	t.Helper()
	n := newNodeOn(t, sw, fmt.Sprintf("node%d", i), peerMAC(i))
	n.install(t, more)
	return n
}

// install installs the node on a new disk and boots it.
func (n *runningNode) install(t *testing.T, more string) {
	t.Helper()
	img := medium(t)
	disk := filepath.Join(t.TempDir(), n.Name+".qcow2")
	if err := vm.CreateDisk(t.Context(), disk, node.DiskSize); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), n.Name+"-install.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := n.config(img)
	if err := node.Install(within(t, node.InstallTime), c, img.path, disk, namedAnswer(t, n.Name, more), log); err != nil {
		t.Fatal(err)
	}
	n.boot(t, disk)
}

// boot starts the node's machine on a disk and logs in.
func (n *runningNode) boot(t *testing.T, disk string) {
	t.Helper()
	c := n.config(medium(t))
	c.Disks = []vm.Disk{{Path: disk}}
	n.disk = disk
	n.Machine = vm.Run(t, c)
	n.login(t)
}

func clusterAnswer(j joinToken) string {
	return fmt.Sprintf("\n[joist.cluster]\naddress = %q\ntoken = %q\nfingerprint = %q\n", j.Address, j.Token, j.Fingerprint)
}

// TestShortCluster: a machine that is installed with a token in its answer is
// the cluster's second node without a hand on it, and each answers for both.
func TestShortCluster(t *testing.T) {
	n1 := startNode(t, nil)
	j := n1.token(t)
	guestOf{n: n1, kind: "qemu", id: 100}.create(t, client.Params{"memory": "64", "net0": vmHardware})
	n2 := installNode(t, n1.LAN, 2, clusterAnswer(j))
	n2.settle(t, "done")
	for _, n := range []*runningNode{n1, n2} {
		n.wantMembers(t, "node1 voter", "node2 learner")
	}
	guestOf{n: n2, kind: "qemu", id: 200}.create(t, client.Params{"memory": "64", "net0": vmHardware})
	for _, g := range []guestOf{{n: n1, kind: "qemu", id: 100}, {n: n2, kind: "qemu", id: 200}} {
		other := n1
		if g.n == n1 {
			other = n2
		}
		far := g.through(other)
		far.start(t)
		g.wantStatus(t, "running")
		far.wantScreen(t, 2, fmt.Sprintf("screen-%d-through-%s", g.id, other.Name))
		far.stop(t)
		g.wantStatus(t, "stopped")
	}
	n1.wantGuests(t, "100@node1 stopped", "200@node2 stopped")
	// The token was good for one join, and is nowhere on the node.
	if out := n2.run(t, "grep -rl "+j.Token+" /var/lib/joist /var/log || true"); strings.TrimSpace(out) != "" {
		t.Errorf("the token is still in %s", out)
	}
	// The learner is lost: the first node works on.
	if err := n2.Kill(); err != nil {
		t.Fatal(err)
	}
	guestOf{n: n1, kind: "qemu", id: 101}.create(t, client.Params{"memory": "64"})
	n1.until(t, "node2 is known to be away", func(ctx context.Context) error {
		err := n1.API.Get(ctx, "/nodes/node2/status", nil, nil)
		if err == nil || !strings.Contains(err.Error(), "595") || !strings.Contains(err.Error(), "node2") {
			return fmt.Errorf("it answers %v", err)
		}
		return nil
	})
}

// TestCluster leads three machines through the life of a cluster: joined from
// the API with guests of its own and a VMID that clashes, all addresses changed
// at once, power cuts.
func TestCluster(t *testing.T) {
	n1 := startNode(t, func(_ *vm.Config, sw *lan.Switch) { sw.SetLeaseTime(time.Minute) })
	n2 := installNode(t, n1.LAN, 2, clusterAnswer(n1.token(t)))
	n2.settle(t, "done")
	n3 := installNode(t, n1.LAN, 3, "")

	guestOf{n: n1, kind: "qemu", id: 100}.create(t, client.Params{"memory": "64", "net0": vmHardware})
	for _, id := range []int{100, 101} {
		guestOf{n: n3, kind: "qemu", id: id}.create(t, client.Params{"memory": "64", "scsi0": "local-lvm:1", "net0": vmHardware})
	}
	j := n1.token(t)
	p := client.Params{"hostname": n1.IP, "token": j.Token, "fingerprint": j.Fingerprint}
	if err := n3.API.Task(within(t, clusterTime), http.MethodPost, "/cluster/config/join", p); err == nil || !strings.Contains(err.Error(), "100") {
		t.Fatalf("a join with a clash of VMIDs: %v", err)
	}
	p["renumber"] = "auto"
	if err := n3.API.Task(within(t, clusterTime), http.MethodPost, "/cluster/config/join", p); err != nil {
		t.Fatal(err)
	}
	n3.settle(t, "done")
	n1.wantMembers(t, "node1 voter", "node2 voter", "node3 voter")
	n2.wantGuests(t, "100@node1 stopped", "101@node3 stopped", "102@node3 stopped")
	t.Run("every guest through every node", func(t *testing.T) {
		for _, g := range []guestOf{{n: n1, kind: "qemu", id: 100}, {n: n3, kind: "qemu", id: 101}, {n: n3, kind: "qemu", id: 102}} {
			for _, n := range []*runningNode{n1, n2, n3} {
				far := g.through(n)
				far.start(t)
				far.wantScreen(t, 2, fmt.Sprintf("screen-%d-through-%s", g.id, n.Name))
				far.stop(t)
			}
		}
		ct := guestOf{n: n1, kind: "lxc", id: 103}.create(t, client.Params{"hostname": "inside", "ostemplate": n1.upload(t, "vztmpl", "debian-13-standard_test_amd64.tar.zst", template(t)),
			"rootfs": "local-lvm:1", "memory": guestMemory, "password": rootInside, "net0": ctNetwork})
		for _, n := range []*runningNode{n2, n3} {
			far := ct.through(n)
			far.start(t)
			if got := strings.TrimSpace(far.typeInto(t, rootInside).run(t, time.Minute, "hostname")); got != "inside" {
				t.Errorf("the container's name through %s is %q", n.Name, got)
			}
			far.stop(t)
		}
		ct.destroy(t)
		if got := n3.lines(t, "lvs --noheadings -o lv_name joist | grep vm-"); len(got) != 2 || strings.TrimSpace(got[0]) != "vm-101-disk-0" || strings.TrimSpace(got[1]) != "vm-102-disk-0" {
			t.Errorf("volumes of node3: %v", got)
		}
	})

	t.Run("all addresses change", func(t *testing.T) {
		for i, n := range []*runningNode{n1, n2, n3} {
			if err := n.LAN.SetLease(n.MAC, netip.MustParseAddr(fmt.Sprintf("10.77.0.%d", 50+i))); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		for i, n := range []*runningNode{n1, n2, n3} {
			n.until(t, "its new address", func(ctx context.Context) error {
				ip, err := n.LAN.WaitLease(ctx, n.MAC)
				if err == nil && ip.String() != fmt.Sprintf("10.77.0.%d", 50+i) {
					err = errors.New("still " + ip.String())
				}
				return err
			})
			n.closeSSH()
			n.login(t)
		}
		n2.wantMembers(t, "node1 voter", "node2 voter", "node3 voter")
		n3.until(t, "a change", func(ctx context.Context) error {
			return n3.API.Put(ctx, "/nodes/node1/qemu/100/config", client.Params{"description": "moved"}, nil)
		})
		t.Logf("the cluster is back %s after the leases changed, which last a minute", time.Since(begun).Round(time.Second))
	})

	whole := t // its machines must outlive the part that restarts them
	t.Run("power cut", func(t *testing.T) {
		all := []*runningNode{n1, n2, n3}
		for i, n := range all {
			asked := all[(i+1)%3]
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			alive := guestOf{n: asked, kind: "qemu", id: 101, on: "node3"}
			if n == n3 {
				alive = guestOf{n: asked, kind: "qemu", id: 100, on: "node1"}
			}
			pause := alive.pause(t, pauseWatched)
			t.Logf("without %s the longest pause is %s", n.Name, pause.Round(10*time.Millisecond))
			if pause > electionTime {
				t.Errorf("without %s changes waited for %s, an election takes %s", n.Name, pause, electionTime)
			}
			n.closeSSH()
			n.boot(whole, n.disk)
			asked.wantMembers(t, "node1 voter", "node2 voter", "node3 voter")
		}
	})

	t.Run("idle", func(t *testing.T) {
		const watch = 2 * time.Minute
		begin := map[string]idleFigures{}
		for _, n := range []*runningNode{n1, n2, n3} {
			begin[n.Name] = n.idle(t)
		}
		time.Sleep(watch)
		for _, n := range []*runningNode{n1, n2, n3} {
			was, is := begin[n.Name], n.idle(t)
			anHour := int64(time.Hour / watch)
			t.Logf("%s: joistd writes %d bytes an hour, all programs %d to the disk; joistd holds %.1f MB",
				n.Name, (is.written-was.written)*anHour, (is.disk-was.disk)*anHour, float64(is.rss)/1e6)
		}
	})

}

// TestClusterRemoved: a node that is lost with its guests is removed, and the
// machine joins again under its name, after it was told why not with a token
// that was used before.
func TestClusterRemoved(t *testing.T) {
	n1 := startNode(t, nil)
	guestOf{n: n1, kind: "qemu", id: 100}.create(t, client.Params{"memory": "64"})
	j := n1.token(t)
	n2 := installNode(t, n1.LAN, 2, clusterAnswer(j))
	n2.settle(t, "done")
	for _, id := range []int{101, 102} {
		guestOf{n: n2, kind: "qemu", id: id}.create(t, client.Params{"memory": "64"})
	}
	if err := n2.Kill(); err != nil {
		t.Fatal(err)
	}
	n2.closeSSH()
	remove := func(p client.Params) error {
		return n1.API.Task(within(t, clusterTime), http.MethodDelete, "/cluster/config/nodes/node2", p)
	}
	n1.until(t, "it is told what node2 has", func(context.Context) error {
		if err := remove(nil); err == nil || !strings.Contains(err.Error(), "101, 102") {
			return fmt.Errorf("removal says %v", err)
		}
		return nil
	})
	if err := remove(client.Params{"force": "1"}); err != nil {
		t.Fatal(err)
	}
	n1.wantGuests(t, "100@node1 stopped")
	again := n2 // another disk in the same machine
	again.install(t, clusterAnswer(j))
	again.settle(t, "gone") // it is there all the same, alone
	fresh := n1.token(t)
	p := client.Params{"hostname": n1.IP, "token": fresh.Token, "fingerprint": fresh.Fingerprint}
	if err := again.API.Task(within(t, clusterTime), http.MethodPost, "/cluster/config/join", p); err != nil {
		t.Fatal(err)
	}
	again.settle(t, "done")
	n1.wantMembers(t, "node1 voter", "node2 learner")
}

// TestClusterVoterLost: of two nodes the one that decides is lost for good; one
// call brings the other up with all configuration, and its guests never stop.
func TestClusterVoterLost(t *testing.T) {
	n1 := startNode(t, nil)
	guestOf{n: n1, kind: "qemu", id: 100}.create(t, client.Params{"memory": "64", "description": "of the lost node"})
	n2 := installNode(t, n1.LAN, 2, clusterAnswer(n1.token(t)))
	n2.settle(t, "done")
	n2.wantMembers(t, "node1 voter", "node2 learner")
	runs := guestOf{n: n2, kind: "qemu", id: 201}.create(t, client.Params{"memory": "64", "net0": vmHardware, "description": "runs on"})
	runs.start(t)
	pid := runs.wantStatus(t, "running").PID
	keys := n2.keys(t)
	if err := n1.Kill(); err != nil {
		t.Fatal(err)
	}
	change := func(ctx context.Context) error {
		return n2.API.Task(ctx, http.MethodPost, "/nodes/node2/qemu", client.Params{"vmid": "200"})
	}
	n2.until(t, "changes are refused", func(ctx context.Context) error {
		if err := change(ctx); err == nil || !strings.Contains(err.Error(), "no quorum") {
			return fmt.Errorf("a change: %v", err)
		}
		return nil
	})
	if got := runs.wantStatus(t, "running"); got.PID != pid {
		t.Errorf("without a quorum the guest is process %d, it was %d", got.PID, pid)
	}
	if err := n2.API.Task(within(t, clusterTime), http.MethodPost, "/nodes/node2/membership/recover", nil); err != nil {
		t.Fatal(err)
	}
	n2.settle(t, "done")
	n2.wantMembers(t, "node2 voter")
	var kept []string
	n2.until(t, "all configuration is there", func(ctx context.Context) error {
		kept = n2.keys(t)
		for _, k := range keys {
			if !slices.Contains(kept, k) && !strings.HasPrefix(k, "/joist/cluster/") && !strings.HasPrefix(k, "/joist/nodes/") {
				return fmt.Errorf("%s is missing in %v", k, kept)
			}
		}
		return nil
	})
	if got := runs.wantStatus(t, "running"); got.PID != pid {
		t.Errorf("after the recovery the guest is process %d, it was %d", got.PID, pid)
	}
	if got := runs.text(t, "description"); strings.TrimSpace(got) != "runs on" {
		t.Errorf("the guest's description is %q", got)
	}
	n2.until(t, "a change", change)
	n2.wantGuests(t, "100@node1 unknown", "200@node2 stopped", "201@node2 running")
	// What the lost node had is taken over with its guests, or let go.
	remove := func(p client.Params) error {
		return n2.API.Task(within(t, clusterTime), http.MethodDelete, "/cluster/config/nodes/node1", p)
	}
	if err := remove(nil); err == nil || !strings.Contains(err.Error(), "100") {
		t.Errorf("removing what is left of node1: %v", err)
	}
	if err := remove(client.Params{"force": "1"}); err != nil {
		t.Fatal(err)
	}
	n2.wantGuests(t, "200@node2 stopped", "201@node2 running")
}

const (
	pauseWatched = 40 * time.Second
	// electionTime is two of the timeouts that a software CPU gets (5 s, of
	// which raft takes one to two), one more for a split vote, and the call.
	electionTime = 20 * time.Second
)

// pause makes one change to a guest after the other, and returns the longest
// time for which none was possible.
func (g guestOf) pause(t testing.TB, watch time.Duration) (longest time.Duration) {
	t.Helper()
	begun := time.Now()
	last := begun
	for i := 0; time.Since(begun) < watch || last == begun; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := g.n.API.Put(ctx, g.path()+"/config", client.Params{"description": fmt.Sprintf("change %d", i)}, nil)
		cancel()
		if err == nil {
			longest, last = max(longest, time.Since(last)), time.Now()
			time.Sleep(200 * time.Millisecond)
		} else if time.Since(begun) > clusterTime {
			t.Fatalf("%s: no change is possible: %v", g.n.Name, err)
		}
	}
	return longest
}

// idleFigures are bytes since the start, and in memory now.
type idleFigures struct {
	written int64 // by the daemon
	disk    int64 // to the disk, by everything
	rss     int64 // of the daemon
}

// idle reads what the daemon has written to disk and holds in memory.
func (n *runningNode) idle(t testing.TB) (f idleFigures) {
	t.Helper()
	out := n.run(t, `for p in /proc/[0-9]*; do c=$(tr '\0' ' ' <$p/cmdline); case $c in */joistd\ serve*) grep -E '^write_bytes' $p/io; grep -E '^VmRSS' $p/status;; esac; done
read -r _ _ _ _ _ _ sectors _ </sys/block/vda/stat; echo "disk: $sectors"`)
	for l := range strings.Lines(out) {
		w := strings.Fields(l)
		if len(w) < 2 {
			continue
		}
		v, err := strconv.ParseInt(w[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		switch w[0] {
		case "write_bytes:":
			f.written += v
		case "VmRSS:":
			f.rss += v << 10
		case "disk:":
			f.disk = v * 512 // sectors of stat are always that long (Documentation/block/stat.rst)
		}
	}
	return f
}
