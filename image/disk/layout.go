// Package disk is what lies on a system disk before any file system driver
// sees it: the layout of the five partitions as values, the GUID partition
// table that carries them (written by the installer, read by stage 1) and the
// FAT volume of the EFI system partition. Planning is pure; writing goes to an
// io.WriterAt, so that a test uses a file and the installer a block device.
package disk

import (
	"fmt"
	"slices"
	"unicode/utf16"
)

// Sizes of the plan, in bytes.
const (
	MiB = int64(1) << 20
	GiB = int64(1) << 30

	Align       = MiB            // every partition starts and ends on it
	BIOSSize    = MiB            // holds GRUB's core image
	ESPSize     = GiB            //
	SmallESP    = 512 * MiB      // on disks below SmallDisk
	SmallDisk   = 32_000_000_000 // 32 GB as disk makers count
	SlotSize    = 2 * GiB        // system.sqfs with its verity tree
	MinDataSize = GiB            // below it no volume group is worth making
)

// Names of the partitions; stage 1 and the updater find them by these.
const (
	NameBIOS  = "joist-bios"
	NameESP   = "joist-esp"
	NameSlotA = "joist-a"
	NameSlotB = "joist-b"
	NameData  = "joist-data"
)

// Partition types. The values are those of the UEFI specification 2.10 table
// 5.7 and, for the others, of the Discoverable Partitions list and util-linux.
const (
	TypeBIOS  = "21686148-6449-6E6F-744E-656564454649"
	TypeESP   = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	TypeLinux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	TypeLVM   = "E6D6D379-F507-44C2-A23C-238F2A3DF928"
)

// Attributes of the partition joist-esp that speak about the whole disk. The
// bits 48 to 63 are the partition type's own (UEFI 2.10, table 5.6), and this
// type uses none; 60 and 63 are left out, because programs read them on
// partitions of any type.
const (
	Unfinished uint64 = 1 << 62 // an installation was begun and is not over
	KeepsData  uint64 = 1 << 61 // and the data partition is older than it and stays
	// InPlace: what is not over is done by the system in the slot itself, when
	// it starts: the boot parts are whole, and the disk is found by this mark
	// until its GUID is the one that it keeps.
	InPlace uint64 = 1 << 59

	marks = Unfinished | KeepsData | InPlace
)

// Partition is one entry of the table. Offsets and sizes are bytes.
type Partition struct {
	Number     int    `json:"number"` // from 1
	Name       string `json:"name"`
	Type       string `json:"type"` // GUID in its usual upper-case text form
	GUID       string `json:"guid"`
	Start      int64  `json:"start"`
	Size       int64  `json:"size"`
	Attributes uint64 `json:"attributes,omitempty"`
}

// End is the first byte behind p.
func (p Partition) End() int64 { return p.Start + p.Size }

// Layout is a partitioned disk.
type Layout struct {
	DiskGUID   string      `json:"disk_guid"`
	SectorSize int         `json:"sector_size"`
	Size       int64       `json:"size"`
	Partitions []Partition `json:"partitions"`
}

// BootsBIOS says whether a BIOS can start the disk: its boot code counts in
// sectors of 512 bytes.
func (l Layout) BootsBIOS() bool { return l.SectorSize == 512 }

// Marked returns the layout with these marks and no others.
func (l Layout) Marked(set uint64) Layout {
	l.Partitions = slices.Clone(l.Partitions)
	for i, p := range l.Partitions {
		if p.Name == NameESP {
			l.Partitions[i].Attributes = p.Attributes&^marks | set
		}
	}
	return l
}

// Marks returns those that are set.
func (l Layout) Marks() uint64 {
	p, err := l.Find(NameESP)
	if err != nil {
		return 0
	}
	return p.Attributes & marks
}

// Usable is the range between the two tables.
func (l Layout) Usable() (start, end int64) {
	n := tableBytes(l.SectorSize)
	return int64(l.SectorSize) + n, l.Size - n
}

// Shares are how much is used of each disk of one system: up to the end of what
// the data have on it, of each as much as on the one that has least. A table
// without a data partition has 0.
func Shares(ls []Layout) []int64 {
	least, out := int64(0), make([]int64, len(ls))
	for _, l := range ls {
		if p, err := l.Find(NameData); err == nil && (least == 0 || p.Size < least) {
			least = p.Size
		}
	}
	for i, l := range ls {
		if p, err := l.Find(NameData); err == nil {
			out[i] = p.Start + least
		}
	}
	return out
}

