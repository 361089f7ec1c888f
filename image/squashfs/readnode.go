package squashfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"joist/rootfs/tree"
)

// entry is an inode as it was read.
type entry struct {
	node   *tree.Node
	number uint32
	links  uint32
	xattr  uint32
	list   struct { // of a directory
		ref  uint64
		size uint32
	}
}

// node reads the inode at a place of the table, and what is below it.
func (r *reader) node(at string, ref uint64, depth int) (*tree.Node, error) {
	if r.seen++; r.seen > 2*r.count+1 || depth > maxDepth {
		return nil, fmt.Errorf("%s: the image has more entries than inodes, or a folder inside itself", at)
	}
	s := r.stream(r.inodeTable, ref)
	e, err := r.inode(s)
	if err == nil {
		err = s.err
	}
	if err == nil {
		e.node.Xattrs, err = r.attributes(e.xattr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	switch {
	case e.node.Mode.IsDir():
		return e.node, r.children(at, e, depth)
	case e.node.Mode.IsRegular() && e.links > 1:
		if first, ok := r.links[e.number]; ok {
			e.node.LinkTo, e.node.Data = first, r.data[e.number]
		} else {
			r.links[e.number], r.data[e.number] = at, e.node.Data
		}
	}
	return e.node, nil
}

func (r *reader) inode(s *stream) (e entry, err error) {
	kind, mode, uid, gid := s.u16(), s.u16(), s.u16(), s.u16()
	s.u32() // time
	e.number, e.links, e.xattr = s.u32(), 1, noIndex
	if s.err != nil {
		return e, s.err
	}
	if int(uid) >= len(r.ids) || int(gid) >= len(r.ids) {
		return e, errors.New("its owner is not in the table")
	}
	e.node = &tree.Node{Mode: modeOf(kind, mode), UID: int(r.ids[uid]), GID: int(r.ids[gid])}
	large := kind > extended
	if large {
		kind -= extended
	}
	switch kind {
	case typeDir:
		r.dirInode(s, &e, large)
	case typeFile:
		return e, r.fileInode(s, &e, large)
	case typeSymlink:
		e.links = s.u32()
		n := s.u32()
		if n > maxTarget {
			return e, fmt.Errorf("a link to a path of %d bytes", n)
		}
		e.node.Target = string(s.take(int(n)))
	case typeBlock, typeChar:
		e.links = s.u32()
		d := s.u32()
		e.node.Major, e.node.Minor = d>>8&0xfff, d&0xff|d>>12&0xfff00
	case typeFifo, typeSocket:
		e.links = s.u32()
	default:
		return e, fmt.Errorf("inode type %d is unknown", kind)
	}
	if large && kind != typeDir {
		e.xattr = s.u32()
	}
	return e, s.err
}

// modeOf is the reverse of typeOf and permissions.
func modeOf(kind, mode uint16) fs.FileMode {
	if kind > extended {
		kind -= extended
	}
	m := fs.FileMode(mode & 0o777)
	for bit, is := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= is
		}
	}
	return m | map[uint16]fs.FileMode{typeDir: fs.ModeDir, typeSymlink: fs.ModeSymlink, typeBlock: fs.ModeDevice, typeChar: fs.ModeDevice | fs.ModeCharDevice,
		typeFifo: fs.ModeNamedPipe, typeSocket: fs.ModeSocket}[kind]
}

func (r *reader) dirInode(s *stream, e *entry, large bool) {
	if large {
		e.links, e.list.size = s.u32(), s.u32()
		block := s.u32()
		s.take(4 + 2) // parent, size of the index
		e.list.ref = uint64(block)<<16 | uint64(s.u16())
		e.xattr = s.u32()
		return
	}
	block := s.u32()
	e.links, e.list.size = s.u32(), uint32(s.u16())
	e.list.ref = uint64(block)<<16 | uint64(s.u16())
}

