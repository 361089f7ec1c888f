package bootdisk

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"joist/system/block"
)

// CopiesCure is what a person does about disks that are copies of each other.
const CopiesCure = "switch the machine off, disconnect the copy and start again; to use it for something else, erase it in another machine or with the other one disconnected"

// Alone says whether each disk of the system is there once. A copy (dd) has the
// same identity to the last byte, volume group or pool included: nothing tells
// which of the two is meant, and a system that took its slot from one and its
// data from the other would harm both. A disk that is reached by two paths is
// one disk.
func Alone(devs []block.Device, sys, guid string) error {
	seen := map[string]block.Device{}
	for _, d := range devs {
		if d.Partition != 0 || d.Bytes == 0 {
			continue
		}
		t, err := d.Table()
		if err != nil || !Family(t.DiskGUID, guid) {
			continue
		}
		key := strings.ToLower(t.DiskGUID)
		o, twice := seen[key]
		if id := hardware(sys, d); twice && (id == "" || d.Bytes != o.Bytes || id != hardware(sys, o)) {
			return fmt.Errorf("disks %s and %s are copies of each other: both have the identity %s", o.Path(), d.Path(), t.DiskGUID)
		}
		seen[key] = d
	}
	return nil
}

// Distinct says whether devices that claim to be the same one are one disk by
// two paths: else they are copies.
func Distinct(devs []block.Device, sys string, pairs [][2]string) error {
	whole := func(path string) (block.Device, bool) {
		i := slices.IndexFunc(devs, func(d block.Device) bool { return d.Path() == path })
		if i < 0 {
			return block.Device{}, false
		}
		name := devs[i].Disk
		i = slices.IndexFunc(devs, func(d block.Device) bool { return d.Name == name })
		return devs[max(i, 0)], i >= 0
	}
	for _, p := range pairs {
		a, okA := whole(p[0])
		b, okB := whole(p[1])
		if okA && okB && (a.Bytes != b.Bytes || hardware(sys, a) == "" || hardware(sys, a) != hardware(sys, b)) {
			return fmt.Errorf("%s and %s are copies of each other: both claim to be the same part of the node's data", p[0], p[1])
		}
	}
	return nil
}

// Devices are the disks and partitions below sys, each disk once (Once).
func Devices(sys string, used ...string) ([]block.Device, error) {
	devs, err := block.List(sys)
	return Once(devs, sys, used...), err
}

// Once leaves one of the paths to each disk of a system, with the partitions of
// that path: one of which a device is used already, by its kernel name, else the
// first by name.
func Once(devs []block.Device, sys string, used ...string) []block.Device {
	taken := map[string]bool{}
	for _, d := range devs {
		if slices.Contains(used, d.Name) {
			taken[d.Disk] = true
		}
	}
	gone := map[string]bool{}
	for _, names := range paths(devs, sys) {
		keep := names[0]
		if i := slices.IndexFunc(names, func(n string) bool { return taken[n] }); i >= 0 {
			keep = names[i]
		}
		for _, n := range names {
			gone[n] = n != keep
		}
	}
	return slices.DeleteFunc(slices.Clone(devs), func(d block.Device) bool { return gone[d.Disk] })
}

// paths groups the names of disks that have several, in the order of devs.
func paths(devs []block.Device, sys string) (out [][]string) {
	type seen struct {
		block.Device
		id    string
		group int // in out, -1 for none
	}
	var firsts []seen
	for _, d := range devs {
		id := ""
		if d.Partition == 0 && d.Bytes > 0 {
			id = hardware(sys, d)
		}
		if id == "" {
			continue
		}
		i := slices.IndexFunc(firsts, func(o seen) bool { return o.id == id && o.Bytes == d.Bytes && sameTable(o.Device, d) })
		switch {
		case i < 0:
			firsts = append(firsts, seen{d, id, -1})
		case firsts[i].group < 0:
			firsts[i].group = len(out)
			out = append(out, []string{firsts[i].Name, d.Name})
		default:
			out[firsts[i].group] = append(out[firsts[i].group], d.Name)
		}
	}
	return out
}

// sameTable says whether both have the table of one disk: what disks call
// themselves alone is not believed.
func sameTable(a, b block.Device) bool {
	s, aerr := a.Table()
	t, berr := b.Table()
	return aerr == nil && berr == nil && strings.EqualFold(s.DiskGUID, t.DiskGUID)
}

// hardware is what a disk with several paths calls itself on each of them, ""
// where that cannot be relied on: USB bridges repeat numbers, and so do makers of
// SATA disks, which have one path.
func hardware(sys string, d block.Device) string {
	dir := filepath.Join(sys, "class/block", d.Name)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil || strings.Contains(real, "/usb") || strings.Contains(real, "/ata") {
		return ""
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	// SCSI and NVMe; virtio disks have one path
	id := cmp.Or(read("device/wwid"), read("wwid"))
	if slices.Contains([]string{"", "0"}, id) {
		return ""
	}
	return id
}
