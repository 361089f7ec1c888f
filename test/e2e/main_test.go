package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"joist/api/client"
	"joist/test/node"
	"joist/test/vm"
	"joist/test/vm/lan"
)

const (
	password = "correct horse battery"
	fqdn     = "node1.test.example"
	nodeName = "node1"
	nodeMAC  = "52:54:00:4a:00:01"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("e2e: skipped by -short")
		return
	}
	os.Exit(m.Run())
}

// image is what all tests share; found once.
type image struct {
	path  string
	sum   string
	accel vm.Accel
}

var theImage = sync.OnceValues(func() (image, error) {
	path, err := node.FindISO()
	if err != nil {
		return image{}, err
	}
	sum, err := node.FileSum(path)
	if err != nil {
		return image{}, err
	}
	dir, err := os.MkdirTemp("", "joist-")
	if err != nil {
		return image{}, err
	}
	defer os.RemoveAll(dir)
	kernel := filepath.Join(dir, "vmlinuz")
	if err := vm.ExtractFile(context.Background(), path, "/boot/vmlinuz", kernel); err != nil {
		return image{}, err
	}
	accel, why := vm.Accelerate(context.Background(), kernel)
	fmt.Printf("e2e: image %s, machines run by %s: %s\n", path, accel, why)
	return image{path: path, sum: sum, accel: accel}, nil
})

// medium is the image under test.
func medium(t *testing.T) image {
	t.Helper()
	vm.Need(t, "qemu-system-x86_64", "qemu-img", "xorriso")
	img, err := theImage()
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// base is a disk with an installed node, made once per image. Making it is
// the test of the unattended installation.
func base(t *testing.T) string {
	t.Helper()
	img := medium(t)
	root, err := vm.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "build", "test-cache", img.sum[:16])
	disk := filepath.Join(dir, "base.qcow2")
	if _, err := os.Stat(disk); err == nil {
		return disk
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), node.InstallTime)
	defer cancel()
	fresh := disk + ".new"
	if err := vm.CreateDisk(ctx, fresh, node.DiskSize); err != nil {
		t.Fatal(err)
	}
	sw := vm.NewSwitch(t)
	log, err := os.Create(filepath.Join(dir, "install.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	err = node.Install(ctx, vm.Config{
		Name: "install", Memory: node.Memory, Accel: img.accel,
		NICs: []vm.NIC{{Port: vm.NewPort(t, sw, "node1"), MAC: nodeMAC}},
	}, img.path, fresh, node.Answer(fqdn, password), log)
	if err != nil {
		t.Fatalf("%v\n(whole console: %s)", err, log.Name())
	}
	if err := os.Rename(fresh, disk); err != nil {
		t.Fatal(err)
	}
	return disk
}

// runningNode is an installed node that has been started on its own overlay.
type runningNode struct {
	*vm.Machine
	API  *client.Client
	LAN  *lan.Switch
	Port *lan.Port
	MAC  lan.MAC
}

// startNode boots an overlay of base and logs in; change may alter the machine.
func startNode(t *testing.T, change func(*vm.Config)) *runningNode {
	t.Helper()
	img, disk := medium(t), base(t)
	over := filepath.Join(t.TempDir(), "node.qcow2")
	if err := vm.Overlay(t.Context(), disk, over); err != nil {
		t.Fatal(err)
	}
	mac, err := lan.ParseMAC(nodeMAC)
	if err != nil {
		t.Fatal(err)
	}
	n := &runningNode{LAN: vm.NewSwitch(t), MAC: mac}
	n.Port = vm.NewPort(t, n.LAN, "node1")
	c := vm.Config{
		Name: "node1", Memory: node.Memory, Accel: img.accel,
		Disks: []vm.Disk{{Path: over}},
		NICs:  []vm.NIC{{Port: n.Port, MAC: nodeMAC}},
	}
	if change != nil {
		change(&c)
	}
	n.Machine = vm.Run(t, c)
	n.login(t)
	return n
}

// login waits for the node's lease and its API; again after a restart.
func (n *runningNode) login(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), node.BootTime)
	defer cancel()
	ip, err := n.LAN.WaitLease(ctx, n.MAC)
	if err != nil {
		t.Fatal(err)
	}
	if n.API, err = node.Client(n.LAN, ip.String()); err != nil {
		t.Fatal(err)
	}
	if err := node.WaitLogin(ctx, n.API, password); err != nil {
		t.Fatal(err)
	}
}
