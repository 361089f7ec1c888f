package apply

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"joist/api/node"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/internal/progress"
)

const (
	poolID = "11400714819323198485"
	kstat  = "/proc/spl/kstat/zfs/" + plan.PoolName
)

// pool is a layout on ZFS.
func pool(raid string, disks ...string) func(*answer.Answer) {
	return func(a *answer.Answer) {
		a.Disk = answer.Disk{Filesystem: answer.ZFS, List: disks, ZFS: answer.ZFSOptions{RAID: raid}}
	}
}

// zpool is the program as far as it opens and closes pools: the kernel shows
// those that are open.
func (m *machine) zpool(args []string) ([]byte, error) {
	switch args[0] {
	case "create", "import":
		if err := os.MkdirAll(m.Path(kstat), 0o755); err != nil {
			return nil, err
		}
		if m.fail == "half of "+args[0] {
			return nil, errors.New("scripted failure")
		}
	case "export":
		return nil, os.Remove(m.Path(kstat))
	case "get":
		return []byte(poolID + "\n"), nil
	case "list":
		return []byte("rpool\n\traidz1-0\n\t/dev/" + strings.Join(m.open, "\n\t/dev/") + "\n"), nil
	}
	return nil, nil
}

func TestApplyPool(t *testing.T) {
	for name, layout := range map[string]func(*answer.Answer){
		"zfs":    pool(answer.RAID0, "vda"),
		"raidz1": pool(answer.RAIDZ1, "vda", "vdb", "vdc"),
	} {
		m := emptyMachine(t, "vda", "vdb", "vdc")
		p := m.plan(t, layout)
		if err := Apply(t.Context(), m.Host, p, progress.Discard); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".golden", m.done(t))
		var c node.Config
		b, _ := os.ReadFile(m.Path(targetDir, "state/lib/joist/node/node.json"))
		want := node.Storage{Layout: "zfs", PoolGUID: poolID, PoolName: "rpool", HostID: p.Identity.HostID(), ArcMax: p.ArcMax}
		if err := json.Unmarshal(b, &c); err != nil || c.Storage != want || c.Storage.ArcMax == 0 {
			t.Errorf("%s: %v %+v", name, err, c.Storage)
		}
		for _, d := range p.All() {
			l := m.table(t, d.Disk.Name)
			text := m.cut(t, d.Disk.Name, l.Partitions[1], 16<<20)
			for _, arg := range []string{"joist.state=zfs:" + poolID + " ", "spl.spl_hostid=0x" + c.Storage.HostID + " "} {
				if !strings.Contains(string(text), arg) {
					t.Errorf("%s: the boot partition of %s lacks %q", name, d.Disk.Name, arg)
				}
			}
			if l.Marks() != 0 {
				t.Errorf("%s: %s is marked", name, d.Disk.Name)
			}
		}
	}
}

// xdrPool is the beginning of a vdev's label.
func xdrPool(guid uint64) []byte {
	b := []byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
	pair := func(name string, kind uint32, value []byte) {
		p := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		p = append(append(p, name...), make([]byte, (4-len(name)%4)%4)...)
		p = append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(p, kind), 1), value...)
		b = append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, uint32(8+len(p))), 0), p...)
	}
	pair("name", 9, []byte("\x00\x00\x00\x05rpool\x00\x00\x00"))
	pair("pool_guid", 8, binary.BigEndian.AppendUint64(nil, guid))
	return append(b, make([]byte, 8)...)
}

