package boot

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"joist/image/disk"
)

// entryName is the description of our entries in the firmware's boot menu.
const entryName = "Joist"

// EntryName is the entry's name for the n-th disk of a system.
func EntryName(n int) string {
	if n == 0 {
		return entryName
	}
	return fmt.Sprintf("%s, disk %d", entryName, n+1)
}

// OurEntry says whether a description is that of an entry of ours.
func OurEntry(name string) bool {
	return name == entryName || strings.HasPrefix(name, entryName+", disk ")
}

const (
	optionAlive = 0x1 // LOAD_OPTION_ACTIVE
	hardDrive   = "\x04\x01\x2a\x00"
)

// LoadOption encodes a boot entry: partition by GUID, file by path (UEFI 2.10,
// sections 3.1.3 and 10.3).
func LoadOption(name string, p disk.Partition, sector int64, loader string) ([]byte, error) {
	id, err := wireGUID(p.GUID)
	if err != nil {
		return nil, fmt.Errorf("encode boot entry: %w", err)
	}
	le := binary.LittleEndian
	path := []byte(hardDrive) // media device path, hard drive, 42 bytes
	path = le.AppendUint32(path, uint32(p.Number))
	path = le.AppendUint64(path, uint64(p.Start/sector))
	path = le.AppendUint64(path, uint64(p.Size/sector))
	path = append(path, id...)
	path = append(path, 2, 2) // GPT, GUID
	file := utf16z(loader)
	path = append(path, 4, 4) // media device path, file path
	path = le.AppendUint16(path, uint16(4+len(file)))
	path = append(path, file...)
	path = append(path, 0x7f, 0xff, 4, 0) // end of the whole path

	out := le.AppendUint32(nil, optionAlive)
	out = le.AppendUint16(out, uint16(len(path)))
	out = append(out, utf16z(name)...)
	return append(out, path...), nil
}

// wireGUID is a GUID's bytes with its first three fields turned round.
func wireGUID(s string) ([]byte, error) {
	id, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(id) != 16 {
		return nil, fmt.Errorf("%q is not a GUID", s)
	}
	slices.Reverse(id[0:4])
	slices.Reverse(id[4:6])
	slices.Reverse(id[6:8])
	return id, nil
}

// ReadOption returns a load option's name and, in upper case, the GUID of the
// partition that it starts from, "" where it names none.
func ReadOption(b []byte) (name, partition string) {
	const head = 6 // attributes, length of the path list
	if len(b) < head {
		return "", ""
	}
	var u []uint16
	i := head
	for ; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	name = string(utf16.Decode(u))
	path := b[min(i+2, len(b)):]
	if len(path) < 42 || string(path[:4]) != hardDrive || path[41] != 2 {
		return name, ""
	}
	id := bytes.Clone(path[24:40])
	slices.Reverse(id[0:4])
	slices.Reverse(id[4:6])
	slices.Reverse(id[6:8])
	return name, strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]))
}

func utf16z(s string) []byte {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// BootOrder puts an entry at the place at of the list of numbers.
func BootOrder(old []byte, number uint16, at int) []byte {
	out := WithoutEntry(old, number)
	return slices.Insert(out, min(2*at, len(out)), byte(number), byte(number>>8))
}

// WithoutEntry takes an entry out of the list.
func WithoutEntry(old []byte, number uint16) []byte {
	var out []byte
	for e := range slices.Chunk(old, 2) {
		if len(e) == 2 && binary.LittleEndian.Uint16(e) != number {
			out = append(out, e...)
		}
	}
	return out
}
