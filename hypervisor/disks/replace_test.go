package disks

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/hypervisor/task"
	"joist/image/boot"
	"joist/image/disk"
	"joist/internal/finding"
	"joist/system/bootdisk"
	"joist/system/bootdisk/bootdisktest"
)

const build = "0011223344556677"

// mirror is a node on two disks.
func mirror(t *testing.T) *rig {
	t.Helper()
	b := bootdisktest.NewBuild(t, build)
	return newRig(t, bootdisktest.Install(t, first, b, boot.Fresh()), bootdisktest.Install(t, second, b, boot.Fresh()))
}

// unplug takes a disk away.
func (r *rig) unplug(name string) {
	r.disks = slices.DeleteFunc(r.disks, func(d bootdisk.Disk) bool { return d.Name == name })
	r.drives = slices.DeleteFunc(r.drives, func(d Drive) bool { return d.Name == name })
	delete(r.members, name+"-data")
}

// exchange runs a replacement to its end and returns its log.
func (r *rig) exchange(old, fresh string) (log, status string) {
	r.t.Helper()
	x, fs := r.Check(r.t.Context(), old, fresh, "")
	if len(fs) > 0 {
		r.t.Fatal(fs.Err())
	}
	x.User = "root@pam"
	u, err := r.Start(x)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.wait(u)
}

func (r *rig) wait(u task.UPID) (log, status string) {
	r.t.Helper()
	for {
		i, err := r.tasks.Get(u.String())
		if err != nil {
			r.t.Fatal(err)
		}
		if !i.Running && !r.busy() {
			lines, _, err := r.tasks.Read(u.String(), 0, 0)
			if err != nil {
				r.t.Fatal(err)
			}
			return strings.Join(lines, "\n"), i.Status
		}
		time.Sleep(time.Millisecond)
	}
}

// whole wants the system on two disks that each start it.
func (r *rig) whole(names ...string) {
	r.t.Helper()
	copies, err := r.System.Inspect(r.t.Context(), true)
	if err != nil {
		r.t.Fatal(err)
	}
	var got []string
	for _, c := range copies {
		got = append(got, c.Disk.Name)
		if len(c.Lacks) > 0 || bootdisk.Compare(copies[0], c).Any() || c.Disk.Table.Marks() != 0 {
			r.t.Errorf("%s: lacks %q, differs %+v, marks %x", c.Disk.Name, c.Lacks, bootdisk.Compare(copies[0], c), c.Disk.Table.Marks())
		}
		if r.members[c.Disk.Name+"-data"] != "in_sync" {
			r.t.Errorf("%s: data %q", c.Disk.Name, r.members[c.Disk.Name+"-data"])
		}
	}
	if !slices.Equal(got, names) {
		r.t.Errorf("disks of the system: %q, want %q", got, names)
	}
	r.refresh(r.t.Context())
	if list := r.Board.List(); len(list) > 0 {
		r.t.Errorf("alerts: %+v", list)
	}
}

