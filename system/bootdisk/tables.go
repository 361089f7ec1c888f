package bootdisk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"joist/image/disk"
)

// Faults is all that is wrong with a copy: its partition tables, and what it
// lacks.
func (c Copy) Faults() []string { return slices.Concat(c.Tables.Faults, c.Lacks) }

// Starts says whether the disk starts the system by itself.
func (c Copy) Starts() bool { return len(c.Lacks) == 0 && c.Tables.Starts }

// TablesCure is what a person does about tables that nothing is written on.
const TablesCure = "look at the disk (fdisk -l); replace it, or disconnect it if it is another system's by now"

// Mend writes what is damaged of a disk's partition tables again, from the table
// of its own that is whole. It looks at them anew, and reads them back.
func Mend(d Disk) error {
	f, err := d.disk(true)
	if err != nil {
		return fmt.Errorf("mend partition table of disk %s: %w", d.Name, err)
	}
	t, err := disk.CheckTables(f, d.Bytes, d.Table.SectorSize)
	if err == nil && !strings.EqualFold(t.DiskGUID(), d.Table.DiskGUID) {
		err = fmt.Errorf("its GUID is %s now", t.DiskGUID())
	}
	if err == nil {
		err = t.Mend(f)
	}
	if err == nil {
		err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	}
	if err == nil {
		if t, err = disk.CheckTables(f, d.Bytes, d.Table.SectorSize); err == nil && len(t.Faults) > 0 {
			err = fmt.Errorf("it does not give back what was written: %s", strings.Join(t.Faults, "; "))
		}
	}
	if len(d.Parts) == 0 && err == nil {
		// The kernel had found no partition; where it cannot look again now, it
		// does at the next start.
		_, _ = unix.IoctlRetInt(int(f.Fd()), unix.BLKRRPART)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("mend partition table of disk %s: %w", d.Name, err)
	}
	return nil
}

// mend mends the tables of all disks, each from its own, and returns the copies
// as they are then. On a disk that a person has to look at nothing is written.
func (s System) mend(ctx context.Context, copies []Copy, say func(format string, args ...any)) ([]Copy, error) {
	var errs []error
	again := false
	for _, c := range copies {
		switch {
		case c.Tables.Refused != nil:
			errs = append(errs, fmt.Errorf("disk %s: %w; nothing is written on it: %s", c.Disk.Name, c.Tables.Refused, TablesCure))
		case len(c.Tables.Faults) > 0:
			say("disk %s: %s; it is mended from the table that is whole", c.Disk.Name, strings.Join(c.Tables.Faults, "; "))
			errs = append(errs, Mend(c.Disk))
			again = true
		}
	}
	if again {
		fresh, err := s.Inspect(ctx, false)
		if err != nil {
			return copies, errors.Join(append(errs, err)...)
		}
		copies = fresh
	}
	return copies, errors.Join(errs...)
}
