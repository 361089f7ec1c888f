package plan

import (
	"fmt"
	"slices"

	"joist/api/node"
	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/probe"
)

// Action is one step of an installation. The set is closed: apply has one
// function for each.
type Action interface {
	Step() string // verb and object, for progress and journal
	action()
}

type (
	// CheckMedium compares every part of the medium with the manifest, before
	// anything is written.
	CheckMedium struct{ Bytes int64 }
	// Release lets go of what an earlier try left mounted or active.
	Release struct {
		Device string
		ZFS    bool // have the kernel know pools
	}
	// Mark writes the new table with the mark "not finished" before anything
	// else is: whatever happens from here on, the next start knows that nothing
	// on the disk counts, or that only what was to be kept does.
	Mark struct {
		Device string
		Layout disk.Layout
	}
	// Wipe removes every old signature: the first and last MiB of the disk
	// and of each new partition. It leaves the table.
	Wipe struct {
		Device string
		Ranges []Range
	}
	// Partition writes the table again and has the kernel read it, now that it
	// finds nothing old in the partitions.
	Partition struct {
		Device string
		Layout disk.Layout
	}
	// CreateLVM makes physical volume, volume group and logical volumes.
	CreateLVM struct {
		Device  string // partition
		VG      string
		Volumes []Volume
	}
	// Mkfs makes a file system or swap area on a volume.
	Mkfs struct {
		Device, Label, Type string
	}
	// Seed writes the node's configuration on the state volume and the folders
	// of the storage "local".
	Seed struct {
		State, Local string // devices; with ZFS datasets
		FSType       string // "" is ext4
		Files        []File
		Dirs         []string
		Keep         []string // of Files: stay as they are where they are there
	}
	// WriteSlot copies system.sqfs into a slot.
	WriteSlot struct {
		Device    string // a further disk; "" for the plan's first
		Slot      boot.Slot
		Partition disk.Partition
		Bytes     int64
		SHA256    string
	}
	// FormatESP writes the FAT volume with all its files. It comes after
	// everything that the files point to: until then the disk does not boot.
	FormatESP struct {
		Device    string // as above
		Partition disk.Partition
		Slot      boot.Slot
		Files     []File
	}
	// InstallBIOSBoot writes GRUB's boot sector and core image.
	InstallBIOSBoot struct {
		Device    string // as above
		Partition disk.Partition
	}
	// BootEntry makes the UEFI entry "Joist" and puts it first.
	BootEntry struct {
		Device    string // as above
		Partition disk.Partition
		Loader    string
	}
	// KeepLog writes the installation's log, with the times of its steps, on the
	// state volume.
	KeepLog struct{ State, FSType string } // as of Seed
	// Finish unmounts, deactivates and syncs.
	Finish struct{ Device, VG string }
	// Unmark takes the mark away. It is the last that is written to the disk.
	Unmark struct {
		Device string
		Layout disk.Layout
	}
)

// Range is a piece of a disk in bytes.
type Range struct {
	Start int64 `json:"start"`
	Bytes int64 `json:"bytes"`
}

func (a CheckMedium) Step() string     { return "check the medium" }
func (a Release) Step() string         { return "release " + a.Device }
func (a Mark) Step() string            { return "mark " + a.Device + " as not finished" }
func (a Wipe) Step() string            { return "wipe " + a.Device }
func (a Partition) Step() string       { return "partition " + a.Device }
func (a CreateLVM) Step() string       { return fmt.Sprintf("create volume group %q", a.VG) }
func (a Mkfs) Step() string            { return fmt.Sprintf("format %s as %s", a.Device, a.Type) }
func (a Seed) Step() string            { return "write configuration" }
func (a WriteSlot) Step() string       { return "copy system image to slot " + string(a.Slot) + of(a.Device) }
func (a FormatESP) Step() string       { return "write boot partition" + of(a.Device) }
func (a InstallBIOSBoot) Step() string { return "write BIOS boot code" + of(a.Device) }
func (a BootEntry) Step() string       { return "write UEFI boot entry" + of(a.Device) }
func (a KeepLog) Step() string         { return "keep the log" }
func (a Finish) Step() string          { return "finish" }
func (a Unmark) Step() string          { return "mark " + a.Device + " as finished" }

