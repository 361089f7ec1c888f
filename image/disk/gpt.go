package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"
)

// The GUID partition table, UEFI specification 2.10 section 5.3.
const (
	signature  = "EFI PART"
	revision   = 0x00010000
	headerSize = 92
	entrySize  = 128
	maxEntries = 128
	nameUnits  = 36 // UTF-16 code units in an entry

	maxEntryBytes = 1 << 20 // of a table that we read
)

// ErrNoTable says that there is no valid GUID partition table, primary or
// backup.
var ErrNoTable = errors.New("no GUID partition table")

// tableBytes is the room of one header with its entries.
func tableBytes(sector int) int64 { return int64(sector) + maxEntries*entrySize }

// ProtectiveMBR is the sector 0 that tells old tools to keep their hands off.
// Its boot code is empty; image/boot fills it in.
func ProtectiveMBR(l Layout) []byte {
	b := make([]byte, 512)
	e := b[446:]
	// CHS of the first sector; 0xFFFFFF means "beyond what CHS can say".
	copy(e[1:], []byte{0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(l.Size/int64(l.SectorSize)-1, 0xffffffff)))
	b[510], b[511] = 0x55, 0xaa
	return b
}

// WriteTable writes the backup table, the primary table and the protective MBR,
// in that order and synced in between where w can be: a cut at any moment
// leaves a table that can be read, the new one or the one that was there. What
// the disk began with stays until the new backup is safe.
func WriteTable(w io.WriterAt, l Layout) error {
	if err := UpdateTable(w, l); err != nil {
		return err
	}
	mbr := append(ProtectiveMBR(l), make([]byte, l.SectorSize-512)...)
	if _, err := w.WriteAt(mbr, 0); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	return nil
}

// UpdateTable writes both tables in the same way and leaves sector 0, which may
// hold boot code. Where w can be read and the backup is the only table that is
// whole, it is the second to be written.
func UpdateTable(w io.WriterAt, l Layout) error {
	if err := l.check(); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	writes := []write{backupOf(l), primaryOf(l)}
	if r, ok := w.(io.ReaderAt); ok {
		_, perr := readCopy(r, l.Size, l.SectorSize, 1)
		_, berr := readCopy(r, l.Size, l.SectorSize, l.Size/int64(l.SectorSize)-1)
		if perr != nil && berr == nil {
			slices.Reverse(writes)
		}
	}
	return writeAll(w, writes)
}

// write is one of bytes that belong together.
type write struct {
	b  []byte
	at int64
}

// writeAll writes one after the other, each when the one before is safe.
func writeAll(w io.WriterAt, writes []write) error {
	for _, x := range writes {
		_, err := w.WriteAt(x.b, x.at)
		if s, ok := w.(interface{ Sync() error }); ok && err == nil {
			err = s.Sync()
		}
		if err != nil {
			return fmt.Errorf("write partition table: %w", err)
		}
	}
	return nil
}

// backupOf is the table at the end of the disk, primaryOf that behind sector 0.
func backupOf(l Layout) write {
	ss, entries := int64(l.SectorSize), encodeEntries(l)
	last, n := l.Size/ss-1, int64(len(entries))/ss
	return write{append(slices.Clone(entries), encodeHeader(l, entries, last, 1, last-n)...), (last - n) * ss}
}

func primaryOf(l Layout) write {
	entries := encodeEntries(l)
	return write{append(encodeHeader(l, entries, 1, l.Size/int64(l.SectorSize)-1, 2), entries...), int64(l.SectorSize)}
}

func encodeEntries(l Layout) []byte {
	b := make([]byte, maxEntries*entrySize)
	ss := int64(l.SectorSize)
	for _, p := range l.Partitions {
		e := b[(p.Number-1)*entrySize:][:entrySize]
		typ, _ := parseGUID(p.Type) // checked by Layout.check
		id, _ := parseGUID(p.GUID)
		copy(e[0:], typ[:])
		copy(e[16:], id[:])
		binary.LittleEndian.PutUint64(e[32:], uint64(p.Start/ss))
		binary.LittleEndian.PutUint64(e[40:], uint64(p.End()/ss-1))
		binary.LittleEndian.PutUint64(e[48:], p.Attributes)
		for i, u := range utf16.Encode([]rune(p.Name)) {
			binary.LittleEndian.PutUint16(e[56+2*i:], u)
		}
	}
	return b
}

