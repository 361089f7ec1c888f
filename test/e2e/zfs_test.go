package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/test/node"
	"joist/test/vm"
)

// zfsTime is what one command of OpenZFS may take in an emulated machine.
const zfsTime = 2 * time.Minute

// inRescue starts a medium's rescue system, with an empty disk where c names
// none, and returns its shell.
func inRescue(t *testing.T, c vm.Config) (*vm.Machine, *terminal) {
	t.Helper()
	c.Memory = node.Memory
	if len(c.Disks) == 0 {
		disk := filepath.Join(t.TempDir(), "disk.qcow2")
		if err := vm.CreateDisk(t.Context(), disk, 8<<30); err != nil {
			t.Fatal(err)
		}
		c.Disks = []vm.Disk{{Path: disk}}
	}
	m := vm.Run(t, c)
	return m, rescueShell(t, m, "rescue system")
}

// TestZFSModule: the image's kernel loads the OpenZFS that the builder
// compiled, and its programs agree with it. The rescue system imports nothing
// by itself.
func TestZFSModule(t *testing.T) {
	t.Parallel()
	img := medium(t)
	m, shell := inRescue(t, vm.Config{Accel: img.accel, Media: []vm.Medium{{Path: img.path}}})
	run := func(command string) string {
		t.Helper()
		return strings.TrimSpace(shell.run(t, zfsTime, command))
	}
	want := func(what, command, want string) {
		t.Helper()
		if got := run(command); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	want("the module before anybody asked", "grep -c '^zfs ' /proc/modules || true", "0")
	run("modprobe zfs")
	want("versions of module and programs", `zpool version | sed 's/^zfs-\(kmod-\)*//; s/-.*//' | sort -u | wc -l`, "1")
	want("partitions of volumes", "cat /sys/module/zfs/parameters/zvol_volmode", "2")
	want("who may use /dev/zfs", "stat -c %a:%u /dev/zfs", "600:0")

	run("zpool create -o ashift=12 -O compression=lz4 -R /run/z tank /dev/vda")
	sum := run("head -c 16M /dev/urandom > /run/z/tank/file && sha256sum < /run/z/tank/file")
	guid := run("zpool get -Hp -o value guid tank")
	run("zpool export tank")
	want("after the export", "ls /run/z/tank 2>/dev/null | wc -l; zpool list -H", "0")
	run("zpool import -d /dev/vda1 -R /run/z " + guid)
	want("the file after the import", "sha256sum < /run/z/tank/file", sum)

	run("zfs create -s -V 64M tank/vol && udevadm settle")
	want("the volume's link", `[ -b "$(readlink -f /dev/zvol/tank/vol)" ] && blockdev --getsize64 /dev/zvol/tank/vol`, "67108864")
	run("head -c 4M /dev/urandom > /run/x && dd if=/run/x of=/dev/zvol/tank/vol bs=1M conv=fsync 2>/dev/null")
	want("what the volume gives back", "head -c 4M /dev/zvol/tank/vol | sha256sum", run("sha256sum < /run/x"))
	run("mke2fs -q -U 11111111-2222-3333-4444-555555555555 /dev/zvol/tank/vol && udevadm trigger -s block && udevadm settle")
	want("names for what lies in a volume", "ls /dev/disk/by-uuid 2>/dev/null | grep -c 11111111 || true", "0")
	run("zfs destroy tank/vol && udevadm settle")
	want("the link without its volume", "ls /dev/zvol/tank 2>/dev/null | wc -l", "0")
	run("zpool scrub -w tank")
	want("after a scrub", "zpool status -x", "all pools are healthy")
	run("zpool export tank && modprobe -r zfs")
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
}

// signedMedium builds a medium whose modules are signed with a new key, and
// returns that key's certificate (DER).
func signedMedium(t *testing.T) (iso string, cert []byte) {
	t.Helper()
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	about := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Joist's test of modules"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	cert, err = x509.CreateCertificate(rand.Reader, &about, &about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)
	file := filepath.Join(dir, "module.key")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := vm.Root()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(within(t, 30*time.Minute), "go", "run", "-buildvcs=false", "./cmd/joist", "build", "iso", "--locked", "--module-key", file, "--out", dir)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build a medium with signed modules: %v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "joist-*.iso"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return found[0], cert
}

// TestZFSSecureBoot: under Secure Boot the kernel loads modules that were
// signed with a key that is enrolled, and none that was touched since. Without
// the key an installation on ZFS that nobody watches stops before it writes;
// with it the node is on its pool.
func TestZFSSecureBoot(t *testing.T) {
	t.Parallel()
	img := medium(t) // for the tools and the kind of processor
	iso, cert := signedMedium(t)
	l := newLayout(t, 1).byUEFI(t)
	l.uefi, l.img.path = vm.OVMFSecureBoot, iso
	onZFS := l.onZFS("raid0", "")
	refuse(t, refusal{diskSize: node.DiskSize, memory: node.Memory, iso: iso, firmware: vm.OVMFSecureBoot, says: []string{"[zfs-key-not-enrolled]"},
		answer: []byte(strings.NewReplacer(onZFS...).Replace(string(answerFile(t))))})
	if err := vm.EnrolKey(l.vars, cert); err != nil {
		t.Fatal(err)
	}
	m, shell := inRescue(t, vm.Config{Firmware: vm.OVMFSecureBoot, Vars: l.vars, Accel: img.accel, Media: []vm.Medium{{Path: iso}}})
	run := func(command string) string {
		t.Helper()
		return strings.TrimSpace(shell.run(t, zfsTime, command))
	}
	run("grep -F '[integrity]' /sys/kernel/security/lockdown")
	touched := `sed 's/license=/licence=/' /usr/lib/modules/$(uname -r)/extra/spl.ko > /run/spl.ko`
	if out, status, err := shell.try(within(t, zfsTime), touched+` && insmod /run/spl.ko 2>&1`); err != nil || status == "0" {
		t.Errorf("a module that was touched was loaded: %v, %s", err, out)
	}
	run("modprobe zfs && zpool create -R /run/z tank /dev/vda && zpool status -x | grep -F 'all pools are healthy' && zpool export tank")
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	l.install(t, onZFS...)
	l.start(t, l.disks...)
	l.want(t, "pool", poolState, "ONLINE")
	l.want(t, "file systems", volumes, onPool)
	l.want(t, "lockdown", "grep -o '\\[integrity\\]' /sys/kernel/security/lockdown", "[integrity]")
}
