package squashfs

import (
	"encoding/binary"
	"io/fs"
	"math"
)

// The types of inodes; the extended form of each is 7 higher.
const (
	typeDir = iota + 1
	typeFile
	typeSymlink
	typeBlock
	typeChar
	typeFifo
	typeSocket
	extended = 7
)

func typeOf(m fs.FileMode) uint16 {
	switch {
	case m.IsDir():
		return typeDir
	case m&fs.ModeSymlink != 0:
		return typeSymlink
	case m&fs.ModeCharDevice != 0:
		return typeChar
	case m&fs.ModeDevice != 0:
		return typeBlock
	case m&fs.ModeNamedPipe != 0:
		return typeFifo
	case m&fs.ModeSocket != 0:
		return typeSocket
	}
	return typeFile
}

// permissions is the mode as stat(2) has it, without the type.
func permissions(m fs.FileMode) uint16 {
	p := uint16(m.Perm())
	for _, b := range []struct {
		mode fs.FileMode
		bit  uint16
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.mode != 0 {
			p |= b.bit
		}
	}
	return p
}

// deviceNumber is new_encode_dev of include/linux/kdev_t.h.
func deviceNumber(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

// fields builds little-endian structures.
type fields []byte

func (f fields) u16(v uint16) fields { return binary.LittleEndian.AppendUint16(f, v) }
func (f fields) u32(v uint32) fields { return binary.LittleEndian.AppendUint32(f, v) }
func (f fields) u64(v uint64) fields { return binary.LittleEndian.AppendUint64(f, v) }

// head is what all inodes begin with.
func (img *image) head(in *inode, kind uint16) fields {
	return fields(nil).u16(kind).u16(permissions(in.node.Mode)).u16(in.uid).u16(in.gid).u32(uint32(img.Time.Unix())).u32(in.number)
}

// encodeInode is any inode but a directory. The extended form is taken where
// the basic one has no room for what the inode is.
func (img *image) encodeInode(in *inode) fields {
	n, kind := in.node, typeOf(in.node.Mode)
	if kind == typeFile {
		return img.encodeFile(in)
	}
	if in.xattr != noIndex {
		kind += extended
	}
	f := img.head(in, kind).u32(in.nlink)
	switch {
	case n.Mode&fs.ModeSymlink != 0:
		f = append(f.u32(uint32(len(n.Target))), n.Target...)
	case n.Mode&fs.ModeDevice != 0:
		f = f.u32(deviceNumber(n.Major, n.Minor))
	}
	if in.xattr != noIndex {
		f = f.u32(in.xattr)
	}
	return f
}

func (img *image) encodeFile(in *inode) fields {
	c := in.content.stored()
	var f fields
	if in.nlink > 1 || in.xattr != noIndex || c.holes > 0 || c.start > math.MaxUint32 || c.size > math.MaxUint32 {
		f = img.head(in, typeFile+extended).u64(c.start).u64(uint64(c.size)).u64(c.holes).u32(in.nlink).u32(c.frag).u32(c.fragOff).u32(in.xattr)
	} else {
		f = img.head(in, typeFile).u32(uint32(c.start)).u32(c.frag).u32(c.fragOff).u32(uint32(c.size))
	}
	for _, b := range c.blocks {
		f = f.u32(b)
	}
	return f
}

// directory is a listing that has been written.
type directory struct {
	ref   uint64 // place in the directory table
	size  int    // bytes
	index []indexEntry
}

// indexEntry leads into a large listing, so that a look-up need not read all
// of it.
type indexEntry struct {
	at    uint32 // offset of a header in the listing
	block uint32 // metadata block it lies in
	name  string // of the first entry behind it
}

// listingEnd is what Linux adds to the size of a listing for "." and "..",
// which are not stored.
const listingEnd = 3

func (img *image) encodeDir(in *inode, d directory, parent uint32) fields {
	block, offset, size := uint32(d.ref>>16), uint16(d.ref), uint32(d.size+listingEnd)
	if in.xattr == noIndex && len(d.index) == 0 && size <= math.MaxUint16 {
		return img.head(in, typeDir).u32(block).u32(in.nlink).u16(uint16(size)).u16(offset).u32(parent)
	}
	f := img.head(in, typeDir+extended).u32(in.nlink).u32(size).u32(block).u32(parent).u16(uint16(len(d.index))).u16(offset).u32(in.xattr)
	for _, x := range d.index {
		f = append(f.u32(x.at).u32(x.block).u32(uint32(len(x.name)-1)), x.name...)
	}
	return f
}

// maxRun is how many entries one header of a listing stands for
// (SQUASHFS_DIR_COUNT).
const maxRun = 256

// writeListing writes the entries of a directory whose inodes are written.
// Entries whose inodes lie in one metadata block share a header.
func writeListing(dirs *meta, names []name) (directory, error) {
	d := directory{ref: dirs.ref()}
	indexed := uint32(dirs.ref() >> 16)
	for len(names) > 0 {
		run := runLength(names)
		at := uint32(dirs.ref() >> 16)
		// One entry of the index for each metadata block is as fine as a
		// look-up can use.
		if at != indexed && len(d.index) < math.MaxUint16 {
			d.index = append(d.index, indexEntry{uint32(d.size), at, names[0].name})
			indexed = at
		}
		f := fields(nil).u32(uint32(run - 1)).u32(uint32(names[0].ref >> 16)).u32(names[0].number)
		for _, n := range names[:run] {
			f = f.u16(uint16(n.ref)).u16(uint16(n.number - names[0].number)).u16(typeOf(n.node.Mode)).u16(uint16(len(n.name) - 1))
			f = append(f, n.name...)
		}
		if err := dirs.append(f); err != nil {
			return d, err
		}
		d.size += len(f)
		names = names[run:]
	}
	return d, nil
}

// runLength is how many of the names fit behind one header: their inodes are
// in one block and their numbers within 16 signed bits of the first.
func runLength(names []name) int {
	for i, n := range names {
		delta := int64(n.number) - int64(names[0].number)
		if i == maxRun || n.ref>>16 != names[0].ref>>16 || delta != int64(int16(delta)) {
			return i
		}
	}
	return len(names)
}
