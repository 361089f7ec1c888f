package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Names and directory entries of FAT (Microsoft's FAT specification 1.03,
// sections 6 and 7) and the boot sectors.

const (
	attrLabel = 0x08
	attrDir   = 0x10
	attrFile  = 0x20
	attrLong  = 0x0f
	longUnits = 13 // UTF-16 units in one long entry
)

// checkName refuses what a long name may not hold.
func checkName(s string) error {
	if s == "" || s == "." || s == ".." || !utf8.ValidString(s) || len(utf16.Encode([]rune(s))) > 255 {
		return fmt.Errorf("%q is not a file name", s)
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f || strings.ContainsRune(`"*/:<>?\|`, r) {
			return fmt.Errorf("the name %q has the character %q", s, r)
		}
	}
	if strings.HasSuffix(s, ".") || strings.HasSuffix(s, " ") {
		return fmt.Errorf("the name %q ends with a dot or a space", s)
	}
	return nil
}

func shortChar(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || strings.ContainsRune("!#$%&'()-@^_`{}~", r)
}

// split83 makes the two halves of an 8.3 name. exact says that nothing was
// lost and no long name is needed.
func split83(s string) (base, ext string, exact bool) {
	stem, tail := s, ""
	if i := strings.LastIndexByte(s, '.'); i > 0 {
		stem, tail = s[:i], s[i+1:]
	}
	clean := func(in string, n int) string {
		var b strings.Builder
		for _, r := range strings.ToUpper(in) {
			switch {
			case b.Len() == n:
				return b.String()
			case shortChar(r):
				b.WriteRune(r)
			case r != ' ' && r != '.':
				b.WriteByte('_')
			}
		}
		return b.String()
	}
	base, ext = clean(stem, 8), clean(tail, 3)
	joined := base
	if ext != "" {
		joined += "." + ext
	}
	return base, ext, joined == s && base != ""
}

// shortNames gives every entry of one directory its own 8.3 name.
func shortNames(list []*node) error {
	taken := map[string]bool{}
	pad := func(base, ext string) string { return fmt.Sprintf("%-8s%-3s", base, ext) }
	for _, n := range list {
		if base, ext, exact := split83(n.name); exact {
			n.short = pad(base, ext)
			taken[n.short] = true
		}
	}
	for _, n := range list {
		if n.short != "" {
			continue
		}
		n.long = true
		base, ext, _ := split83(n.name)
		// A name that only differs in case needs no number.
		if s := pad(base, ext); base != "" && strings.EqualFold(strings.TrimSuffix(base+"."+ext, "."), n.name) && !taken[s] {
			n.short, taken[s] = s, true
			continue
		}
		for i := 1; n.short == ""; i++ {
			tail := fmt.Sprintf("~%d", i)
			if s := pad(base[:min(len(base), 8-len(tail))]+tail, ext); !taken[s] {
				n.short, taken[s] = s, true
			}
			if i == 999999 {
				return fmt.Errorf("no short name is left for %q", n.name)
			}
		}
	}
	return nil
}

func direntCount(n *node) int {
	if !n.long {
		return 1
	}
	return 1 + (len(utf16.Encode([]rune(n.name)))+longUnits-1)/longUnits
}

func label(s string) (string, error) {
	if s == "" || len(s) > 11 || s != strings.ToUpper(s) {
		return "", fmt.Errorf("%q is not a volume label: 1 to 11 upper-case characters", s)
	}
	for _, r := range s {
		if !shortChar(r) {
			return "", errors.New("a volume label takes letters, digits and -_ only")
		}
	}
	return fmt.Sprintf("%-11s", s), nil
}

// encodeDir writes the entries of d into b, which is zero.
func (v *Volume) encodeDir(d *node, b []byte) {
	put := func(short string, attr byte, n *node) {
		copy(b, short)
		b[11] = attr
		date, clock := dosTime(v.spec.Time)
		le := binary.LittleEndian
		le.PutUint16(b[14:], clock)
		le.PutUint16(b[16:], date)
		le.PutUint16(b[18:], date)
		le.PutUint16(b[22:], clock)
		le.PutUint16(b[24:], date)
		if n != nil {
			le.PutUint16(b[20:], uint16(n.cluster>>16))
			le.PutUint16(b[26:], uint16(n.cluster))
			if !n.dir {
				le.PutUint32(b[28:], uint32(n.size))
			}
		}
		b = b[direntSize:]
	}
	if d == v.root {
		name, _ := label(v.spec.Label) // checked by PlanFAT
		put(name, attrLabel, nil)
	} else {
		up := d.parent
		if up == v.root {
			up = nil // ".." of a first-level directory is cluster 0, on FAT32 too
		}
		put(".          ", attrDir, d)
		put("..         ", attrDir, up)
	}
	for _, c := range d.children {
		if c.long {
			b = encodeLong(c, b)
		}
		attr := byte(attrFile)
		if c.dir {
			attr = attrDir
		}
		put(c.short, attr, c)
	}
}

// encodeLong writes the long entries of n, last part first, and returns what
// is left of b.
func encodeLong(n *node, b []byte) []byte {
	units := utf16.Encode([]rune(n.name))
	var sum byte
	for i := range 11 {
		sum = sum>>1 | sum<<7
		sum += n.short[i]
	}
	count := (len(units) + longUnits - 1) / longUnits
	for i := count; i >= 1; i-- {
		b[0] = byte(i)
		if i == count {
			b[0] |= 0x40
		}
		b[11], b[13] = attrLong, sum
		for k, off := range longOffsets() {
			u := uint16(0xffff) // padding behind the terminating zero
			switch at := (i-1)*longUnits + k; {
			case at < len(units):
				u = units[at]
			case at == len(units):
				u = 0
			}
			binary.LittleEndian.PutUint16(b[off:], u)
		}
		b = b[direntSize:]
	}
	return b
}

func longOffsets() [longUnits]int {
	return [longUnits]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}
}

