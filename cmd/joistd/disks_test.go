package main

import (
	"testing"

	"joist/image/disk"
	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/system/bootdisk"
)

// A disk that took the place of a smaller one gives the data what the other one
// has: the node is no less fit.
func TestCheckJudgesWhatIsUsed(t *testing.T) {
	const guid = "AAAAAAAA-1111-4111-8111-111111111111"
	at := func(name string, size int64) (probe.Disk, bootdisk.Disk) {
		l, err := disk.Plan(disk.Request{Size: size, SectorSize: 512, DiskGUID: guid, PartGUIDs: [5]string{guid, guid, guid, guid, guid}})
		if err != nil {
			t.Fatal(err)
		}
		return probe.Disk{Name: name, Size: size, Sector: 512, Bus: "ata"}, bootdisk.Disk{Name: name, Bytes: size, Table: l}
	}
	sda, a := at("sda", 64e9)
	sdb, b := at("sdb", 100e9)
	own := []probe.Disk{sda, sdb}
	outcome := func(used []probe.Disk) string {
		for _, c := range preflight.MakeNodeReport(probe.Facts{}, own, used, nil).Checks {
			if c.Code == "members-size" {
				return c.Outcome
			}
		}
		return ""
	}
	if got := outcome(own); got != "error" {
		t.Errorf("whole disks: %q", got)
	}
	if got := outcome(used(own, []bootdisk.Disk{b, a})); got != "ok" {
		t.Errorf("what is used: %q", got)
	}
	if own[1].Size != 100e9 {
		t.Error("the facts were changed")
	}
	b.Name, b.Paths = "sdy", []bootdisk.Disk{{Name: "sdb"}}
	if got := outcome(used(own, []bootdisk.Disk{a, b})); got != "ok" {
		t.Errorf("by another path: %q", got)
	}
	b.Table = disk.Layout{}
	if got := outcome(used(own, []bootdisk.Disk{a, b})); got != "error" {
		t.Errorf("one without data: %q", got)
	}
}
