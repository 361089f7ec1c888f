package plan

import (
	"slices"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/internal/finding"
)

type (
	// CheckBoot compares kernel and initrd of the boot partition with the
	// manifest, and looks whether what will change has room.
	CheckBoot struct {
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
		Partition disk.Partition
		Slot      boot.Slot
		Files     []File
	}
	// EraseAnswer overwrites the answer on the boot partition, which may hold
	// secrets and is not needed any more.
	EraseAnswer struct{ Partition disk.Partition }
)

func (a CheckBoot) Step() string   { return "check the boot partition" }
func (a Grow) Step() string        { return "add the data partition to " + a.Device }
func (a WriteBoot) Step() string   { return "change the boot partition" }
func (a EraseAnswer) Step() string { return "erase the answer" }

func (CheckBoot) action()   {}
func (Grow) action()        {}
func (WriteBoot) action()   {}
func (EraseAnswer) action() {}

// kept takes from the disk's own mark whether its data is kept, which was decided
// before the machine was started so, and then the layout that it has.
func (p *Plan) kept(f probe.Facts) {
	d, _ := f.Find(p.InPlace.Disk)
	a := &p.Answer.Disk
	if a.Adopt = p.InPlace.Table.Marks()&disk.KeepsData != 0; !a.Adopt || d.Installation == nil {
		return
	}
	KeptBy(f, *d.Installation).fill(a)
}

// ownDisk is the disk that the system runs from, whatever the answer names.
func ownDisk(f probe.Facts, a answer.Answer, counted bool, fs *finding.List) ([]probe.Disk, bool) {
	d, ok := f.Find(f.InPlace.Disk)
	if !ok {
		fs.Stopf("disk-not-found", "/dev/"+f.InPlace.Disk, "start the machine again", "the disk that the system was started from is gone")
		return nil, false
	}
	if why := a.Disk.MemberCount(1); counted && why != "" {
		fs.Stopf("disk-image-one", "disk-setup", "use a layout of one disk (ext4, xfs, or zfs with raid0), or install from the ISO",
			"the system is made on the disk that it was started from: %s", why)
		return []probe.Disk{d}, false
	}
	if !slices.Equal(a.Disk.List, []string{d.Name}) {
		fs.Notef("disk-fixed", "/dev/"+d.Name, "the node is made on the disk that the system was started from, /dev/%s", d.Name)
	}
	return []probe.Disk{d}, counted
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

// inPlace are the steps on the disk that the system runs from. It starts this
// installer again until the last of its boot files is written, so that what was
// cut off begins anew.
func (p *Plan) inPlace(seed Seed) ([]Action, error) {
	m := p.All()[0]
	esp, err := m.Layout.Find(disk.NameESP)
	if err != nil {
		return nil, err
	}
	slot := boot.Slot(p.InPlace.Slot)
	marks := disk.Unfinished | disk.InPlace
	if p.Adopt != nil {
		marks |= disk.KeepsData
	}
	grow := Grow{Device: m.Device(), Layout: m.Layout.Marked(marks)}
	if p.Adopt == nil {
		data, err := m.Layout.Find(disk.NameData)
		if err != nil {
			return nil, err
		}
		grow.Clear = []Range{{data.Start, mib}, {data.End() - mib, mib}}
	}
	out := []Action{CheckBoot{Partition: esp, Slot: slot}, Release{Device: m.Device(), ZFS: p.ZFS()}, grow}
	out = append(append(out, p.storage()...), seed)
	files, err := p.BootFiles(p.placeholder())
	if err != nil {
		return nil, err
	}
	change := WriteBoot{Partition: esp, Slot: slot}
	for _, f := range files {
		change.Files = append(change.Files, File{Path: f.Path, Bytes: int64(len(f.Data))})
	}
	if out = append(out, change); p.Firmware.Mode == probe.UEFI {
		out = append(out, BootEntry{Partition: esp, Loader: boot.PathLoader})
	}
	out = append(append(out, KeepLog{State: seed.State, FSType: seed.FSType}), p.ends()...)
	return append(out, EraseAnswer{Partition: esp}, Unmark{Device: m.Device(), Layout: m.Layout.Marked(0)}), nil
}

// BootFiles are the files that change on the boot partition, in the order in
// which they are written. storage is as for Slot.
func (p Plan) BootFiles(storage string) ([]SeedFile, error) {
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
	conf, err := boot.InPlaceConfig(p.Slot(storage))
	if err != nil {
		return nil, err
	}
	return []SeedFile{{Path: boot.PathInstallation, Data: id}, {Path: boot.PathEnv, Data: block}, {Path: boot.PathSlotConfig(slot), Data: conf}}, nil
}
