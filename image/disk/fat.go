package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"joist/rootfs/tree"
)

// File is one file of a FAT volume. Its directories come by themselves.
type File struct {
	Path string // "/EFI/BOOT/BOOTX64.EFI"
	Data tree.Source
}

// FAT is a volume whose whole content is known. Writing it once, with every
// file in one piece, needs none of the machinery of a file system driver and
// gives the same bytes for the same input.
type FAT struct {
	Size       int64     // of the volume; FAT32 where it has the clusters for it, FAT16 below (33 MiB, 257 MiB with 4096-byte sectors)
	SectorSize int       // 512 or 4096
	Start      int64     // byte at which the partition begins on its disk; 0 for an image of its own
	Label      string    // up to 11 characters
	Serial     uint32    //
	Time       time.Time // of every entry, in UTC
	Files      []File
}

// node is a planned directory or file.
type node struct {
	name, short string // short: the 11 bytes of the 8.3 name
	long        bool   // the name needs long entries
	dir         bool
	data        tree.Source
	parent      *node
	children    []*node
	size        int64
	cluster     int64 // first; 0: none
	count       int64 // of clusters
}

// Volume is a FAT volume with every place decided.
type Volume struct {
	spec        FAT
	bits        int   // 16 or 32
	cluster     int64 // bytes
	reserved    int64 // sectors
	fatSectors  int64
	rootEntries int64 // FAT16 only
	clusters    int64
	used        int64
	root        *node
	all         []*node // in the order of their clusters
}

const (
	direntSize     = 32
	fat16Root      = 512 // entries
	minFAT16       = 4085 + 16
	minFAT32       = 65525 + 16 // the 16 keep off a border that drivers disagree about (dosfstools does the same)
	firstCluster   = 2
	maxFileSize    = 1<<32 - 1
	maxFAT32Sector = 1<<32 - 1
)

// PlanFAT decides where everything lies.
func PlanFAT(f FAT) (*Volume, error) {
	v := &Volume{spec: f, root: &node{dir: true}}
	if err := v.geometry(); err != nil {
		return nil, fmt.Errorf("plan FAT volume: %w", err)
	}
	if _, err := label(f.Label); err != nil {
		return nil, fmt.Errorf("plan FAT volume: %w", err)
	}
	for _, x := range f.Files {
		if err := v.add(x); err != nil {
			return nil, fmt.Errorf("plan FAT volume: add %q: %w", x.Path, err)
		}
	}
	if err := v.place(); err != nil {
		return nil, fmt.Errorf("plan FAT volume: %w", err)
	}
	return v, nil
}

// geometry chooses width and cluster size. FAT32 takes the largest cluster up
// to 4 KiB that leaves enough clusters to be FAT32 (the count alone decides
// the type: Microsoft's FAT specification 1.03, section 3.5), FAT16 the
// smallest that leaves few enough.
func (v *Volume) geometry() error {
	ss := int64(v.spec.SectorSize)
	if ss != 512 && ss != 4096 {
		return fmt.Errorf("sectors of %d bytes are not supported", ss)
	}
	if v.spec.Size%ss != 0 || v.spec.Size/ss > maxFAT32Sector || v.spec.Start%ss != 0 {
		return fmt.Errorf("a size of %d bytes at %d is not possible with sectors of %d", v.spec.Size, v.spec.Start, ss)
	}
	for c := max(ss, 4096); c >= ss; c /= 2 {
		if v.try(32, c); v.clusters >= minFAT32 {
			return nil
		}
	}
	for c := ss; c <= 32768; c *= 2 {
		if v.try(16, c); v.clusters <= 65524-16 {
			break
		}
	}
	if v.clusters < minFAT16 {
		return fmt.Errorf("%d bytes are too few for FAT16", v.spec.Size)
	}
	return nil
}

// try sets the geometry for one width and cluster size. The data area begins
// on a multiple of 4 KiB, so that no cluster straddles a physical sector.
func (v *Volume) try(bits int, cluster int64) {
	ss := int64(v.spec.SectorSize)
	total := v.spec.Size / ss
	v.bits, v.cluster, v.reserved, v.rootEntries = bits, cluster, 32, 0
	if bits == 16 {
		v.reserved, v.rootEntries = 1, fat16Root
	}
	root := v.rootEntries * direntSize / ss
	per := cluster / ss
	// The FAT's size depends on the number of clusters and the other way
	// round; from an upper bound one step gives a FAT that is never too small.
	v.clusters = max(total-v.reserved-root, 0) / per
	v.fatSectors = ceil((v.clusters+firstCluster)*int64(bits/8), ss)
	if align := 4096 / ss; align > 1 {
		v.reserved += (align - (v.reserved+2*v.fatSectors+root)%align) % align
	}
	v.clusters = max(total-v.reserved-2*v.fatSectors-root, 0) / per
}

func ceil(n, d int64) int64 { return (n + d - 1) / d }

// add puts one file into the tree.
func (v *Volume) add(f File) error {
	parts := strings.Split(strings.TrimPrefix(f.Path, "/"), "/")
	size := f.Data.Size()
	if size < 0 || size > maxFileSize {
		return fmt.Errorf("%d bytes do not fit into a FAT file", size)
	}
	at := v.root
	for i, name := range parts {
		if err := checkName(name); err != nil {
			return err
		}
		last := i == len(parts)-1
		j := slices.IndexFunc(at.children, func(c *node) bool { return strings.EqualFold(c.name, name) })
		switch {
		case j < 0:
			c := &node{name: name, dir: !last, parent: at}
			if last {
				c.data, c.size = f.Data, size
			}
			at.children = append(at.children, c)
			at = c
		case last || !at.children[j].dir || at.children[j].name != name:
			return fmt.Errorf("%q and %q are the same name on FAT", at.children[j].name, name)
		default:
			at = at.children[j]
		}
	}
	return nil
}

