package plan

import (
	"slices"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/internal/finding"
)

type (
	// CheckBoot compares kernel and initrd of the boot partition with the
	// manifest, and looks whether what will change has room.
	CheckBoot struct {
		Device    string // a further disk; "" for the plan's first
		Partition disk.Partition
		Slot      boot.Slot
	}
	// Grow writes the table with the data partition in it, the backup to the
	// disk's real end, and tells the kernel of that partition: it has others of
	// the disk in use. The mark stays until all is done.
	Grow struct {
		Device string
		Layout disk.Layout
		Clear  []Range // of the data partition: what old content is known by
	}
	// WriteBoot changes files of the boot partition where they lie: what names
	// the installation and the state of the slots, and last what the slot is
	// started with. Until that one sector the disk starts this installer.
	WriteBoot struct {
		Device    string // as above
		Partition disk.Partition
		Slot      boot.Slot
		Files     []File
	}
	// EraseAnswer overwrites the answer on the boot partition, which may hold
	// secrets and is not needed any more.
	EraseAnswer struct {
		Device    string // as above
		Partition disk.Partition
	}
)

func (a CheckBoot) Step() string   { return "check the boot partition" + of(a.Device) }
func (a Grow) Step() string        { return "add the data partition to " + a.Device }
func (a WriteBoot) Step() string   { return "change the boot partition" + of(a.Device) }
func (a EraseAnswer) Step() string { return "erase the answer" + of(a.Device) }

func (CheckBoot) action()   {}
func (Grow) action()        {}
func (WriteBoot) action()   {}
func (EraseAnswer) action() {}

// kept takes from the disks' own marks whether their data is kept, which was
// decided before the machine was started so, and then the layout that it has.
func (p *Plan) kept(f probe.Facts) {
	a := &p.Answer.Disk
	a.Adopt = keeps(*p.InPlace)
	if k, ok := keptInPlace(f); a.Adopt && ok {
		k.fill(a)
	}
}

// keeps: one disk that says so is enough.
func keeps(own probe.InPlace) bool {
	return slices.ContainsFunc(own.All(), func(d probe.OwnDisk) bool { return d.Table.Marks()&disk.KeepsData != 0 })
}

// nextSystem is what all disks of the new system have in common. It follows from
// the old one (disk.NextSystem), so that disks that were cut off in between are
// known for what they are.
func nextSystem(own probe.InPlace) string {
	first := disk.SystemOf(own.Table.DiskGUID)
	for _, d := range own.Further {
		switch s := disk.SystemOf(d.Table.DiskGUID); {
		case s == disk.NextSystem(first):
			return s // some have it already
		case first == disk.NextSystem(s):
			return first
		}
	}
	return disk.NextSystem(first)
}

// MissingInPlace is how many disks of the system that becomes a new one in place
// are not there, as far as those that are say so. One whose data is erased already
// is none that is missing.
func MissingInPlace(f probe.Facts) int {
	if f.InPlace == nil {
		return 0
	}
	k, _ := keptInPlace(f)
	return max(len(k.Disks)+k.Missing-len(f.InPlace.All()), 0)
}

// keptInPlace is what the data of that system lies in, as far as it is there.
func keptInPlace(f probe.Facts) (Kept, bool) {
	for _, o := range f.InPlace.All() {
		if d, ok := f.Find(o.Disk); ok && d.Installation != nil && (d.Installation.Pool != "" || d.Installation.Array != "" || d.Installation.Group != "") {
			return KeptBy(f, *d.Installation), true
		}
	}
	return Kept{}, false
}

// ownDisks are those of the system that runs, whatever the answer names.
func (p *Plan) ownDisks(f probe.Facts, counted bool, fs *finding.List) (ds []probe.Disk, ok bool) {
	a := p.Answer
	for _, o := range p.InPlace.All() {
		d, ok := f.Find(o.Disk)
		if !ok {
			fs.Stopf("disk-not-found", "/dev/"+o.Disk, "start the machine again", "a disk that the system was started from is gone")
			return nil, false
		}
		ds = append(ds, d)
	}
	missing := MissingInPlace(f)
	if len(ds) > 1 || missing > 0 {
		next := nextSystem(*p.InPlace)
		p.Identity.DiskGUID = next + p.Identity.DiskGUID[len(next):]
	}
	switch why := a.Disk.MemberCount(len(ds)); {
	case !counted || a.Disk.Adopt:
	case missing > 0:
		k, _ := keptInPlace(f)
		fs.Stopf("disk-missing", "/dev/"+ds[0].Name, "connect what is missing and start again; or install from the ISO on the disks that are left",
			"the system lies in %s, which lacks %d more: a disk that comes back would start what was there before", k, missing)
		return ds, false
	case why != "" && len(ds) > 1:
		fs.Stopf("disk-image-one", "disk-setup", "use a layout of as many disks, or install from the ISO", "the node is made on the disks of the system that runs, %s: %s", diskNames(ds), why)
		return ds, false
	case why != "":
		fs.Stopf("disk-image-one", "disk-setup", "use a layout of one disk (ext4, xfs, or zfs with raid0), or install from the ISO",
			"the system is made on the disk that it was started from: %s", why)
		return ds, false
	}
	p.sayFixed(ds, fs)
	return ds, counted
}

