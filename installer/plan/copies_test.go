package plan

import (
	"slices"
	"strings"
	"testing"

	"joist/installer/answer"
	"joist/installer/probe"
	"joist/internal/finding"
)

// Disks that are copies of each other are never used silently: neither is
// started nor adopted. Members of one mirror or pool are no copies.
func TestCopies(t *testing.T) {
	two := func(n int, kind string) func(*probe.Facts, *answer.Answer) {
		return func(f *probe.Facts, a *answer.Answer) {
			members(f, a, 2)
			f.Disks[0].Installation, f.Disks[1].Installation = installed(f.Disks[0], 0, kind), installed(f.Disks[1], n, kind)
			a.Disk.List, a.Disk.RAID = []string{f.Disks[0].Name}, ""
		}
	}
	id := installed(probe.Disk{Size: 64e9, Sector: 512}, 0, "lvm").ID
	const stop, warn, none = "error", "warning", ""
	for name, c := range map[string]struct {
		disks func(*probe.Facts, *answer.Answer)
		edit  func(*probe.Facts, *answer.Answer)
		want  string
	}{
		"to be started":      {two(0, "lvm"), nil, stop},
		"to be adopted":      {two(0, "lvm"), func(_ *probe.Facts, a *answer.Answer) { a.Disk.Adopt, a.Install.Reinstall = true, true }, stop},
		"to be written over": {two(0, "lvm"), func(_ *probe.Facts, a *answer.Answer) { a.Install.Installation = id }, warn},
		"neither is chosen": {two(0, "lvm"), func(f *probe.Facts, a *answer.Answer) {
			f.Disks = append(f.Disks, f.Disks[0])
			f.Disks[2].Name, f.Disks[2].Installation, a.Disk.List = "vdx", nil, []string{"vdx"}
		}, warn},
		"of a pool, adopted": {two(0, "zfs"), func(_ *probe.Facts, a *answer.Answer) {
			a.Disk.Filesystem, a.Disk.ZFS.RAID, a.Disk.Adopt, a.Install.Reinstall = answer.ZFS, answer.RAID0, true, true
		}, stop},
		"another table":          {two(1, "lvm"), nil, none},
		"members of a pool":      {two(1, "zfs"), nil, none},
		"members of a mirror":    {two(1, "md"), nil, none},
		"a finished disk's copy": {two(0, "lvm"), func(f *probe.Facts, _ *answer.Answer) { f.Disks[0].Installation.Unfinished = true }, warn},
	} {
		f, a := facts(64e9), ans()
		c.disks(&f, &a)
		if c.edit != nil {
			c.edit(&f, &a)
		}
		p, fs := made(f, a, image(), identity(t))
		got := ""
		if i := slices.IndexFunc(fs, func(x finding.Finding) bool { return x.Code == "disk-copied" }); i >= 0 {
			got = fs[i].Level.String()
			if !strings.Contains(fs[i].Text, f.Disks[0].Name+" (") || !strings.Contains(fs[i].Text, f.Disks[1].Name+" (") || fs[i].Hint == "" {
				t.Errorf("%s: %v", name, fs[i])
			}
		}
		if got != c.want || got == stop && p.Result == BootExisting {
			t.Errorf("%s: %q, want %q; %s: %v", name, got, c.want, p.Result, fs)
		}
	}
}