// place gives short names and clusters: directories first, then files, each in
// the order of their names.
func (v *Volume) place() error {
	var files []*node
	dirs := []*node{v.root}
	for i := 0; i < len(dirs); i++ {
		d := dirs[i]
		slices.SortFunc(d.children, func(a, b *node) int { return strings.Compare(a.name, b.name) })
		if err := shortNames(d.children); err != nil {
			return err
		}
		entries := 2 // "." and ".."; the root has the label in place of them
		for _, c := range d.children {
			entries += direntCount(c)
			if c.dir {
				dirs = append(dirs, c)
			} else {
				files = append(files, c)
			}
		}
		d.size = int64(entries * direntSize)
		if d.size > 65536*direntSize {
			return fmt.Errorf("directory %q has too many entries", d.name)
		}
	}
	if v.bits == 16 && v.root.size > v.rootEntries*direntSize {
		return errors.New("the root directory has too many entries")
	}
	next := int64(firstCluster)
	v.all = append(dirs, files...)
	for _, n := range v.all {
		if n == v.root && v.bits == 16 || n.size == 0 {
			continue
		}
		n.cluster, n.count = next, ceil(n.size, v.cluster)
		next += n.count
	}
	if v.used = next - firstCluster; v.used > v.clusters {
		return fmt.Errorf("the files need %d KiB, the volume holds %d KiB", v.used*v.cluster/1024, v.clusters*v.cluster/1024)
	}
	return nil
}

// Free is the room left, in bytes.
func (v *Volume) Free() int64 { return (v.clusters - v.used) * v.cluster }

func (v *Volume) fatOffset() int64  { return v.reserved * int64(v.spec.SectorSize) }
func (v *Volume) rootOffset() int64 { return v.fatOffset() + 2*v.fatSectors*int64(v.spec.SectorSize) }
func (v *Volume) offset(cluster int64) int64 {
	return v.rootOffset() + v.rootEntries*direntSize + (cluster-firstCluster)*v.cluster
}

// Offset is the place of a file's first byte in the volume; every file lies in
// one piece.
func (v *Volume) Offset(path string) (int64, error) {
	at := v.root
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		i := slices.IndexFunc(at.children, func(c *node) bool { return strings.EqualFold(c.name, name) })
		if i < 0 {
			return 0, fmt.Errorf("find %q: there is no %q", path, name)
		}
		at = at.children[i]
	}
	if at.cluster == 0 {
		return 0, fmt.Errorf("find %q: it is empty", path)
	}
	return v.offset(at.cluster), nil
}

// Write writes the volume. What it leaves alone are clusters that hold
// nothing; the tables are written whole, so that w may be a used partition,
// and a file made by truncation stays sparse.
func (v *Volume) Write(w io.WriterAt) error {
	ss := int64(v.spec.SectorSize)
	head := make([]byte, v.reserved*ss)
	v.bootSectors(head)
	if _, err := w.WriteAt(head, 0); err != nil {
		return fmt.Errorf("write FAT volume: %w", err)
	}
	fat := v.table()
	for i := range int64(2) {
		if _, err := w.WriteAt(fat, v.fatOffset()+i*int64(len(fat))); err != nil {
			return fmt.Errorf("write FAT volume: %w", err)
		}
	}
	buf := make([]byte, 1<<20)
	for _, n := range v.all {
		if err := v.writeNode(w, n, buf); err != nil {
			return fmt.Errorf("write FAT volume: write %q: %w", n.name, err)
		}
	}
	return nil
}

func (v *Volume) writeNode(w io.WriterAt, n *node, buf []byte) error {
	if n.dir {
		at, room := v.offset(n.cluster), n.count*v.cluster
		if n == v.root && v.bits == 16 {
			at, room = v.rootOffset(), v.rootEntries*direntSize
		}
		b := make([]byte, room)
		v.encodeDir(n, b)
		_, err := w.WriteAt(b, at)
		return err
	}
	r, err := n.data.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	// Zeros fill the last cluster: nothing of an earlier owner stays behind.
	padded := io.MultiReader(io.LimitReader(r, n.size), &zeros{n.count*v.cluster - n.size})
	out := io.NewOffsetWriter(w, v.offset(n.cluster))
	done, err := io.CopyBuffer(struct{ io.Writer }{out}, io.LimitReader(padded, n.count*v.cluster), buf)
	if err != nil {
		return err
	}
	if more, _ := r.Read(buf[:1]); more > 0 || done != n.count*v.cluster {
		return fmt.Errorf("its size is not the %d bytes that were announced", n.size)
	}
	return nil
}

// zeros reads n zero bytes.
type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n <= 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), z.n)]
	clear(p)
	z.n -= int64(len(p))
	return len(p), nil
}

// table encodes one copy of the FAT. The two entries before the first cluster
// hold the media byte and "cleanly unmounted, no read errors".
func (v *Volume) table() []byte {
	b := make([]byte, v.fatSectors*int64(v.spec.SectorSize))
	put := func(i int64, x uint32) {
		if v.bits == 16 {
			binary.LittleEndian.PutUint16(b[2*i:], uint16(x))
		} else {
			binary.LittleEndian.PutUint32(b[4*i:], x&0x0fffffff)
		}
	}
	put(0, 0xfffffff8)
	put(1, 0xffffffff)
	for _, n := range v.all {
		for i := range n.count {
			next := uint32(n.cluster + i + 1)
			if i == n.count-1 {
				next = 0xffffffff
			}
			put(n.cluster+i, next)
		}
	}
	return b
}