// A pool that is kept is opened and closed by the plan's commands, and no
// command makes or changes anything in it.
func TestApplyAdoptsPool(t *testing.T) {
	layout := pool(answer.RAID1, "vda", "vdb")
	m := emptyMachine(t, "vda", "vdb")
	for _, x := range m.plan(t, layout).All() {
		f, err := os.OpenFile(m.Path(x.Device()), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, e1 := f.WriteAt(xdrPool(4711), part(x.Layout, disk.NameData).Start+16<<10)
		if err := errors.Join(disk.WriteTable(f, x.Layout), e1, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	m.write(t, targetDir+"/state/lib/joist/node/machine-id", []byte("as it was\n"))
	p := m.plan(t, func(a *answer.Answer) {
		layout(a)
		a.Disk.Adopt, a.Install.Reinstall = true, true
	})
	if err := Apply(t.Context(), m.Host, p, progress.Discard); err != nil {
		t.Fatal(err)
	}
	golden(t, "adopt-zfs.golden", m.done(t))
	var c node.Config
	b, _ := os.ReadFile(m.Path(targetDir, "state/lib/joist/node/node.json"))
	if err := json.Unmarshal(b, &c); err != nil || c.Storage.PoolGUID != "4711" || c.Storage.ArcMax == 0 {
		t.Errorf("%v %+v", err, c.Storage)
	}
	if b, err := os.ReadFile(m.Path(targetDir, "state/lib/joist/node/machine-id")); err != nil || string(b) != "as it was\n" {
		t.Errorf("machine id: %q (%v)", b, err)
	}
}

// What fails half-way leaves no pool open; a module that is refused leaves the
// disks as they are.
func TestPoolFails(t *testing.T) {
	for _, fail := range []string{"half of create", "rpool/local", "guid"} {
		m := emptyMachine(t, "vda")
		m.fail = fail
		if err := Apply(t.Context(), m.Host, m.plan(t, pool(answer.RAID0, "vda")), progress.Discard); err == nil {
			t.Errorf("%s: no error", fail)
		}
		if _, err := os.Stat(m.Path(kstat)); err == nil {
			t.Errorf("%s: the pool is still open", fail)
		}
		if b := m.cut(t, "vda", disk.Partition{}, 440); slices.ContainsFunc(b, func(b byte) bool { return b != 0 }) {
			t.Errorf("%s: a boot sector was written", fail)
		}
	}
	m := emptyMachine(t, "vda")
	p := m.plan(t, pool(answer.RAID0, "vda"))
	before, err := os.Stat(m.Path("/dev/vda"))
	if err != nil {
		t.Fatal(err)
	}
	m.fail = "modprobe zfs"
	if err := Apply(t.Context(), m.Host, p, progress.Discard); err == nil || !strings.Contains(err.Error(), "load the ZFS module") {
		t.Error(err)
	}
	if after, err := os.Stat(m.Path("/dev/vda")); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the disk was written to (%v)", err)
	}
}

// The pool of an earlier try is closed, whatever is made now; that of other
// disks is only in the way of a pool.
func TestReleasePool(t *testing.T) {
	for _, c := range []struct {
		layout func(*answer.Answer)
		open   []string
		closed bool
		err    string
	}{
		{pool(answer.RAID0, "vda"), []string{"vda5", "vdb5"}, true, ""},
		{xfs, []string{"vda5"}, true, ""},
		{xfs, []string{"sdc1"}, false, ""},
		{xfs, []string{"vda5", "sdc1"}, false, "/dev/sdc1 is in use"},
		{pool(answer.RAID0, "vda"), []string{"sdc1"}, false, "zpool export rpool"},
	} {
		m := emptyMachine(t, "vda", "vdb")
		p := m.plan(t, c.layout)
		if len(c.open) > 1 { // the earlier try was on both
			p.Further = []plan.Member{{Disk: p.Disk}}
			p.Further[0].Disk.Name = "vdb"
		}
		a := &applier{h: m.Host, p: p}
		m.write(t, kstat+"/state", []byte("ONLINE\n"))
		if err := os.Remove(m.Path(kstat, "state")); err != nil {
			t.Fatal(err)
		}
		m.write(t, "/sys/block/vda/vda5", nil)
		m.write(t, "/sys/block/vdb/vdb5", nil)
		m.open = c.open
		err := a.releasePool(t.Context())
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%v: %v", c.open, err)
		}
		if _, err := os.Stat(m.Path(kstat)); (err != nil) != c.closed {
			t.Errorf("%v: closed is %v, ran %v", c.open, !c.closed, m.script.Calls())
		}
	}
}
