package disk

import (
	"fmt"
	"slices"
)

// ImageRequest is what the layout of a disk image depends on.
type ImageRequest struct {
	SectorSize int    // logical: 512 or 4096
	DiskGUID   string // until the disk gets its own
	PartGUIDs  [5]string
}

// PlanImage lays out a disk image: the boot parts alone, as large as they are.
// The data partition comes with the disk's real size. Where no BIOS can start
// the disk, its partition is left out; the others keep their numbers.
func PlanImage(r ImageRequest) (Layout, error) {
	l := Layout{DiskGUID: r.DiskGUID, SectorSize: r.SectorSize}
	at := Align
	for n, p := range []Partition{
		{Name: NameBIOS, Type: TypeBIOS, Size: BIOSSize}, {Name: NameESP, Type: TypeESP, Size: ESPSize},
		{Name: NameSlotA, Type: TypeLinux, Size: SlotSize}, {Name: NameSlotB, Type: TypeLinux, Size: SlotSize},
	} {
		if p.Name == NameBIOS && !l.BootsBIOS() {
			continue
		}
		p.Number, p.GUID, p.Start = n+1, r.PartGUIDs[n], at
		at += p.Size
		l.Partitions = append(l.Partitions, p)
	}
	l.Size = at + Align // the last MiB is the backup table's
	if err := l.check(); err != nil {
		return l, fmt.Errorf("plan disk image: %w", err)
	}
	return l.Marked(Unfinished | InPlace), nil
}

// GrowRequest is what a disk becomes whose boot parts are there and stay.
type GrowRequest struct {
	Size      int64 // of the disk in bytes
	Limit     int64 // use no more than this much of it; 0: all
	DiskGUID  string
	PartGUIDs [5]string
	DataType  string // "": a volume group's
}

// Grow lays out such a disk: the boot parts as they are in l, all else of the
// disk behind them for data. A data partition that l has makes room.
func (l Layout) Grow(r GrowRequest) (Layout, error) {
	l.Partitions = slices.DeleteFunc(slices.Clone(l.Partitions), func(p Partition) bool { return p.Name == NameData })
	l.DiskGUID, l.Size = r.DiskGUID, r.Size-r.Size%int64(l.SectorSize)
	data := Partition{Number: 5, Name: NameData, Type: TypeLVM, GUID: r.PartGUIDs[4]}
	if r.DataType != "" {
		data.Type = r.DataType
	}
	names := map[string]bool{}
	for i, p := range l.Partitions {
		if p.Number < 1 || p.Number > 4 {
			return l, fmt.Errorf("plan disk: partition %d %q is none of a system's boot parts", p.Number, p.Name)
		}
		l.Partitions[i].GUID, names[p.Name] = r.PartGUIDs[p.Number-1], true
		data.Start = max(data.Start, (p.End()+Align-1)/Align*Align)
	}
	for _, n := range []string{NameESP, NameSlotA, NameSlotB} {
		if !names[n] {
			return l, fmt.Errorf("plan disk: it has no partition %q", n)
		}
	}
	end := (l.Size - tableBytes(l.SectorSize)) / Align * Align
	if r.Limit > 0 {
		end = min(end, r.Limit/Align*Align)
	}
	if data.Size = end - data.Start; data.Size < MinDataSize {
		return l, fmt.Errorf("plan disk: %d MiB are usable, at least %d MiB are needed", max(end, 0)/MiB, (data.Start+MinDataSize)/MiB)
	}
	l.Partitions = append(l.Partitions, data)
	return l, l.check()
}
