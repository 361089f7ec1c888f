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
