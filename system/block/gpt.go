package block

import (
	"fmt"
	"os"
	"strings"

	"joist/image/disk"
)

// Table reads the device's partition table.
func (d Device) Table() (disk.Layout, error) {
	f, err := os.Open(d.Path())
	if err != nil {
		return disk.Layout{}, fmt.Errorf("open %s: %w", d.Path(), err)
	}
	defer f.Close()
	return disk.ReadTable(f, d.Bytes, d.Sector)
}

// Find returns the partition called name on the disk whose table has the
// given GUID. ok is false while there is no such disk or the kernel has not
// made its partitions yet.
func Find(devs []Device, diskGUID, name string) (dev Device, ok bool) {
	for _, d := range devs {
		if d.Partition != 0 || d.Bytes == 0 {
			continue
		}
		t, err := d.Table()
		if err != nil || !strings.EqualFold(t.DiskGUID, diskGUID) {
			continue
		}
		if p, ok := d.named(devs, t, name); ok {
			return p, true
		}
	}
	return Device{}, false
}

// InPlace returns the partitions called name on the disks that the system in
// their slot makes a node of, and the tables of these disks.
func InPlace(devs []Device, name string) (parts []Device, tables []disk.Layout) {
	for _, d := range devs {
		if d.Partition != 0 || d.Bytes == 0 {
			continue
		}
		t, err := d.Table()
		if err != nil || t.Marks()&disk.InPlace == 0 {
			continue
		}
		if p, ok := d.named(devs, t, name); ok {
			parts, tables = append(parts, p), append(tables, t)
		}
	}
	return parts, tables
}

// named returns the device of the partition with that name in d's table.
func (d Device) named(devs []Device, t disk.Layout, name string) (Device, bool) {
	p, err := t.Find(name)
	if err != nil {
		return Device{}, false
	}
	for _, q := range devs {
		if q.Disk == d.Name && q.Partition == p.Number {
			return q, true
		}
	}
	return Device{}, false
}

// Partitions returns the partitions called name on all disks.
func Partitions(devs []Device, name string) []Device {
	var out []Device
	for _, d := range devs {
		if d.Partition != 0 || d.Bytes == 0 {
			continue
		}
		t, err := d.Table()
		if err != nil {
			continue
		}
		if p, ok := d.named(devs, t, name); ok {
			out = append(out, p)
		}
	}
	return out
}

// Finish takes away the mark of an unfinished installation from the disk with
// the given GUID: that it starts shows that all is there, and from then on it
// holds what must not be installed over. done says that there was one.
func Finish(devs []Device, diskGUID string) (done bool, err error) {
	for _, d := range devs {
		if d.Partition != 0 || d.Bytes == 0 {
			continue
		}
		t, err := d.Table()
		if err != nil || !strings.EqualFold(t.DiskGUID, diskGUID) || t.Marks() == 0 {
			continue
		}
		return true, finish(d.Path(), t)
	}
	return false, nil
}

func finish(path string, t disk.Layout) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	x, err := disk.CheckTables(f, t.Size, t.SectorSize)
	if err == nil {
		err = x.Refused // two tables that differ: none is written over
	}
	if err == nil {
		err = disk.UpdateTable(f, t.Marked(0))
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("mark %s as finished: %w", path, err)
	}
	return nil
}
