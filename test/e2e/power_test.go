package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"joist/image/disk"
	"joist/installer/apply"
	"joist/test/faults"
	"joist/test/node"
	"joist/test/vm"
)

// TestShortPowerCut: an installation is repeated after the power went at three
// moments.
func TestShortPowerCut(t *testing.T) { powerCuts(t, 3, 1) }

// TestPowerCut: the same with 20 moments, or JOIST_CUTS. JOIST_CUT_SEED draws
// others.
func TestPowerCut(t *testing.T) {
	powerCuts(t, number(t, "JOIST_CUTS", 20), uint64(number(t, "JOIST_CUT_SEED", 2)))
}

// TestPowerCutZFS: the same while a pool is made.
func TestPowerCutZFS(t *testing.T) {
	powerCuts(t, number(t, "JOIST_CUTS", 20), uint64(number(t, "JOIST_CUT_SEED", 2)), `filesystem = "ext4"`, "filesystem = \"zfs\"\nzfs.raid = \"raid0\"")
}

// number is that of an environment variable.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a positive number", name, text)
	}
	return n
}

// powerCuts records an installation on a block server, in an installer that
// stays up. Images of what a power cut could have left, at moments spread over
// the whole of it, are attached to the same installer one after the other; the
// same command installs on each without being told more. Another disk is
// attached beside them, an installation with a volume group or a pool of the
// same name, and is not written to. The last image is booted to its API. The
// answer is the tests', changed by pairs of old and new text.
func powerCuts(t *testing.T, cuts int, seed uint64, changes ...string) {
	t.Parallel()
	x := newInstaller(t, changes...)
	recorded, nbd := x.serve(t, "record", faults.Create)
	x.plug(t, "record", vm.Disk{NBD: nbd})
	took := x.install(t)
	record := recorded.Record()
	t.Logf("recorded %d operations of an installation of %v", len(record.Ops), took.Round(time.Second))
	x.unplug(t, "record")

	other, nbd := x.serve(t, "other", func(path string, _ int64) (*faults.Disk, error) {
		if err := errors.Join(record.Image(path, faults.Cut{Ops: len(record.Ops), Sector: 512}), rename(path)); err != nil {
			return nil, err
		}
		return faults.Open(path)
	})
	image := filepath.Join(x.dir, "cut.img")
	begun, finished := time.Now(), 0
	for i := range cuts {
		sector := []int64{512, 4096}[i%2]
		c := record.RandomCut(seed<<32+uint64(i), sector)
		c.Ops = (i*len(record.Ops) + c.Ops) / cuts // the i-th part of the time
		if err := record.Image(image, c); err != nil {
			t.Fatal(err)
		}
		x.plug(t, "cut", vm.Disk{Path: image, Format: "raw", Serial: "RECORD"})
		if i == 0 {
			x.plug(t, "other", vm.Disk{NBD: nbd, Serial: "OTHER"})
		}
		// Only the last write makes an installation of it, which would be started.
		how := "is finished and would be started"
		if c.Ops > len(record.Ops)*9/10 && strings.Contains(x.shell.run(t, node.BootTime, "joist-install run --unattended --plan"), "result      boot installation") {
			finished++
		} else {
			how = fmt.Sprintf("began anew, %v", x.install(t).Round(time.Second))
		}
		t.Logf("cut %d of %d after %v: %s", i+1, cuts, c, how)
		x.unplug(t, "cut")
	}
	t.Logf("%d cuts in %v, %d of them behind the last step", cuts, time.Since(begun).Round(time.Second), finished)
	for _, o := range other.Record().Ops {
		if o.Kind != faults.Flush {
			t.Errorf("a disk that was not chosen was written to: %+v", o)
		}
	}
	if err := x.m.Kill(); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	c := n.config(x.img)
	c.Disks = []vm.Disk{{Path: image, Format: "raw"}}
	n.Machine = vm.Run(t, c)
	n.login(t)
}

// rename gives an installed disk another identity.
func rename(image string) error {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	l, err := disk.ReadTable(f, node.DiskSize, 512)
	if err != nil {
		return err
	}
	if l.DiskGUID, err = disk.NewGUID(rand.Reader); err != nil {
		return err
	}
	return disk.UpdateTable(f, l)
}

// longInstaller is the medium's rescue system with an answer file.
type longInstaller struct {
	img   isoImage
	dir   string
	m     *vm.Machine
	shell *terminal
}

func newInstaller(t *testing.T, changes ...string) *longInstaller {
	t.Helper()
	x := &longInstaller{img: medium(t)}
	var err error
	if x.dir, err = os.MkdirTemp("", "joist-"); err != nil { // short enough for a socket
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(x.dir) })
	volume := filepath.Join(x.dir, "answer.iso")
	if err := node.AnswerVolume(t.Context(), volume, hashedAnswer(t, append(changes, `disk-list = ["vda"]`, `disk-list = ["sda"]`)...)); err != nil {
		t.Fatal(err)
	}
	x.m = vm.Run(t, vm.Config{
		Name: "installer", Memory: node.Memory, Accel: x.img.accel, HotPlug: true,
		Media: []vm.Medium{{Path: x.img.path}, {Path: volume}},
		NICs:  []vm.NIC{{Port: vm.NewPort(t, vm.NewSwitch(t), "installer")}},
	})
	x.shell = rescueShell(t, x.m, "rescue system")
	return x
}

// hashedAnswer is the tests' answer, changed by pairs of old and new text. Its
// password is hashed already, which takes the software CPU seconds.
func hashedAnswer(t *testing.T, changes ...string) []byte {
	t.Helper()
	hash, err := apply.HashPassword(password)
	if err != nil {
		t.Fatal(err)
	}
	changes = append(changes, fmt.Sprintf("root-password = %q", password), fmt.Sprintf("root-password-hashed = %q", hash))
	return []byte(strings.NewReplacer(changes...).Replace(string(answerFile(t))))
}

// serve makes a disk and a block server for it.
func (x *longInstaller) serve(t *testing.T, name string, makeDisk func(path string, size int64) (*faults.Disk, error)) (*faults.Disk, string) {
	t.Helper()
	d, err := makeDisk(filepath.Join(x.dir, name+".img"), node.DiskSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	s, err := faults.Serve(d, filepath.Join(x.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return d, s.Path
}

// plug attaches a disk and waits until udevd has looked at it.
func (x *longInstaller) plug(t *testing.T, name string, d vm.Disk) {
	t.Helper()
	if err := x.m.Plug(within(t, time.Minute), name, d); err != nil {
		t.Fatal(err)
	}
	x.shell.run(t, 2*time.Minute, "sleep 0.5; udevadm settle")
}

func (x *longInstaller) unplug(t *testing.T, name string) {
	t.Helper()
	if err := x.m.Unplug(within(t, time.Minute), name); err != nil {
		t.Fatal(err)
	}
	x.shell.run(t, 2*time.Minute, "sleep 0.5; udevadm settle")
}

// install is what the menu's unattended entry runs.
func (x *longInstaller) install(t *testing.T) time.Duration {
	t.Helper()
	begun := time.Now()
	out := x.shell.run(t, node.InstallTime, "joist-install run --unattended")
	if !strings.Contains(out, "on /dev/sda") || !strings.Contains(out, "Joist is installed.") {
		t.Fatalf("the installer said:\n%s", out)
	}
	return time.Since(begun)
}
