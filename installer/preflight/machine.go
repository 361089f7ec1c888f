package preflight

import (
	"fmt"
	"time"

	"joist/installer/probe"
	"joist/internal/finding"
)

func one(hit bool, format string, args ...any) []string {
	if !hit {
		return nil
	}
	return []string{fmt.Sprintf(format, args...)}
}

// machineChecks is ordered as a person would look at a machine.
func machineChecks() []check {
	return append(append(append(firmwareChecks(), storageChecks()...), networkChecks()...), otherChecks()...)
}

func firmwareChecks() []check {
	return []check{
		{Row{"firmware-mode", Machine, finding.Note, false, "always: how the machine was started", ""}, func(f probe.Facts, _ []probe.Disk) []string {
			return one(true, "the machine was started by %s; the disk is made to start by BIOS (sectors of 512 bytes) and UEFI", map[string]string{probe.UEFI: "UEFI", probe.BIOS: "BIOS"}[f.Firmware.Mode])
		}},
		{Row{"secure-boot", Machine, finding.Note, false, "Secure Boot is on", ""}, func(f probe.Facts, _ []probe.Disk) []string {
			return one(f.Firmware.SecureBoot, "Secure Boot is on: shim, GRUB, kernel and modules are verified; menu, initrd and the hash of the system image are not")
		}},
		{Row{"tpm-missing", Machine, finding.Note, false, "the kernel knows no TPM", "switch it on in the firmware setup (\"fTPM\", \"PTT\"); nothing of this version needs it"}, func(f probe.Facts, _ []probe.Disk) []string {
			return one(f.TPM == probe.NoTPM, "there is no TPM")
		}},
		{Row{"tpm-old", Machine, finding.Note, false, "the TPM speaks a version before 2", "switch it to 2.0 in the firmware setup if it can; nothing of this version needs it"}, func(f probe.Facts, _ []probe.Disk) []string {
			return one(f.TPM != "" && f.TPM != probe.NoTPM && f.TPM < "2", "the TPM has version %s", f.TPM)
		}},
		{Row{"cpu-virtualisation", Machine, finding.Stop, true, "neither VT-x nor AMD-V in the CPU's flags, or firmware has locked it off, or KVM cannot make a virtual machine (tried with `/dev/kvm`, not only looked at)",
			"switch on VT-x or AMD-V (\"SVM\") in the firmware setup, or on the outer hypervisor if this is a virtual machine; or waive it: [joist.waive] codes = [\"cpu-virtualisation\"]; guests then run in slow software emulation"},
			cpuVirtualisation},
		{Row{"iommu-off", Machine, finding.Note, false, "the kernel drives no IOMMU", "switch on VT-d or AMD-Vi in the firmware setup; without it no PCI device can be passed to a guest"}, func(f probe.Facts, _ []probe.Disk) []string {
			return one(f.IOMMU != nil && !f.IOMMU.Active, "no IOMMU is active%s", map[bool]string{true: ", though the firmware describes one (" + describedBy(f.IOMMU) + ")"}[describedBy(f.IOMMU) != ""])
		}},
		{Row{"memory-too-small", Machine, finding.Stop, true, "less than 2048 MiB minus 128 MiB. Counted is the larger of the sum of \"System RAM\" in `/sys/firmware/memmap` and `MemTotal`; the 128 MiB are what firmware tables, integrated graphics and the kernel's own image may take",
			"add memory, or waive it: [joist.waive] codes = [\"memory-too-small\"]; with less than 1 GiB the node will not start"},
			func(f probe.Facts, _ []probe.Disk) []string {
				return one(f.Memory.Size() < MinMemory-MemoryAllowance,
					"the machine has %d MiB of memory (firmware's map: %d MiB, kernel's MemTotal: %d MiB), at least %d MiB are needed, of which %d MiB may be the firmware's",
					f.Memory.Size()>>20, f.Memory.Installed>>20, f.Memory.Total>>20, MinMemory>>20, MemoryAllowance>>20)
			}},
		{Row{"memory-no-ecc", Machine, finding.Note, false, "the firmware describes memory without error correction", "use memory with ECC where wrong data must not go unseen"}, func(f probe.Facts, _ []probe.Disk) []string {
			return one(f.Memory.ECC == probe.Off, "the memory has no error correction (ECC)")
		}},
	}
}

// describedBy names the firmware's table of an IOMMU.
func describedBy(i *probe.IOMMU) string {
	if i == nil {
		return ""
	}
	return i.Table
}