// of names the disk in the steps of further disks.
func of(device string) string {
	if device == "" {
		return ""
	}
	return " of " + device
}

func (CheckMedium) action()     {}
func (Release) action()         {}
func (Mark) action()            {}
func (Wipe) action()            {}
func (Partition) action()       {}
func (CreateLVM) action()       {}
func (Mkfs) action()            {}
func (Seed) action()            {}
func (WriteSlot) action()       {}
func (FormatESP) action()       {}
func (InstallBIOSBoot) action() {}
func (BootEntry) action()       {}
func (KeepLog) action()         {}
func (Finish) action()          {}
func (Unmark) action()          {}

// actions lists the steps. Everything that the boot files point to is there and
// written out before the boot files are, so that an interrupted installation
// never boots.
func (p *Plan) actions() ([]Action, error) {
	seed, err := p.seedAction()
	if err != nil {
		return nil, err
	}
	var total int64
	for _, f := range p.Image.Files {
		total += f.Size
	}
	if p.InPlace != nil {
		return p.inPlace(seed)
	}
	out := []Action{CheckMedium{Bytes: total}}
	for i, m := range p.All() {
		out = append(out, Release{Device: m.Device(), ZFS: p.ZFS() && i == 0})
	}
	marks := disk.Unfinished
	if p.Adopt != nil {
		marks |= disk.KeepsData
	}
	for _, m := range p.All() {
		out = append(out, Mark{Device: m.Device(), Layout: m.Layout.Marked(marks)})
	}
	for _, m := range p.All() {
		out = append(out, Wipe{Device: m.Device(), Ranges: p.wipeRanges(m.Layout)}, Partition{Device: m.Device(), Layout: m.Layout.Marked(marks)})
	}
	out = append(out, p.storage()...)
	out = append(out, seed)
	var boots []Action
	for i, m := range p.All() {
		device := ""
		if i > 0 {
			device = m.Device()
		}
		slot, files, err := p.bootActions(i, m, device)
		if err != nil {
			return nil, err
		}
		out, boots = append(out, slot), append(boots, files...)
	}
	out = slices.Concat(out, p.settle(), boots, []Action{KeepLog{State: seed.State, FSType: seed.FSType}}, p.ends())
	for _, m := range p.All() {
		out = append(out, Unmark{Device: m.Device(), Layout: m.Layout.Marked(0)})
	}
	return out, nil
}

// settle ends what is quick and not safe, before a disk can start from it.
func (p *Plan) settle() []Action {
	if !p.ZFS() {
		return nil
	}
	return []Action{SettlePool{Name: PoolName, Kept: p.Adopt != nil}}
}

// ends lets go of the storage.
func (p *Plan) ends() []Action {
	finish := Finish{Device: "/dev/" + p.Disk.Name, VG: VGName}
	switch {
	case p.ZFS():
		finish.VG = ""
		return []Action{ClosePool{Name: PoolName}, finish}
	case p.Mirrored():
		return []Action{finish, StopArray{File: ArrayFile}}
	default:
		return []Action{finish}
	}
}

// ZFS says whether the storage is a pool.
func (p Plan) ZFS() bool { return p.Pool != nil || p.Adopt != nil && p.Adopt.Pool != "" }

// Mirrored says whether the volume group is on an md array, of which a disk may
// be missing.
func (p Plan) Mirrored() bool { return p.arrayUUID() != "" }

// arrayUUID is that of the mirror below the volume group, "" without one.
func (p Plan) arrayUUID() string {
	switch {
	case p.Array != nil:
		return p.Array.UUID
	case p.Adopt != nil:
		return p.Adopt.Array
	}
	return ""
}

