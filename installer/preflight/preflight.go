// Package preflight decides from facts whether a machine can become a node.
// The checks are a table: code, level, condition, sentence and cure. A check
// that stops can be waived by code in the answer file when waiving it leaves
// something that works; docs/preflight.md is this table for people.
package preflight

import (
	"fmt"
	"time"

	"joist/installer/probe"
	"joist/internal/finding"
)

// Limits.
const (
	MinDisk = 20_000_000_000 // 20 GB as disk makers count
	// MinMemory is 2 GiB. MemoryAllowance of it may be missing from what the
	// machine reports: firmware tables, integrated graphics and, where the
	// firmware's map is not exported, the kernel's own image.
	MinMemory       = 2 << 30
	MemoryAllowance = 128 << 20
)

// check is one row. hit returns one text per case found, none when all is well.
type check struct {
	code     string
	level    finding.Level
	waivable bool
	cure     string
	hit      func(f probe.Facts) []string
}

func one(hit bool, format string, args ...any) []string {
	if !hit {
		return nil
	}
	return []string{fmt.Sprintf(format, args...)}
}

// table is ordered as a person would look at a machine.
func table() []check {
	return []check{
		{"firmware-mode", finding.Note, false, "", func(f probe.Facts) []string {
			return one(true, "the machine was started by %s; the disk is made to start by BIOS (sectors of 512 bytes) and UEFI", map[string]string{probe.UEFI: "UEFI", probe.BIOS: "BIOS"}[f.Firmware.Mode])
		}},
		{"secure-boot", finding.Note, false, "", func(f probe.Facts) []string {
			return one(f.Firmware.SecureBoot, "Secure Boot is on: shim, GRUB, kernel and modules are verified; menu, initrd and the hash of the system image are not")
		}},
		{"cpu-virtualisation", finding.Stop, true,
			"switch on VT-x or AMD-V (\"SVM\") in the firmware setup, or on the outer hypervisor if this is a virtual machine; or waive it: [joist.waive] codes = [\"cpu-virtualisation\"]; guests then run in slow software emulation",
			cpuVirtualisation},
		{"memory-too-small", finding.Stop, true,
			"add memory, or waive it: [joist.waive] codes = [\"memory-too-small\"]; with less than 1 GiB the node will not start",
			func(f probe.Facts) []string {
				return one(f.Memory.Size() < MinMemory-MemoryAllowance,
					"the machine has %d MiB of memory (firmware's map: %d MiB, kernel's MemTotal: %d MiB), at least %d MiB are needed, of which %d MiB may be the firmware's",
					f.Memory.Size()>>20, f.Memory.Installed>>20, f.Memory.Total>>20, MinMemory>>20, MemoryAllowance>>20)
			}},
		{"no-disk", finding.Stop, false,
			"attach a disk; if there is one, its controller may need a driver that this image lacks or a RAID mode that the firmware setup can switch to AHCI",
			func(f probe.Facts) []string {
				return one(len(targets(f)) == 0, "no disk to install on was found, apart from the medium")
			}},
		{"disk-too-small", finding.Stop, false, "use a disk of 20 GB or more", func(f probe.Facts) []string {
			t := targets(f)
			largest := probe.Disk{}
			for _, d := range t {
				if d.Size >= largest.Size {
					largest = d
				}
			}
			return one(len(t) > 0 && largest.Size < MinDisk, "the largest disk, %s, has %s (%d bytes), at least 20 GB are needed", largest.Name, probe.Bytes(largest.Size), largest.Size)
		}},
		{"no-nic", finding.Stop, false,
			"attach a wired network card; if there is one, its driver or firmware may be missing from this image",
			func(f probe.Facts) []string { return one(len(f.NICs) == 0, "no wired network card was found") }},
		{"no-carrier", finding.Warn, false, "connect a cable", func(f probe.Facts) []string {
			for _, n := range f.NICs {
				if n.Carrier != "down" {
					return nil
				}
			}
			return one(len(f.NICs) > 0, "no network card has a link")
		}},
		{"clock", finding.Warn, false,
			"set the clock in the firmware setup or replace its battery; certificates made now would carry the wrong time",
			func(f probe.Facts) []string {
				return one(f.Time.Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), "the clock says %s", f.Time.Format(time.RFC3339))
			}},
		{"probe-incomplete", finding.Warn, false, "look at the kernel's messages (dmesg)", func(f probe.Facts) []string { return f.Problems }},
	}
}

func cpuVirtualisation(f probe.Facts) []string {
	switch {
	case f.CPU.Virtualisation == "":
		return []string{fmt.Sprintf("the CPU (%s) shows neither VT-x nor AMD-V", orUnknown(f.CPU.Model))}
	case !f.CPU.KVM:
		return []string{fmt.Sprintf("the CPU has %s, but KVM cannot use it: %s",
			map[string]string{"vmx": "VT-x", "svm": "AMD-V"}[f.CPU.Virtualisation], f.CPU.KVMError)}
	}
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown model"
	}
	return s
}

// targets are the disks one could install on.
func targets(f probe.Facts) []probe.Disk {
	var out []probe.Disk
	for _, d := range f.Disks {
		if !d.Medium && !d.ReadOnly {
			out = append(out, d)
		}
	}
	return out
}

// Targets lists the disks that the wizard may offer.
func Targets(f probe.Facts) []probe.Disk { return targets(f) }

// Check applies the table to a machine. It is pure.
func Check(f probe.Facts) finding.List {
	var out finding.List
	for _, c := range table() {
		for _, text := range c.hit(f) {
			out.Add(finding.Finding{Level: c.level, Code: c.code, Path: "machine", Text: text, Hint: c.cure})
		}
	}
	return out
}

// Waivable says whether a finding of that code may be waived.
func Waivable(code string) bool {
	for _, c := range table() {
		if c.code == code {
			return c.waivable
		}
	}
	return false
}

// Target checks the one disk that was chosen.
func Target(f probe.Facts, d probe.Disk) finding.List {
	var out finding.List
	p := "/dev/" + d.Name
	if d.Medium {
		out.Stopf("disk-is-medium", p, "choose another disk", "this is the medium that the installer was started from")
	}
	if d.ReadOnly {
		out.Stopf("disk-read-only", p, "remove the write protection or choose another disk", "the disk is read-only")
	}
	if !d.Medium && len(d.InUse) > 0 {
		out.Stopf("disk-in-use", p, "unmount it or choose another disk", "the disk is in use by %v", d.InUse)
	}
	if d.Size < MinDisk {
		out.Stopf("disk-too-small", p, "use a disk of 20 GB or more", "the disk has %s (%d bytes), at least 20 GB are needed", probe.Bytes(d.Size), d.Size)
	}
	if d.Sector != 512 && d.Sector != 4096 {
		out.Stopf("disk-sector-size", p, "format the disk to sectors of 512 or 4096 bytes (nvme format, sg_format)", "the disk has sectors of %d bytes", d.Sector)
	}
	if d.Sector == 4096 && f.Firmware.Mode == probe.BIOS {
		out.Stopf("disk-4kn-bios", p, "start the machine by UEFI, or use a disk with sectors of 512 bytes", "a BIOS cannot start from a disk with sectors of 4096 bytes")
	}
	if d.Removable {
		out.Warnf("disk-removable", p, "check that this is the disk you mean", "the disk is removable")
	}
	if d.Bus == "usb" {
		out.Warnf("disk-usb", p, "use it for trials only: USB sticks wear out under a node's writes", "the disk is attached by USB")
	}
	return out
}