func storageChecks() []check {
	return []check{
		{Row{"no-disk", Machine, finding.Stop, false, "no disk but the medium",
			"attach a disk; if there is one, its controller may need a driver that this image lacks or a RAID mode that the firmware setup can switch to AHCI"},
			func(f probe.Facts, _ []probe.Disk) []string {
				return one(len(Targets(f)) == 0, "no disk to install on was found, apart from the medium")
			}},
		{Row{"disk-too-small", Machine, finding.Stop, false, "the largest disk is below 20 GB (20,000,000,000 bytes)", "use a disk of 20 GB or more"}, func(f probe.Facts, _ []probe.Disk) []string {
			t := Targets(f)
			largest := probe.Disk{}
			for _, d := range t {
				if d.Size >= largest.Size {
					largest = d
				}
			}
			return one(len(t) > 0 && largest.Size < MinDisk, "the largest disk, %s, has %s (%d bytes), at least 20 GB are needed", largest.Name, probe.Bytes(largest.Size), largest.Size)
		}},
		{Row{"disk-paths", Machine, finding.Note, false, "several kernel names are one disk: the same WWID, or model, serial number and size, on SCSI or NVMe", ""}, func(f probe.Facts, _ []probe.Disk) []string {
			var out []string
			for _, d := range f.Disks {
				out = append(out, one(len(d.Paths) > 0, "%s and %v are paths to one disk; %s is used", d.Name, d.Paths, d.Name)...)
			}
			return out
		}},
	}
}

func networkChecks() []check {
	return []check{
		{Row{"no-nic", Machine, finding.Stop, false, "no wired network card", "attach a wired network card; if there is one, its driver or firmware may be missing from this image"},
			func(f probe.Facts, _ []probe.Disk) []string {
				return one(len(f.NICs) == 0, "no wired network card was found")
			}},
		{Row{"no-carrier", Machine, finding.Warn, false, "every card says that it has no link", "connect a cable"}, func(f probe.Facts, _ []probe.Disk) []string {
			for _, n := range f.NICs {
				if n.Carrier != "down" {
					return nil
				}
			}
			return one(len(f.NICs) > 0, "no network card has a link")
		}},
		{Row{"link-slow", Machine, finding.Warn, false, "a link of less than 100 Mbit/s", "look at cable and switch port; guests and backups share this link"}, func(f probe.Facts, _ []probe.Disk) []string {
			var out []string
			for _, n := range f.NICs {
				out = append(out, one(n.Carrier == "up" && n.Speed > 0 && n.Speed < MinSpeed, "the link of %s runs at %d Mbit/s", n.Name, n.Speed)...)
			}
			return out
		}},
		{Row{"link-speed-unknown", Machine, finding.Note, false, "a card has a link and does not say how fast it is; virtual ones do not", ""}, func(f probe.Facts, _ []probe.Disk) []string {
			var out []string
			for _, n := range f.NICs {
				out = append(out, one(n.Carrier == "up" && n.Speed == 0, "the speed of the link of %s is not known", n.Name)...)
			}
			return out
		}},
	}
}

func otherChecks() []check {
	return []check{
		{Row{"clock", Machine, finding.Warn, false, "the clock is before 2026", "set the clock in the firmware setup or replace its battery; certificates made now would carry the wrong time"},
			func(f probe.Facts, _ []probe.Disk) []string {
				return one(f.Time.Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), "the clock says %s", f.Time.Format(time.RFC3339))
			}},
		{Row{"clock-skew", Machine, finding.Warn, false, "the clock differs by more than a minute from one that was asked", "set the clock in the firmware setup (to UTC); the node sets it by NTP once it runs"},
			func(f probe.Facts, _ []probe.Disk) []string {
				if f.Reference == nil {
					return nil
				}
				d := f.Time.Sub(f.Reference.Time).Round(time.Second)
				return one(d.Abs() > MaxSkew*time.Second, "the clock is %v %s that of %s", d.Abs(), map[bool]string{true: "ahead of", false: "behind"}[d > 0], f.Reference.Source)
			}},
		{Row{"probe-incomplete", Machine, finding.Warn, false, "something could not be read", "look at the kernel's messages (dmesg)"}, func(f probe.Facts, _ []probe.Disk) []string { return f.Problems }},
	}
}

func cpuVirtualisation(f probe.Facts, _ []probe.Disk) []string {
	name := map[string]string{"vmx": "VT-x", "svm": "AMD-V"}[f.CPU.Virtualisation]
	switch {
	case f.CPU.Lock == probe.Off:
		return []string{fmt.Sprintf("the firmware has switched virtualisation off and locked it (%s)", orUnknown(f.CPU.Model))}
	case f.CPU.Virtualisation == "":
		return []string{fmt.Sprintf("the CPU (%s) shows neither VT-x nor AMD-V", orUnknown(f.CPU.Model))}
	case !f.CPU.KVM:
		return []string{fmt.Sprintf("the CPU has %s, but KVM cannot use it: %s", name, f.CPU.KVMError)}
	}
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown model"
	}
	return s
}
