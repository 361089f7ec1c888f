package iso9660

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"slices"
	"time"

	"joist/rootfs/tree"
)

// scheme is what tells the two directory hierarchies of a volume apart.
type scheme interface {
	// identifiers names the entries of one directory, each name once.
	identifiers(list []*tree.Node) [][]byte
	// systemUse is what a record says of n beyond ISO 9660, as entries that
	// stay whole.
	systemUse(n *tree.Node, as role) [][]byte
}

// role is the part a record has in its directory.
type role int

const (
	entry role = iota
	rootSelf
	self
	parent
)

// hierarchy is all directories under one scheme, in the order of the path
// table: by level, then by parent, then by identifier (ECMA-119 6.9.1).
type hierarchy struct {
	dirs        []*directory
	tableSize   int64
	little, big int64 // sectors of the path tables
}

// directory is one extent: its records, and behind them, outside of its
// recorded size, what did not fit into them (SUSP 5.1, "CE").
type directory struct {
	id       []byte
	up       *directory
	number   int // in the path table, from 1
	records  []record
	size     int64 // bytes, whole sectors
	overflow int64
	start    int64 // sector
}

// record is a directory record before it has a place.
type record struct {
	id   []byte
	dir  *directory // of a directory: which
	file *tree.Node // of anything else
	part int64      // of a file in several extents: which
	use  []byte     // the system use field
	more []byte     // its continuation
}

// newHierarchy lists and measures the directories below root. Directories
// deeper than ISO 9660's eight levels stay where they are: all readers follow
// them, and moving them aside (Rock Ridge's "CL") would show them in the wrong
// place to those without Rock Ridge.
func newHierarchy(root *tree.Node, s scheme) *hierarchy {
	top := &directory{id: []byte{0}, number: 1}
	top.up = top
	h := &hierarchy{dirs: []*directory{top}}
	nodes := []*tree.Node{root}
	for i := 0; i < len(nodes); i++ {
		d := h.dirs[i]
		h.tableSize += tableEntry(d.id)
		for _, c := range d.fill(nodes[i], s) {
			sub := c.dir
			sub.number = len(h.dirs) + 1
			h.dirs = append(h.dirs, sub)
			nodes = append(nodes, c.node)
		}
		d.measure()
	}
	return h
}

type below struct {
	dir  *directory
	node *tree.Node
}

// fill makes the records of d and returns the directories in it.
func (d *directory) fill(n *tree.Node, s scheme) (subs []below) {
	as := self
	if d.up == d {
		as = rootSelf
	}
	add := func(r record, n *tree.Node, as role) {
		r.use, r.more = pack(s.systemUse(n, as), maxRecord-recordHead(r.id))
		d.records = append(d.records, r)
	}
	add(record{id: []byte{0}, dir: d}, n, as)
	add(record{id: []byte{1}, dir: d.up}, n, parent)
	ids := s.identifiers(n.Children)
	order := make([]int, len(ids))
	for i := range order {
		order[i] = i
	}
	// The characters of identifiers sort behind the separators "." and ";", so
	// that comparing bytes is the order of ECMA-119 9.3.
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(ids[a], ids[b]) })
	for _, i := range order {
		c := n.Children[i]
		if c.Mode.IsDir() {
			sub := &directory{id: ids[i], up: d}
			subs = append(subs, below{sub, c})
			add(record{id: ids[i], dir: sub}, c, entry)
			continue
		}
		for part := range max(1, (length(c)+maxSection-1)/maxSection) {
			add(record{id: ids[i], file: c, part: part}, c, entry)
		}
	}
	return subs
}

// length is the size of a file's content.
func length(n *tree.Node) int64 {
	if !n.Mode.IsRegular() || n.Data == nil {
		return 0
	}
	return n.Data.Size()
}

// fit returns where n bytes go that would go to at, but may not lie across the
// end of a sector.
func fit(at, n int64) int64 {
	if at/Sector != (at+n-1)/Sector {
		return sectors(at) * Sector
	}
	return at
}

