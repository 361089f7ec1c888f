package vm

import (
	"fmt"
	"path/filepath"
	"strings"
)

// firmwareDir is where Debian's package ovmf puts its images.
const firmwareDir = "/usr/share/OVMF"

// code and vars are the two halves of a UEFI image. The "secboot" code is
// built with SMM, without which variables could be written by anybody and
// Secure Boot would not be enforced; the ".ms" variables hold Microsoft's keys
// (README.Debian of ovmf).
func (f Firmware) code() string {
	if f == OVMFSecureBoot {
		return filepath.Join(firmwareDir, "OVMF_CODE_4M.secboot.fd")
	}
	return filepath.Join(firmwareDir, "OVMF_CODE_4M.fd")
}

func (f Firmware) vars() string {
	if f == OVMFSecureBoot {
		return filepath.Join(firmwareDir, "OVMF_VARS_4M.ms.fd")
	}
	return filepath.Join(firmwareDir, "OVMF_VARS_4M.fd")
}

// args is QEMU's argument vector for a complete Config (withDefaults, Dir,
// Vars and Accel set).
func (c Config) args() []string {
	a := []string{"-name", c.Name, "-nodefaults", "-no-user-config", "-display", "none", "-vga", "std"}
	a = append(a, c.machineArgs()...)
	a = append(a,
		"-chardev", "socket,id=qmp,server=off,path="+c.socket("qmp"),
		"-mon", "chardev=qmp,mode=control",
		"-device", "virtio-rng-pci",
		"-device", "qemu-xhci,id=xhci",
	)
	for i := range c.Serials {
		id := fmt.Sprintf("serial%d", i)
		a = append(a, "-chardev", "socket,id="+id+",server=off,path="+c.socket(id), "-serial", "chardev:"+id)
	}
	boot := 0 // position in the firmware's boot order
	if c.Kernel != "" {
		boot = 1 // QEMU gives the first to -kernel
	}
	if c.DisksFirst {
		a = append(a, c.diskArgs(&boot)...)
		a = append(a, c.mediaArgs(&boot)...)
	} else {
		a = append(a, c.mediaArgs(&boot)...)
		a = append(a, c.diskArgs(&boot)...)
	}
	if c.HotPlug {
		a = append(a, "-device", "virtio-scsi-pci,id="+hotController)
	}
	a = append(a, c.nicArgs(&boot)...)
	if c.Kernel != "" {
		a = append(a, "-kernel", c.Kernel, "-append", c.Append)
		if c.Initrd != "" {
			a = append(a, "-initrd", c.Initrd)
		}
	}
	if c.NoReboot {
		a = append(a, "-no-reboot")
	}
	return append(a, c.Extra...)
}

