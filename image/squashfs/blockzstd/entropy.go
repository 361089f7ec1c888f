package blockzstd

import (
	"math/bits"

	"github.com/klauspost/compress/huff0"
)

// The codes of lengths and offsets (RFC 8878, 3.1.1.3.2.1.1).
const (
	maxLLCode = 35
	maxMLCode = 52
)

var (
	llBits = [maxLLCode + 1]uint8{16: 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	mlBits = [maxMLCode + 1]uint8{32: 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	llLow  = lowCodes(64, llBits[:], 0)
	mlLow  = lowCodes(128, mlBits[:], 0)
)

// lowCodes maps the values below n to their codes: each code stands for as
// many values as its extra bits tell apart.
func lowCodes(n int, extra []uint8, first int) []uint8 {
	out := make([]uint8, 0, n)
	for code := first; len(out) < n; code++ {
		for range 1 << extra[code] {
			if len(out) < n {
				out = append(out, uint8(code))
			}
		}
	}
	return out
}

func llCode(n uint32) uint8 {
	if n < 64 {
		return llLow[n]
	}
	return uint8(bits.Len32(n) - 1 + 19)
}

func mlCode(n uint32) uint8 {
	if n -= minMatch; n < 128 {
		return mlLow[n]
	}
	return uint8(bits.Len32(n) - 1 + 36)
}

func ofCode(off uint32) uint8 { return uint8(bits.Len32(off) - 1) }

// The predefined distributions (RFC 8878, 3.1.1.3.2.2).
var (
	llDefault = []int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1}
	mlDefault = []int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1}
	ofDefault = []int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1}
)

// The kinds of literals.
const (
	litRaw  = 0
	litRLE  = 1
	litHuff = 2
)

// appendLiterals appends the literals section.
func (s *state) appendLiterals(dst []byte) []byte {
	lits := s.lits
	if len(lits) < 32 {
		return appendPlainLiterals(dst, litRaw, len(lits), lits)
	}
	s.huff.Reuse = huff0.ReusePolicyNone
	compress, streams := huff0.Compress4X, uint64(1)
	if len(lits) < 256 {
		compress, streams = huff0.Compress1X, 0
	}
	out, _, err := compress(lits, &s.huff)
	switch {
	case err == huff0.ErrUseRLE:
		return appendPlainLiterals(dst, litRLE, len(lits), lits[:1])
	case err != nil || len(out)+5 >= len(lits):
		return appendPlainLiterals(dst, litRaw, len(lits), lits)
	}
	// One of three widths of both lengths; one stream is said with the
	// narrowest of them.
	n, c := uint64(len(lits)), uint64(len(out))
	var h uint64
	var size int
	switch {
	case max(n, c) < 1<<10:
		h, size = litHuff|streams<<2|n<<4|c<<14, 3
	case max(n, c) < 1<<14:
		h, size = litHuff|2<<2|n<<4|c<<18, 4
	default:
		h, size = litHuff|3<<2|n<<4|c<<22, 5
	}
	for range size {
		dst = append(dst, byte(h))
		h >>= 8
	}
	return append(dst, out...)
}

func appendPlainLiterals(dst []byte, kind byte, n int, b []byte) []byte {
	switch {
	case n < 1<<5:
		dst = append(dst, kind|byte(n<<3))
	case n < 1<<12:
		dst = append(dst, kind|1<<2|byte(n<<4), byte(n>>4))
	default:
		dst = append(dst, kind|3<<2|byte(n<<4), byte(n>>4), byte(n>>12))
	}
	return append(dst, b...)
}

// appendSequences appends the sequences section.
func (s *state) appendSequences(dst []byte) []byte {
	n := len(s.seqs)
	switch {
	case n < 128:
		dst = append(dst, byte(n))
	case n < 0x7F00:
		dst = append(dst, byte(n>>8)+128, byte(n))
	default:
		dst = append(dst, 255, byte(n-0x7F00), byte((n-0x7F00)>>8))
	}
	if n == 0 {
		return dst
	}
	for i := range s.codes {
		s.codes[i] = s.codes[i][:0]
	}
	for _, q := range s.seqs {
		s.codes[0] = append(s.codes[0], llCode(q.lits))
		s.codes[1] = append(s.codes[1], ofCode(q.off))
		s.codes[2] = append(s.codes[2], mlCode(q.n))
	}
	mode := len(dst)
	dst = append(dst, 0)
	var tables [3]*table
	for i, k := range [3]kind{{llDefault, 6, 9}, {ofDefault, 5, 8}, {mlDefault, 6, 9}} {
		var how byte
		tables[i], how, dst = choose(dst, s.codes[i], k)
		dst[mode] |= how << (6 - 2*i)
	}
	return s.appendBits(dst, tables[0], tables[1], tables[2])
}

// appendBits appends the stream of states and extra bits. It is read from its
// end, so the last sequence comes first.
func (s *state) appendBits(dst []byte, ll, of, ml *table) []byte {
	w := bitWriter{out: dst}
	var sl, so, sm uint32
	for i := len(s.seqs) - 1; i >= 0; i-- {
		q, cl, co, cm := s.seqs[i], s.codes[0][i], s.codes[1][i], s.codes[2][i]
		if i == len(s.seqs)-1 {
			sm, so, sl = ml.first(cm), of.first(co), ll.first(cl)
		} else {
			so = of.encode(&w, so, co)
			sm = ml.encode(&w, sm, cm)
			sl = ll.encode(&w, sl, cl)
			w.flush()
		}
		w.add(q.lits, llBits[cl])
		w.add(q.n-minMatch, mlBits[cm])
		w.flush()
		w.add(q.off, co)
		w.flush()
	}
	w.add(sm, ml.log)
	w.add(so, of.log)
	w.add(sl, ll.log)
	w.add(1, 1) // marks the end
	return w.close()
}

// bitWriter appends bits, lowest first.
type bitWriter struct {
	out []byte
	acc uint64
	n   uint8
}

// add appends the low n bits of v. At most 57 fit between two flushes.
func (w *bitWriter) add(v uint32, n uint8) {
	w.acc |= uint64(v&(1<<n-1)) << w.n
	w.n += n
}

func (w *bitWriter) flush() {
	for ; w.n >= 8; w.n -= 8 {
		w.out = append(w.out, byte(w.acc))
		w.acc >>= 8
	}
}

func (w *bitWriter) close() []byte {
	w.flush()
	if w.n > 0 {
		w.out = append(w.out, byte(w.acc))
	}
	return w.out
}