// Find returns the one partition called name. Two of the same name are an
// error, because either might be the wrong one.
func (l Layout) Find(name string) (Partition, error) {
	var found []Partition
	for _, p := range l.Partitions {
		if p.Name == name {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return Partition{}, fmt.Errorf("find partition %q: disk %s has %d of that name", name, l.DiskGUID, len(found))
	}
	return found[0], nil
}

// Request is what a plan depends on.
type Request struct {
	Size       int64     // of the disk in bytes
	SectorSize int       // logical: 512 or 4096
	Limit      int64     // use no more than this much of the disk ("hdsize"); 0: all
	DiskGUID   string    //
	PartGUIDs  [5]string // in the order of the partitions
}

// Plan lays the five partitions out. It is pure: the same request gives the
// same layout.
func Plan(r Request) (Layout, error) {
	l := Layout{DiskGUID: r.DiskGUID, SectorSize: r.SectorSize, Size: r.Size}
	if r.SectorSize != 512 && r.SectorSize != 4096 {
		return l, fmt.Errorf("plan disk: sectors of %d bytes are not supported, only 512 and 4096", r.SectorSize)
	}
	l.Size -= l.Size % int64(r.SectorSize)
	if r.Limit < 0 {
		return l, fmt.Errorf("plan disk: the size limit %d is negative", r.Limit)
	}
	// The end is aligned too and leaves the last MiB to the backup table.
	end := (l.Size - tableBytes(r.SectorSize)) / Align * Align
	if r.Limit > 0 {
		end = min(end, r.Limit/Align*Align)
	}
	esp := ESPSize
	if used := min(r.Size, max(r.Limit, 0)); r.Size < SmallDisk || used > 0 && used < SmallDisk {
		esp = SmallESP
	}
	at := Align
	add := func(name, typ string, size int64) {
		n := len(l.Partitions)
		l.Partitions = append(l.Partitions, Partition{Number: n + 1, Name: name, Type: typ, GUID: r.PartGUIDs[n], Start: at, Size: size})
		at += size
	}
	add(NameBIOS, TypeBIOS, BIOSSize)
	add(NameESP, TypeESP, esp)
	add(NameSlotA, TypeLinux, SlotSize)
	add(NameSlotB, TypeLinux, SlotSize)
	add(NameData, TypeLVM, end-at)
	if end-l.Partitions[4].Start < MinDataSize {
		return l, fmt.Errorf("plan disk: %d MiB are usable, at least %d MiB are needed", max(end, 0)/MiB, (l.Partitions[4].Start+MinDataSize)/MiB)
	}
	return l, l.check()
}

// check says what no valid table may hold. Plan, WriteTable and ReadTable use
// the same rules.
func (l Layout) check() error {
	if _, err := parseGUID(l.DiskGUID); err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	if l.SectorSize != 512 && l.SectorSize != 4096 {
		return fmt.Errorf("sectors of %d bytes are not supported", l.SectorSize)
	}
	if len(l.Partitions) > maxEntries {
		return fmt.Errorf("%d partitions, at most %d fit", len(l.Partitions), maxEntries)
	}
	ss, first := int64(l.SectorSize), tableBytes(l.SectorSize)+int64(l.SectorSize)
	for i, p := range l.Partitions {
		fail := func(f string, a ...any) error {
			return fmt.Errorf("partition %d: %w", p.Number, fmt.Errorf(f, a...))
		}
		for _, g := range []string{p.Type, p.GUID} {
			if _, err := parseGUID(g); err != nil {
				return fail("%w", err)
			}
		}
		switch {
		case p.Number < 1 || p.Number > maxEntries:
			return fail("the number is out of range")
		case p.Start%ss != 0 || p.Size%ss != 0 || p.Size <= 0:
			return fail("start and size are not whole sectors")
		case p.Start < first || p.Size > l.Size || p.Start > l.Size-tableBytes(l.SectorSize)-p.Size:
			return fail("it lies outside the usable part of the disk")
		case len(utf16.Encode([]rune(p.Name))) > nameUnits:
			return fail("the name %q is longer than %d characters", p.Name, nameUnits)
		}
		for _, q := range l.Partitions[:i] {
			if p.Number == q.Number || p.Start < q.End() && q.Start < p.End() {
				return fail("it overlaps partition %d", q.Number)
			}
		}
	}
	return nil
}
