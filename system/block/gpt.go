package block

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"unicode/utf16"
)

// ErrNoTable means that a disk carries no usable GUID partition table.
var ErrNoTable = errors.New("no GUID partition table")

// Table is a GUID partition table (UEFI specification 2.10, section 5.3).
type Table struct {
	GUID  string // of the disk, lower case
	Parts []Part
}

// Part is one used entry of the table.
type Part struct {
	Number     int // 1-based, as the kernel numbers its partitions
	Type, GUID string
	Name       string
	First      uint64 // first and last sector
	Last       uint64
}

// maxEntries bounds what a damaged header can make us read; the kernel's own
// limit of partitions per disk is 256.
const maxEntries = 256

// ReadTable reads the primary table, or the backup in the last sector when
// the primary is damaged.
func ReadTable(r io.ReaderAt, bytes int64, sector int) (Table, error) {
	if sector < 512 || bytes < int64(sector)*3 {
		return Table{}, ErrNoTable
	}
	t, err := readTable(r, 1, sector)
	if err == nil {
		return t, nil
	}
	if t, berr := readTable(r, uint64(bytes/int64(sector))-1, sector); berr == nil {
		return t, nil
	}
	return Table{}, err
}

func readTable(r io.ReaderAt, lba uint64, sector int) (Table, error) {
	h := make([]byte, sector)
	if _, err := r.ReadAt(h, int64(lba)*int64(sector)); err != nil {
		return Table{}, fmt.Errorf("read partition table: %w", err)
	}
	le := binary.LittleEndian
	size := le.Uint32(h[12:])
	if string(h[:8]) != "EFI PART" || size < 92 || int(size) > sector {
		return Table{}, ErrNoTable
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0) // the checksum is made with this field zero
	if crc32.ChecksumIEEE(h[:size]) != sum || le.Uint64(h[24:]) != lba {
		return Table{}, fmt.Errorf("%w: damaged header in sector %d", ErrNoTable, lba)
	}
	n, each := le.Uint32(h[80:]), le.Uint32(h[84:])
	start := le.Uint64(h[72:])
	if n > maxEntries || each < 128 || each > 4096 || start > 1<<53 {
		return Table{}, fmt.Errorf("%w: %d entries of %d bytes", ErrNoTable, n, each)
	}
	b := make([]byte, n*each)
	if _, err := r.ReadAt(b, int64(start)*int64(sector)); err != nil {
		return Table{}, fmt.Errorf("read partition entries: %w", err)
	}
	if crc32.ChecksumIEEE(b) != le.Uint32(h[88:]) {
		return Table{}, fmt.Errorf("%w: damaged entries", ErrNoTable)
	}
	t := Table{GUID: guid(h[56:72])}
	for i := range int(n) {
		e := b[i*int(each):][:each]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		t.Parts = append(t.Parts, Part{Number: i + 1, Type: guid(e[:16]), GUID: guid(e[16:32]),
			First: le.Uint64(e[32:]), Last: le.Uint64(e[40:]), Name: name(e[56:128])})
	}
	return t, nil
}

// guid renders the mixed-endian form of section 5.3.3.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

func name(b []byte) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// Table reads the device's own partition table.
func (d Device) Table() (Table, error) {
	f, err := os.Open(d.Path())
	if err != nil {
		return Table{}, fmt.Errorf("open %s: %w", d.Path(), err)
	}
	defer f.Close()
	return ReadTable(f, d.Bytes, d.Sector)
}

// Find returns the partition called name on the disk whose table has the
// given GUID. ok is false while there is no such disk or the kernel has not
// made its partitions yet.
func Find(devs []Device, diskGUID, name string) (dev Device, ok bool) {
	for _, d := range devs {
		if d.Partition != 0 || d.Bytes == 0 {
			continue
		}
		t, err := d.Table()
		if err != nil || t.GUID != diskGUID {
			continue
		}
		if p, ok := t.Named(name); ok {
			for _, q := range devs {
				if q.Disk == d.Name && q.Partition == p.Number {
					return q, true
				}
			}
		}
	}
	return Device{}, false
}

// Named returns the first partition with that name.
func (t Table) Named(name string) (Part, bool) {
	for _, p := range t.Parts {
		if p.Name == name {
			return p, true
		}
	}
	return Part{}, false
}
