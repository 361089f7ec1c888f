package bootdisktest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"joist/system/bootdisk"
)

// Port is where a disk is attached, as a /sys shows it.
type Port struct {
	Bus  string // part of the path below /sys/devices, such as "pci0" or "usb1"
	WWID string
	// Blind has the kernel show no partitions.
	Blind bool
}

// Attach shows d in the folder sys, once more with each call: each path has its
// own name. The partitions of d.Table are files, too. It returns the disk as it
// is found there.
func Attach(t testing.TB, sys string, d bootdisk.Disk, p Port) bootdisk.Disk {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, filepath.Base(d.Path))
	name := ".." + strings.ReplaceAll(file, "/", "!") // "/dev/.." is the root
	own := filepath.Join(sys, "devices", p.Bus, name)
	errs := []error{os.Symlink(d.Path, file)}
	write := func(path, text string) {
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text+"\n"), 0o644))
	}
	show := func(at string, bytes int64) {
		write(filepath.Join(at, "size"), strconv.FormatInt(bytes/512, 10))
		errs = append(errs, os.Symlink(at, filepath.Join(sys, "class/block", filepath.Base(at))))
	}
	errs = append(errs, os.MkdirAll(filepath.Join(sys, "class/block"), 0o755))
	show(own, d.Bytes)
	write(filepath.Join(own, "device/wwid"), p.WWID)
	d.Name, d.Path, d.Parts = name, "/dev/.."+file, map[string]string{}
	for _, x := range d.Table.Partitions {
		if p.Blind {
			break
		}
		part := file + strconv.Itoa(x.Number)
		at := filepath.Join(own, name+strconv.Itoa(x.Number))
		errs = append(errs, os.WriteFile(part, nil, 0o600))
		write(filepath.Join(at, "partition"), strconv.Itoa(x.Number))
		show(at, x.Size)
		d.Parts[x.Name] = "/dev/.." + part
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return d
}
