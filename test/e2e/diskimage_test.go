package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-crypt/x/yescrypt"
	"golang.org/x/crypto/ssh"

	"joist/image/disk"
	"joist/iso/diskimage"
	"joist/test/node"
	"joist/test/vm"
)

// diskImages builds the images of a disk, as `joist build disk` with further
// arguments does, and returns the two files.
func diskImages(t *testing.T, args ...string) (raw, qcow string) {
	t.Helper()
	root, err := vm.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(within(t, 10*time.Minute), filepath.Join(root, "build", "bin", "joist"), append([]string{"build", "disk", "--out", dir}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("joist build disk: %v\n%s", err, out)
	}
	find := func(pattern string) string {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %q, %v", pattern, found, err)
		}
		return found[0]
	}
	return find("joist-*.raw.zst"), find("joist-*.qcow2")
}

// unpacked is the raw image as a file of the size of a disk.
func unpacked(t *testing.T, compressed string) string {
	t.Helper()
	in, err := os.Open(compressed)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = diskimage.Unpack(in, out, func(head []byte) bool { return bytes.HasPrefix(head[512:], []byte("EFI PART")) })
	if err := errors.Join(err, out.Truncate(node.DiskSize), out.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}

// enlarged is the qcow2 image with the size of a disk.
func enlarged(t *testing.T, image string) string {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "resize", "-q", image, "32G").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img resize: %v\n%s", err, out)
	}
	return image
}

// becomesNode waits until the machine has made itself a node, and logs in.
func (n *runningNode) becomesNode(t *testing.T) {
	t.Helper()
	ctx := within(t, node.InstallTime)
	if _, err := n.WaitFor(ctx, node.InstalledLine+"|"+node.ExitLine); err != nil || strings.Contains(n.Serial(0).Tail(3), "Exit status") {
		t.Fatalf("waiting for the installation: %v; it said last:\n%s", err, n.Serial(0).Tail(60))
	}
	n.login(t)
}

// wantDisk checks that the disk is a node's: its table is whole and without
// marks, as large as the disk, with all of the rest for data.
func (n *runningNode) wantDisk(t *testing.T, partitions string) {
	t.Helper()
	n.want(t, "partitions", `cat /sys/block/vda/vda[1-5]/uevent | sed -n s/^PARTNAME=//p | paste -sd " "`, partitions)
	// the primary header says where it is and where the backup: in the last sector
	n.want(t, "table", `ss=$(cat /sys/block/vda/queue/logical_block_size); set -- $(od -An -tu8 -j$((ss+24)) -N16 /dev/vda); echo $1 $(( ($2+1)*ss/512 - $(cat /sys/block/vda/size) )); dd if=/dev/vda bs=$ss skip=$2 count=1 2>/dev/null | head -c 8`, "1 0\nEFI PART")
	n.want(t, "marks", `ss=$(cat /sys/block/vda/queue/logical_block_size); od -An -tu8 -j$((2*ss+128+48)) -N8 /dev/vda | tr -d " "`, "0")
	n.want(t, "slot", `tr " " "\n" < /proc/cmdline | grep -E "^joist.(mode|slot)=" | paste -sd " "`, "joist.mode=node joist.slot=A")
	n.want(t, "size of the data partition in GiB", `echo $(( $(cat /sys/block/vda/vda5/size) / 2 / 1024 / 1024 ))`, "26")
}

