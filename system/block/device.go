// Package block looks at block devices the careful way: it reads sysfs, the
// GUID partition table and a few magic numbers, and never opens anything for
// writing. It is how stage 1, PID 1 and the rescue command find the medium
// and the system disk without udev, blkid or /dev/disk.
package block

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Device is one disk or partition as sysfs shows it.
type Device struct {
	Name      string // kernel name: "sda", "nvme0n1p3"
	Disk      string // the whole disk's name; equal to Name for a disk
	Partition int    // number, 0 for a whole disk
	Bytes     int64  // 0: no medium
	Sector    int    // logical sector size in bytes
	Seq       string // diskseq: changes when the medium or the device is replaced
}

// Path is the node that devtmpfs made.
func (d Device) Path() string { return "/dev/" + strings.ReplaceAll(d.Name, "!", "/") }

// Key names this device with this medium in it.
func (d Device) Key() string { return fmt.Sprintf("%s/%s/%d", d.Name, d.Seq, d.Bytes) }

// List returns all disks and partitions below sys ("/sys"), disks before
// their partitions. Memory-backed and stacked devices (ram, loop, zram, dm,
// md) are left out: what is inside guests' volumes is never looked at.
func List(sys string) ([]Device, error) {
	dir := filepath.Join(sys, "class/block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	var out []Device
	for _, e := range entries {
		name := e.Name()
		if virtual(name) {
			continue
		}
		d := Device{Name: name, Disk: name, Sector: 512}
		own := filepath.Join(dir, name)
		disk := own
		if n := number(filepath.Join(own, "partition")); n > 0 {
			// A partition's folder lies inside its disk's.
			real, err := filepath.EvalSymlinks(own)
			if err != nil {
				continue // gone since the listing
			}
			disk = filepath.Dir(real)
			d.Partition, d.Disk = int(n), filepath.Base(disk)
		}
		d.Bytes = number(filepath.Join(own, "size")) * 512 // always in 512-byte units
		if n := number(filepath.Join(disk, "queue/logical_block_size")); n > 0 {
			d.Sector = int(n)
		}
		d.Seq = text(filepath.Join(disk, "diskseq"))
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Device) int {
		if c := strings.Compare(a.Disk, b.Disk); c != 0 {
			return c
		}
		return a.Partition - b.Partition
	})
	return out, nil
}

func virtual(name string) bool {
	for _, p := range []string{"ram", "loop", "zram", "dm-", "md", "fd", "nbd", "zd", "drbd", "rbd"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func number(path string) int64 {
	n, err := strconv.ParseInt(text(path), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
