package vm

import (
	"fmt"
	"io"
	"strings"
	"time"

	"joist/test/vm/lan"
)

// Firmware is what the machine starts with.
type Firmware int

// The firmware of Debian's packages seabios and ovmf.
const (
	SeaBIOS        Firmware = iota
	OVMF                    // UEFI without keys
	OVMFSecureBoot          // UEFI with Microsoft's keys enrolled and Secure Boot enforced
)

// String is the name used in logs and test names.
func (f Firmware) String() string {
	return [...]string{"SeaBIOS", "OVMF", "OVMFSecureBoot"}[f]
}

// MediumKind is how a read-only medium is attached.
type MediumKind int

// Kinds of media.
const (
	CD       MediumKind = iota // SATA CD-ROM drive
	USBStick                   // USB mass storage behind xHCI
)

// Medium is a removable, read-only image. Its device id is "medium0", ….
type Medium struct {
	Path string // raw image; empty: an empty CD drive
	Kind MediumKind
}

// Bus is how a disk is attached.
type Bus int

// Buses for disks.
const (
	VirtioBlk Bus = iota
	VirtioSCSI
	SATA
	NVMe
)

// Disk is a writable image. Its device id is "disk0", ….
type Disk struct {
	Path       string
	NBD        string // in place of Path: socket of a block server, such as that of package faults
	Format     string // "qcow2" (default; with NBD "raw") or "raw"
	Bus        Bus
	Serial     string // default "JOISTn"
	SectorSize int    // bytes, 0: 512
	Sparse     bool   // zeros that are written take no room
	// Paths is how many SCSI controllers reach the disk, which then has a world
	// wide name, the same on each; 0: it is attached to Bus and has none. Without
	// NBD, SectorSize and another Bus.
	Paths int
}

// NIC is a network card. Its device id is "nic0", ….
type NIC struct {
	Port  *lan.Port // nil: User, or no cable
	User  string    // options of QEMU's own user-mode network, such as "hostfwd=tcp:127.0.0.1:8006-:8006"
	MAC   string    // default 52:54:00:4a:00:0n
	Model string    // default virtio-net-pci
	PXE   bool      // boot ROM present and in the boot order, after the disks
}

// Config is one machine. The zero value of a field is a useful default.
type Config struct {
	Name     string // in file names and errors; default "vm"
	Firmware Firmware
	Vars     string   // UEFI variables kept across machines; default: a fresh copy in Dir
	Memory   int      // MiB, default 2048
	CPUs     int      // default 2, and 1 under software emulation
	CPUFlags []string // "-svm", "-vmx": added to the CPU model
	Media    []Medium
	Disks    []Disk
	NICs     []NIC
	Serials  int       // serial ports, default 1
	Clock    time.Time // what the RTC says at the start (UTC); default: now
	NoReboot bool      // a guest's reboot ends QEMU
	// HotPlug adds a SCSI controller for the disks of Machine.Plug.
	HotPlug bool
	// DisksFirst puts disks before media in the boot order.
	DisksFirst bool
	Kernel     string // direct boot: kernel, initrd and command line
	Initrd     string
	Append     string
	Extra      []string // more arguments for QEMU
	Accel      Accel    // default: Accelerate()
	// Said gets what the first serial port says as it comes, without control
	// sequences; nil: nobody listens. It must not block.
	Said io.Writer
	Dir  string // sockets and logs; default: a new folder; its path must be short
}

// withDefaults fills what was left out and checks what reaches QEMU's
// comma-separated option lists.
func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = "vm"
	}
	if c.Memory == 0 {
		c.Memory = 2048
	}
	if c.Serials == 0 {
		c.Serials = 1
	}
	c.Disks = append([]Disk(nil), c.Disks...)
	for i := range c.Disks {
		c.Disks[i] = c.Disks[i].withDefaults(i)
	}
	c.NICs = append([]NIC(nil), c.NICs...)
	for i := range c.NICs {
		n := &c.NICs[i]
		if n.MAC == "" {
			n.MAC = fmt.Sprintf("52:54:00:4a:00:%02x", i+1)
		}
		if n.Model == "" {
			n.Model = "virtio-net-pci"
		}
		if _, err := lan.ParseMAC(n.MAC); err != nil {
			return c, err
		}
	}
	for _, d := range c.Disks {
		if strings.ContainsAny(d.NBD, "%&?#") || d.NBD != "" && d.Path != "" {
			return c, fmt.Errorf("configure machine %q: disk %+v has two places, or a socket with one of %%&?#", c.Name, d)
		}
		if d.Paths > 0 && (d.NBD != "" || d.SectorSize != 0 || d.Bus != VirtioBlk) {
			return c, fmt.Errorf("configure machine %q: disk %+v has paths, which go with no block server, sector size or bus", c.Name, d)
		}
	}
	for _, s := range c.paths() {
		if strings.Contains(s, ",") {
			return c, fmt.Errorf("configure machine %q: %q has a comma, which ends an option of QEMU", c.Name, s)
		}
	}
	return c, nil
}

// withDefaults is for the n-th disk.
func (d Disk) withDefaults(n int) Disk {
	switch {
	case d.Format == "" && d.NBD != "":
		d.Format = "raw"
	case d.Format == "":
		d.Format = "qcow2"
	}
	if d.Serial == "" {
		d.Serial = fmt.Sprintf("JOIST%d", n)
	}
	return d
}

// file is the disk's image as QEMU's drive options name it. In the URL of a
// server some characters would have a meaning.
func (d Disk) file() string {
	if d.NBD != "" {
		return "nbd+unix:///?socket=" + d.NBD
	}
	return d.Path
}

func (c Config) paths() []string {
	s := []string{c.Name, c.Vars, c.Dir, c.Kernel, c.Initrd}
	for _, m := range c.Media {
		s = append(s, m.Path)
	}
	for _, d := range c.Disks {
		s = append(s, d.Path, d.NBD, d.Format, d.Serial)
	}
	for _, n := range c.NICs {
		s = append(s, n.Model)
	}
	return s
}