func (c Config) machineArgs() []string {
	machine := "q35"
	var a []string
	if c.Firmware == OVMFSecureBoot {
		machine += ",smm=on"
		a = append(a, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	if c.Firmware != SeaBIOS {
		a = append(a,
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+c.Firmware.code(),
			"-drive", "if=pflash,unit=1,format=raw,file="+c.Vars)
	}
	cpu := strings.Join(append([]string{c.Accel.cpu()}, c.CPUFlags...), ",")
	rtc := "base=utc"
	if !c.Clock.IsZero() {
		rtc = "base=" + c.Clock.UTC().Format("2006-01-02T15:04:05")
	}
	return append(a,
		"-machine", machine, "-accel", c.Accel.option(), "-cpu", cpu,
		"-m", fmt.Sprint(c.Memory), "-smp", fmt.Sprint(c.CPUs), "-rtc", rtc)
}

func (c Config) mediaArgs(boot *int) []string {
	var a []string
	for i, m := range c.Media {
		id := fmt.Sprintf("medium%d", i)
		if m.Path != "" {
			a = append(a, "-drive", "if=none,id="+id+"-drive,format=raw,readonly=on,file="+m.Path)
		}
		var dev string
		switch m.Kind {
		case CD: // QEMU's q35 has six SATA ports ide.0 … ide.5; disks count up, CDs down
			dev = fmt.Sprintf("ide-cd,id=%s,bus=ide.%d", id, 5-i)
		case USBStick:
			dev = "usb-storage,removable=on,bus=xhci.0,id=" + id
		}
		if m.Path != "" {
			dev += fmt.Sprintf(",drive=%s-drive,bootindex=%d", id, *boot)
			*boot++
		}
		a = append(a, "-device", dev)
	}
	return a
}

func (c Config) diskArgs(boot *int) []string {
	var a []string
	for i, d := range c.Disks {
		id := fmt.Sprintf("disk%d", i)
		if d.Paths > 0 {
			a = append(a, d.pathArgs(id, i, boot)...)
			continue
		}
		a = append(a, "-drive", fmt.Sprintf("if=none,id=%s-drive,format=%s,discard=unmap,%sfile=%s", id, d.Format, d.zeroes(), d.file()))
		var dev string
		switch d.Bus {
		case VirtioBlk:
			dev = "virtio-blk-pci"
		case VirtioSCSI:
			a = append(a, "-device", fmt.Sprintf("virtio-scsi-pci,id=scsi%d", i))
			dev = fmt.Sprintf("scsi-hd,bus=scsi%d.0", i)
		case SATA:
			dev = fmt.Sprintf("ide-hd,bus=ide.%d", i)
		case NVMe:
			dev = "nvme"
		}
		dev += fmt.Sprintf(",id=%s,drive=%s-drive,serial=%s,bootindex=%d", id, id, d.Serial, *boot)
		*boot++
		if d.SectorSize != 0 {
			dev += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", d.SectorSize, d.SectorSize)
		}
		a = append(a, "-device", dev)
	}
	return a
}

// zeroes is what becomes of zeros that are written, as an option with its comma.
func (d Disk) zeroes() string {
	if d.Sparse {
		return "detect-zeroes=unmap,"
	}
	return ""
}

// pathArgs attach one image to several controllers, as a disk with two ports is:
// writes by either are seen by both. The name is in the range IEEE leaves to
// those who have no number of their own (NAA 3, locally assigned).
func (d Disk) pathArgs(id string, n int, boot *int) []string {
	a := []string{"-blockdev", fmt.Sprintf("driver=%s,node-name=%s-node,discard=unmap,%sfile.driver=file,file.discard=unmap,file.filename=%s", d.Format, id, d.zeroes(), d.Path)}
	for i := range d.Paths {
		path := fmt.Sprintf("%s-path%d", id, i)
		dev := fmt.Sprintf("scsi-hd,bus=%s-scsi.0,id=%s,drive=%s-node,share-rw=on,serial=%s,wwn=0x%x,bootindex=%d", path, path, id, d.Serial, uint64(3)<<60|uint64(n+1), *boot)
		*boot++
		a = append(a, "-device", "virtio-scsi-pci,id="+path+"-scsi", "-device", dev)
	}
	return a
}

func (c Config) nicArgs(boot *int) []string {
	var a []string
	for i, n := range c.NICs {
		id := fmt.Sprintf("nic%d", i)
		dev := fmt.Sprintf("%s,id=%s,mac=%s", n.Model, id, n.MAC)
		switch {
		case n.Port != nil:
			a = append(a, "-netdev", n.Port.Netdev(id+"-net"))
			dev += ",netdev=" + id + "-net"
		case n.User != "":
			a = append(a, "-netdev", "user,id="+id+"-net,"+n.User)
			dev += ",netdev=" + id + "-net"
		}
		if n.PXE {
			dev += fmt.Sprintf(",bootindex=%d", *boot)
			*boot++
		}
		if !n.PXE || c.Firmware != SeaBIOS {
			// No ROM: a BIOS cannot lose time on it, and UEFI uses drivers of its own.
			dev += ",romfile="
		}
		a = append(a, "-device", dev)
	}
	return a
}

func (c Config) socket(name string) string { return filepath.Join(c.Dir, name) }
