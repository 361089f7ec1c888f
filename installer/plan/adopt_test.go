package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"joist/installer/answer"
	"joist/installer/probe"
	"joist/internal/finding"
)

// oldSystem gives the machine the n disks of an installation; each says what it
// knows of the whole.
func oldSystem(f *probe.Facts, a *answer.Answer, n int, kind string, say func(i int) probe.Membership) {
	members(f, a, n)
	for i := range f.Disks {
		in := installed(f.Disks[i], i, kind)
		f.Disks[i].Installation = in
		if say != nil {
			m := say(i)
			m.Of = or(in.Pool, in.Array)
			f.Disks[i].Memberships = []probe.Membership{m}
		}
	}
	a.Disk.Adopt, a.Install.Reinstall = true, true
}

// said is the membership of a group whose parts have the names of n disks from
// the first on.
func said(i, first, n, spare int, raid string, groups int) probe.Membership {
	m := probe.Membership{RAID: raid, Self: fmt.Sprint(i), Age: 5, Spare: spare, Group: fmt.Sprint("g", first), Groups: groups}
	for k := range n {
		m.Parts = append(m.Parts, []string{fmt.Sprint(first + k)})
	}
	return m
}

// What is kept is taken whole and as it is: anything else is refused with the
// lines that are right, and what is not in the machine is said.
func TestAdoptionAgrees(t *testing.T) {
	md := func(f *probe.Facts, a *answer.Answer) {
		oldSystem(f, a, 2, "md", func(i int) probe.Membership { return said(i, 0, 2, 1, answer.RAID1, 1) })
		a.Disk.RAID = answer.RAID1
	}
	onZFS := func(f *probe.Facts, a *answer.Answer, n, spare int, raid string) {
		oldSystem(f, a, n, "zfs", func(i int) probe.Membership { return said(i, 0, n, spare, raid, 1) })
		a.Disk.Filesystem, a.Disk.ZFS.RAID = answer.ZFS, raid
	}
	raid10 := func(f *probe.Facts, a *answer.Answer) {
		oldSystem(f, a, 4, "zfs", func(i int) probe.Membership { return said(i, i/2*2, 2, 1, answer.RAID10, 2) })
		a.Disk.Filesystem, a.Disk.ZFS.RAID = answer.ZFS, answer.RAID10
	}
	without := func(f *probe.Facts, a *answer.Answer, gone ...int) {
		var names []string
		keep := f.Disks[:0:0]
		for i, d := range f.Disks {
			if !slices.Contains(gone, i) {
				keep, names = append(keep, d), append(names, d.Name)
			}
		}
		f.Disks, a.Disk.List = keep, names
	}
	both := `disk-list = ["nvme0n1", "nvme1n1"]`
	for name, c := range map[string]struct {
		edit func(f *probe.Facts, a *answer.Answer)
		code string // "" when all is well
		word string // of text or cure
	}{
		"mirror": {md, "", ""},
		"half of a mirror": {func(f *probe.Facts, a *answer.Answer) { md(f, a); a.Disk.List = a.Disk.List[:1] },
			"adoption-differs!", both + `, filesystem = "ext4" or "xfs", [joist.disk] raid = "raid1"`},
		"half of a mirror as single": {func(f *probe.Facts, a *answer.Answer) { md(f, a); a.Disk.List, a.Disk.RAID = a.Disk.List[1:], "" },
			"adoption-differs!", `nvme0n1 is not chosen and would go on starting the old system, the answer asks for the layout "single"`},
		"half of a mirror, facts of old": {func(f *probe.Facts, a *answer.Answer) {
			md(f, a)
			f.Disks[0].Memberships, f.Disks[1].Memberships, a.Disk.List, a.Disk.RAID = nil, nil, a.Disk.List[1:], ""
		}, "adoption-differs!", both},
		"half of a ZFS mirror": {func(f *probe.Facts, a *answer.Answer) {
			onZFS(f, a, 2, 1, answer.RAID1)
			a.Disk.List, a.Disk.ZFS.RAID = a.Disk.List[:1], answer.RAID0
		}, "adoption-differs!", both + `, filesystem = "zfs", zfs.raid = "raid1"`},
		"another layout of the pool": {func(f *probe.Facts, a *answer.Answer) {
			onZFS(f, a, 3, 1, answer.RAIDZ1)
			a.Disk.ZFS.RAID = answer.RAID1
		}, "adoption-differs!", `zfs.raid = "raidz-1"`},
		"a pool as a group": {func(f *probe.Facts, a *answer.Answer) {
			onZFS(f, a, 1, 0, answer.RAID0)
			a.Disk.Filesystem = answer.XFS
		},
			"adoption-differs!", `the answer has filesystem = "xfs"`},
		"a mirror that lost a disk": {func(f *probe.Facts, a *answer.Answer) { md(f, a); without(f, a, 0) },
			"adoption-degraded", "joist node disk replace missing NEW"},
		"a pool that lost two": {func(f *probe.Facts, a *answer.Answer) { onZFS(f, a, 5, 2, answer.RAIDZ2); without(f, a, 0, 3) },
			"adoption-degraded", "lacks 2 more"},
		"a pool that lost three": {func(f *probe.Facts, a *answer.Answer) { onZFS(f, a, 5, 2, answer.RAIDZ2); without(f, a, 0, 1, 3) },
			"adoption-impossible!", "connect the missing disks"},
		"raid10":                       {raid10, "", ""},
		"raid10 that lost one of each": {func(f *probe.Facts, a *answer.Answer) { raid10(f, a); without(f, a, 0, 3) }, "adoption-degraded", "lacks 2 more"},
		"raid10 that lost a pair":      {func(f *probe.Facts, a *answer.Answer) { raid10(f, a); without(f, a, 2, 3) }, "adoption-impossible!", "cannot be opened"},
		"raid10 that does not tell how many it was": {func(f *probe.Facts, a *answer.Answer) {
			raid10(f, a)
			for _, d := range f.Disks {
				d.Memberships[0].RAID, d.Memberships[0].Groups = answer.RAID1, 0
			}
		}, "", ""},
		"a half that failed is out of date": {func(f *probe.Facts, a *answer.Answer) {
			md(f, a)
			f.Disks[1].Memberships[0].Age, f.Disks[1].Memberships[0].Parts = 9, [][]string{nil, {"1"}}
		}, "adoption-degraded", "lacks 1 more"},
		"a disk without boot parts": {func(f *probe.Facts, a *answer.Answer) {
			oldSystem(f, a, 1, "lvm", nil)
			f.Disks = append(f.Disks, probe.Disk{Name: "sdx", Size: 64e9, Sector: 512, Contents: []probe.Content{{Where: "sdx", Kind: "lvm", Name: VGName, ID: f.Disks[0].Installation.Group}}})
		}, "adoption-impossible!", "has no boot parts"},
	} {
		f, a := facts(64e9), ans()
		c.edit(&f, &a)
		p, fs := made(f, a, image(), identity(t))
		code, text := "", ""
		for _, x := range fs {
			if strings.HasPrefix(x.Code, "adoption-") {
				code, text = x.Code+map[bool]string{true: "!"}[x.Level == finding.Stop], x.String()
			}
		}
		stops := strings.HasSuffix(c.code, "!")
		if code != c.code || !strings.Contains(text, c.word) || fs.Stops() != stops || (len(p.Actions) == 0) != stops {
			t.Errorf("%s: %q: %v", name, code, fs)
		}
	}
}

// A mirror of which one disk is left is started as a mirror.
func TestAdoptDegradedMirror(t *testing.T) {
	f, a := facts(64e9), ans()
	oldSystem(&f, &a, 2, "md", func(i int) probe.Membership { return said(i, 0, 2, 1, answer.RAID1, 1) })
	a.Disk.RAID, f.Disks, a.Disk.List = answer.RAID1, f.Disks[:1], a.Disk.List[:1]
	p, fs := made(f, a, image(), identity(t))
	text := p.Describe()
	if fs.Stops() || !p.Mirrored() || !strings.Contains(text, "mdadm --assemble /dev/md127 --run --uuid="+f.Disks[0].Installation.Array+" /dev/nvme0n1p5") {
		t.Errorf("%v\n%s", fs, text)
	}
}
