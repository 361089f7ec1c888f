package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"joist/installer/answer"
	"joist/installer/probe"
	"joist/internal/finding"
)

// Kept is what an installation keeps its data in, as far as it is in the machine.
type Kept struct {
	Filesystem string       // answer.ZFS, or answer.Ext4 for a volume group, whatever its volumes are
	RAID       string       // as an answer has it, "" where nothing says so
	Disks      []probe.Disk // with boot parts, of which the data partition belongs to it
	Other      []probe.Disk // the rest of what belongs to it
	Missing    int          // members that are not in the machine
	Lost       bool         // so many that it cannot be opened
}

// KeptBy looks for everything that belongs to the data of an installation.
func KeptBy(f probe.Facts, in probe.Installation) Kept {
	k := Kept{Filesystem: answer.Ext4, RAID: answer.Single}
	switch {
	case in.Pool != "":
		k.Filesystem, k.RAID = answer.ZFS, ""
	case in.Array != "":
		k.RAID = answer.RAID1
	}
	var ms []probe.Membership
	for _, d := range f.Disks {
		switch {
		case d.Installation != nil && sameData(*d.Installation, in):
			k.Disks = append(k.Disks, d)
		case slices.ContainsFunc(d.Contents, func(c probe.Content) bool { return c.ID != "" && c.ID == dataOf(in)[c.Kind] }):
			k.Other = append(k.Other, d)
		}
		for _, m := range d.Memberships {
			if m.Of == cmp.Or(in.Pool, in.Array) {
				ms = append(ms, m)
			}
		}
	}
	k.count(ms)
	return k
}

// dataOf is by what the data is known, by kind of content.
func dataOf(in probe.Installation) map[string]string {
	return map[string]string{"zfs": in.Pool, "md": in.Array, "lvm": in.Group}
}

func sameData(a, b probe.Installation) bool {
	switch {
	case b.Pool != "":
		return a.Pool == b.Pool
	case b.Array != "":
		return a.Array == b.Array
	default:
		return b.Group != "" && a.Group == b.Group
	}
}

// count compares the members that are there with what the newest of them says.
func (k *Kept) count(ms []probe.Membership) {
	groups, there := map[string]probe.Membership{}, map[string]bool{}
	total := 0
	slices.SortStableFunc(ms, func(a, b probe.Membership) int { return cmp.Compare(a.Age, b.Age) })
	for _, m := range ms { // the newest comes last and counts
		groups[m.Group], total, there[m.Self] = m, m.Groups, true
		k.RAID = m.RAID
	}
	for _, m := range groups {
		lost := 0
		for _, part := range m.Parts {
			if !slices.ContainsFunc(part, func(name string) bool { return there[name] }) {
				lost++
			}
		}
		k.Missing += lost
		k.Lost = k.Lost || lost > m.Spare
	}
	if len(groups) > 1 && k.RAID == answer.RAID1 { // of a pool that does not tell how many there are
		k.RAID = answer.RAID10
	}
	if more := total - len(groups); more > 0 { // at least a disk of each
		k.Missing, k.Lost = k.Missing+more, true
	}
}

// ask is what an answer says to keep this data.
func (k Kept) ask() string {
	var names []string
	for _, d := range k.Disks {
		names = append(names, fmt.Sprintf("%q", d.Name))
	}
	s := "disk-list = [" + strings.Join(names, ", ") + "]"
	switch {
	case k.Filesystem == answer.ZFS:
		s += ", filesystem = \"zfs\", zfs.raid = \"" + or(k.RAID, "the pool's") + "\""
	case k.RAID == answer.RAID1:
		s += ", filesystem = \"ext4\" or \"xfs\", [joist.disk] raid = \"raid1\""
	default:
		s += ", filesystem = \"ext4\" or \"xfs\", no [joist.disk] raid"
	}
	return s
}

// fill puts storage and layout into an answer. Volumes keep their file systems.
func (k Kept) fill(a *answer.Disk) {
	a.RAID, a.ZFS.RAID = "", ""
	switch {
	case k.Filesystem == answer.ZFS:
		a.Filesystem, a.ZFS.RAID = answer.ZFS, or(k.RAID, answer.RAID0)
		return
	case a.Filesystem != answer.XFS:
		a.Filesystem = answer.Ext4
	}
	if k.RAID != answer.Single {
		a.RAID = k.RAID
	}
}

// Take is an answer that keeps this data.
func (k Kept) Take(a *answer.Disk) {
	k.fill(a)
	a.Adopt, a.List = true, nil
	for _, d := range k.Disks {
		a.List = append(a.List, d.Name)
	}
}

