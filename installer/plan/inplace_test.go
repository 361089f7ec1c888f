package plan

import (
	"strings"
	"testing"

	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/probe"
)

// ownDisk512 is a disk that an image was written to.
func ownDisk512(d probe.Disk) *probe.InPlace {
	id, _ := NewIdentity(zeros{})
	l, _ := disk.PlanImage(disk.ImageRequest{SectorSize: d.Sector, DiskGUID: id.DiskGUID, PartGUIDs: id.PartGUIDs})
	l.Size = d.Size
	return &probe.InPlace{Disk: d.Name, Slot: "A", Table: l}
}

func TestInPlaceRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(f *probe.Facts, a *answer.Answer)
		want string // code and a word of its cure
	}{
		{"small", func(f *probe.Facts, _ *answer.Answer) { f.Disks[0].Size = 5 << 30 }, "disk-too-small qemu-img"},
		{"no room at all", func(f *probe.Facts, _ *answer.Answer) {
			f.Disks[0].Size = f.InPlace.Table.Partitions[3].End() + disk.MiB
		}, "disk-layout qemu-img"},
		{"mirror", func(_ *probe.Facts, a *answer.Answer) {
			a.Disk.RAID, a.Disk.List = answer.RAID1, []string{"vda", "vdb"}
		}, "disk-image-one ISO"},
		{"gone", func(f *probe.Facts, _ *answer.Answer) { f.InPlace.Disk = "vdz" }, "disk-not-found again"},
		{"nothing to keep", func(f *probe.Facts, _ *answer.Answer) {
			f.InPlace.Table = f.InPlace.Table.Marked(disk.InPlace | disk.KeepsData)
		}, "adoption-impossible adopt"},
	} {
		f, a := facts(64e9), ans()
		f.InPlace = ownDisk512(f.Disks[0])
		c.edit(&f, &a)
		_, fs := made(f, a, image(), identity(t))
		code, word, _ := strings.Cut(c.want, " ")
		found := false
		for _, x := range fs {
			found = found || x.Code == code && strings.Contains(x.Hint, word)
		}
		if !fs.Stops() || !found {
			t.Errorf("%s: %v", c.name, fs)
		}
	}
}