func (r *reader) fileInode(s *stream, e *entry, large bool) error {
	f := &stored{r: r}
	if large {
		f.start, f.size = s.u64(), int64(s.u64())
		s.u64() // holes
		e.links, f.frag, f.offset, e.xattr = s.u32(), s.u32(), s.u32(), s.u32()
	} else {
		f.start, f.frag, f.offset, f.size = uint64(s.u32()), s.u32(), s.u32(), int64(s.u32())
	}
	blocks := f.size / r.blockSize
	if f.frag == noIndex && f.size%r.blockSize > 0 {
		blocks++
	}
	// Each block has four bytes in the tables.
	if f.size < 0 || blocks > maxMeta/4 || f.frag != noIndex && int64(f.frag) >= int64(len(r.frags)) {
		return fmt.Errorf("a file of %d bytes with fragment %d", f.size, f.frag)
	}
	for range blocks {
		f.blocks = append(f.blocks, s.u32())
		if s.err != nil {
			return s.err
		}
	}
	e.node.Data = f
	return s.err
}

func (r *reader) children(at string, e entry, depth int) error {
	if e.list.size <= listingEnd {
		return nil
	}
	s := r.stream(r.dirTable, e.list.ref)
	for left := int64(e.list.size) - listingEnd; left > 0; {
		run, block := s.u32(), s.u32()
		s.u32() // number of the first inode
		left -= 12
		if s.err != nil || run >= maxRun {
			return fmt.Errorf("%s: its listing is damaged: %w", at, errors.Join(s.err, errListing))
		}
		for range run + 1 {
			off := s.u16()
			s.take(2 + 2) // number, type
			n := int(s.u16()) + 1
			name := string(s.take(min(n, maxName+1)))
			left -= int64(8 + n)
			if s.err != nil || n > maxName || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				return fmt.Errorf("%s: its listing is damaged: %w", at, errors.Join(s.err, errListing))
			}
			c, err := r.node(path.Join(at, name), uint64(block)<<16|uint64(off), depth+1)
			if err != nil {
				return err
			}
			c.Name = name
			e.node.Put(c)
		}
	}
	return nil
}

var errListing = errors.New("no listing")

// stored is the content of a file in an image (tree.Source).
type stored struct {
	r            *reader
	start        uint64
	size         int64
	blocks       []uint32
	frag, offset uint32
}

func (f *stored) Size() int64 { return f.size }

func (f *stored) Open() (io.ReadCloser, error) {
	return io.NopCloser(&storedReader{f: f, at: f.start, left: f.size}), nil
}

type storedReader struct {
	f    *stored
	at   uint64 // of the next block
	next int    // its number
	left int64  // bytes that no block gave yet
	rest []byte
}

func (s *storedReader) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.left == 0 {
			return 0, io.EOF
		}
		if err := s.block(); err != nil {
			return 0, fmt.Errorf("read squashfs: %w", err)
		}
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// block reads the next one.
func (s *storedReader) block() (err error) {
	r, want := s.f.r, min(s.left, s.f.r.blockSize)
	switch {
	case s.next == len(s.f.blocks): // the tail is in a fragment
		x := r.frags[s.f.frag]
		var b []byte
		if b, err = r.unpack(x.start, x.size&^blockRaw, x.size&blockRaw != 0, r.blockSize); err != nil {
			return err
		}
		if off := int64(s.f.offset); off+want <= int64(len(b)) {
			s.rest = b[off : off+want]
		}
	case s.f.blocks[s.next] == 0: // a hole
		s.rest = make([]byte, want)
	default:
		n := s.f.blocks[s.next]
		if s.rest, err = r.unpack(s.at, n&^blockRaw, n&blockRaw != 0, r.blockSize); err != nil {
			return err
		}
		s.at += uint64(n &^ blockRaw)
	}
	s.next++
	if int64(len(s.rest)) != want {
		return fmt.Errorf("a block has %d bytes instead of %d", len(s.rest), want)
	}
	s.left -= want
	return nil
}
