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
	look       string // what docs/recovery.md says, by hand
}{
	{"LVM, ext4", "filesystem = \"ext4\"\n%s", 1, byGroup("/dev/sda5", "noload")},
	{"LVM, xfs", "filesystem = \"xfs\"\n%s", 1, byGroup("/dev/sda5", "norecovery")},
	{"LVM on a mirror, ext4", "filesystem = \"ext4\"\n%s\n[joist.disk]\nraid = \"raid1\"", 2,
		"vgchange -an --devices /dev/md127 joist && mdadm --stop /dev/md127 && mdadm --assemble --run --readonly /dev/md127 /dev/sda5 /dev/sdb5 && " +
			byGroup("/dev/md127", "noload") + " && mdadm --stop /dev/md127"},
	{"ZFS, one disk", "filesystem = \"zfs\"\nzfs.raid = \"raid0\"\n%s", 1, byPool("-d /dev/sda5")},
	{"ZFS, mirror", "filesystem = \"zfs\"\nzfs.raid = \"raid1\"\n%s", 2, byPool("-d /dev/sdb5")},
	{"ZFS, raidz-1", "filesystem = \"zfs\"\nzfs.raid = \"raidz-1\"\n%s", 3, byPool("-d /dev/sda5 -d /dev/sdc5")},
}

// byGroup looks into volume local of a group, and reads a guest's disk where the
// group can be written to.
func byGroup(device, option string) string {
	s := "mkdir -p /run/look && "
	if device != "/dev/md127" {
		s += "vgchange -an --devices " + device + " joist && lvcreate --devices " + device + " -y -V 64M --thinpool data -n vm-100-disk-0 joist && vgchange -an --devices " + device + " joist && " +
			"lvchange -ay --devices " + device + " joist/local joist/vm-100-disk-0 && dd if=/dev/joist/vm-100-disk-0 of=/run/vm-100.raw bs=1M && rm /run/vm-100.raw && "
	}
	return s + "lvchange -ay --devices " + device + " joist/local && mount -o ro," + option + " /dev/joist/local /run/look && ls /run/look/template /run/look/dump && " +
		"umount /run/look && vgchange -an --devices " + device + " joist"
}

// byPool looks into dataset local.
func byPool(devices string) string {
	return "zpool export rpool && modprobe zfs && zpool import " + devices + " -N -f -o readonly=on rpool && zfs list -t all && mkdir -p /run/look && " +
		"mount -t zfs -o ro rpool/local /run/look && umount /run/look && zpool export rpool"
}

// TestLayoutFigures times the installation of each layout, and beside it, in the
// same machine, copying to each of its disks what the installer copies there,
// with fsync. Before either nothing of the medium is in memory. It writes
// build/figures-layouts.md; no figure is a gate. In between the rescue system
// looks into the layout, by its verb and by hand.
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
		wantLines(t, x.shell.run(t, 2*time.Minute, "joist-init rescue-mount 2>&1"), "mounted state read-only on /mnt/state", "mounted local read-only on /mnt/local")
		x.shell.run(t, 2*time.Minute, "{ umount /mnt/state /mnt/local && "+l.look+"; } 2>&1")
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
