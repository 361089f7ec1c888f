package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Tables is how the two partition tables and the protective MBR of a disk are.
type Tables struct {
	Faults []string // what is wrong with them, in plain words
	// Starts says that firmware finds the partitions: BIOS boot code and much
	// of UEFI firmware read the MBR and the primary table only.
	Starts bool
	// Refused says why nothing is to be written though there are faults: a
	// person has to look at the disk.
	Refused error

	guid   string
	writes []write
}

// Reasons for which tables are left as they are.
var (
	ErrTablesDiffer = errors.New("the two partition tables are both valid and differ")
	ErrOtherTable   = errors.New("sector 0 lists partitions of another kind of table (MBR)")
)

// CheckTables looks at all three. A disk without a table that is whole has
// nothing that could be mended: that is an error, as of ReadTable.
func CheckTables(r io.ReaderAt, size int64, sector int) (Tables, error) {
	l, err := ReadTable(r, size, sector)
	if err != nil {
		return Tables{}, err
	}
	ss := int64(l.SectorSize)
	last := size/ss - 1
	primary, perr := readCopy(r, size, l.SectorSize, 1)
	backup, berr := readCopy(r, size, l.SectorSize, last)
	t := Tables{Starts: perr == nil, guid: l.DiskGUID}
	t.fault("the primary partition table", perr)
	switch moved := perr == nil && primary.other != uint64(last); {
	case perr != nil:
		t.writes = append(t.writes, primaryOf(l))
	case berr == nil && !sameParts(primary.Layout, backup.Layout):
		t.Refused = ErrTablesDiffer
		t.Faults = append(t.Faults, ErrTablesDiffer.Error())
	case moved: // onto a larger disk, or with the disk that grew
		t.Faults = append(t.Faults, "the backup partition table is not at the end of the disk")
		t.writes = append(t.writes, backupOf(l), primaryOf(l))
	case berr != nil:
		t.fault("the backup partition table", berr)
		t.writes = append(t.writes, backupOf(l))
	case primary.Marks() != backup.Marks():
		t.Faults = append(t.Faults, "the marks in the two partition tables differ")
		t.writes = append(t.writes, backupOf(l))
	}
	t.mbr(r, l)
	if t.Refused == nil && len(t.Faults) > 0 {
		t.Refused = l.check()
	}
	return t, nil
}

func (t *Tables) fault(what string, err error) {
	switch {
	case errors.Is(err, ErrNoTable):
		t.Faults = append(t.Faults, what+" is missing")
	case err != nil:
		t.Faults = append(t.Faults, fmt.Sprintf("%s is damaged: %v", what, err))
	}
}

// sameParts says whether two tables differ in no more than marks.
func sameParts(a, b Layout) bool {
	return strings.EqualFold(a.DiskGUID, b.DiskGUID) && slices.Equal(a.Marked(0).Partitions, b.Marked(0).Partitions)
}

const (
	mbrList       = 446 // four entries of 16 bytes
	typeProtected = 0xee
)

// mbr looks at sector 0 as the kernel does (block/partitions/efi.c): one entry
// protects the disk, from sector 1 on. Others beside it are somebody's wish.
// What lies before the list is boot code, and stays.
func (t *Tables) mbr(r io.ReaderAt, l Layout) {
	refuse := func(err error) {
		t.Starts, t.Refused, t.Faults = false, err, append(t.Faults, err.Error())
	}
	b := make([]byte, l.SectorSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		refuse(fmt.Errorf("sector 0 cannot be read: %w", err))
		return
	}
	signed, others := b[510] == 0x55 && b[511] == 0xaa, false
	for at := mbrList; signed && at < 510; at += 16 {
		e := b[at : at+16]
		start, n := binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
		if e[4] == typeProtected && start == 1 {
			return
		}
		others = others || e[0]&0x7f == 0 && e[4] != 0 && e[4] != typeProtected && start > 0 && n > 0 && int64(start)+int64(n) <= l.Size/int64(l.SectorSize)
	}
	if others {
		refuse(ErrOtherTable)
		return
	}
	copy(b[mbrList:512], ProtectiveMBR(l)[mbrList:])
	t.Starts, t.Faults, t.writes = false, append(t.Faults, "the protective MBR is damaged"), append(t.writes, write{b, 0})
}

// Mend writes what is damaged again, from the table that is whole. A table that
// is whole is written only when the other one is, too: a cut at any moment
// leaves one.
func (t Tables) Mend(w io.WriterAt) error {
	if t.Refused != nil {
		return fmt.Errorf("mend partition table: %w; nothing was written", t.Refused)
	}
	return writeAll(w, t.writes)
}

// DiskGUID is that of the table that is whole.
func (t Tables) DiskGUID() string { return t.guid }
