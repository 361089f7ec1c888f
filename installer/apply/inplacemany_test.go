package apply

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/internal/progress"
	"joist/internal/run"
)

// resetMachine has a node on a mirror of two disks, which both start the
// installer of that node.
func resetMachine(t *testing.T, keep bool) *machine {
	t.Helper()
	m := emptyMachine(t, "vda", "vdb")
	p := m.plan(t, mirror)
	if err := Apply(t.Context(), m.Host, p, progress.Discard); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	copy(b[1024+0x38:], "\x53\xef")
	m.write(t, "/dev/joist/state", b)
	m.write(t, "/dev/joist/local", b)
	marks := disk.Unfinished | disk.InPlace
	if keep {
		marks |= disk.KeepsData
	}
	for _, x := range p.All() {
		name := x.Disk.Name
		m.fileOf(t, name, boot.PathAnswer, func([]byte) []byte { return boot.AnswerPlace([]byte(secret)) })
		m.fileOf(t, name, boot.PathSlotConfig(boot.A), func(conf []byte) []byte {
			next, err := boot.OwnInstaller(conf, boot.A)
			if err != nil {
				t.Fatal(err)
			}
			return next
		})
		f, err := os.OpenFile(m.Path(x.Device()), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		data := part(x.Layout, disk.NameData).Start
		_, e1 := f.WriteAt(superblock(p.Array.UUID), data+4096)
		_, e2 := f.WriteAt(label(uuid), data+modelOffset)
		if err := errors.Join(disk.UpdateTable(f, x.Layout.Marked(marks)), e1, e2, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	m.script = &run.Script{Answer: m.answer}
	m.Run = m.script
	m.own, m.mounts, m.lvm = true, nil, ""
	return m
}

// whole checks that both disks start one node.
func (m *machine) whole(t *testing.T, system string) {
	t.Helper()
	for _, name := range m.disks {
		l := m.table(t, name)
		if got := m.startsFrom(t, name); got != "node" || l.Marks() != 0 || disk.SystemOf(l.DiskGUID) != system {
			t.Errorf("%s starts %s, marks %x, GUID %s of system %s", name, got, l.Marks(), l.DiskGUID, system)
		}
		if got := m.fileOf(t, name, boot.PathAnswer, nil); strings.Trim(got, "#\n") != "" {
			t.Errorf("%s: the answer is %.40q", name, got)
		}
	}
}

func small(a *answer.Answer) {
	mirror(a)
	a.Disk.SwapSize = nil
}

func TestApplyInPlaceMirror(t *testing.T) {
	for keep, name := range map[bool]string{true: "inplace-mirror-keep.golden", false: "inplace-mirror.golden"} {
		m := resetMachine(t, keep)
		before := disk.SystemOf(m.table(t, "vda").DiskGUID)
		p := m.plan(t, small)
		if err := Apply(t.Context(), m.Host, p, progress.Discard); err != nil {
			t.Fatal(err)
		}
		golden(t, name, m.done(t))
		m.whole(t, disk.NextSystem(before))
		for i, x := range p.All() {
			if l := m.table(t, x.Disk.Name); l.DiskGUID != x.Layout.DiskGUID || i > 0 && l.DiskGUID == p.Layout.DiskGUID {
				t.Errorf("%s has GUID %s", x.Disk.Name, l.DiskGUID)
			}
			args := m.fileOf(t, x.Disk.Name, boot.PathSlotConfig(boot.A), nil)
			if p.Adopt != nil != keep || !p.Mirrored() || !strings.Contains(args, "joist.md=") || keep && !strings.Contains(args, "joist.md="+p.Adopt.Array) {
				t.Errorf("keep %v: %s is started with %.300s", keep, x.Disk.Name, args)
			}
			if got := m.fileOf(t, x.Disk.Name, boot.PathInstallation, nil); !strings.Contains(got, p.InstallationID) {
				t.Errorf("installation is %s", got)
			}
		}
	}
}

// What goes wrong at any step leaves two disks that both start the installer,
// which begins anew on both, or of which at least one starts a node that is
// whole: the installer on the other one leaves the way to it.
func TestInPlaceMirrorFails(t *testing.T) {
	for _, keep := range []bool{true, false} {
		steps := resetMachine(t, keep).plan(t, small).Actions
		ready := false // all that a node needs is there
		for n, step := range steps[:len(steps)-1] {
			switch step.(type) {
			case plan.StopArray: // the last of the storage
				ready = true
			case plan.Grow, plan.WriteBoot, plan.EraseAnswer, plan.Unmark:
			default: // changes nothing of how the disks start
				continue
			}
			m := resetMachine(t, keep)
			p := m.plan(t, small)
			system := disk.NextSystem(disk.SystemOf(m.table(t, "vda").DiskGUID))
			p.Actions = append(p.Actions[:n+1:n+1], plan.CheckBoot{}) // which fails: it names no partition
			if err := Apply(t.Context(), m.Host, p, progress.Discard); err == nil {
				t.Errorf("step %d does not fail", n+1)
			}
			m.goesOn(t, system, ready)
			if t.Failed() {
				t.Fatalf("keep %v, after %d steps, the last is %q", keep, n+1, step.Step())
			}
		}
	}
}

// goesOn checks what the disks start after a failure, and that this leads to the
// new system.
func (m *machine) goesOn(t *testing.T, system string, ready bool) {
	t.Helper()
	var nodes []string
	for _, name := range m.disks {
		switch got := m.startsFrom(t, name); {
		case got == "node" && ready && disk.SystemOf(m.table(t, name).DiskGUID) == system:
			nodes = append(nodes, name)
		case got != "installer":
			t.Errorf("%s starts %s", name, got)
		}
	}
	f := m.facts(t)
	switch {
	case f.InPlace == nil: // over, but for what the node does
		if len(nodes) != 2 {
			t.Error("no disk is marked")
		}
		return
	case len(nodes) > 0:
		if !slices.Contains(nodes, f.InPlace.Node) {
			t.Errorf("%s start a node, and %q is taken for one", nodes, f.InPlace.Node)
		}
		return
	case f.InPlace.Node != "" || len(f.InPlace.All()) != 2:
		t.Fatalf("the installer finds %+v", f.InPlace)
	}
	if disk.SystemOf(m.table(t, "vdb").DiskGUID) == system { // all have it: a new try, a new one
		system = disk.NextSystem(system)
	}
	if err := Apply(t.Context(), m.Host, m.plan(t, small), progress.Discard); err != nil {
		t.Errorf("begun anew: %v", err)
	}
	m.whole(t, system)
}
