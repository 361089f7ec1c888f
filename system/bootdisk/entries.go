package bootdisk

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"joist/image/boot"
	"joist/image/boot/efivar"
	"joist/image/disk"
)

// firmware is efivar.Dir where the firmware is UEFI and shows its variables.
func firmware() string {
	list, err := os.ReadDir(efivar.Dir)
	if err == nil && len(list) == 0 { // the first mounts come before the kernel can load a module
		if unix.Mount("efivarfs", efivar.Dir, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "") == nil {
			list, err = os.ReadDir(efivar.Dir)
		}
	}
	if err != nil || len(list) == 0 {
		return ""
	}
	return efivar.Dir
}

// Unlisted returns the disks that the firmware has no boot entry for. Where it
// has none of ours at all it does not store them, and nothing is missing: it
// finds disks by the path that all firmware falls back to.
func (s System) Unlisted(copies []Copy) ([]Disk, error) {
	if s.EFI == "" {
		return nil, nil
	}
	list, err := efivar.List(s.EFI)
	if err != nil {
		return nil, err
	}
	ours, known := false, map[string]bool{}
	for _, e := range list {
		if boot.OurEntry(e.Name) { // firmware may have one of its own beside it
			ours, known[e.Partition] = true, true
		}
	}
	var out []Disk
	for _, c := range copies {
		p, err := c.Disk.Table.Find(disk.NameESP)
		if err == nil && ours && !known[strings.ToUpper(p.GUID)] {
			out = append(out, c.Disk)
		}
	}
	return out, nil
}

// entries makes the boot entries that are missing.
func (s System) entries(copies []Copy, say func(format string, args ...any)) error {
	ds, err := s.Unlisted(copies)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range ds {
		say("disk %s has no boot entry in the firmware; it gets one", d.Name)
		errs = append(errs, s.Enlist(d))
	}
	return errors.Join(errs...)
}

// Enlist makes a disk's boot entry, behind those of the system's other disks.
func (s System) Enlist(d Disk) error {
	if s.EFI == "" {
		return nil
	}
	p, err := d.Table.Find(disk.NameESP)
	if err != nil {
		return err
	}
	list, err := efivar.List(s.EFI)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, e := range list {
		names[e.Name] = !strings.EqualFold(e.Partition, p.GUID)
	}
	n := 0
	for names[boot.EntryName(n)] {
		n++
	}
	option, err := boot.LoadOption(boot.EntryName(n), p, int64(d.Table.SectorSize), boot.PathLoader)
	if err != nil {
		return err
	}
	err = efivar.Set(s.EFI, option, n, func(e efivar.Entry) bool {
		return boot.OurEntry(e.Name) && strings.EqualFold(e.Partition, p.GUID)
	})
	if err != nil {
		return fmt.Errorf("make boot entry of disk %s: %w", d.Name, err)
	}
	return nil
}

// Delist takes away the boot entries of disks that are gone, by the GUIDs of
// their boot partitions in upper case.
func (s System) Delist(gone func(partition string) bool) error {
	if s.EFI == "" {
		return nil
	}
	return efivar.Remove(s.EFI, func(e efivar.Entry) bool { return boot.OurEntry(e.Name) && e.Partition != "" && gone(e.Partition) })
}
