package e2e

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"joist/api/client"
	"joist/test/node"
	"joist/test/vm"
	"joist/test/vm/lan"
)

// TestMediumLeft: an image with the answer inside installs by itself, and left
// in the drive, first in the boot order, it starts what it installed: three
// restarts, one installation.
func TestMediumLeft(t *testing.T) {
	t.Parallel()
	img := medium(t)
	img.path = imageWith(t, "--answer", answerFile(t))
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := vm.CreateDisk(t.Context(), disk, node.DiskSize); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	c := n.config(img)
	c.Media, c.Disks = []vm.Medium{{Path: img.path}}, []vm.Disk{{Path: disk}}
	n.Machine = vm.Run(t, c)
	found, err := n.WaitFor(within(t, node.InstallTime), node.InstalledLine)
	if err != nil {
		t.Fatal(err)
	}
	id := found[1]
	for restart := range 4 { // the installer's own, and three
		if restart > 0 {
			n.restart(t)
		}
		again, err := n.WaitFor(within(t, 2*node.BootTime), `Starting installation ([0-9a-f]+) from|`+node.InstalledLine)
		if err != nil {
			t.Fatal(err)
		}
		if again[1] != id {
			t.Fatalf("restart %d: %q; want installation %s to start", restart, again[0], id)
		}
		n.login(t)
		if now := n.installation(t); now != id {
			t.Fatalf("restart %d: installation %s runs, want %s", restart, now, id)
		}
		n.Serial(0).Skip()
	}
}

// installation is the id of the one that runs.
func (n *runningNode) installation(t testing.TB) string {
	t.Helper()
	var s struct {
		ID string `json:"serverid"`
	}
	if err := n.API.Get(within(t, time.Minute), "/nodes/"+n.Name+"/subscription", nil, &s); err != nil {
		t.Fatal(err)
	}
	return s.ID
}

// restart asks the API for one and returns when the node is down.
func (n *runningNode) restart(t testing.TB) {
	t.Helper()
	if err := n.API.Post(within(t, time.Minute), "/nodes/"+n.Name+"/status", client.Params{"command": "reboot"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.WaitFor(within(t, node.BootTime), "Joist is down"); err != nil {
		t.Fatal(err)
	}
	n.closeSSH()
}

// imageWith is the image built again with a file inside that an option names.
func imageWith(t *testing.T, option string, text []byte) string {
	t.Helper()
	root, err := vm.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "inside")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(within(t, 30*time.Minute), "go", "run", "-buildvcs=false", "./cmd/joist", "build", "iso", option, file, "--out", dir)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the image with %s: %v\n%s", option, err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "joist-*-amd64.iso"))
	if err != nil || len(found) != 1 {
		t.Fatalf("built %v, %v", found, err)
	}
	return found[0]
}

// TestAddressChange: the node follows its lease, while it runs and at a boot.
func TestAddressChange(t *testing.T) {
	t.Parallel()
	const leaseTime = time.Minute
	n := startNode(t, func(_ *vm.Config, sw *lan.Switch) { sw.SetLeaseTime(leaseTime) })
	id := n.installation(t)
	move := func(to string) {
		t.Helper()
		if err := n.LAN.SetLease(n.MAC, netip.MustParseAddr(to)); err != nil {
			t.Fatal(err)
		}
	}
	arrived := func(at string) {
		t.Helper()
		n.closeSSH()
		n.login(t)
		if now := n.installation(t); n.IP != at || now != id {
			t.Errorf("at %s installation %s, want %s at %s", n.IP, now, id, at)
		}
		var rows []struct {
			IP string `json:"ip"`
		}
		if err := n.API.Get(within(t, time.Minute), "/cluster/status", nil, &rows); err != nil || len(rows) != 1 || rows[0].IP != at {
			t.Errorf("cluster status says %+v, %v, want address %s", rows, err, at)
		}
	}
	move("10.77.0.50")
	arrived("10.77.0.50")

	n.LAN.SetLeaseTime(time.Hour)
	boot := n.bootID(t)
	n.Serial(0).Skip()
	move("10.77.0.60")
	n.restart(t)
	n.awaitBoot(t, boot)
	arrived("10.77.0.60")
	if got := n.lines(t, "ls /sys/class/net/vmbr0/brif"); len(got) != 1 {
		t.Errorf("ports of vmbr0: %v", got)
	}
}
