// Package bootdisk keeps the boot parts of a system's disks alike: partition
// table, BIOS boot code, EFI system partition and both slots, so that each disk
// starts alone. It looks at them, brings one disk to the state of another and
// changes the state of the slots on all. Volumes are read and written through
// the formatter and reader of image/disk and are never mounted.
package bootdisk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"joist/image/disk"
	"joist/system/block"
)

// Disk is a disk of the system.
type Disk struct {
	Name  string // kernel name
	Path  string
	Bytes int64
	Table disk.Layout
	// Parts are the partitions' devices by their names in the table. One
	// without is reached through the whole disk.
	Parts map[string]string
	// Paths are the disk under its other names, where several paths lead to it.
	// It is read and written by the first.
	Paths []Disk
}

// Named says whether the kernel has the disk by that name, of any path.
func (d Disk) Named(name string) bool {
	return d.Name == name || slices.ContainsFunc(d.Paths, func(p Disk) bool { return p.Name == name })
}

// Devices are those of a partition on all paths.
func (d Disk) Devices(part string) []string {
	var out []string
	for _, p := range append([]Disk{d}, d.Paths...) {
		if dev := p.Parts[part]; dev != "" {
			out = append(out, dev)
		}
	}
	return out
}

// Family says whether two disks are of the same installation, by the GUIDs of
// their tables.
func Family(a, b string) bool {
	return disk.SystemOf(a) != "" && disk.SystemOf(a) == disk.SystemOf(b)
}

// GUID makes one for a disk that comes to the system; r is crypto/rand.Reader.
func GUID(system string, r io.Reader) (string, error) {
	g, err := disk.NewGUID(r)
	own := disk.SystemOf(system)
	if err != nil || own == "" {
		return "", fmt.Errorf("make GUID for a disk of %q: %w", system, err)
	}
	return own + g[len(own):], nil
}

// Find returns the disks of the system, the one with the given GUID first. One
// with several paths is there once.
func Find(devs []block.Device, sys, guid string) []Disk {
	var out []Disk
	others := map[string][]string{}
	for _, names := range paths(devs, sys) {
		others[names[0]] = names[1:]
	}
	for _, d := range Once(devs, sys) {
		if d.Partition != 0 || d.Bytes == 0 {
			continue
		}
		t, err := d.Table()
		if err != nil || !Family(t.DiskGUID, guid) {
			continue
		}
		x := Of(devs, d, t)
		for _, o := range devs {
			if o.Partition == 0 && slices.Contains(others[d.Name], o.Name) {
				x.Paths = append(x.Paths, Of(devs, o, t))
			}
		}
		out = append(out, x)
	}
	slices.SortStableFunc(out, func(a, b Disk) int {
		return second(strings.EqualFold(a.Table.DiskGUID, guid)) - second(strings.EqualFold(b.Table.DiskGUID, guid))
	})
	return out
}

func second(first bool) int {
	if first {
		return 0
	}
	return 1
}

// Of is the disk d, whose table is t, with the partitions that the kernel has.
func Of(devs []block.Device, d block.Device, t disk.Layout) Disk {
	x := Disk{Name: d.Name, Path: d.Path(), Bytes: d.Bytes, Table: t, Parts: map[string]string{}}
	for _, p := range t.Partitions {
		for _, q := range devs {
			if q.Disk == d.Name && q.Partition == p.Number {
				x.Parts[p.Name] = q.Path()
			}
		}
	}
	return x
}

// Blank is the disk of that kernel name below sys, whatever it holds.
func Blank(sys, name string) (Disk, error) {
	devs, err := block.List(sys)
	if err != nil {
		return Disk{}, err
	}
	for _, d := range devs {
		if d.Partition == 0 && d.Name == name && d.Bytes > 0 {
			return Disk{Name: d.Name, Path: d.Path(), Bytes: d.Bytes}, nil
		}
	}
	return Disk{}, fmt.Errorf("find disk %s: %w", name, os.ErrNotExist)
}

// Tables are the partition tables of all disks below sys that have one.
func Tables(sys string) ([]disk.Layout, error) {
	devs, err := block.List(sys)
	if err != nil {
		return nil, err
	}
	var out []disk.Layout
	for _, d := range devs {
		if d.Partition != 0 || d.Bytes == 0 {
			continue
		}
		if t, err := d.Table(); err == nil {
			out = append(out, t)
		}
	}
	return out, nil
}

// Part is the device of a partition, "" where the kernel has none.
func (d Disk) Part(name string) string { return d.Parts[name] }

// part is an open partition.
type part struct {
	f          *os.File
	base, size int64
}

// open opens a partition, for writing only when nobody else has it: the
// kernel refuses to open a device exclusively that is mounted (open(2)).
func (d Disk) open(name string, write bool) (*part, error) {
	p, err := d.Table.Find(name)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR | unix.O_EXCL
	}
	x := &part{size: p.Size}
	path := d.Parts[name]
	if path == "" {
		path, x.base, flags = d.Path, p.Start, flags&^unix.O_EXCL
	}
	if x.f, err = os.OpenFile(path, flags, 0); err != nil {
		return nil, fmt.Errorf("open %s of disk %s: %w", name, d.Name, err)
	}
	return x, nil
}

// ReadAt implements io.ReaderAt within the partition.
func (p *part) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(p.f, p.base, p.size).ReadAt(b, off)
}

// WriteAt implements io.WriterAt within the partition.
func (p *part) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > p.size || int64(len(b)) > p.size-off {
		return 0, errors.New("write past the end of the partition")
	}
	return p.f.WriteAt(b, p.base+off)
}

// Sync waits until the disk has everything.
func (p *part) Sync() error { return p.f.Sync() }

// forget has the next reads come from the disk.
func (p *part) forget() error {
	return errors.Join(p.f.Sync(), unix.Fadvise(int(p.f.Fd()), p.base, p.size, unix.FADV_DONTNEED))
}

func (p *part) Close() error { return p.f.Close() }
