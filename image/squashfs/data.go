package squashfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"joist/rootfs/tree"
)

// block is one block on its way into the image.
type block struct {
	of   *content // nil: a fragment block
	data []byte

	packed []byte // what goes into the image, as long as data when raw
	hole   bool
	cached bool
}

// fragment is an entry of the fragment table.
type fragment struct {
	start uint64
	size  uint32
}

// writeData writes every content once and fills in where it lies.
func (img *image) writeData(ctx context.Context) error {
	for _, c := range img.contents {
		if c.same == nil {
			img.stats.Content += c.size
		} else {
			img.stats.Duplicates++
		}
	}
	var done int64
	var failed error
	err := inOrder(ctx, img.Workers, 4*img.Workers, img.blocks(ctx, &failed), img.compress, func(b *block) error {
		if err := img.place(b); err != nil {
			return err
		}
		done += int64(len(b.data))
		if img.Progress != nil {
			img.Progress(done, img.stats.Content)
		}
		return nil
	})
	return errors.Join(err, failed)
}

// loaded is a content whose bytes are in memory when it is short.
type loaded struct {
	*content
	data []byte
}

// blocks yields the blocks of the image in order. Small files are read ahead
// on several goroutines, as opening them is what takes time; large ones are
// read block by block. What fails is left in failed.
func (img *image) blocks(ctx context.Context, failed *error) iter.Seq[*block] {
	stored := func(yield func(*content) bool) {
		for _, c := range img.contents {
			if c.same == nil && !yield(c) {
				return
			}
		}
	}
	load := func(c *content) (loaded, error) {
		if c.size > int64(img.BlockSize) {
			return loaded{content: c}, nil
		}
		b, err := c.read()
		return loaded{c, b}, err
	}
	return func(yield func(*block) bool) {
		p := &packer{img: img, yield: yield}
		err := inOrder(ctx, min(img.Workers, 4), 16, stored, load, p.add)
		if err == nil {
			err = p.close()
		}
		if !errors.Is(err, errStopped) {
			*failed = err
		}
	}
}

// errStopped ends the reading when nobody wants more blocks.
var errStopped = errors.New("stopped")

// packer cuts contents into blocks and packs small ones together.
type packer struct {
	img   *image
	yield func(*block) bool
	frag  []byte // the fragment block being filled
	frags uint32 // how many were
}

func (p *packer) emit(b *block) error {
	if !p.yield(b) {
		return errStopped
	}
	return nil
}

func (p *packer) add(l loaded) error {
	switch {
	case l.data == nil:
		return p.stream(l.content)
	case l.size >= int64(p.img.PackBelow):
		return p.emit(&block{of: l.content, data: l.data})
	}
	if len(p.frag)+len(l.data) > p.img.BlockSize {
		if err := p.close(); err != nil {
			return err
		}
	}
	if p.frag == nil {
		p.frag = make([]byte, 0, p.img.BlockSize)
	}
	l.frag, l.fragOff = p.frags, uint32(len(p.frag))
	p.frag = append(p.frag, l.data...)
	return nil
}

// close ends the fragment block being filled.
func (p *packer) close() error {
	if len(p.frag) == 0 {
		return nil
	}
	b := &block{data: p.frag}
	p.frag = nil
	p.frags++
	return p.emit(b)
}

// stream emits the blocks of a large file.
func (p *packer) stream(c *content) error {
	if b, ok := c.data.(tree.Bytes); ok {
		for len(b) > 0 {
			n := min(len(b), p.img.BlockSize)
			if err := p.emit(&block{of: c, data: b[:n]}); err != nil {
				return err
			}
			b = b[n:]
		}
		return nil
	}
	r, err := c.open()
	if err != nil {
		return err
	}
	defer r.Close()
	for left := c.size; left > 0; {
		b := make([]byte, min(left, int64(p.img.BlockSize)))
		if n, err := io.ReadFull(r, b); err != nil {
			return c.failed(err, c.size-left+int64(n))
		}
		left -= int64(len(b))
		if err := p.emit(&block{of: c, data: b}); err != nil {
			return err
		}
	}
	return c.atEnd(r)
}

// read returns the whole content.
func (c *content) read() ([]byte, error) {
	if b, ok := c.data.(tree.Bytes); ok {
		return b, nil
	}
	r, err := c.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, c.size)
	if n, err := io.ReadFull(r, b); err != nil {
		return nil, c.failed(err, int64(n))
	}
	return b, c.atEnd(r)
}

// atEnd tells when there is more than was announced.
func (c *content) atEnd(r io.Reader) error {
	n, err := io.ReadFull(r, make([]byte, 1))
	if n > 0 {
		return fmt.Errorf("read %s: %w", c.path, errSize(c.size, c.size+1))
	}
	if err != io.EOF {
		return fmt.Errorf("read %s: %w", c.path, err)
	}
	return nil
}

// failed explains a read that ended after n bytes.
func (c *content) failed(err error, n int64) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = errSize(c.size, n)
	}
	return fmt.Errorf("read %s: %w", c.path, err)
}

// compress fills in what of a block goes into the image. It runs on every
// worker.
func (img *image) compress(b *block) (*block, error) {
	if b.of != nil && isZero(b.data) {
		b.hole = true
		return b, nil
	}
	if img.Cache == nil {
		return b, img.encode(b)
	}
	key := cacheKey(img.Codec.Name, b.data)
	if v, ok := img.Cache.Get(key); ok && len(v) < len(b.data) {
		b.packed, b.cached = v, true
		if len(v) == 0 {
			b.packed = b.data
		}
		return b, nil
	}
	if err := img.encode(b); err != nil {
		return b, err
	}
	if len(b.packed) == len(b.data) {
		img.Cache.Put(key, nil) // known not to shrink
	} else {
		img.Cache.Put(key, b.packed)
	}
	return b, nil
}

// encode compresses a block; what does not shrink is stored as it is.
func (img *image) encode(b *block) error {
	packed, err := img.Codec.Compress(nil, b.data)
	if err != nil {
		return fmt.Errorf("compress a block: %w", err)
	}
	if b.packed = packed; len(packed) >= len(b.data) {
		b.packed = b.data
	}
	return nil
}

// cacheKey names what a codec makes of a block.
func cacheKey(codec string, data []byte) (key [sha256.Size]byte) {
	h := sha256.New()
	h.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(codec))))
	io.WriteString(h, codec)
	h.Write(data)
	h.Sum(key[:0])
	return key
}

// isZero compares b with itself, one byte further: all are as the first.
func isZero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// place writes a block and notes where it lies.
func (img *image) place(b *block) error {
	start, size := img.out.pos, uint32(len(b.packed))
	if b.of != nil && len(b.of.blocks) == 0 {
		b.of.start = start
	}
	if b.hole {
		b.of.blocks = append(b.of.blocks, 0)
		b.of.holes += uint64(len(b.data))
		img.stats.Holes++
		return nil
	}
	img.stats.Blocks++
	if b.cached {
		img.stats.Cached++
	}
	if len(b.packed) == len(b.data) {
		size |= blockRaw
		img.stats.Raw++
	}
	if b.of != nil {
		b.of.blocks = append(b.of.blocks, size)
	} else {
		img.stats.Fragments++
		img.frags = append(img.frags, fragment{start, size})
	}
	return img.out.append(b.packed)
}
