package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/klauspost/compress/zstd"

	"joist/rootfs/tree"
)

// Content of images that others made is never trusted: every count and place
// is bounded by what the image can hold, and a directory that contains itself
// ends in an error.

// ErrNoImage says that there is no image of the one kind that Write makes:
// squashfs 4.0 with zstd.
var ErrNoImage = errors.New("no squashfs image with zstd")

// maxDepth is deeper than any path that PATH_MAX allows to be opened at once.
const maxDepth = 1024

// maxMeta bounds what the tables of one image may unpack to.
const maxMeta = 1 << 30

// reader is an image being read.
type reader struct {
	r         io.ReaderAt
	codec     *zstd.Decoder
	blockSize int64
	size      uint64
	count     uint32 // inodes, by the superblock
	ids       []uint32
	frags     []fragment
	xattrs    []xattrPlace
	pairs     uint64 // where the attributes lie

	inodeTable, dirTable uint64

	blocks map[uint64]metaBlock
	total  int64             // bytes in blocks
	seen   uint32            // entries met
	links  map[uint32]string // inode number → first path of a file with several names
	data   map[uint32]tree.Source
}

type metaBlock struct {
	data []byte
	next uint64
}

// Image is what an image says of itself.
type Image struct {
	Root *tree.Node
	Time time.Time
	Size int64 // what the file system uses, without padding
}

// Open reads the tree of an image. Content of files is read when it is asked
// for; r must stay open as long as that may happen.
func Open(r io.ReaderAt) (Image, error) {
	x := &reader{r: r, blocks: map[uint64]metaBlock{}, links: map[uint32]string{}, data: map[uint32]tree.Source{}}
	img, err := x.open()
	if err != nil {
		return Image{}, fmt.Errorf("read squashfs: %w", err)
	}
	return img, nil
}

func (r *reader) open() (Image, error) {
	b := make([]byte, superSize)
	if _, err := r.r.ReadAt(b, 0); err != nil {
		return Image{}, fmt.Errorf("%w (%v)", ErrNoImage, err)
	}
	le := binary.LittleEndian
	if le.Uint32(b) != magic || le.Uint16(b[20:]) != codeZstd || le.Uint16(b[28:]) != 4 || le.Uint16(b[30:]) != 0 {
		return Image{}, ErrNoImage
	}
	r.count, r.blockSize, r.size = le.Uint32(b[4:]), int64(le.Uint32(b[12:])), le.Uint64(b[40:])
	if r.blockSize < minBlockSize || r.blockSize > maxBlockSize || r.size > math.MaxInt64 {
		return Image{}, fmt.Errorf("blocks of %d bytes in an image of %d are not possible", r.blockSize, r.size)
	}
	var err error
	if r.codec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlockSize), zstd.WithDecoderMaxWindow(maxBlockSize)); err != nil {
		return Image{}, err
	}
	r.inodeTable, r.dirTable = le.Uint64(b[64:]), le.Uint64(b[72:])
	if err := r.readIDs(le.Uint64(b[48:]), int(le.Uint16(b[26:]))); err != nil {
		return Image{}, fmt.Errorf("owners: %w", err)
	}
	if err := r.readFragments(le.Uint64(b[80:]), int(le.Uint32(b[16:]))); err != nil {
		return Image{}, fmt.Errorf("fragments: %w", err)
	}
	if err := r.readXattrIndex(le.Uint64(b[56:])); err != nil {
		return Image{}, fmt.Errorf("extended attributes: %w", err)
	}
	root, err := r.node("/", le.Uint64(b[32:]), 0)
	return Image{Root: root, Time: time.Unix(int64(le.Uint32(b[8:])), 0).UTC(), Size: int64(r.size)}, err
}

// meta returns the metadata block at a place of the image.
func (r *reader) meta(at uint64) (metaBlock, error) {
	if b, ok := r.blocks[at]; ok {
		return b, nil
	}
	head := make([]byte, 2)
	if err := r.readAt(head, at); err != nil {
		return metaBlock{}, err
	}
	n := binary.LittleEndian.Uint16(head)
	data, err := r.unpack(at+2, uint32(n&^metaRaw), n&metaRaw != 0, metaSize)
	if err != nil {
		return metaBlock{}, err
	}
	if r.total += int64(len(data)); r.total > maxMeta {
		return metaBlock{}, errors.New("its tables are absurdly large")
	}
	b := metaBlock{data, at + 2 + uint64(n&^metaRaw)}
	r.blocks[at] = b
	return b, nil
}

func (r *reader) readAt(b []byte, at uint64) error {
	if at > r.size || uint64(len(b)) > r.size-at {
		return fmt.Errorf("place %d is outside of the image", at)
	}
	_, err := r.r.ReadAt(b, int64(at))
	return err
}

