// Package blockzstd compresses single blocks of a file system to zstd frames
// (RFC 8878). General encoders keep tables for windows of megabytes; here
// nothing lies further back than the block, so that the search fits the cache
// of a core. With little effort it takes good matches as they come, with more
// every way to cut the block into matches is priced before one is taken.
package blockzstd

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// MaxInput is the longest block: the largest of squashfs.
const MaxInput = 1 << 20

// maxBlock is the most a block of a frame holds (RFC 8878, 3.1.1.2.4).
const maxBlock = 128 << 10

// Effort says how hard an encoder searches.
type Effort struct {
	Lazy  bool // take good matches as they come instead of pricing all ways
	Tree  bool // sort positions in trees (slow, finds the longest) or chain them
	Depth int  // candidates looked at for each position
	Nice  int  // a match of this length is taken without looking further
	Skim  int  // do not search where what is known is at most so much dearer one byte on (1/256 bit); 0: always search
}

// Encoder compresses blocks. It may be used from several goroutines.
type Encoder struct {
	effort Effort
	states sync.Pool
}

// New returns an encoder.
func New(e Effort) *Encoder {
	return &Encoder{effort: e, states: sync.Pool{New: func() any { return newState(e) }}}
}

// Compress appends the frame of src to dst. The same src gives the same frame.
func (e *Encoder) Compress(dst, src []byte) ([]byte, error) {
	if len(src) > MaxInput {
		return nil, fmt.Errorf("compress: a block of %d bytes is longer than %d", len(src), MaxInput)
	}
	s := e.states.Get().(*state)
	defer e.states.Put(s)
	s.reset(src)
	dst = appendFrameHeader(dst, len(src))
	if len(src) == 0 {
		return append(dst, 1, 0, 0), nil // a last, raw block of nothing
	}
	for from := 0; from < len(src); {
		to := min(len(src), from+maxBlock)
		dst = s.block(dst, from, to)
		from = to
	}
	return dst, nil
}

// appendFrameHeader writes a frame without checksum whose window is its
// content ("single segment").
func appendFrameHeader(dst []byte, size int) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, 0xFD2FB528)
	const single = 1 << 5
	switch {
	case size < 256:
		return append(dst, single, byte(size))
	case size < 256+1<<16:
		return binary.LittleEndian.AppendUint16(append(dst, single|1<<6), uint16(size-256))
	}
	return binary.LittleEndian.AppendUint32(append(dst, single|2<<6), uint32(size))
}

// The types of blocks.
const (
	blockRaw        = 0
	blockCompressed = 2
)

// block appends the block src[from:to]; what does not shrink is raw.
func (s *state) block(dst []byte, from, to int) []byte {
	head := len(dst)
	dst = append(dst, 0, 0, 0)
	before := s.reps
	if s.effort.Lazy {
		s.lazy(from, to)
	} else {
		s.parse(from, to)
	}
	dst = s.appendLiterals(dst)
	dst = s.appendSequences(dst)
	kind, n := blockCompressed, len(dst)-head-3
	if n >= to-from {
		s.reps = before // a raw block leaves them alone
		dst = append(dst[:head+3], s.src[from:to]...)
		kind, n = blockRaw, to-from
	}
	h := uint32(kind)<<1 | uint32(n)<<3
	if to == len(s.src) {
		h |= 1
	}
	dst[head], dst[head+1], dst[head+2] = byte(h), byte(h>>8), byte(h>>16)
	return dst
}