// dosTime counts from 1980 in steps of two seconds.
func dosTime(t time.Time) (date, clock uint16) {
	t = t.UTC()
	if t.Year() < 1980 {
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if t.Year() > 2107 {
		t = time.Date(2107, 12, 31, 0, 0, 0, 0, time.UTC)
	}
	return uint16((t.Year()-1980)<<9 | int(t.Month())<<5 | t.Day()), uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2)
}

// bootSectors fills the reserved area: the BIOS parameter block and on FAT32
// the FSInfo sector, each with its copy.
func (v *Volume) bootSectors(b []byte) {
	ss := v.spec.SectorSize
	le := binary.LittleEndian
	name, _ := label(v.spec.Label)
	copy(b, "\xeb\x58\x90MSWIN4.1") // the name that the specification calls safest
	le.PutUint16(b[11:], uint16(ss))
	b[13] = byte(v.cluster / int64(ss))
	le.PutUint16(b[14:], uint16(v.reserved))
	b[16] = 2 // FATs
	le.PutUint16(b[17:], uint16(v.rootEntries))
	if n := v.spec.Size / int64(ss); n < 65536 && v.bits == 16 {
		le.PutUint16(b[19:], uint16(n))
	} else {
		le.PutUint32(b[32:], uint32(n))
	}
	b[21] = 0xf8              // fixed medium
	le.PutUint16(b[24:], 63)  // sectors per track
	le.PutUint16(b[26:], 255) // heads
	le.PutUint32(b[28:], uint32(v.spec.Start/int64(ss)))
	ext, kind := b[36:], "FAT16   "
	if v.bits == 16 {
		b[1] = 0x3c
		le.PutUint16(b[22:], uint16(v.fatSectors))
	} else {
		kind = "FAT32   "
		le.PutUint32(b[36:], uint32(v.fatSectors))
		le.PutUint32(b[44:], uint32(v.root.cluster))
		le.PutUint16(b[48:], 1) // FSInfo
		le.PutUint16(b[50:], 6) // copy of the boot sector
		ext = b[64:]
	}
	ext[0], ext[2] = 0x80, 0x29
	le.PutUint32(ext[3:], v.spec.Serial)
	copy(ext[7:], name)
	copy(ext[18:], kind)
	copy(ext[26:], "\xf4\xeb\xfd") // hlt; jmp: this is not what starts the machine
	b[510], b[511] = 0x55, 0xaa
	if v.bits == 16 {
		return
	}
	info := b[ss:]
	copy(info, "RRaA")
	copy(info[484:], "rrAa")
	le.PutUint32(info[488:], uint32(v.clusters-v.used))
	le.PutUint32(info[492:], uint32(firstCluster+v.used))
	info[510], info[511] = 0x55, 0xaa
	copy(b[6*ss:8*ss], b[:2*ss])
}
