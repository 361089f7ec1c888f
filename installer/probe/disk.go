package probe

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"joist/api/node"
)

// notDisks are block devices that are never a target: memory, loops, device
// mapper, arrays, optical and floppy drives, network block devices, and the
// hardware partitions of eMMC chips.
func notDisk(name string) bool {
	for _, p := range []string{"loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "drbd", "zd", "mtdblock"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return strings.HasPrefix(name, "mmcblk") && (strings.Contains(name, "boot") || strings.Contains(name, "rpmb"))
}

func (m Machine) disks(medium string, mounts []mount) ([]Disk, error) {
	entries, err := os.ReadDir(m.path("sys/block"))
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var out []Disk
	for _, e := range entries {
		name := e.Name()
		dir := "sys/block/" + name
		size := m.number(dir, "size") * 512                             // always in units of 512 bytes, whatever the sector size
		if notDisk(name) || size == 0 || m.read(dir, "hidden") == "1" { // hidden: one path of a multipath NVMe
			continue
		}
		d := Disk{
			Name: name, Size: size, Sector: int(m.number(dir, "queue/logical_block_size")),
			Model: m.read(dir, "device/model"), Serial: m.serial(dir), WWN: m.wwn(dir),
			Removable: m.read(dir, "removable") == "1", ReadOnly: m.read(dir, "ro") == "1",
			Rotational: m.read(dir, "queue/rotational") == "1",
			Medium:     name == medium, Udev: m.udev("b" + m.read(dir, "dev")),
		}
		if d.Sector == 0 {
			d.Sector = 512
		}
		d.Bus = m.bus(dir, name)
		fillUdev(&d)
		d.InUse = m.inUse(name, mounts)
		m.contents(&d)
		out = append(out, d)
	}
	return out, nil
}

// serial: NVMe and virtio have an attribute, SCSI has vital product data page
// 0x80 (SPC-4, 7.8.15): four bytes of header, then text.
func (m Machine) serial(dir string) string {
	for _, p := range []string{"device/serial", "serial"} {
		if s := m.read(dir, p); s != "" {
			return s
		}
	}
	b, err := os.ReadFile(m.path(dir, "device/vpd_pg80"))
	if err != nil || len(b) < 4 {
		return ""
	}
	return strings.TrimSpace(strings.Trim(strings.ToValidUTF8(string(b[4:]), ""), "\x00 "))
}

// wwn: "naa.5000…", "eui.0025…", "t10.…" as the kernel writes them.
func (m Machine) wwn(dir string) string {
	id := m.read(dir, "wwid")
	if id == "" {
		id = m.read(dir, "device/wwid")
	}
	if hex, ok := strings.CutPrefix(id, "naa."); ok {
		return "0x" + hex
	}
	return strings.Join(strings.Fields(id), " ")
}

// bus reads it off the device's place in the tree.
func (m Machine) bus(dir, name string) string {
	link, _ := os.Readlink(m.path(dir))
	switch {
	case strings.HasPrefix(name, "nvme"):
		return "nvme"
	case strings.HasPrefix(name, "mmcblk"):
		return "mmc"
	case strings.Contains(link, "/usb"):
		return "usb"
	case strings.Contains(link, "/virtio") && strings.HasPrefix(name, "vd"):
		return "virtio"
	case strings.Contains(link, "/ata"):
		return "ata"
	case strings.HasPrefix(name, "sd"):
		return "scsi"
	default:
		return "other"
	}
}

// fillUdev computes what udev's rules (60-persistent-storage) would have set.
func fillUdev(d *Disk) {
	under := func(s string) string { return strings.Join(strings.Fields(s), "_") }
	orDefault(d.Udev, "DEVNAME", "/dev/"+d.Name)
	orDefault(d.Udev, "DEVTYPE", "disk")
	orDefault(d.Udev, "ID_MODEL", under(d.Model))
	orDefault(d.Udev, "ID_SERIAL_SHORT", under(d.Serial))
	serial := under(d.Serial)
	if model := under(d.Model); model != "" && serial != "" {
		serial = model + "_" + serial
	}
	orDefault(d.Udev, "ID_SERIAL", serial)
	orDefault(d.Udev, "ID_WWN", d.WWN)
	if d.Bus != "other" {
		orDefault(d.Udev, "ID_BUS", d.Bus)
	}
}

// partitions lists the partitions of a disk: folders below it that have a
// file "partition".
func (m Machine) partitions(name string) []string {
	entries, _ := os.ReadDir(m.path("sys/block", name))
	var out []string
	for _, e := range entries {
		if m.exists("sys/block", name, e.Name(), "partition") {
			out = append(out, e.Name())
		}
	}
	return out
}

// bootMedium is the device that stage 1 found the system on, if it is still the
// same one: what is mounted may be a copy in memory, or a file of that device.
// slot is set when it is one of a disk that the system shall make a node's.
func (m Machine) bootMedium() (device, slot string) {
	var b node.Medium
	text, err := os.ReadFile(m.path(node.BootMedium))
	if err != nil || json.Unmarshal(text, &b) != nil || b.Device == "" || b.Device != filepath.Base(b.Device) {
		return "", ""
	}
	if m.read("sys/block", m.wholeDisk(b.Device), "diskseq") != b.Seq {
		return "", "" // another disk by now
	}
	return b.Device, b.Slot
}

// wholeDisk names the disk that a device file or one of its partitions is on,
// "" when it is none.
func (m Machine) wholeDisk(device string) string {
	name := filepath.Base(device)
	if m.exists("sys/block", name) {
		return name
	}
	entries, _ := os.ReadDir(m.path("sys/block"))
	for _, e := range entries {
		if slices.Contains(m.partitions(e.Name()), name) {
			return e.Name()
		}
	}
	return ""
}

// inUse says who holds a disk or its partitions: mounts, swap, and devices
// stacked on it (holders: device mapper, md).
func (m Machine) inUse(name string, mounts []mount) []string {
	names := append([]string{name}, m.partitions(name)...)
	var out []string
	for _, n := range names {
		dir := "sys/block/" + name
		if n != name {
			dir += "/" + n
		}
		for _, mt := range mounts {
			if mt.source == "/dev/"+n {
				out = append(out, mt.target)
			}
		}
		for l := range strings.SplitSeq(m.read("proc/swaps"), "\n") {
			if strings.HasPrefix(l, "/dev/"+n+" ") || strings.HasPrefix(l, "/dev/"+n+"\t") {
				out = append(out, "swap")
			}
		}
		holders, _ := os.ReadDir(m.path(dir, "holders"))
		for _, h := range holders {
			out = append(out, h.Name())
		}
	}
	return out
}
