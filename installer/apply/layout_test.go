package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/api/node"
	"joist/image/boot/efivar"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/progress"
	"joist/internal/run"
)

func xfs(a *answer.Answer) { a.Disk.Filesystem = answer.XFS }

func mirror(a *answer.Answer) { a.Disk.RAID, a.Disk.List = answer.RAID1, []string{"vda", "vdb"} }

// done is everything that was run and mounted, with the configuration of LVM.
func (m *machine) done(t *testing.T) string {
	t.Helper()
	conf, err := os.ReadFile(m.Path(lvmDir, "lvm.conf"))
	if err != nil {
		t.Fatal(err)
	}
	_, filter, _ := strings.Cut(string(conf), "filter")
	filter, _, _ = strings.Cut(filter, "\n")
	out := "filter" + filter + "\n\n" + strings.Join(m.script.Calls(), "\n") + "\n\n" + m.lvm + "\n" + strings.Join(m.mounts, "\n") + "\n"
	return strings.ReplaceAll(out, m.Root, "")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", name, got)
	}
}

func (m *machine) table(t *testing.T, name string) disk.Layout {
	t.Helper()
	f, err := os.Open(m.Path("/dev", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := disk.ReadTable(f, diskSize, 512)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestApplyXFS(t *testing.T) {
	m := emptyMachine(t, "vda")
	if err := Apply(t.Context(), m.Host, m.plan(t, xfs), progress.Discard); err != nil {
		t.Fatal(err)
	}
	golden(t, "xfs.golden", m.done(t))
	if b, err := os.ReadFile(m.Path(targetDir, "state/lib/joist/node/node.json")); err != nil || !strings.Contains(string(b), `"fs": "xfs"`) {
		t.Errorf("%s (%v)", b, err)
	}
}

// Both disks carry every boot part, with their own GUIDs, and each has its own
// entry in the firmware, the first disk's before the other's.
func TestApplyMirror(t *testing.T) {
	m := emptyMachine(t, "vda", "vdb")
	p := m.plan(t, mirror)
	if err := Apply(t.Context(), m.Host, p, progress.Discard); err != nil {
		t.Fatal(err)
	}
	golden(t, "mirror.golden", m.done(t))
	for i, d := range p.All() {
		l := m.table(t, d.Disk.Name)
		if l.DiskGUID != d.Layout.DiskGUID || l.Marks() != 0 {
			t.Errorf("%s: GUID %s, marks %x", d.Disk.Name, l.DiskGUID, l.Marks())
		}
		boot := m.cut(t, d.Disk.Name, l.Partitions[1], 16<<20)
		if !bytes.Contains(boot, []byte("joist.disk="+strings.ToLower(d.Layout.DiskGUID))) && !bytes.Contains(boot, []byte("joist.disk="+d.Layout.DiskGUID)) {
			t.Errorf("%s: its boot partition names another disk", d.Disk.Name)
		}
		if !bytes.Contains(boot, []byte("joist.md="+p.Array.UUID)) {
			t.Errorf("%s: its boot partition names no array", d.Disk.Name)
		}
		want, err := os.ReadFile(m.Path(probe.MediumDir, "joist/0011223344556677/system.sqfs"))
		if err != nil || !bytes.Equal(m.cut(t, d.Disk.Name, l.Partitions[2], int64(len(want))), want) {
			t.Errorf("%s: slot A differs (%v)", d.Disk.Name, err)
		}
		if head := m.cut(t, d.Disk.Name, disk.Partition{}, 440); bytes.Equal(head, make([]byte, 440)) {
			t.Errorf("%s: no boot code", d.Disk.Name)
		}
		list, err := efivar.List(m.Path(efivar.Dir))
		entry := efivar.Entry{Number: uint16(i + 1), Name: []string{"Joist", "Joist, disk 2"}[i], Partition: l.Partitions[1].GUID}
		if err != nil || len(list) != 3 || list[i+1] != entry {
			t.Errorf("entry of %s: %+v (%v)", d.Disk.Name, list, err)
		}
	}
	if b, _ := os.ReadFile(m.Path(bootOrder)); !bytes.Equal(b, []byte{7, 0, 0, 0, 1, 0, 2, 0, 0, 0}) {
		t.Errorf("boot order: % x", b)
	}
}

// cut reads the beginning of a partition.
func (m *machine) cut(t *testing.T, name string, p disk.Partition, n int64) []byte {
	t.Helper()
	f, err := os.Open(m.Path("/dev", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, p.Start); err != nil {
		t.Fatal(err)
	}
	return b
}

// adopted has an installation on a mirror, whose volumes are as given.
func adopted(t *testing.T, state string) (*machine, plan.Plan) {
	t.Helper()
	m := emptyMachine(t, "vda", "vdb")
	p := m.plan(t, mirror)
	for _, x := range p.All() {
		f, err := os.OpenFile(m.Path(x.Device()), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		data := part(x.Layout, disk.NameData).Start
		_, e1 := f.WriteAt(superblock(p.Array.UUID), data+4096)
		_, e2 := f.WriteAt(label(uuid), data+modelOffset)
		if err := errors.Join(disk.WriteTable(f, x.Layout), e1, e2, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 4096)
	switch state {
	case answer.XFS:
		copy(b, "XFSB")
	case answer.Ext4:
		copy(b[1024+0x38:], "\x53\xef")
	}
	m.write(t, "/dev/joist/state", b)
	m.write(t, "/dev/joist/local", b)
	m.write(t, targetDir+"/state/lib/joist/node/machine-id", []byte("as it was\n"))
	m.write(t, targetDir+"/state/lib/joist/node/ssh_host_ed25519_key", []byte("a key of some other kind\n"))
	m.write(t, targetDir+"/state/lib/joist/node/node.json", []byte("old"))
	for _, name := range guestFiles() {
		m.write(t, targetDir+"/state/"+name, []byte(name))
	}
	return m, m.plan(t, func(a *answer.Answer) {
		mirror(a)
		a.Disk.Adopt, a.Install.Reinstall = true, true
		a.Cluster = answer.Cluster{Address: "n0", Token: "joist-secret", Fingerprint: "AB"}
	})
}

// guestFiles are on the state volume what virtual machines and containers have
// there; their disks are volumes that nobody opens.
func guestFiles() []string {
	return []string{"lib/joist/etcd/member/wal/0.wal", "lib/joist/cluster/state.json", "lib/joist/tasks/index", "log/joist/joistd.log", "lib/joist/node/ssh_host_rsa_key"}
}

// What is kept is opened, not made: no command writes to the volumes but the
// repair of ext4. The file system that is there counts, not the answer's.
func TestApplyAdopts(t *testing.T) {
	for _, state := range []string{answer.Ext4, answer.XFS} {
		m, p := adopted(t, state)
		if err := Apply(t.Context(), m.Host, p, progress.Discard); err != nil {
			t.Fatal(err)
		}
		golden(t, "adopt-"+state+".golden", m.done(t))
		dir := m.Path(targetDir, "state/lib/joist")
		for name, want := range map[string]string{"node/machine-id": "as it was\n", "node/ssh_host_ed25519_key": "a key of some other kind\n", "node/node.json": "", "cluster/request.json": ""} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || want != "" && string(b) != want || string(b) == "old" {
				t.Errorf("%s: %q (%v)", name, b, err)
			}
		}
		var c node.Config
		b, _ := os.ReadFile(filepath.Join(dir, "node/node.json"))
		if err := json.Unmarshal(b, &c); err != nil || c.Storage.VGUUID != uuid || c.Storage.ArrayUUID != p.Adopt.Array || c.Storage.FS == answer.XFS != (state == answer.XFS) {
			t.Errorf("%v %+v", err, c.Storage)
		}
		for name, mode := range map[string]fs.FileMode{"cluster": 0o700 | fs.ModeDir, "cluster/request.json": 0o600} {
			if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != mode {
				t.Errorf("%s: %v %v", name, st, err)
			}
		}
		for _, name := range guestFiles() {
			if b, err := os.ReadFile(m.Path(targetDir, "state", name)); err != nil || string(b) != name {
				t.Errorf("%s: %q (%v)", name, b, err)
			}
		}
		for _, disk := range []string{"vda", "vdb"} {
			if m.table(t, disk).Marks() != 0 {
				t.Errorf("%s is marked", disk)
			}
		}
	}
	m, p := adopted(t, "")
	if err := Apply(t.Context(), m.Host, p, progress.Discard); err == nil || !strings.Contains(err.Error(), "neither ext4 nor XFS") {
		t.Error(err)
	}
}

// strange is an action of which apply knows nothing.
type strange struct{ plan.Finish }

func (strange) Step() string { return "do what is new" }

// A plan with a step that nothing carries out is refused before the first one.
func TestImpossiblePlan(t *testing.T) {
	m := emptyMachine(t, "vda")
	p := m.plan(t, func(*answer.Answer) {})
	p.Actions = append(p.Actions, strange{})
	if l := Check(p); !l.Stops() || l[0].Code != "step-not-possible" || !strings.Contains(l[0].Text, "do what is new") {
		t.Errorf("findings: %v", l)
	}
	before, err := os.Stat(m.Path("/dev/vda"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Apply(t.Context(), m.Host, p, progress.Discard); err == nil {
		t.Error("it was applied")
	}
	after, err := os.Stat(m.Path("/dev/vda"))
	if err != nil || !after.ModTime().Equal(before.ModTime()) || len(m.script.Calls())+len(m.mounts) > 0 {
		t.Errorf("something was done: %v %v (%v)", m.script.Calls(), m.mounts, err)
	}
	if _, err := os.Stat(m.Path(JournalFile)); err == nil {
		t.Error("a journal was begun")
	}
}

// TestCutBetweenSteps ends real steps on image files at every fourth boundary and
// the last ones; TestCuts has all of them, on models. The next start needs no
// permission, and comes to the end.
func TestCutBetweenSteps(t *testing.T) {
	t.Run("mirror", func(t *testing.T) { cutBetweenSteps(t, mirror, 4) })
	t.Run("pool", func(t *testing.T) { cutBetweenSteps(t, pool(answer.RAID1, "vda", "vdb"), 8) })
}

func cutBetweenSteps(t *testing.T, layout func(*answer.Answer), every int) {
	steps := len(emptyMachine(t, "vda", "vdb").plan(t, layout).Actions)
	for i := range steps {
		if i%every > 0 && i < steps-3 {
			continue
		}
		m := emptyMachine(t, "vda", "vdb")
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		err := Apply(ctx, m.Host, m.plan(t, layout), func(e progress.Event) {
			if e.State == progress.Finished {
				if n++; n > i {
					cancel()
				}
			}
		})
		if i < steps-1 && !errors.Is(err, context.Canceled) {
			t.Fatalf("step %d: %v", i, err)
		}
		p := m.plan(t, layout)
		if p.Result == plan.Install {
			if err := Apply(t.Context(), m.Host, p, progress.Discard); err != nil {
				t.Fatalf("after a cut behind step %d: %v", i, err)
			}
		}
		if again := m.plan(t, layout); again.Result != plan.BootExisting || i < steps-2 && p.Result != plan.Install {
			t.Errorf("after a cut behind step %d: %s, then %s", i, p.Result, again.Result)
		}
		cancel()
	}
}

// The array of an earlier try is stopped, that of other disks is not touched.
func TestReleaseArray(t *testing.T) {
	m := emptyMachine(t, "vda", "vdb")
	a := &applier{h: m.Host, p: m.plan(t, mirror)}
	m.write(t, "/sys/block/md127/slaves/vda5", nil)
	m.write(t, "/sys/block/vda/vda5", nil)
	if err := a.releaseArray(t.Context()); err != nil || strings.Join(m.script.Calls(), ";") != "mdadm --stop /dev/md127" {
		t.Errorf("%v, ran %v", err, m.script.Calls())
	}
	m.write(t, "/sys/block/md127/slaves/sdc1", nil)
	if err := a.releaseArray(t.Context()); err == nil || len(m.script.Calls()) != 1 {
		t.Errorf("%v, ran %v", err, m.script.Calls())
	}
}

// LVM reads the mirror of which one disk is left, and none where there is none.
func TestDegradedMirrorIsRead(t *testing.T) {
	for _, array := range []string{"", "30313233:34353637:38396162:63646566"} {
		p := plan.Plan{Disk: probe.Disk{Name: "vda"}, Adopt: &probe.Installation{Group: uuid, Array: array}}
		if got := strings.Contains(lvmConf(p), "a|^/dev/md127$|"); got != (array != "") {
			t.Errorf("array %q: the mirror is read: %v", array, got)
		}
	}
}

// Every program that is run stands in the plan as it is run, and the other way
// round.
func TestPlanShowsWhatIsRun(t *testing.T) {
	swap := int64(1 << 30)
	for name, prepare := range map[string]func(t *testing.T) (*machine, plan.Plan){
		"lvm": func(t *testing.T) (*machine, plan.Plan) {
			m := emptyMachine(t, "vda")
			return m, m.plan(t, func(a *answer.Answer) { a.Disk.SwapSize = &swap })
		},
		"xfs on a mirror": func(t *testing.T) (*machine, plan.Plan) {
			m := emptyMachine(t, "vda", "vdb")
			return m, m.plan(t, func(a *answer.Answer) { mirror(a); xfs(a) })
		},
		"pool": func(t *testing.T) (*machine, plan.Plan) {
			m := emptyMachine(t, "vda", "vdb")
			return m, m.plan(t, pool(answer.RAID1, "vda", "vdb"))
		},
		"kept": func(t *testing.T) (*machine, plan.Plan) { return adopted(t, answer.Ext4) },
	} {
		m, p := prepare(t)
		if err := Apply(t.Context(), m.Host, p, progress.Discard); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var shown, ran []string
		for _, x := range p.Steps() {
			for _, argv := range append(x.Commands, x.Repairs...) {
				shown = append(shown, run.Cmd{Path: argv[0], Args: argv[1:]}.String())
			}
		}
		for _, c := range m.script.Calls() {
			if c != "lvm "+m.Path(lvmDir, "create") {
				ran = append(ran, c)
				continue
			}
			for _, line := range strings.Split(strings.TrimSpace(m.lvm), "\n")[1:] {
				ran = append(ran, "lvm "+line)
			}
		}
		if strings.Join(ran, "\n") != strings.Join(shown, "\n") || len(ran) < 4 {
			t.Errorf("%s: shown\n%s\n\nrun\n%s", name, strings.Join(shown, "\n"), strings.Join(ran, "\n"))
		}
	}
}
