package plan

import (
	"fmt"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/probe"
)

// Action is one step of an installation. The set is closed: apply has one
// function for each.
type Action interface {
	Step() string // verb and object, for progress and journal
	action()
}

type (
	// Release lets go of what an earlier try left mounted or active.
	Release struct{ Device string }
	// Wipe removes every old signature: the first and last MiB of the disk
	// and of each new partition.
	Wipe struct {
		Device string
		Ranges []Range
	}
	// Partition writes the table and has the kernel read it.
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
		State, Local string // devices
		Files        []File
		Dirs         []string
	}
	// WriteSlot copies system.sqfs into a slot.
	WriteSlot struct {
		Slot      boot.Slot
		Partition disk.Partition
		Bytes     int64
		SHA256    string
	}
	// FormatESP writes the FAT volume with all its files. It comes after
	// everything that the files point to: until then the disk does not boot.
	FormatESP struct {
		Partition disk.Partition
		Slot      boot.Slot
		Files     []File
	}
	// InstallBIOSBoot writes GRUB's boot sector and core image.
	InstallBIOSBoot struct{ Partition disk.Partition }
	// BootEntry makes the UEFI entry "Joist" and puts it first.
	BootEntry struct {
		Partition disk.Partition
		Loader    string
	}
	// Finish unmounts, deactivates and syncs.
	Finish struct{ Device, VG string }
)

// Range is a piece of a disk in bytes.
type Range struct {
	Start int64 `json:"start"`
	Bytes int64 `json:"bytes"`
}

func (a Release) Step() string         { return "release " + a.Device }
func (a Wipe) Step() string            { return "wipe " + a.Device }
func (a Partition) Step() string       { return "partition " + a.Device }
func (a CreateLVM) Step() string       { return fmt.Sprintf("create volume group %q", a.VG) }
func (a Mkfs) Step() string            { return fmt.Sprintf("format %s as %s", a.Device, a.Type) }
func (a Seed) Step() string            { return "write configuration" }
func (a WriteSlot) Step() string       { return "copy system image to slot " + string(a.Slot) }
func (a FormatESP) Step() string       { return "write boot partition" }
func (a InstallBIOSBoot) Step() string { return "write BIOS boot code" }
func (a BootEntry) Step() string       { return "write UEFI boot entry" }
func (a Finish) Step() string          { return "finish" }

func (Release) action()         {}
func (Wipe) action()            {}
func (Partition) action()       {}
func (CreateLVM) action()       {}
func (Mkfs) action()            {}
func (Seed) action()            {}
func (WriteSlot) action()       {}
func (FormatESP) action()       {}
func (InstallBIOSBoot) action() {}
func (BootEntry) action()       {}
func (Finish) action()          {}

// actions lists the steps. Everything that the boot files point to is there
// before the boot files are, so that an interrupted installation never boots.
func (p *Plan) actions() ([]Action, error) {
	files, err := p.espFiles()
	if err != nil {
		return nil, err
	}
	seeds, err := p.seedFiles()
	if err != nil {
		return nil, err
	}
	part := map[string]disk.Partition{}
	for _, x := range p.Layout.Partitions {
		part[x.Name] = x
	}
	device := "/dev/" + p.Disk.Name
	lvm := "/dev/" + probe.PartitionName(p.Disk.Name, part[disk.NameData].Number)
	out := []Action{
		Release{Device: device},
		Wipe{Device: device, Ranges: p.wipeRanges()},
		Partition{Device: device, Layout: p.Layout},
		CreateLVM{Device: lvm, VG: VGName, Volumes: p.Volumes},
	}
	for _, v := range p.Volumes {
		if v.Use != "thin-pool" {
			out = append(out, Mkfs{Device: volumeDevice(v.Name), Label: "joist-" + v.Name, Type: v.Use})
		}
	}
	out = append(out,
		Seed{State: volumeDevice("state"), Local: volumeDevice("local"), Files: seeds, Dirs: LocalDirs()},
		WriteSlot{Slot: boot.A, Partition: part[disk.NameSlotA], Bytes: p.Image.Files[boot.FileSystem].Size, SHA256: p.Image.Files[boot.FileSystem].SHA256},
		FormatESP{Partition: part[disk.NameESP], Slot: boot.A, Files: files})
	if p.Layout.BootsBIOS() {
		out = append(out, InstallBIOSBoot{Partition: part[disk.NameBIOS]})
	}
	if p.Firmware.Mode == probe.UEFI {
		out = append(out, BootEntry{Partition: part[disk.NameESP], Loader: boot.PathLoader})
	}
	return append(out, Finish{Device: device, VG: VGName}), nil
}

func volumeDevice(name string) string { return "/dev/" + VGName + "/" + name }

// wipeRanges covers what signatures are found in: LVM, ext4 and md 1.1/1.2 at
// the start, md 0.90/1.0, ZFS and the backup table at the end.
func (p *Plan) wipeRanges() []Range {
	out := []Range{{0, mib}, {p.Layout.Size - mib, mib}}
	for _, x := range p.Layout.Partitions {
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
