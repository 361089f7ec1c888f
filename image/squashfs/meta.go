package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// absent stands for a table that an image does not have.
const absent = math.MaxUint64

// metaSize is how much a metadata block holds (SQUASHFS_METADATA_SIZE).
const metaSize = 8 << 10

// Marks of what is stored as it is: of a metadata block in its 16-bit header,
// of a data block in its 32-bit length.
const (
	metaRaw  = 1 << 15
	blockRaw = 1 << 24
)

// output appends to the image in large writes.
type output struct {
	w   io.WriterAt
	pos uint64 // where the next byte goes
	buf []byte // not yet written, ends at pos
}

const outputBuffer = 1 << 20

func (o *output) append(b []byte) error {
	o.buf = append(o.buf, b...)
	o.pos += uint64(len(b))
	if len(o.buf) >= outputBuffer {
		return o.flush()
	}
	return nil
}

func (o *output) flush() error {
	_, err := o.w.WriteAt(o.buf, int64(o.pos)-int64(len(o.buf)))
	o.buf = o.buf[:0]
	return err
}

// meta is a table of metadata blocks that grows in memory.
type meta struct {
	codec Codec
	done  []byte // compressed blocks with their headers
	open  []byte // of the block being filled
}

func newMeta(c Codec) *meta { return &meta{codec: c} }

// ref is where the next byte goes: the place of its block in the compressed
// table and its offset in the uncompressed block (16 bits).
func (m *meta) ref() uint64 { return uint64(len(m.done))<<16 | uint64(len(m.open)) }

func (m *meta) append(b []byte) error {
	m.open = append(m.open, b...)
	for len(m.open) >= metaSize {
		if err := m.seal(metaSize); err != nil {
			return err
		}
	}
	return nil
}

// seal ends a block of the first n open bytes.
func (m *meta) seal(n int) (err error) {
	m.done, err = appendBlock(m.done, m.codec, m.open[:n])
	m.open = append(m.open[:0], m.open[n:]...)
	return err
}

func (m *meta) writeTo(out *output) error {
	if len(m.open) > 0 {
		if err := m.seal(len(m.open)); err != nil {
			return err
		}
	}
	if uint64(len(m.done)) > math.MaxUint32 {
		return fmt.Errorf("a metadata table of %d bytes does not fit: the tree has too many entries", len(m.done))
	}
	return out.append(m.done)
}

// appendBlock appends one metadata block with its header to dst.
func appendBlock(dst []byte, c Codec, src []byte) ([]byte, error) {
	head := len(dst)
	dst, err := c.Compress(append(dst, 0, 0), src)
	if err != nil {
		return nil, fmt.Errorf("compress metadata: %w", err)
	}
	n := len(dst) - head - 2
	if n >= len(src) {
		dst = append(dst[:head+2], src...)
		n = len(src) | metaRaw
	}
	binary.LittleEndian.PutUint16(dst[head:], uint16(n))
	return dst, nil
}

// writeBlocks writes b as metadata blocks and returns the list of their places
// in the image.
func writeBlocks(out *output, c Codec, b []byte) (index []byte, err error) {
	for len(b) > 0 {
		n := min(len(b), metaSize)
		index = binary.LittleEndian.AppendUint64(index, out.pos)
		block, err := appendBlock(nil, c, b[:n])
		if err != nil {
			return nil, err
		}
		if err := out.append(block); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	return index, nil
}

// writeTable writes b as metadata blocks and the list of their places behind
// them, and returns where the list lies.
func writeTable(out *output, c Codec, b []byte) (uint64, error) {
	index, err := writeBlocks(out, c, b)
	if err != nil {
		return 0, err
	}
	at := out.pos
	return at, out.append(index)
}