// unpack reads n stored bytes, which hold up to limit.
func (r *reader) unpack(at uint64, n uint32, raw bool, limit int64) ([]byte, error) {
	if int64(n) > limit {
		return nil, fmt.Errorf("a block of %d bytes is stored in %d", limit, n)
	}
	b := make([]byte, n)
	if err := r.readAt(b, at); err != nil || raw {
		return b, err
	}
	out, err := r.codec.DecodeAll(b, make([]byte, 0, limit))
	if err != nil {
		return nil, fmt.Errorf("the block at %d is damaged: %w", at, err)
	}
	if int64(len(out)) > limit {
		return nil, fmt.Errorf("the block at %d holds %d bytes", at, len(out))
	}
	return out, nil
}

// stream reads metadata across blocks. After an error it gives zeros and keeps
// the error, so that it is looked at once for each structure.
type stream struct {
	r    *reader
	at   uint64 // of the next block
	rest []byte
	err  error
}

// stream begins at an offset in the block that lies at table+block.
func (r *reader) stream(table, ref uint64) *stream {
	s := &stream{r: r, at: table + ref>>16}
	s.fill()
	if off := int(ref & 0xffff); s.err == nil && off <= len(s.rest) {
		s.rest = s.rest[off:]
	} else if s.err == nil {
		s.err = fmt.Errorf("offset %d is outside of its block", off)
	}
	return s
}

func (s *stream) fill() {
	b, err := s.r.meta(s.at)
	if err == nil && len(b.data) == 0 {
		err = errors.New("an empty block of metadata")
	}
	s.rest, s.at, s.err = b.data, b.next, err
}

func (s *stream) take(n int) []byte {
	out := make([]byte, n)
	for got := 0; got < n && s.err == nil; {
		if len(s.rest) == 0 {
			s.fill()
			continue
		}
		m := copy(out[got:], s.rest)
		got, s.rest = got+m, s.rest[m:]
	}
	return out
}

func (s *stream) u16() uint16 { return binary.LittleEndian.Uint16(s.take(2)) }
func (s *stream) u32() uint32 { return binary.LittleEndian.Uint32(s.take(4)) }
func (s *stream) u64() uint64 { return binary.LittleEndian.Uint64(s.take(8)) }

// table reads n entries of a table whose blocks are listed at a place.
func (r *reader) table(at uint64, n, size int) ([]byte, error) {
	var out []byte
	for ; len(out) < n*size; at += 8 {
		place := make([]byte, 8)
		if err := r.readAt(place, at); err != nil {
			return nil, err
		}
		b, err := r.meta(binary.LittleEndian.Uint64(place))
		if err != nil {
			return nil, err
		}
		if len(b.data) == 0 {
			return nil, errors.New("an empty block of metadata")
		}
		out = append(out, b.data...)
	}
	return out[:n*size], nil
}

func (r *reader) readIDs(at uint64, n int) error {
	b, err := r.table(at, n, 4)
	for ; err == nil && len(b) > 0; b = b[4:] {
		r.ids = append(r.ids, binary.LittleEndian.Uint32(b))
	}
	return err
}

func (r *reader) readFragments(at uint64, n int) error {
	if n == 0 || at == absent {
		return nil
	}
	b, err := r.table(at, n, 16)
	for ; err == nil && len(b) > 0; b = b[16:] {
		r.frags = append(r.frags, fragment{start: binary.LittleEndian.Uint64(b), size: binary.LittleEndian.Uint32(b[8:])})
	}
	return err
}

// xattrPlace is where a set of extended attributes lies.
type xattrPlace struct {
	ref   uint64
	count uint32
}

func (r *reader) readXattrIndex(at uint64) error {
	if at == absent {
		return nil
	}
	head := make([]byte, 16)
	if err := r.readAt(head, at); err != nil {
		return err
	}
	r.pairs = binary.LittleEndian.Uint64(head)
	n := binary.LittleEndian.Uint32(head[8:])
	if n > r.count {
		return fmt.Errorf("%d sets for %d files", n, r.count)
	}
	b, err := r.table(at+16, int(n), 16)
	for ; err == nil && len(b) > 0; b = b[16:] {
		r.xattrs = append(r.xattrs, xattrPlace{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:])})
	}
	return err
}

func (r *reader) attributes(set uint32) (map[string]string, error) {
	if set == noIndex {
		return nil, nil
	}
	if int64(set) >= int64(len(r.xattrs)) {
		return nil, fmt.Errorf("set %d of extended attributes is not there", set)
	}
	out := map[string]string{}
	s := r.stream(r.pairs, r.xattrs[set].ref)
	for range r.xattrs[set].count {
		kind, n := s.u16(), int(s.u16())
		name := string(s.take(n))
		size := s.u32()
		if s.err != nil {
			return nil, s.err
		}
		if int(kind) >= len(xattrPrefixes) || size > maxXattrValue {
			return nil, fmt.Errorf("extended attribute %q of kind %d with %d bytes", name, kind, size)
		}
		out[xattrPrefixes[kind]+name] = string(s.take(int(size)))
	}
	return out, s.err
}