// String is what it is, for a person.
func (k Kept) String() string {
	what := map[bool]string{true: "a ZFS pool", false: "a volume group"}[k.Filesystem == answer.ZFS]
	if k.RAID != "" && k.RAID != answer.Single {
		what += " on " + k.RAID
	}
	return what + " of " + diskNames(k.Disks)
}

// agrees says what of the answer is otherwise than what is there: disks, kind of
// storage, layout.
func (k Kept) agrees(ds []probe.Disk, d answer.Disk) (differs []string) {
	for _, x := range k.Disks {
		if !slices.ContainsFunc(ds, func(c probe.Disk) bool { return c.Name == x.Name }) {
			differs = append(differs, x.Name+" is not chosen and would go on starting the old system")
		}
	}
	if zfs := d.Filesystem == answer.ZFS; zfs != (k.Filesystem == answer.ZFS) {
		return append(differs, fmt.Sprintf("the answer has filesystem = %q", d.Filesystem))
	}
	if k.RAID != "" && d.Layout() != k.RAID {
		differs = append(differs, fmt.Sprintf("the answer asks for the layout %q", d.Layout()))
	}
	return differs
}

// adoptable compares the answer with what is there, before anything is written:
// the disks have lost their old boot parts when the data is opened.
func (p *Plan) adoptable(f probe.Facts, ds []probe.Disk, fs *finding.List) bool {
	k, where := KeptBy(f, *ds[0].Installation), "/dev/"+ds[0].Name
	ok := true
	if differs := k.agrees(ds, p.Answer.Disk); len(differs) > 0 {
		hint := "choose what is there: " + k.ask() + "; or disconnect a disk that is no part of it any more"
		if p.InPlace != nil {
			hint = "install from the ISO with " + k.ask()
		}
		fs.Stopf("adoption-differs", where, hint, "the data to keep is in %s, but %s", k, strings.Join(differs, ", "))
		ok = false
	}
	for _, d := range k.Other {
		fs.Stopf("adoption-impossible", "/dev/"+d.Name, "take it out of the pool or volume group in the old system, disconnect it if it is no part of that any more, or leave out [joist.disk] adopt (the data is then lost)",
			"the disk holds a part of the data to keep, and has no boot parts")
		ok = false
	}
	switch {
	case k.Lost:
		fs.Stopf("adoption-impossible", where, "connect the missing disks, or leave out [joist.disk] adopt (the data is then lost)", "the data to keep is in %s, which lacks %d more and cannot be opened without", k, k.Missing)
		return false
	case k.Missing > 0 && ok:
		fs.Warnf("adoption-degraded", where, "connect what is missing before you install; or put a new disk in its place afterwards: joist node disk replace missing NEW",
			"the data to keep is in %s, which lacks %d more: until that is replaced another failing disk may lose all data", k, k.Missing)
	}
	return ok
}

// adopt takes the partitions as they are and keeps what the data partitions
// hold. Only the boot parts are written anew.
func (p *Plan) adopt(f probe.Facts, ds []probe.Disk, fs *finding.List) bool {
	no := func(d probe.Disk, format string, args ...any) bool {
		fs.Stopf("adoption-impossible", "/dev/"+d.Name, "leave out [joist.disk] adopt (the data is then lost), or name the disks of that installation", format, args...)
		return false
	}
	first := ds[0].Installation
	for i, d := range ds {
		in := d.Installation
		switch {
		case in == nil || in.Table == nil:
			return no(d, "the disk holds no installation whose data could be kept")
		case in.Unfinished && !in.KeepsData:
			return no(d, "the installation on the disk was cut off after it had erased the data")
		// not by the tables' ids: a first try may have been cut off between them
		case in.Group != first.Group || in.Array != first.Array || in.Pool != first.Pool:
			return no(d, "the disk belongs to another installation than %s", ds[0].Name)
		case in.Pool == "" && in.Group == "":
			return no(d, "its data partition holds neither a volume group nor a ZFS pool")
		case !boots(*in.Table):
			return no(d, "its partitions are not those of an installation")
		}
		guid, _, err := p.Identity.Member(i)
		if err != nil {
			return no(d, "%v", err)
		}
		l := *in.Table
		l.DiskGUID, l.Partitions = guid, slices.Clone(l.Partitions)
		p.place(i, d, l)
	}
	if !p.adoptable(f, ds, fs) {
		return false
	}
	p.Adopt = first
	fs.Notef("data-kept", "/dev/"+p.Disk.Name, "the data of installation %s is kept with its guests; only the boot parts and the node's configuration are written", first.ID)
	return true
}
