package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

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

// isoImage is what all tests share; found once.
type isoImage struct {
	path  string
	sum   string
	accel vm.Accel
}

var theImage = sync.OnceValues(func() (isoImage, error) {
	path, err := node.FindISO()
	if err != nil {
		return isoImage{}, err
	}
	sum, err := node.FileSum(path)
	if err != nil {
		return isoImage{}, err
	}
	dir, err := os.MkdirTemp("", "joist-")
	if err != nil {
		return isoImage{}, err
	}
	defer os.RemoveAll(dir)
	kernel := filepath.Join(dir, "vmlinuz")
	if err := vm.ExtractFile(context.Background(), path, "/boot/vmlinuz", kernel); err != nil {
		return isoImage{}, err
	}
	accel, why := vm.Accelerate(context.Background(), kernel)
	fmt.Printf("e2e: image %s, machines run by %s: %s\n", path, accel, why)
	return isoImage{path: path, sum: sum, accel: accel}, nil
})

// medium is the image under test.
func medium(t *testing.T) isoImage {
	t.Helper()
	vm.Need(t, "qemu-system-x86_64", "qemu-img", "xorriso")
	img, err := theImage()
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// within is a context for one thing that must happen in time.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// cacheDir is a folder for what is worth keeping between runs.
func cacheDir(t testing.TB, name string) string {
	t.Helper()
	root, err := vm.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "build", "test-cache", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// making is held while a thing that tests share is made.
var making sync.Mutex

// base is a disk with an installed node, made once per image and key. Making
// it is the test of the unattended installation.
func base(t *testing.T) string {
	t.Helper()
	img, key := medium(t), sshKey(t)
	making.Lock()
	defer making.Unlock()
	dir := cacheDir(t, img.sum[:16])
	disk := filepath.Join(dir, "base.qcow2")
	line := string(ssh.MarshalAuthorizedKey(key.PublicKey()))
	if known, err := os.ReadFile(disk + ".key"); err == nil && string(known) == line {
		return disk
	}
	fresh := disk + ".new"
	if err := vm.CreateDisk(t.Context(), fresh, node.DiskSize); err != nil {
		t.Fatal(err)
	}
	install(t, img, fresh, filepath.Join(dir, "install.log"))
	if err := os.Rename(fresh, disk); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk+".key", []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	return disk
}

// install puts a node onto a disk image; the console goes into log.
func install(t *testing.T, img isoImage, disk, log string) node.Times {
	t.Helper()
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	times, err := node.Timed(within(t, node.InstallTime), vm.Config{
		Name: "install", Memory: node.Memory, Accel: img.accel,
		NICs: []vm.NIC{{Port: vm.NewPort(t, vm.NewSwitch(t), "node1"), MAC: nodeMAC}},
	}, img.path, disk, answerFile(t), f)
	if err != nil {
		t.Fatalf("%v\n(whole console: %s)", err, log)
	}
	return times
}

// answerFile is the answer that all installations of these tests take.
func answerFile(t testing.TB) []byte {
	t.Helper()
	line := ssh.MarshalAuthorizedKey(sshKey(t).PublicKey())
	return node.Answer(fqdn, password, string(line[:len(line)-1]))
}

// runningNode is an installed node that has been started on its own overlay.
type runningNode struct {
	*vm.Machine
	Name string
	API  *client.Client
	LAN  *lan.Switch
	Port *lan.Port
	MAC  lan.MAC
	IP   string // as of the last log-in
	disk string // that it was booted from

	ssh     *ssh.Client
	hostKey ssh.PublicKey // the first one seen: it must stay
}

// startNode boots an overlay of base and logs in; change may alter the machine
// and its network.
func startNode(t *testing.T, change func(*vm.Config, *lan.Switch)) *runningNode {
	t.Helper()
	img, disk := medium(t), base(t)
	over := filepath.Join(t.TempDir(), "node.qcow2")
	if err := vm.Overlay(t.Context(), disk, over); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	c := n.config(img)
	c.Disks = []vm.Disk{{Path: over}}
	if change != nil {
		change(&c, n.LAN)
	}
	n.disk = over
	n.Machine = vm.Run(t, c)
	n.login(t)
	return n
}

// newNode is a node without a machine: its network.
func newNode(t *testing.T) *runningNode {
	t.Helper()
	return newNodeOn(t, vm.NewSwitch(t), nodeName, nodeMAC)
}

// newNodeOn is a node on a network that others are on.
func newNodeOn(t *testing.T, sw *lan.Switch, name, mac string) *runningNode {
	t.Helper()
	n := &runningNode{Name: name, LAN: sw, MAC: parseMAC(t, mac)}
	n.Port = vm.NewPort(t, n.LAN, name)
	t.Cleanup(n.closeSSH)
	return n
}

// config is the node's machine without its drives.
func (n *runningNode) config(img isoImage) vm.Config {
	return vm.Config{
		Name: n.Name, Memory: node.Memory, Accel: img.accel,
		NICs: []vm.NIC{{Port: n.Port, MAC: n.MAC.String()}},
	}
}

// login waits for the node's lease and its API; again after a restart.
func (n *runningNode) login(t testing.TB) {
	t.Helper()
	ctx := within(t, node.BootTime)
	ip, err := n.LAN.WaitLease(ctx, n.MAC)
	if err != nil {
		t.Fatal(err)
	}
	n.IP = ip.String()
	if n.API, err = node.Client(n.LAN, n.IP); err != nil {
		t.Fatal(err)
	}
	if err := node.WaitLogin(ctx, n.API, password); err != nil {
		t.Fatal(err)
	}
}

func parseMAC(t testing.TB, s string) lan.MAC {
	t.Helper()
	mac, err := lan.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return mac
}