func (d *directory) measure() {
	for _, r := range d.records {
		d.size = fit(d.size, r.len()) + r.len()
		if n := int64(len(r.more)); n > 0 {
			d.overflow = fit(d.overflow, n) + n
		}
	}
	d.size, d.overflow = sectors(d.size)*Sector, sectors(d.overflow)*Sector
}

// encode is the directory's extent. starts has the sectors of files.
func (d *directory) encode(date []byte, starts map[*tree.Node]int64) []byte {
	b := make([]byte, d.size+d.overflow)
	var at, over int64
	for _, r := range d.records {
		n := r.len()
		at = fit(at, n)
		use := r.use
		if m := int64(len(r.more)); m > 0 {
			over = fit(over, m)
			copy(b[d.size+over:], r.more)
			use = append(slices.Clone(use), continuation(d.start+(d.size+over)/Sector, over%Sector, m)...)
			over += m
		}
		r.encode(b[at:at+n], date, starts, use)
		at += n
	}
	return b
}

const (
	maxRecord = 254 // its length is even and stands in one byte

	flagDirectory = 1 << 1
	flagMore      = 1 << 7 // not the last extent of the file
)

// recordHead is the length of a record before its system use field.
func recordHead(id []byte) int { return (33 + len(id) + 1) &^ 1 }

func (r record) len() int64 {
	n := recordHead(r.id) + len(r.use)
	if len(r.more) > 0 {
		n += continuationSize
	}
	return int64(n+1) &^ 1
}

// place is the sector, the size and the flags that a record gives.
func (r record) place(starts map[*tree.Node]int64) (start, size int64, flags byte) {
	if r.dir != nil {
		return r.dir.start, r.dir.size, flagDirectory
	}
	start, size = starts[r.file]+r.part*(maxSection/Sector), length(r.file)-r.part*maxSection
	if size > maxSection {
		return start, maxSection, flagMore
	}
	return start, size, 0
}

// encode fills b with the record (ECMA-119 9.1).
func (r record) encode(b, date []byte, starts map[*tree.Node]int64, use []byte) {
	start, size, flags := r.place(starts)
	b[0] = byte(len(b))
	both32(b[2:], start)
	both32(b[10:], size)
	copy(b[18:25], date)
	b[25] = flags
	both16(b[28:], 1) // volume of the set
	b[32] = byte(len(r.id))
	copy(b[33:], r.id)
	copy(b[recordHead(r.id):], use)
}

var (
	little = binary.LittleEndian
	big    = binary.BigEndian
)

// both16 and both32 write a number in both byte orders (ECMA-119 7.2.3, 7.3.3).
func both16(b []byte, n int64) {
	little.PutUint16(b, uint16(n))
	big.PutUint16(b[2:], uint16(n))
}

func both32(b []byte, n int64) {
	little.PutUint32(b, uint32(n))
	big.PutUint32(b[4:], uint32(n))
}

// dirTime is a date in a record (ECMA-119 9.1.5), in UTC.
func dirTime(t time.Time) []byte {
	t = t.UTC()
	return []byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0}
}

func tableEntry(id []byte) int64 { return int64(8+len(id)+1) &^ 1 }

// pathTable is the list of all directories (ECMA-119 9.4).
func (h *hierarchy) pathTable(order binary.ByteOrder) []byte {
	b := make([]byte, 0, h.tableSize)
	for _, d := range h.dirs {
		e := make([]byte, tableEntry(d.id))
		e[0] = byte(len(d.id))
		order.PutUint32(e[2:], uint32(d.start))
		order.PutUint16(e[6:], uint16(d.up.number))
		copy(e[8:], d.id)
		b = append(b, e...)
	}
	return b
}

// links is a directory's link count: its name, its "." and each ".." in it.
func links(n *tree.Node) int64 {
	if !n.Mode.IsDir() {
		return 1
	}
	count := int64(2)
	for _, c := range n.Children {
		if c.Mode.IsDir() {
			count++
		}
	}
	return count
}

// unixMode is st_mode of POSIX.
func unixMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, v := range map[fs.FileMode]int64{
		fs.ModeDir: 0o040000, fs.ModeSymlink: 0o120000, fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000,
	} {
		if m&bit != 0 {
			mode |= v
		}
	}
	if m.IsRegular() {
		mode |= 0o100000
	}
	return mode
}