// TestDiskImageBIOS512: the raw image with an answer inside, under a BIOS. The
// power goes while the data partition is made; the next start begins anew. It
// goes again once the disk starts a node, with the answer still there, which
// that start erases.
func TestDiskImageBIOS512(t *testing.T) {
	t.Parallel()
	n, img := newNode(t), medium(t)
	answer := filepath.Join(t.TempDir(), "answer.toml")
	if err := os.WriteFile(answer, answerFile(t), 0o600); err != nil {
		t.Fatal(err)
	}
	raw, _ := diskImages(t, "--answer", answer)
	c := n.config(img)
	c.Disks = []vm.Disk{{Path: unpacked(t, raw), Format: "raw", Sparse: true}}
	for _, moment := range []string{`\[finished\] create volume group`, `\[finished\] change the boot partition`} {
		n.Machine = vm.Run(t, c)
		if _, err := n.WaitFor(within(t, node.InstallTime), moment); err != nil {
			t.Fatalf("%v; it said last:\n%s", err, n.Serial(0).Tail(60))
		}
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	marked := marksOf(t, c.Disks[0].Path) != 0
	n.Machine = vm.Run(t, c)
	n.login(t)
	if marked {
		n.until(t, "the disk is a finished node's", func(ctx context.Context) error {
			_, err := n.try(ctx, t, `grep "marked as not finished by its installer; it is finished now" /run/joist/boot.log`)
			return err
		})
	} else {
		t.Log("the installer was over before the power went")
	}
	n.wantDisk(t, "joist-bios joist-esp joist-a joist-b joist-data")
	n.want(t, "answer on the boot partition", `head -c 256M /dev/vda2 | grep -ac "`+password+`"; true`, "0")
	n.restart(t)
	n.login(t)
}

// marksOf are the marks of a raw disk.
func marksOf(t *testing.T, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	l, err := disk.ReadTable(f, st.Size(), 512)
	if err != nil {
		t.Fatal(err)
	}
	return l.Marks()
}

// TestDiskImageUEFI512SecureBoot: the qcow2 image under Secure Boot, with what
// a hypervisor gives for cloud-init.
func TestDiskImageUEFI512SecureBoot(t *testing.T) {
	t.Parallel()
	n, img := newNode(t), medium(t)
	hash, err := yescrypt.Hash([]byte(password), append([]byte("$y$j9T$"), yescrypt.Encode64([]byte("sixteen bytes---"))...))
	if err != nil {
		t.Fatal(err)
	}
	seed := filepath.Join(t.TempDir(), "seed.iso")
	if err := vm.CreateVolume(t.Context(), seed, "cidata", map[string][]byte{
		"meta-data":      []byte("instance-id: i-1\nlocal-hostname: " + nodeName + "\n"),
		"user-data":      []byte("#cloud-config\nfqdn: " + fqdn + "\nssh_authorized_keys:\n  - " + string(ssh.MarshalAuthorizedKey(sshKey(t).PublicKey())) + "chpasswd:\n  expire: false\n  users:\n    - {name: root, type: hash, password: \"" + string(hash) + "\"}\n"),
		"network-config": []byte("version: 2\nethernets:\n  lan:\n    match: {macaddress: \"" + nodeMAC + "\"}\n    dhcp4: true\n    mtu: 1400\n"),
	}); err != nil {
		t.Fatal(err)
	}
	_, qcow := diskImages(t)
	c := n.config(img)
	c.Firmware, c.DisksFirst = vm.OVMFSecureBoot, true
	c.Disks, c.Media = []vm.Disk{{Path: enlarged(t, qcow), Sparse: true}}, []vm.Medium{{Path: seed}}
	n.Machine = vm.Run(t, c)
	n.becomesNode(t)
	n.wantDisk(t, "joist-bios joist-esp joist-a joist-b joist-data")
	n.want(t, "name", "hostname -f", fqdn)
	n.want(t, "MTU", "cat /sys/class/net/vmbr0/mtu", "1400")
	n.want(t, "Secure Boot", `od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-*`, "1")
}

// TestDiskImageUEFI4096: the image for disks that have no smaller sectors, with
// an answer on a labelled volume that asks for ZFS.
func TestDiskImageUEFI4096(t *testing.T) {
	t.Parallel()
	n, img := newNode(t), medium(t)
	answer := bytes.Replace(answerFile(t), []byte(`filesystem = "ext4"`), []byte("filesystem = \"zfs\"\nzfs.raid = \"raid0\""), 1)
	seed := filepath.Join(t.TempDir(), "answer.iso")
	if err := node.AnswerVolume(t.Context(), seed, answer); err != nil {
		t.Fatal(err)
	}
	_, qcow := diskImages(t, "--sector-size", "4096")
	if !strings.HasSuffix(qcow, "-4k.qcow2") {
		t.Errorf("the image is called %s", qcow)
	}
	c := n.config(img)
	c.Firmware, c.DisksFirst = vm.OVMF, true
	c.Disks, c.Media = []vm.Disk{{Path: enlarged(t, qcow), SectorSize: 4096, Sparse: true}}, []vm.Medium{{Path: seed}}
	n.Machine = vm.Run(t, c)
	n.becomesNode(t)
	n.wantDisk(t, "joist-esp joist-a joist-b joist-data")
	n.want(t, "pool", "zpool list -H -o health rpool", "ONLINE")
}

// TestDiskImageWizard: without any answer a person is asked, but not for the
// disk.
func TestDiskImageWizard(t *testing.T) {
	t.Parallel()
	n, img := newNode(t), medium(t)
	_, qcow := diskImages(t)
	c := n.config(img)
	c.Disks = []vm.Disk{{Path: enlarged(t, qcow), Sparse: true}}
	n.Machine = vm.Run(t, c)
	ctx := within(t, node.InstallTime)
	for _, step := range []struct{ prompt, reply string }{
		{"No answer is in the image", ""}, {`Press Enter on the console`, "\r"},
		{`Number of the layout \[1\]: `, "\r"}, {`made on the disk that the system was started from`, ""},
		{`Host name with domain \[[^]]*\]: `, fqdn + "\r"}, {`Country \(two letters\) \[at\]: `, "\r"}, {`Time zone \[UTC\]: `, "\r"}, {`Keyboard .* \[en-us\]: `, "\r"},
		{`Mail address for reports \[[^]]*\]: `, "\r"}, {`Password of root .*: `, password + "\r"}, {`The password again: `, password + "\r"},
		{`Network, dhcp or static \[dhcp\]: `, "\r"}, {`Type yes to install, anything else to stop: `, "yes\r"},
	} {
		if _, err := n.WaitFor(ctx, step.prompt); err != nil {
			t.Fatalf("waiting for %q: %v; it said last:\n%s", step.prompt, err, n.Serial(0).Tail(40))
		}
		if step.reply == "" {
			continue
		}
		if err := n.Serial(0).Send(step.reply); err != nil {
			t.Fatal(err)
		}
	}
	n.becomesNode(t)
}