// storage makes what the data partitions hold, or opens what is kept there.
func (p *Plan) storage() []Action {
	parts := p.dataParts()
	var out []Action
	if a := p.Adopt; a != nil {
		if a.Pool != "" {
			return []Action{ImportPool{GUID: a.Pool, Name: PoolName, Devices: parts}}
		}
		if a.Array != "" {
			out = append(out, AssembleArray{File: ArrayFile, UUID: a.Array, Devices: parts})
		}
		return append(out, ActivateGroup{UUID: a.Group})
	}
	if p.Pool != nil {
		return []Action{CreatePool{Name: PoolName, Devices: parts, Pool: *p.Pool}}
	}
	lvm := parts[0]
	if p.Array != nil {
		lvm = ArrayFile
		out = append(out, CreateArray{File: ArrayFile, UUID: p.Array.UUID, Devices: parts, Bytes: p.Array.Bytes})
	}
	out = append(out, CreateLVM{Device: lvm, VG: VGName, Volumes: p.Volumes})
	for _, v := range p.Volumes {
		switch v.Use {
		case "thin-pool":
		case answer.XFS:
			out = append(out, MkfsXFS{Device: volumeDevice(v.Name), Label: "joist-" + v.Name})
		default:
			out = append(out, Mkfs{Device: volumeDevice(v.Name), Label: "joist-" + v.Name, Type: v.Use})
		}
	}
	return out
}

func (p *Plan) seedAction() (Seed, error) {
	files, err := p.seedFiles()
	s := Seed{State: volumeDevice("state"), Local: volumeDevice("local"), Files: files, Dirs: LocalDirs()}
	if p.ZFS() {
		s.State, s.Local, s.FSType = PoolName+"/state", PoolName+"/local", answer.ZFS
	} else if p.Answer.Disk.Filesystem == answer.XFS {
		s.FSType = answer.XFS
	}
	if p.Adopt != nil {
		s.Keep = []string{node.HostIDFile}
		for _, k := range node.HostKeys() {
			s.Keep = append(s.Keep, k.File)
		}
	}
	return s, err
}

// bootActions are the steps that make the n-th disk start: first the slot,
// then what points to it.
func (p *Plan) bootActions(n int, m Member, device string) (Action, []Action, error) {
	files, err := p.espFiles(n)
	if err != nil {
		return nil, nil, err
	}
	part := map[string]disk.Partition{}
	for _, x := range m.Layout.Partitions {
		part[x.Name] = x
	}
	sys := p.Image.Files[boot.FileSystem]
	out := []Action{FormatESP{Device: device, Partition: part[disk.NameESP], Slot: boot.A, Files: files}}
	if m.Layout.BootsBIOS() {
		out = append(out, InstallBIOSBoot{Device: device, Partition: part[disk.NameBIOS]})
	}
	if p.Firmware.Mode == probe.UEFI {
		out = append(out, BootEntry{Device: device, Partition: part[disk.NameESP], Loader: boot.PathLoader})
	}
	return WriteSlot{Device: device, Slot: boot.A, Partition: part[disk.NameSlotA], Bytes: sys.Size, SHA256: sys.SHA256}, out, nil
}

func volumeDevice(name string) string { return "/dev/" + VGName + "/" + name }

// wipeRanges covers what signatures are found in: LVM, ext4 and md 1.1/1.2 at
// the start, md 0.90/1.0 and ZFS at the end, and where a mirror's content will
// begin. The new table is there already and stays; so does a data partition
// that is kept.
func (p *Plan) wipeRanges(l disk.Layout) []Range {
	start, end := l.Usable()
	out := []Range{{start, mib - start}, {l.Size - mib, end - l.Size + mib}}
	for _, x := range l.Partitions {
		if p.Adopt != nil && x.Name == disk.NameData {
			if x.End() > l.Size-mib {
				out[1] = Range{x.End(), max(end-x.End(), 0)}
			}
			continue
		}
		if p.Array != nil && x.Name == disk.NameData {
			out = append(out, Range{x.Start + dataOffset, mib})
		}
		out = append(out, Range{x.Start, mib})
		if x.Size > mib {
			out = append(out, Range{x.End() - mib, mib})
		}
	}
	return out
}

// LocalDirs are the folders of the storage "local", one per kind of content.
func LocalDirs() []string {
	return []string{"dump", "images", "import", "private", "snippets", "template/cache", "template/iso"}
}
