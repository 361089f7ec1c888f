package apply

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/internal/progress"
	"joist/rootfs/tree"
)

const secret = "a secret of the answer"

// imageMachine is a machine whose disk begins with an image.
func imageMachine(t *testing.T) *machine {
	t.Helper()
	m := emptyMachine(t, "vda")
	m.own = true
	l, err := disk.PlanImage(disk.ImageRequest{SectorSize: 512, DiskGUID: someGUID(1), PartGUIDs: [5]string{someGUID(2), someGUID(3), someGUID(4), someGUID(5), someGUID(6)}})
	if err != nil {
		t.Fatal(err)
	}
	b := boot.SlotBoot{Manifest: m.img.Manifest, Slot: boot.A, Console: []string{"console=ttyS0,115200"}}
	e := boot.ESP{Boot: b, State: boot.State{First: boot.A, A: boot.SlotState{OK: true}}, Kernel: tree.Bytes(noise(70_001)), Initrd: tree.Bytes(noise(90_002)),
		Loaders: boot.Loaders{Shim: tree.Bytes("s"), Grub: tree.Bytes("g"), MOK: tree.Bytes("m")}}
	if e.Config, err = boot.FirstConfig(b, nil); err != nil {
		t.Fatal(err)
	}
	id, err := boot.InstallationFile(strings.Repeat("0", 16), m.img.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	e.Beside = []disk.File{{Path: boot.PathInstallation, Data: tree.Bytes(id)}, {Path: boot.PathAnswer, Data: tree.Bytes(secret)}}
	esp := part(l, disk.NameESP)
	fat, err := e.Volume(esp, 512, 7)
	if err != nil {
		t.Fatal(err)
	}
	v, err := disk.PlanFAT(fat)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(m.Path("/dev/vda"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	code := append(noise(446), make([]byte, 66)...) // boot code, which stays
	if err := errors.Join(disk.WriteTable(f, l), v.Write(&section{disk: f, base: esp.Start, size: esp.Size}), write(t.Context(), f, code[:440], func(int64) {}), f.Close()); err != nil {
		t.Fatal(err)
	}
	return m
}

func someGUID(n byte) string {
	g, err := disk.NewGUID(bytes.NewReader(bytes.Repeat([]byte{n}, 16)))
	if err != nil {
		panic(err)
	}
	return g
}

// file reads one of the boot partition.
func (m *machine) file(t *testing.T, path string) string {
	t.Helper()
	return m.fileOf(t, "vda", path, nil)
}

// fileOf reads one of a disk's boot partition, and writes it where change says
// what it becomes.
func (m *machine) fileOf(t *testing.T, name, path string, change func([]byte) []byte) string {
	t.Helper()
	esp := part(m.table(t, name), disk.NameESP)
	f, err := os.OpenFile(m.Path("/dev", name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := io.NewSectionReader(f, esp.Start, esp.Size)
	x, err := disk.LocateFAT(r, path)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, x.Size)
	if _, err := r.ReadAt(b, x.Offset); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		if b = change(b); int64(len(b)) != x.Size {
			t.Fatalf("%s becomes %d bytes", path, len(b))
		}
		if _, err := f.WriteAt(b, esp.Start+x.Offset); err != nil {
			t.Fatal(err)
		}
	}
	return string(b)
}

// starts says what the disk starts, by its boot partition and its table.
func (m *machine) starts(t *testing.T) string {
	t.Helper()
	return m.startsFrom(t, "vda")
}

func (m *machine) startsFrom(t *testing.T, name string) string {
	t.Helper()
	l := m.table(t, name)
	args, err := boot.SlotArgs([]byte(m.fileOf(t, name, boot.PathSlotConfig(boot.A), nil)), boot.A)
	if err != nil {
		return err.Error()
	}
	switch {
	case strings.Contains(args, "joist.in-place=1"):
		if l.Marks()&disk.InPlace == 0 {
			return "an installer that does not find its disk"
		}
		return "installer"
	case !strings.Contains(args, "joist.disk="+l.DiskGUID):
		return "a node that does not find its disk"
	}
	return "node"
}

func TestApplyInPlace(t *testing.T) {
	m := imageMachine(t)
	before := m.cut(t, "vda", disk.Partition{}, 440)
	if got := m.starts(t); got != "installer" {
		t.Fatalf("the image starts %s", got)
	}
	p := m.plan(t, func(a *answer.Answer) { a.Disk.SwapSize = nil })
	if err := Apply(t.Context(), m.Host, p, progress.Discard); err != nil {
		t.Fatal(err)
	}
	golden(t, "inplace.golden", m.done(t))
	l := m.table(t, "vda")
	if l.DiskGUID != p.Identity.DiskGUID || l.Marks() != 0 || len(l.Partitions) != 5 || l.Partitions[4].End() < diskSize-3*disk.MiB {
		t.Errorf("table %+v", l)
	}
	if got := m.starts(t); got != "node" {
		t.Errorf("the disk starts %s", got)
	}
	if !bytes.Equal(m.cut(t, "vda", disk.Partition{}, 440), before) {
		t.Error("the boot code has changed")
	}
	if got := m.file(t, boot.PathAnswer); strings.Trim(got, "#") != "" || len(got) != len(secret) {
		t.Errorf("the answer is %q", got)
	}
	if env, err := boot.DecodeEnv([]byte(m.file(t, boot.PathEnv))); err != nil || boot.DecodeState(env) != boot.Fresh() {
		t.Errorf("state of the slots: %v %v", env, err)
	}
	if got := m.file(t, boot.PathInstallation); !strings.Contains(got, p.InstallationID) {
		t.Errorf("installation is %s", got)
	}
}

// What goes wrong at any step leaves a disk that starts the installer again or,
// from the last write to the boot partition on, the node.
func TestInPlaceFails(t *testing.T) {
	small := func(a *answer.Answer) { a.Disk.SwapSize = nil }
	for n, want := 0, "installer"; ; n++ {
		m := imageMachine(t)
		p := m.plan(t, small)
		if n == len(p.Actions) {
			return
		}
		if n > 0 {
			if _, ok := p.Actions[n-1].(plan.WriteBoot); ok {
				want = "node"
			}
		}
		p.Actions = append(p.Actions[:n:n], plan.CheckBoot{}) // which fails: it names no partition
		if err := Apply(t.Context(), m.Host, p, progress.Discard); err == nil {
			t.Errorf("step %d does not fail", n)
		}
		if got := m.starts(t); got != want {
			t.Errorf("after %d steps the disk starts %s, not %s", n, got, want)
		}
		if want == "node" {
			continue
		}
		if err := Apply(t.Context(), m.Host, m.plan(t, small), progress.Discard); err != nil || m.starts(t) != "node" {
			t.Errorf("begun anew after %d steps: %v, starts %s", n, err, m.starts(t))
		}
	}
}

func TestInPlaceDamaged(t *testing.T) {
	m := imageMachine(t)
	p := m.plan(t, func(a *answer.Answer) { a.Disk.SwapSize = nil })
	p.Image.Files[boot.FileKernel] = boot.File{Size: 70_001, SHA256: strings.Repeat("0", 64)}
	err := Apply(t.Context(), m.Host, p, progress.Discard)
	if err == nil || !strings.Contains(err.Error(), "/joist/A/vmlinuz") || m.table(t, "vda").DiskGUID != someGUID(1) {
		t.Errorf("%v", err)
	}
}
