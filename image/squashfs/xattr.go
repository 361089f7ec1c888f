package squashfs

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// xattrPrefixes are the name spaces of squashfs, by number
// (SQUASHFS_XATTR_USER and on); the kernel refuses all others.
var xattrPrefixes = [...]string{"user.", "trusted.", "security."}

// The bounds of xattr(7).
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

// xattrTable holds each distinct set of extended attributes once.
type xattrTable struct {
	sets  []xattrSet
	index map[string]uint32
}

// xattrSet is the attributes of an inode as they lie in the image.
type xattrSet struct {
	count uint32
	pairs []byte
}

// add returns the number of a set, noIndex for the empty one.
func (t *xattrTable) add(attrs map[string]string) (uint32, error) {
	if len(attrs) == 0 {
		return noIndex, nil
	}
	s := xattrSet{count: uint32(len(attrs))}
	for _, full := range sortedKeys(attrs) {
		kind, short, ok := splitXattr(full)
		if !ok {
			return noIndex, fmt.Errorf("extended attribute %q cannot be stored, squashfs has %s only", full, strings.Join(xattrPrefixes[:], "*, ")+"*")
		}
		v := attrs[full]
		if len(full) > maxXattrName || len(v) > maxXattrValue {
			return noIndex, fmt.Errorf("extended attribute %q: a name has up to %d bytes, a value up to %d", full, maxXattrName, maxXattrValue)
		}
		s.pairs = binary.LittleEndian.AppendUint16(s.pairs, uint16(kind))
		s.pairs = binary.LittleEndian.AppendUint16(s.pairs, uint16(len(short)))
		s.pairs = append(s.pairs, short...)
		s.pairs = binary.LittleEndian.AppendUint32(s.pairs, uint32(len(v)))
		s.pairs = append(s.pairs, v...)
	}
	if i, ok := t.index[string(s.pairs)]; ok {
		return i, nil
	}
	if t.index == nil {
		t.index = map[string]uint32{}
	}
	i := uint32(len(t.sets))
	t.index[string(s.pairs)] = i
	t.sets = append(t.sets, s)
	return i, nil
}

func splitXattr(full string) (kind int, short string, ok bool) {
	for i, p := range xattrPrefixes {
		if short, ok := strings.CutPrefix(full, p); ok && short != "" {
			return i, short, true
		}
	}
	return 0, "", false
}

// write appends pairs, sets and the header that leads to both, and returns
// where the header lies.
func (t *xattrTable) write(out *output, c Codec) (uint64, error) {
	if len(t.sets) == 0 {
		return absent, nil
	}
	pairs, ids := newMeta(c), []byte(nil)
	for _, s := range t.sets {
		ids = binary.LittleEndian.AppendUint64(ids, pairs.ref())
		ids = binary.LittleEndian.AppendUint32(ids, s.count)
		ids = binary.LittleEndian.AppendUint32(ids, uint32(len(s.pairs)))
		if err := pairs.append(s.pairs); err != nil {
			return 0, err
		}
	}
	start := out.pos
	if err := pairs.writeTo(out); err != nil {
		return 0, err
	}
	index, err := writeBlocks(out, c, ids)
	if err != nil {
		return 0, err
	}
	at := out.pos
	head := binary.LittleEndian.AppendUint64(nil, start)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(t.sets)))
	head = binary.LittleEndian.AppendUint32(head, 0)
	return at, out.append(append(head, index...))
}
