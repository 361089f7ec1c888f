package preflight

import (
	"fmt"
	"slices"
	"strings"

	"joist/installer/probe"
	"joist/internal/finding"
)

// disk makes a check of one disk.
func disk(code string, level finding.Level, waivable bool, when, cure string, hit func(f probe.Facts, d probe.Disk) []string) check {
	return check{Row{code, Disk, level, waivable, when, cure}, func(f probe.Facts, ds []probe.Disk) []string { return hit(f, ds[0]) }}
}

func diskChecks() []check {
	return []check{
		disk("disk-is-medium", finding.Stop, false, "it is what the installer was started from", "choose another disk", func(_ probe.Facts, d probe.Disk) []string {
			return one(d.Medium, "this is the medium that the installer was started from")
		}),
		disk("disk-read-only", finding.Stop, false, "write-protected", "remove the write protection or choose another disk", func(_ probe.Facts, d probe.Disk) []string {
			return one(d.ReadOnly, "the disk is read-only")
		}),
		disk("disk-in-use", finding.Stop, false, "it or a partition is mounted, swap, or below a device mapper or md device", "unmount it or choose another disk", func(_ probe.Facts, d probe.Disk) []string {
			return one(!d.Medium && len(d.InUse) > 0, "the disk is in use by %v", d.InUse)
		}),
		disk("disk-too-small", finding.Stop, false, "below 20 GB (20,000,000,000 bytes)", "use a disk of 20 GB or more", func(_ probe.Facts, d probe.Disk) []string {
			return one(d.Size < MinDisk, "the disk has %s (%d bytes), at least 20 GB are needed", probe.Bytes(d.Size), d.Size)
		}),
		disk("disk-sector-size", finding.Stop, false, "sectors of neither 512 nor 4096 bytes", "format the disk to sectors of 512 or 4096 bytes (nvme format, sg_format)", func(_ probe.Facts, d probe.Disk) []string {
			return one(d.Sector != 512 && d.Sector != 4096, "the disk has sectors of %d bytes", d.Sector)
		}),
		disk("disk-4kn-bios", finding.Stop, false, "sectors of 4096 bytes and a start by BIOS", "start the machine by UEFI, or use a disk with sectors of 512 bytes", func(f probe.Facts, d probe.Disk) []string {
			return one(d.Sector == 4096 && f.Firmware.Mode == probe.BIOS, "a BIOS cannot start from a disk with sectors of 4096 bytes")
		}),
		disk("disk-failing", finding.Stop, true, "the disk's own monitoring (SMART) says that it fails", "use another disk; or waive it: [joist.waive] codes = [\"disk-failing\"]", func(_ probe.Facts, d probe.Disk) []string {
			return one(d.Health != nil && d.Health.Failing, "the disk says of itself that it fails (SMART)")
		}),
		disk("disk-bad-sectors", finding.Warn, false, "sectors that cannot be read (pending, uncorrectable, media errors)", "use another disk, or only in a mirror", func(_ probe.Facts, d probe.Disk) []string {
			return one(d.Health != nil && d.Health.Pending > 0, "%d sectors of the disk could not be read, %d were replaced", health(d).Pending, health(d).Replaced)
		}),
		disk("disk-worn", finding.Warn, false, fmt.Sprintf("%d %% of the rated writes are used up", WornAt), "plan to replace it", func(_ probe.Facts, d probe.Disk) []string {
			return one(d.Health != nil && d.Health.Wear >= WornAt, "%d %% of the disk's rated writes are used up", health(d).Wear)
		}),
		disk("disk-pool-member", finding.Warn, false, "it belongs to an md array, a volume group or a ZFS pool that is not the replaced installation's", "check that nothing else needs it: the other members lose this one", poolMember),
		disk("disk-removable", finding.Warn, false, "the disk is removable", "check that this is the disk you mean", func(_ probe.Facts, d probe.Disk) []string {
			return one(d.Removable, "the disk is removable")
		}),
		disk("disk-usb", finding.Warn, false, "attached by USB", "use it for trials only: USB sticks wear out under a node's writes", func(_ probe.Facts, d probe.Disk) []string {
			return one(d.Bus == "usb", "the disk is attached by USB")
		}),
	}
}

func health(d probe.Disk) probe.Health {
	if d.Health == nil {
		return probe.Health{}
	}
	return *d.Health
}

func poolMember(_ probe.Facts, d probe.Disk) []string {
	kinds := map[string]string{"md": "the md array", "lvm": "the volume group", "zfs": "the ZFS pool"}
	var out []string
	for _, c := range d.Contents {
		if kinds[c.Kind] == "" || d.Installation != nil && c.Where == d.Installation.Data {
			continue
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s belongs to %s %q %s", c.Where, kinds[c.Kind], c.Name, c.ID)))
	}
	return out
}

// setChecks compare the disks that carry one system.
func setChecks() []check {
	return []check{
		{Row{"members-size", Set, finding.Stop, false, "the smallest disk is more than a tenth smaller than the largest", "use disks of one size, or give each the same share with hdsize"}, func(_ probe.Facts, ds []probe.Disk) []string {
			small, large := bySize(ds)
			return one(large.Size-small.Size > large.Size/10, "of %s %s can be used and of %s %s", small.Name, probe.Bytes(small.Size), large.Name, probe.Bytes(large.Size))
		}},
		{Row{"members-size-differs", Set, finding.Note, false, "the disks' sizes differ by a tenth or less; of each as much is used as the smallest has", ""}, func(_ probe.Facts, ds []probe.Disk) []string {
			small, large := bySize(ds)
			return one(large.Size != small.Size && large.Size-small.Size <= large.Size/10, "%s is smaller than %s; of each disk %d bytes are used", small.Name, large.Name, small.Size)
		}},
		{Row{"members-sector", Set, finding.Stop, false, "sectors of 512 and of 4096 bytes together", "use disks with sectors of one size"}, func(_ probe.Facts, ds []probe.Disk) []string {
			for _, d := range ds[1:] {
				if d.Sector != ds[0].Sector {
					return one(true, "%s has sectors of %d bytes, %s of %d", ds[0].Name, ds[0].Sector, d.Name, d.Sector)
				}
			}
			return nil
		}},
		{Row{"members-kind", Set, finding.Warn, false, "rotating and solid-state disks, or different buses, together", "use disks of one kind: the slowest sets the pace"}, func(_ probe.Facts, ds []probe.Disk) []string {
			for _, d := range ds[1:] {
				if d.Rotational != ds[0].Rotational || d.Bus != ds[0].Bus {
					return one(true, "%s (%s) and %s (%s) are of two kinds", ds[0].Name, kind(ds[0]), d.Name, kind(d))
				}
			}
			return nil
		}},
	}
}

func bySize(ds []probe.Disk) (small, large probe.Disk) {
	by := func(a, b probe.Disk) int { return int(min(max(a.Size-b.Size, -1), 1)) }
	return slices.MinFunc(ds, by), slices.MaxFunc(ds, by)
}

func kind(d probe.Disk) string {
	if d.Rotational {
		return d.Bus + ", rotating"
	}
	return d.Bus + ", solid-state"
}
