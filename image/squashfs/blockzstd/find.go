package blockzstd

import (
	"encoding/binary"
	"math/bits"

	"github.com/klauspost/compress/huff0"
)

const (
	minMatch  = 3
	hashBits  = 16
	hash3Bits = 14
)

// match is a way to go on from a position. off is the offset value of RFC
// 8878: 1 to 3 name a recent offset, larger ones are the offset plus 3.
type match struct {
	off, n uint32
}

// state is what one block needs; it is used again for the next.
type state struct {
	effort Effort
	src    []byte
	end    int       // of the block of the frame: matches stop there
	reps   [3]uint32 // the recent offsets

	// For each hash of four bytes the last position that has it; positions are
	// stored one higher, 0 is none. From there links lead to earlier ones: a
	// chain, or a binary tree sorted by what follows the position.
	heads  [1 << hashBits]int32
	heads3 [1 << hash3Bits]int32
	links  []int32 // of each position: one, or smaller and larger child
	next   int     // first position that is not entered
	found  []match

	nodes [maxNodes + 1]node
	path  []step
	price prices
	seqs  []sequence
	lits  []byte
	huff  huff0.Scratch
	codes [3][]byte
}

func newState(e Effort) *state { return &state{effort: e} }

func (s *state) reset(src []byte) {
	s.src, s.reps, s.next = src, [3]uint32{1, 4, 8}, 0
	clear(s.heads[:])
	clear(s.heads3[:])
	if need := 2 * len(src); len(s.links) < need {
		s.links = make([]int32, need)
	}
}

// matchLen is how far b goes on as a, both in src, up to end.
func matchLen(src []byte, a, b, end int) int {
	n := 0
	for b+n+8 <= end {
		x := binary.LittleEndian.Uint64(src[a+n:]) ^ binary.LittleEndian.Uint64(src[b+n:])
		if x != 0 {
			return n + bits.TrailingZeros64(x)>>3
		}
		n += 8
	}
	for b+n < end && src[a+n] == src[b+n] {
		n++
	}
	return n
}

// find returns the matches at pos, each longer than the one before it.
// noLiterals says that a match ends right before pos, which changes what the
// recent offsets mean. At least 8 bytes follow pos.
func (s *state) find(pos int, reps *[3]uint32, noLiterals bool) []match {
	s.found = s.found[:0]
	best := minMatch - 1
	shift := 0
	if noLiterals {
		shift = 1
	}
	word := binary.LittleEndian.Uint32(s.src[pos:])
	for i := shift; i < 3+shift; i++ {
		off := reps[0] - 1
		if i < 3 {
			off = reps[i]
		}
		at := pos - int(off)
		if off == 0 || at < 0 || (binary.LittleEndian.Uint32(s.src[at:])^word)<<8 != 0 {
			continue
		}
		if n := matchLen(s.src, at, pos, s.end); n > best {
			best = n
			s.found = append(s.found, match{uint32(i - shift + 1), uint32(n)})
		}
	}
	if pos < s.next {
		return s.found // seen on an earlier way through
	}
	s.enter(pos)
	if best < s.effort.Nice {
		if at := int(s.heads3[hash3(word)]) - 1; best < minMatch && at >= 0 && (binary.LittleEndian.Uint32(s.src[at:])^word)<<8 == 0 {
			if n := matchLen(s.src, at, pos, s.end); n > best {
				best = n
				s.found = append(s.found, match{uint32(pos-at) + 3, uint32(n)})
			}
		}
	}
	if s.effort.Tree {
		s.sort(pos, best)
	} else {
		s.chain(pos, best)
	}
	s.next = pos + 1
	return s.found
}

// enter makes the positions before pos findable.
func (s *state) enter(pos int) {
	if s.effort.Tree {
		for ; s.next < pos; s.next++ {
			s.sort(s.next, s.end)
		}
		return
	}
	for ; s.next < pos; s.next++ {
		word := binary.LittleEndian.Uint32(s.src[s.next:])
		h := hash4(word)
		s.links[s.next] = s.heads[h]
		s.heads[h] = int32(s.next + 1)
		s.heads3[hash3(word)] = int32(s.next + 1)
	}
}

func hash4(word uint32) uint32 { return word * 2654435761 >> (32 - hashBits) }
func hash3(word uint32) uint32 { return word << 8 * 506832829 >> (32 - hash3Bits) }

// chain enters pos and follows the chain of its hash, noting what is longer
// than best.
func (s *state) chain(pos, best int) {
	src, end := s.src, s.end
	word := binary.LittleEndian.Uint32(src[pos:])
	s.heads3[hash3(word)] = int32(pos + 1)
	h := hash4(word)
	cand := int(s.heads[h]) - 1
	s.links[pos] = s.heads[h]
	s.heads[h] = int32(pos + 1)
	for depth := s.effort.Depth; depth > 0 && cand >= 0 && pos+best < end; depth-- {
		if src[cand+best] == src[pos+best] && binary.LittleEndian.Uint32(src[cand:]) == word {
			if n := 4 + matchLen(src, cand+4, pos+4, end); n > best {
				best = n
				s.found = append(s.found, match{uint32(pos-cand) + 3, uint32(n)})
			}
		}
		cand = int(s.links[cand]) - 1
	}
}

// sort puts pos into the tree of its hash. On the way down it meets the
// positions most alike and notes those longer than best.
func (s *state) sort(pos, best int) {
	src, end, tree := s.src, s.end, s.links
	word := binary.LittleEndian.Uint32(src[pos:])
	s.heads3[hash3(word)] = int32(pos + 1)
	h := hash4(word)
	cand := int(s.heads[h]) - 1
	s.heads[h] = int32(pos + 1)
	smaller, larger := 2*pos, 2*pos+1
	nSmaller, nLarger := 0, 0
	for depth := s.effort.Depth; depth > 0 && cand >= 0; depth-- {
		n := min(nSmaller, nLarger)
		n += matchLen(src, cand+n, pos+n, end)
		if n > best {
			best = n
			s.found = append(s.found, match{uint32(pos-cand) + 3, uint32(n)})
		}
		if pos+n >= end {
			break // nothing says on which side it belongs
		}
		if src[cand+n] < src[pos+n] {
			tree[smaller] = int32(cand + 1)
			smaller, nSmaller = 2*cand+1, n
			cand = int(tree[smaller]) - 1
		} else {
			tree[larger] = int32(cand + 1)
			larger, nLarger = 2*cand, n
			cand = int(tree[larger]) - 1
		}
	}
	tree[smaller], tree[larger] = 0, 0
}