// sayFixed says where the answer names other disks.
func (p *Plan) sayFixed(ds []probe.Disk, fs *finding.List) {
	var names []string
	for _, d := range ds {
		names = append(names, d.Name)
	}
	list := slices.Sorted(slices.Values(p.Answer.Disk.List))
	switch {
	case slices.Equal(list, slices.Sorted(slices.Values(names))):
	case len(ds) == 1:
		fs.Notef("disk-fixed", "/dev/"+names[0], "the node is made on the disk that the system was started from, /dev/%s", names[0])
	default:
		fs.Notef("disk-fixed", "/dev/"+names[0], "the node is made on the disks of the system that runs: %s", diskNames(ds))
	}
}

// target is preflight's look at a disk; one that an image was written to can be
// enlarged.
func (p *Plan) target(f probe.Facts, d probe.Disk) finding.List {
	fs := preflight.Target(f, d)
	for i := range fs {
		if p.InPlace != nil && fs[i].Code == "disk-too-small" {
			fs[i].Hint = p.otherDisk()
		}
	}
	return fs
}

// otherDisk is the cure for a disk that is too small.
func (p *Plan) otherDisk() string {
	if p.InPlace != nil {
		return "enlarge the disk to 20 GB or more (for a file: qemu-img resize FILE 32G) and start again, or write the image to a larger one"
	}
	return "use another disk"
}

// boots says whether a table has all that a system starts from, and data.
func boots(l disk.Layout) bool {
	n := 0
	for _, name := range []string{disk.NameBIOS, disk.NameESP, disk.NameSlotA, disk.NameSlotB, disk.NameData} {
		if _, err := l.Find(name); err == nil || name == disk.NameBIOS && !l.BootsBIOS() {
			n++
		}
	}
	return n == 5 && len(l.Partitions) <= 5
}

// inPlace are the steps on the disks that the system runs from. Each starts this
// installer again until the last of its boot files is written, so that what was
// cut off begins anew. The first that is, when all else is there, starts a node,
// which brings the others to its state.
func (p *Plan) inPlace(seed Seed) ([]Action, error) {
	marks := disk.Unfinished | disk.InPlace
	if p.Adopt != nil {
		marks |= disk.KeepsData
	}
	var check, release, grow, boots, entries, erase, unmark []Action
	for i, m := range p.All() {
		device := ""
		if i > 0 {
			device = m.Device()
		}
		esp, err := m.Layout.Find(disk.NameESP)
		if err != nil {
			return nil, err
		}
		g := Grow{Device: m.Device(), Layout: m.Layout.Marked(marks)}
		if g.Clear, err = p.growClears(m.Layout); err != nil {
			return nil, err
		}
		files, err := p.BootFiles(i, p.placeholder())
		if err != nil {
			return nil, err
		}
		change := WriteBoot{Device: device, Partition: esp, Slot: boot.Slot(p.InPlace.Slot)}
		for _, f := range files {
			change.Files = append(change.Files, File{Path: f.Path, Bytes: int64(len(f.Data))})
		}
		check = append(check, CheckBoot{Device: device, Partition: esp, Slot: boot.Slot(p.InPlace.Slot)})
		release = append(release, Release{Device: m.Device(), ZFS: p.ZFS() && i == 0})
		grow, boots = append(grow, g), append(boots, change)
		if p.Firmware.Mode == probe.UEFI {
			entries = append(entries, BootEntry{Device: device, Partition: esp, Loader: boot.PathLoader})
		}
		erase = append(erase, EraseAnswer{Device: device, Partition: esp})
		unmark = append(unmark, Unmark{Device: m.Device(), Layout: m.Layout.Marked(0)})
	}
	// the storage is closed, too, before a node can start from it
	return slices.Concat(check, release, grow, p.storage(), []Action{seed, KeepLog{State: seed.State, FSType: seed.FSType}}, p.settle(), p.ends(),
		boots, entries, erase, unmark), nil
}

// growClears covers what old content of a data partition is known by.
func (p *Plan) growClears(l disk.Layout) ([]Range, error) {
	data, err := l.Find(disk.NameData)
	if err != nil || p.Adopt != nil {
		return nil, err
	}
	out := []Range{{data.Start, mib}, {data.End() - mib, mib}}
	if p.Array != nil { // where its content begins
		out = append(out, Range{data.Start + dataOffset, mib})
	}
	return out, nil
}

// BootFiles are the files that change on the n-th disk's boot partition, in the
// order in which they are written. storage is as for Slot.
func (p Plan) BootFiles(n int, storage string) ([]SeedFile, error) {
	id, err := boot.InstallationFile(p.InstallationID, p.Image.Manifest)
	if err != nil {
		return nil, err
	}
	env := &boot.Env{}
	slot := boot.Slot(p.InPlace.Slot)
	if err := boot.Trial(boot.State{}, slot).Store(env); err != nil {
		return nil, err
	}
	block, err := env.Encode()
	if err != nil {
		return nil, err
	}
	conf, err := boot.InPlaceConfig(p.MemberSlot(n, storage))
	if err != nil {
		return nil, err
	}
	return []SeedFile{{Path: boot.PathInstallation, Data: id}, {Path: boot.PathEnv, Data: block}, {Path: boot.PathSlotConfig(slot), Data: conf}}, nil
}
