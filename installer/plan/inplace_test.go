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

// resetSystem is a node on n disks whose installer runs from them.
func resetSystem(f *probe.Facts, a *answer.Answer, n int, kind, raid string, spare int, keep bool) {
	oldSystem(f, a, n, kind, func(i int) probe.Membership { return said(i, 0, n, spare, raid, 1) })
	a.Disk.Adopt, a.Install.Reinstall = false, false
	marks := disk.Unfinished | disk.InPlace
	if keep {
		marks |= disk.KeepsData
	}
	f.InPlace = nil
	for i := range f.Disks {
		in := f.Disks[i].Installation
		*in.Table = in.Table.Marked(marks)
		in.Unfinished, in.KeepsData = true, keep
		if f.InPlace == nil {
			f.InPlace = &probe.InPlace{Disk: f.Disks[i].Name, Slot: "A", Table: *in.Table}
			continue
		}
		f.InPlace.Further = append(f.InPlace.Further, probe.OwnDisk{Disk: f.Disks[i].Name, Table: *in.Table})
	}
}

// withoutLast takes the last disk out of the machine.
func withoutLast(f *probe.Facts) {
	f.Disks = f.Disks[:len(f.Disks)-1]
	f.InPlace.Further = f.InPlace.Further[:len(f.InPlace.Further)-1]
}

// A node is made anew on all its disks, whatever the answer names; the layout is
// the answer's, or that of what is kept.
func TestInPlaceMany(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(f *probe.Facts, a *answer.Answer)
		want string // code that stops and a word of its cure, or what the plan has
	}{
		"mirror kept": {func(f *probe.Facts, a *answer.Answer) { resetSystem(f, a, 2, "md", answer.RAID1, 1, true) }, "mdadm --assemble /dev/md127 --run"},
		"mirror kept, one disk left": {func(f *probe.Facts, a *answer.Answer) {
			resetSystem(f, a, 2, "md", answer.RAID1, 1, true)
			withoutLast(f)
		}, "mdadm --assemble /dev/md127 --run"},
		"raidz kept": {func(f *probe.Facts, a *answer.Answer) {
			resetSystem(f, a, 3, "zfs", answer.RAIDZ1, 1, true)
			f.ZFS = probe.Present
		}, "zpool import"},
		"raidz kept, too few left": {func(f *probe.Facts, a *answer.Answer) {
			resetSystem(f, a, 3, "zfs", answer.RAIDZ1, 1, true)
			withoutLast(f)
			withoutLast(f)
		}, "!adoption-impossible connect"},
		"mirror for mirror": {func(f *probe.Facts, a *answer.Answer) {
			resetSystem(f, a, 2, "md", answer.RAID1, 1, false)
			a.Disk.RAID, a.Disk.List = answer.RAID1, []string{"sda", "sdb"}
		}, "mdadm --create /dev/md127"},
		"raidz for a mirror of three": {func(f *probe.Facts, a *answer.Answer) {
			resetSystem(f, a, 3, "md", answer.RAID1, 2, false)
			a.Disk.Filesystem, a.Disk.ZFS.RAID = answer.ZFS, answer.RAIDZ1
		}, "raidz1 /dev/nvme0n1p5 /dev/nvme1n1p5 /dev/nvme2n1p5"},
		"one disk's layout": {func(f *probe.Facts, a *answer.Answer) { resetSystem(f, a, 2, "md", answer.RAID1, 1, false) }, "!disk-image-one as many"},
		"raid10 of three": {func(f *probe.Facts, a *answer.Answer) {
			resetSystem(f, a, 3, "md", answer.RAID1, 2, false)
			a.Disk.Filesystem, a.Disk.ZFS.RAID = answer.ZFS, answer.RAID10
		}, "!disk-image-one as many"},
		"a disk is missing": {func(f *probe.Facts, a *answer.Answer) {
			resetSystem(f, a, 2, "md", answer.RAID1, 1, false)
			withoutLast(f)
		}, "!disk-missing connect"},
		"erased by a first try": {func(f *probe.Facts, a *answer.Answer) {
			resetSystem(f, a, 2, "md", answer.RAID1, 1, false)
			a.Disk.RAID, f.Disks[0].Memberships, f.Disks[0].Installation.Array, f.Disks[0].Installation.Group = answer.RAID1, nil, "", ""
		}, "mdadm --create /dev/md127"},
	} {
		f, a := facts(64e9), ans()
		c.edit(&f, &a)
		p, fs := made(f, a, image(), identity(t))
		code, stops := strings.CutPrefix(c.want, "!")
		if !stops {
			if text := p.Describe(); fs.Stops() || !strings.Contains(text, c.want) || strings.Count(text, "change the boot partition") != len(f.Disks) {
				t.Errorf("%s: %v\n%s", name, fs, text)
			}
			if got, want := disk.SystemOf(p.Layout.DiskGUID), disk.NextSystem(disk.SystemOf(f.InPlace.Table.DiskGUID)); got != want || p.InstallationID != probe.InstallationID(p.Layout.DiskGUID) {
				t.Errorf("%s: the system becomes %s, not %s", name, got, want)
			}
			continue
		}
		code, word, _ := strings.Cut(code, " ")
		found := false
		for _, x := range fs {
			found = found || x.Code == code && strings.Contains(x.Hint, word)
		}
		if !fs.Stops() || !found || len(p.Actions) > 0 {
			t.Errorf("%s: %v", name, fs)
		}
	}
}

// Disks of which some have the new system's GUIDs already get those.
func TestNextSystem(t *testing.T) {
	f, a := facts(64e9), ans()
	resetSystem(&f, &a, 3, "md", answer.RAID1, 2, false)
	old := disk.SystemOf(f.InPlace.Table.DiskGUID)
	next := disk.NextSystem(old)
	renew := func(t *disk.Layout) { t.DiskGUID = next + t.DiskGUID[len(next):] }
	if got := nextSystem(*f.InPlace); got != next {
		t.Errorf("the first time: %s", got)
	}
	renew(&f.InPlace.Table)
	if got := nextSystem(*f.InPlace); got != next {
		t.Errorf("after the first disk: %s", got)
	}
	renew(&f.InPlace.Further[0].Table)
	f.InPlace.Table.DiskGUID = old + f.InPlace.Table.DiskGUID[len(old):]
	if got := nextSystem(*f.InPlace); got != next {
		t.Errorf("after another disk: %s", got)
	}
}
