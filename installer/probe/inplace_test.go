package probe

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"joist/image/disk"
)

// TestInPlace: the disk that the system runs from is found with its table, and
// that a slot of it is held is no use of the disk.
func TestInPlace(t *testing.T) {
	root := t.TempDir()
	const guid = "ABABABAB-ABAB-4BAB-ABAB-ABABABABABAB"
	l, err := disk.PlanImage(disk.ImageRequest{SectorSize: 512, DiskGUID: guid, PartGUIDs: [5]string{guid, guid, guid, guid, guid}})
	if err != nil {
		t.Fatal(err)
	}
	holders := filepath.Join(root, "sys/block/sda/sda3/holders/dm-0")
	if err := errors.Join(os.MkdirAll(holders, 0o755), os.MkdirAll(filepath.Join(root, "dev"), 0o755)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(root, "dev/sda"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(32e9), disk.WriteTable(f, l), f.Close()); err != nil {
		t.Fatal(err)
	}
	m := Machine{Root: root}
	facts := Facts{Disks: []Disk{{Name: "sda", Size: 32e9, Sector: 512, InUse: []string{"dm-0", "/mnt"}}}}
	if err := m.inPlace(&facts, "sda", "A"); err != nil {
		t.Fatal(err)
	}
	if p := facts.InPlace; p == nil || p.Disk != "sda" || p.Slot != "A" || len(p.Table.Partitions) != 4 || p.Table.Size != 32e9 {
		t.Errorf("%+v", facts.InPlace)
	}
	if u := facts.Disks[0].InUse; len(u) != 1 || u[0] != "/mnt" {
		t.Errorf("in use by %q", u)
	}
	if err := m.inPlace(&facts, "sdz", "A"); err == nil {
		t.Error("a disk that is not there is found")
	}
	if err := os.Truncate(filepath.Join(root, "dev/sda"), 0); err != nil {
		t.Fatal(err)
	}
	if err := m.inPlace(&facts, "sda", "A"); err == nil {
		t.Error("a disk without a table is found")
	}
}

// TestOwnDisks: the other disks of the system are found by its GUIDs, the old
// one's or the new one's, and what is not marked starts a node.
func TestOwnDisks(t *testing.T) {
	const guid = "10000000-0000-4000-8000-000000000001"
	next := disk.NextSystem(disk.SystemOf(guid)) + guid[18:]
	const waits = disk.Unfinished | disk.InPlace
	for name, c := range map[string]struct {
		own, other string
		marks      uint64
		further    int
		node       string
	}{
		"member":                 {guid, guid[:35] + "2", waits, 1, ""},
		"member, first is new":   {next, guid[:35] + "2", waits, 1, ""},
		"member is new":          {guid, next[:35] + "2", waits, 1, ""},
		"stranger":               {guid, "20000000-0000-4000-8000-000000000002", waits, 0, ""},
		"finished":               {guid, guid[:35] + "2", 0, 0, "sdb"},
		"finished as the new":    {guid, next[:35] + "2", 0, 0, "sdb"},
		"of the old, not marked": {next, guid[:35] + "2", 0, 0, ""},
	} {
		f := Facts{}
		for i, g := range []string{c.own, c.other} {
			l, err := disk.Plan(disk.Request{Size: 32e9, SectorSize: 512, DiskGUID: g, PartGUIDs: [5]string{g, g, g, g, g}})
			if err != nil {
				t.Fatal(err)
			}
			d := Disk{Name: "sd" + string(rune('a'+i)), Size: 32e9, Sector: 512}
			if l = l.Marked(waits); i > 0 {
				l = l.Marked(c.marks)
			} else {
				f.InPlace = &InPlace{Disk: d.Name, Slot: "A", Table: l}
			}
			d.Installation = &Installation{ID: InstallationID(g), GUID: g, Table: &l}
			f.Disks = append(f.Disks, d)
		}
		Machine{Root: t.TempDir()}.OwnDisks(&f)
		if p := f.InPlace; len(p.Further) != c.further || p.Node != c.node || len(p.All()) != 1+c.further {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