// A disk that is gone is replaced by a blank one.
func TestReplaceMissing(t *testing.T) {
	r := mirror(t)
	r.unplug("disk-8222")
	r.refresh(t.Context())
	if list := r.Board.List(); len(list) != 1 || list[0].Code != codeDegraded {
		t.Errorf("%+v", list)
	}
	r.plug(bootdisktest.Blank(t, "fresh", 9<<30))
	log, status := r.exchange(Missing, "fresh")
	if status != "OK" || !strings.Contains(log, "boot parts: fresh starts the node") || !strings.Contains(log, "data: 50 %") {
		t.Errorf("%s\n%s", status, log)
	}
	r.whole("disk-8111", "fresh")
	f, err := os.Open(r.disks[1].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := disk.ReadTable(f, 9<<30, 512)
	if data, _ := l.Find(disk.NameData); err != nil || data.End() != 9<<30-disk.MiB {
		t.Errorf("the data partition ends at %d (%v)", data.End(), err)
	}
}

// One that is there is used until the new one has all, and does not come back.
func TestReplacePresent(t *testing.T) {
	r := mirror(t)
	r.plug(bootdisktest.Blank(t, "fresh", 8<<30))
	recorded := false // for after a cut
	r.during = func() {
		filepath.WalkDir(r.dir, func(name string, _ fs.DirEntry, _ error) error {
			b, _ := os.ReadFile(name) // a folder holds nothing
			recorded = recorded || strings.Contains(string(b), `"new_guid":"AAAAAAAA-1111-`)
			return nil
		})
	}
	if log, status := r.exchange("disk-8222", "/dev/fresh"); status != "OK" || !recorded {
		t.Errorf("%s, the new table is recorded: %v\n%s", status, recorded, log)
	}
	r.whole("disk-8111", "fresh")
	f, err := os.Open(r.disks[1].Path + "-data")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 10)
	if _, err := f.ReadAt(head, 0); err != nil || string(head) == "superblock" {
		t.Errorf("the old disk still says that it is a member (%v)", err)
	}
}

// The disk that the node runs from stays usable until the restart.
func TestReplaceRunning(t *testing.T) {
	r := mirror(t)
	r.plug(bootdisktest.Blank(t, "fresh", 8<<30))
	log, status := r.exchange(strings.ToLower(first), "fresh")
	if status != "WARNINGS: 1" || !strings.Contains(log, "still runs from disk-8111") {
		t.Errorf("%s\n%s", status, log)
	}
	if list := r.Board.List(); len(list) != 1 || list[0].Code != codeLeft || list[0].Path != "/dev/disk-8111" || strings.Contains(list[0].Cure, "replace missing") {
		t.Errorf("%+v", list)
	}
	r.unplug("disk-8111")
	r.System.GUID = r.disks[0].Table.DiskGUID
	r.whole("disk-8222", "fresh")
}

// What a cut left is taken up by itself, what failed by the same command.
func TestReplaceAgain(t *testing.T) {
	r := mirror(t)
	r.unplug("disk-8222")
	r.plug(bootdisktest.Blank(t, "fresh", 8<<30))
	r.failing = "no disk"
	if _, status := r.exchange(Missing, "fresh"); status != "no disk" {
		t.Error(status)
	}
	r.manager()
	if len(r.resume) > 0 {
		t.Error("a replacement that failed goes on by itself")
	}
	copies, err := r.System.Inspect(r.t.Context(), true)
	if err != nil || len(copies) != 2 || copies[1].Disk.Table.Marks() != disk.Unfinished {
		t.Errorf("%v %+v", err, copies)
	}
	guid := copies[1].Disk.Table.DiskGUID
	r.failing = ""
	x, fs := r.Check(t.Context(), Missing, "fresh", "")
	if len(fs) > 0 {
		t.Fatal(fs.Err())
	}
	x.User = "root@pam"
	if err := r.Replayer(t.Context(), []byte(`{"new": "sdx", "new_id": "//Sfresh", "user": "root@pam"}`)); err != nil {
		t.Fatal(err)
	}
	r.Resume(t.Context())
	list, _ := r.tasks.List(task.Filter{Source: task.All, Type: Kind, Limit: 1})
	if log, status := r.wait(list[0].UPID); status != "OK" || !strings.Contains(log, "those of fresh are there") {
		t.Errorf("%s\n%s", status, log)
	}
	r.whole("disk-8111", "fresh")
	if copies, _ = r.System.Inspect(t.Context(), false); copies[1].Disk.Table.DiskGUID != guid {
		t.Error("the disk was partitioned anew")
	}
}

// holds says whether the data partition of a disk says that it is a member.
func holds(t *testing.T, d bootdisk.Disk) bool {
	t.Helper()
	b, err := os.ReadFile(d.Path + "-data")
	if err != nil {
		t.Fatal(err)
	}
	return strings.HasPrefix(string(b), "superblock")
}