// encodeHeader makes the header that lies in sector self.
func encodeHeader(l Layout, entries []byte, self, other, at int64) []byte {
	ss := int64(l.SectorSize)
	b := make([]byte, ss)
	id, _ := parseGUID(l.DiskGUID)
	copy(b, signature)
	le := binary.LittleEndian
	le.PutUint32(b[8:], revision)
	le.PutUint32(b[12:], headerSize)
	le.PutUint64(b[24:], uint64(self))
	le.PutUint64(b[32:], uint64(other))
	le.PutUint64(b[40:], uint64(2+int64(len(entries))/ss))           // first usable
	le.PutUint64(b[48:], uint64(l.Size/ss-2-int64(len(entries))/ss)) // last usable
	copy(b[56:], id[:])
	le.PutUint64(b[72:], uint64(at))
	le.PutUint32(b[80:], maxEntries)
	le.PutUint32(b[84:], entrySize)
	le.PutUint32(b[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:headerSize]))
	return b
}

// ReadTable reads the table of a disk of size bytes, the backup when the
// primary is damaged. sector is the logical sector size, 0 when it is not
// known (an image file). It believes nothing that it reads: every disk of the
// machine passes through here at boot.
func ReadTable(r io.ReaderAt, size int64, sector int) (Layout, error) {
	sectors := []int{sector}
	if sector == 0 {
		sectors = []int{512, 4096}
	}
	var first error
	for _, ss := range sectors {
		if ss != 512 && ss != 4096 || size < 4*tableBytes(ss) {
			continue
		}
		for _, lba := range []int64{1, size/int64(ss) - 1} {
			c, err := readCopy(r, size, ss, lba)
			if err == nil {
				return c.Layout, nil
			}
			if first == nil && !errors.Is(err, ErrNoTable) {
				first = err
			}
		}
	}
	if first != nil {
		return Layout{}, fmt.Errorf("read partition table: %w", first)
	}
	return Layout{}, fmt.Errorf("read partition table: %w", ErrNoTable)
}

// tableCopy is one of a disk's two tables.
type tableCopy struct {
	Layout
	other uint64 // sector in which it says that the other one's header is
}

// readCopy reads the header in sector lba and its entries.
func readCopy(r io.ReaderAt, size int64, sector int, lba int64) (tableCopy, error) {
	l := tableCopy{Layout: Layout{SectorSize: sector, Size: size}}
	ss := int64(sector)
	h := make([]byte, sector)
	if _, err := r.ReadAt(h, lba*ss); err != nil && err != io.EOF {
		return l, err
	}
	le := binary.LittleEndian
	if string(h[:8]) != signature {
		return l, ErrNoTable
	}
	n := le.Uint32(h[12:])
	if n < headerSize || int64(n) > ss || le.Uint64(h[24:]) != uint64(lba) {
		return l, fmt.Errorf("the header in sector %d is not valid", lba)
	}
	want := le.Uint32(h[16:])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:n]) != want {
		return l, fmt.Errorf("the header in sector %d has a wrong checksum", lba)
	}
	count, esize, at := le.Uint32(h[80:]), le.Uint32(h[84:]), le.Uint64(h[72:])
	if esize < entrySize || esize > 4096 || esize&(esize-1) != 0 || count == 0 ||
		uint64(count)*uint64(esize) > maxEntryBytes || at >= uint64(size/ss) {
		return l, fmt.Errorf("the header in sector %d describes no usable list", lba)
	}
	entries := make([]byte, count*esize)
	if _, err := r.ReadAt(entries, int64(at)*ss); err != nil {
		return l, fmt.Errorf("read the list of partitions: %w", err)
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(h[88:]) {
		return l, fmt.Errorf("the list of partitions of the header in sector %d has a wrong checksum", lba)
	}
	l.other = le.Uint64(h[32:])
	l.DiskGUID = guid(h[56:72]).String()
	for i := range int(count) {
		p, ok, err := decodeEntry(entries[i*int(esize):][:entrySize], size/ss, ss)
		if err != nil {
			return l, fmt.Errorf("partition %d: %w", i+1, err)
		}
		if p.Number = i + 1; ok {
			l.Partitions = append(l.Partitions, p)
		}
	}
	return l, nil
}

func decodeEntry(e []byte, sectors, ss int64) (Partition, bool, error) {
	if bytes.Equal(e[:16], make([]byte, 16)) {
		return Partition{}, false, nil
	}
	le := binary.LittleEndian
	first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
	if first > last || first == 0 || last >= uint64(sectors) {
		return Partition{}, false, errors.New("it lies outside the disk")
	}
	var name []uint16
	for i := range nameUnits {
		u := le.Uint16(e[56+2*i:])
		if u == 0 {
			break
		}
		name = append(name, u)
	}
	return Partition{
		Name: string(utf16.Decode(name)), Type: guid(e[:16]).String(), GUID: guid(e[16:32]).String(),
		Start: int64(first) * ss, Size: int64(last-first+1) * ss, Attributes: le.Uint64(e[48:]),
	}, true, nil
}
