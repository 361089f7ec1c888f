package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"joist/test/node"
	"joist/test/vm"
)

// figureLayouts are the layouts whose installation is timed, with the number of
// disks that each takes.
var figureLayouts = [...]struct {
	name, disk string // lines of [disk-setup] and below
	disks      int
}{
	{"LVM, ext4", "filesystem = \"ext4\"\n%s", 1},
	{"LVM, xfs", "filesystem = \"xfs\"\n%s", 1},
	{"LVM on a mirror, ext4", "filesystem = \"ext4\"\n%s\n[joist.disk]\nraid = \"raid1\"", 2},
	{"ZFS, one disk", "filesystem = \"zfs\"\nzfs.raid = \"raid0\"\n%s", 1},
	{"ZFS, mirror", "filesystem = \"zfs\"\nzfs.raid = \"raid1\"\n%s", 2},
	{"ZFS, raidz-1", "filesystem = \"zfs\"\nzfs.raid = \"raidz-1\"\n%s", 3},
}

// TestLayoutFigures times the installation of each layout, and beside it, in the
// same machine, copying to each of its disks what the installer copies there,
// with fsync. Before either nothing of the medium is in memory. It writes
// build/figures-layouts.md; no figure is a gate.
func TestLayoutFigures(t *testing.T) {
	x := newInstaller(t)
	volume, files := filepath.Join(x.dir, "layouts.iso"), map[string][]byte{}
	for i, l := range figureLayouts {
		list := "disk-list = [" + strings.Join([]string{`"sda"`, `"sdb"`, `"sdc"`}[:l.disks], ", ") + "]"
		files[fmt.Sprintf("%d.toml", i)] = hashedAnswer(t, `filesystem = "ext4"`, fmt.Sprintf(l.disk, list), `disk-list = ["vda"]`, "")
	}
	if err := vm.CreateVolume(t.Context(), volume, "LAYOUTS", files); err != nil {
		t.Fatal(err)
	}
	x.plug(t, "answers", vm.Disk{Path: volume, Format: "raw"})
	x.shell.run(t, time.Minute, "mkdir /run/layouts && mount -t iso9660 -o ro /dev/sda /mnt && cp /mnt/*.toml /run/layouts/ && umount /mnt")
	x.unplug(t, "answers")

	table := fmt.Sprintf("Image %s, one machine of %d MiB run by %s. Disks of %d GiB.\n\n| layout | disks | installation | the same bytes copied to each disk, with fsync |\n|---|---|---|---|\n",
		filepath.Base(x.img.path), node.Memory, x.img.accel, node.DiskSize>>30)
	for i, l := range figureLayouts {
		x.disks(t, l.disks, true)
		x.shell.run(t, time.Minute, "sync; echo 3 > /proc/sys/vm/drop_caches")
		begun := time.Now()
		out := x.shell.run(t, node.InstallTime, fmt.Sprintf("joist-install run --unattended --answer /run/layouts/%d.toml", i))
		installed := time.Since(begun)
		if !strings.Contains(out, "Joist is installed.") {
			t.Fatalf("%s: the installer said:\n%s", l.name, out)
		}
		x.disks(t, l.disks, false)

		x.disks(t, l.disks, true)
		out = x.shell.run(t, node.InstallTime, fmt.Sprintf(`sync; echo 3 > /proc/sys/vm/drop_caches; cd /run/joist/medium; time -p for d in %s; do cat boot/vmlinuz boot/initrd joist/*/system.sqfs | dd of=/dev/$d bs=1M iflag=fullblock conv=fsync 2>&1; done; cd /`,
			"sda sdb sdc"[:4*l.disks-1]))
		x.disks(t, l.disks, false)
		real := regexp.MustCompile(`(?m)^real ([0-9.]+)`).FindStringSubmatch(out)
		if real == nil {
			t.Fatalf("%s: no time in %q", l.name, out)
		}
		copied, err := strconv.ParseFloat(real[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		row := fmt.Sprintf("| %s | %d | %.1f s | %.1f s |\n", l.name, l.disks, installed.Seconds(), copied)
		t.Log(row)
		table += row
	}
	root, err := vm.Root()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "build", "figures-layouts.md"), []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
}

// disks attaches blank disks, or takes them away again.
func (x *longInstaller) disks(t *testing.T, n int, attach bool) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("disk%d", i)
		path := filepath.Join(x.dir, name+".qcow2")
		if !attach {
			x.unplug(t, name)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := vm.CreateDisk(t.Context(), path, node.DiskSize); err != nil {
			t.Fatal(err)
		}
		x.plug(t, name, vm.Disk{Path: path, Sparse: true, Serial: strings.ToUpper(name)})
	}
}