// The old disk is pulled while data are copied, and another gets its name.
func TestReplacePulled(t *testing.T) {
	r := mirror(t)
	r.plug(bootdisktest.Blank(t, "fresh", 8<<30))
	const foreign = "CCCCCCCC-3333-4333-8333-333333333333"
	other, old := bootdisktest.Empty(t, foreign), r.disks[1]
	r.during = func() {
		if err := os.Rename(other.Path, old.Path); err != nil {
			t.Error(err)
		}
	}
	log, status := r.exchange("disk-8222", "fresh")
	if status != "WARNINGS: 1" || !strings.Contains(log, "it is no longer there") {
		t.Errorf("%s\n%s", status, log)
	}
	f, err := os.Open(old.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if l, err := disk.ReadTable(f, old.Bytes, 512); err != nil || l.DiskGUID != foreign || !holds(t, old) {
		t.Errorf("the disk with its name was written: %v %v", l.DiskGUID, err)
	}
}

// A disk whose data are in use after all is not erased.
func TestReplaceKeepsMember(t *testing.T) {
	r := mirror(t)
	r.plug(bootdisktest.Blank(t, "fresh", 8<<30))
	r.keeps = true
	if log, status := r.exchange("disk-8222", "fresh"); status != "WARNINGS: 1" || !strings.Contains(log, "it holds data of this system still (in_sync)") || !holds(t, r.disks[1]) {
		t.Errorf("%s\n%s", status, log)
	}
}

func TestIdent(t *testing.T) {
	a, b := Drive{Name: "vda"}, Drive{Name: "sda", Model: "bridge", Serial: "0001"}
	c := b
	c.Name = "sdb"
	for name, x := range map[string]struct {
		all  []Drive
		want string
	}{"says nothing": {[]Drive{a}, ""}, "one": {[]Drive{b, a}, "/bridge/0001"}, "two alike": {[]Drive{b, c}, ""}} {
		if got := ident(x.all, x.all[0]); got != x.want {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
}

// After a cut only a disk that is known for the same goes on, and one that is
// not partitioned yet only if it still may be.
func TestResume(t *testing.T) {
	r := mirror(t)
	r.unplug("disk-8222")
	r.plug(bootdisktest.Blank(t, "fresh", 8<<30))
	began := func(records ...string) bool {
		t.Helper()
		before, _ := r.tasks.List(task.Filter{Source: task.All, Type: Kind, Limit: 9})
		for _, x := range records {
			if err := r.Replayer(t.Context(), []byte(x)); err != nil {
				t.Fatal(err)
			}
		}
		r.Resume(t.Context())
		after, _ := r.tasks.List(task.Filter{Source: task.All, Type: Kind, Limit: 9})
		if len(after) > len(before) {
			r.wait(after[0].UPID)
		}
		return len(after) > len(before)
	}
	if began(`{"new": "fresh", "new_id": ""}`) || began(`{"new": "fresh", "new_id": "//Sother"}`) {
		t.Error("a disk goes on that was not told to be the one")
	}
	r.drives[1].DataID = "00aa" // somebody used it elsewhere meanwhile
	if began(`{"new": "fresh", "new_id": "//Sfresh"}`) {
		t.Error("a disk with data is partitioned")
	}
	r.drives[1].DataID = ""
	r.failing = "cut"
	if !began(`{"new": "fresh", "new_id": "//Sfresh", "user": "root@pam"}`) {
		t.Fatal("the disk does not go on")
	}
	r.failing = ""
	own, err := r.System.Disks()
	if err != nil || len(own) != 2 {
		t.Fatal(own, err)
	}
	// by its table; its record comes first
	r.drives[1].Serial, r.drives[1].DataID = "", "00aa"
	if !began(`{"new": "sdx", "new_guid": "`+own[1].Table.DiskGUID+`", "user": "root@pam"}`, `{"new": "sdx", "new_id": "//Sfresh"}`) {
		t.Error("the disk with the new table does not go on")
	}
	r.whole("disk-8111", "fresh")
}

func TestFindings(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(r *rig)
		old, new string
		want     string
	}{
		"nothing":      {nil, "disk-8222", "fresh", ""},
		"no system":    {func(r *rig) { r.System = nil }, Missing, "fresh", "replace-no-system"},
		"one disk":     {func(r *rig) { r.Data, r.Why = nil, "do something else" }, Missing, "fresh", "replace-single"},
		"no such disk": {nil, "disk-8222", "sdx", "replace-not-found"},
		"not ours":     {nil, "fresh", "fresh", "replace-not-ours"},
		"none missing": {nil, Missing, "fresh", "replace-none-missing"},
		"another's place": {func(r *rig) {
			r.members["disk-8222-data"], r.partner = "spare", map[string]string{"disk-8222-data": "elsewhere"}
		}, Missing, "disk-8222", "replace-other"},
		"begun before": {func(r *rig) {
			r.members["disk-8222-data"], r.partner = "spare", map[string]string{"disk-8222-data": ""}
		}, Missing, "disk-8222", ""},
		"in use already": {nil, "disk-8222", "disk-8111", "replace-member"},
		"the same":       {func(r *rig) { r.members["disk-8222-data"] = "faulty" }, "disk-8222", "disk-8222", "replace-same"},
		"last":           {func(r *rig) { r.members["disk-8222-data"] = "faulty" }, "disk-8111", "fresh", "replace-last"},
		"small":          {func(r *rig) { r.need = 8 << 30 }, "disk-8222", "fresh", "replace-too-small"},
		"holds data":     {func(r *rig) { r.drives[2].DataID, r.drives[2].Holds = "00aa", "ext4" }, "disk-8222", "fresh", "replace-holds-data"},
		"not fit":        {func(r *rig) { r.fit.Stopf("disk-in-use", "/dev/fresh", "", "it is") }, "disk-8222", "fresh", "disk-in-use"},
		"no source": {func(r *rig) {
			for _, d := range r.disks[:2] {
				bootdisktest.Write(t, d, disk.NameESP, make([]byte, 4096), 0)
			}
		}, "disk-8222", "fresh", "replace-no-source"},
	} {
		t.Run(name, func(t *testing.T) {
			r := mirror(t)
			r.plug(bootdisktest.Blank(t, "fresh", 8<<30))
			if c.change != nil {
				c.change(r)
			}
			_, fs := r.Check(t.Context(), c.old, c.new, "")
			var codes []string
			for _, f := range fs {
				codes = append(codes, f.Code)
				if f.Level != finding.Stop || f.Text == "" || f.Hint == "" && f.Code != "disk-in-use" {
					t.Errorf("%+v", f)
				}
			}
			if got := strings.Join(codes, " "); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	r := mirror(t)
	r.plug(bootdisktest.Blank(t, "fresh", 8<<30))
	r.drives[2].DataID = "00aa"
	if _, fs := r.Check(t.Context(), "disk-8222", "fresh", "00aa"); len(fs) > 0 {
		t.Errorf("named data still stops: %v", fs.Err())
	}
}

func TestAlerts(t *testing.T) {
	b := bootdisktest.NewBuild(t, build)
	for name, c := range map[string]struct {
		disk func() bootdisk.Disk
		want string
	}{
		"none":    {func() bootdisk.Disk { return bootdisktest.Install(t, second, b, boot.Fresh()) }, ""},
		"missing": {func() bootdisk.Disk { return bootdisktest.Empty(t, second) }, codeBoot},
		"older": {func() bootdisk.Disk {
			return bootdisktest.Install(t, second, b, boot.Trial(boot.Fresh(), boot.A))
		}, codeDiffers},
		"primary table": {func() bootdisk.Disk { return spoiled(t, bootdisktest.Install(t, second, b, boot.Fresh()), 512) }, codeBoot},
		"backup table": {func() bootdisk.Disk {
			return spoiled(t, bootdisktest.Install(t, second, b, boot.Fresh()), bootdisktest.Size-512)
		}, codeBoot},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, bootdisktest.Install(t, first, b, boot.Fresh()), c.disk())
			r.refresh(t.Context())
			list := r.Board.List()
			if c.want == "" && len(list) > 0 || c.want != "" && (len(list) != 1 || list[0].Code != c.want || list[0].Cure == "") {
				t.Errorf("%+v, want %q", list, c.want)
			}
			if c.want == "" {
				return
			}
			u, err := r.tasks.Start(task.Spec{Type: "diskrepair", User: "root@pam"}, r.Repair)
			if err != nil {
				t.Fatal(err)
			}
			if log, status := r.wait(u); status != "OK" || len(r.Board.List()) > 0 {
				t.Errorf("%s %+v\n%s", status, r.Board.List(), log)
			}
		})
	}
}

// spoiled has a sector of the disk gone.
func spoiled(t *testing.T, d bootdisk.Disk, at int64) bootdisk.Disk {
	t.Helper()
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(make([]byte, 512), at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A disk without its primary table is listed as one that does not start, and
// says why; without its backup it starts.
func TestListTables(t *testing.T) {
	b := bootdisktest.NewBuild(t, build)
	for at, starts := range map[int64]bool{512: false, bootdisktest.Size - 512: true} {
		r := newRig(t, spoiled(t, bootdisktest.Install(t, first, b, boot.Fresh()), at))
		rows, err := r.List(t.Context())
		if err != nil || len(rows) != 1 || rows[0].Starts != starts || !strings.Contains(rows[0].Lacks, "partition table is missing") {
			t.Errorf("%+v %v", rows, err)
		}
	}
}

// A disk is known by each of its paths, and its data may be used by any.
func TestPaths(t *testing.T) {
	r := mirror(t)
	path := r.disks[1]
	path.Name, path.Parts = "path2", map[string]string{disk.NameData: filepath.Join(t.TempDir(), "path2-data")}
	if err := os.WriteFile(path.Parts[disk.NameData], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.disks[1].Paths = []bootdisk.Disk{path}
	delete(r.members, "disk-8222-data")
	r.members["path2-data"] = "in_sync"
	r.refresh(t.Context())
	if list := r.Board.List(); len(list) > 0 {
		t.Errorf("alerts: %+v", list)
	}
	rows, err := r.List(t.Context())
	if err != nil || len(rows) != 2 || rows[1].Member != "in_sync" {
		t.Errorf("%+v %v", rows, err)
	}
	r.plug(bootdisktest.Blank(t, "fresh", 9<<30))
	x, fs := r.Check(t.Context(), "path2", "fresh", "")
	if len(fs) > 0 || x.Old != second {
		t.Errorf("%+v %v", x, fs)
	}
	if _, fs := r.Check(t.Context(), "disk-8111", "disk-8222", ""); len(fs) != 1 || fs[0].Code != "replace-member" {
		t.Errorf("a member by its other path: %v", fs)
	}
	if log, status := r.exchange("path2", "fresh"); status != "OK" || r.members["path2-data"] != "" {
		t.Errorf("%s, members %v\n%s", status, r.members, log)
	}
}

func TestLayout(t *testing.T) {
	ref, err := disk.Plan(disk.Request{Size: 8 << 30, SectorSize: 512, Limit: 7 << 30, DiskGUID: first, PartGUIDs: [5]string{first, first, first, first, first}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := layout(ref, 100<<30, disk.GiB, second, [5]string{second, second, second, second, second})
	if err != nil || l.Partitions[4].End() != 7<<30 || l.Partitions[1].Size != ref.Partitions[1].Size {
		t.Errorf("data that took a part of the disk do not grow: %+v %v", l, err)
	}
	if _, err := layout(ref, 6<<30, 5<<30, second, [5]string{}); !errors.Is(err, errSmall) {
		t.Errorf("%v", err)
	}
}
