package blockzstd

import "math/bits"

// kind is one of the three sorts of codes: its predefined distribution with
// the logarithm of that table's size, and the largest its own may have.
type kind struct {
	norm   []int16
	log    uint8
	maxLog uint8
}

// table encodes one sort of codes (RFC 8878, 4.1: finite state entropy).
type table struct {
	log    uint8
	states []uint16
	delta  [64]struct {
		bits uint32 // how many bits leave a state, as (n << 16) - smallest state
		find int32
	}
}

// The ways to describe a table.
const (
	modePredefined = 0
	modeRLE        = 1
	modeOwn        = 2
)

// choose appends the cheapest description of a table for the codes.
func choose(dst []byte, codes []byte, k kind) (*table, byte, []byte) {
	var counts [64]int
	top := 0
	for _, c := range codes {
		counts[c]++
		top = max(top, int(c))
	}
	if counts[top] == len(codes) && len(codes) > 2 {
		return &table{states: []uint16{1}}, modeRLE, append(dst, byte(top))
	}
	norm, log := normalize(counts[:top+1], len(codes), k.maxLog)
	own := appendNorm(nil, norm, log)
	if top < len(k.norm) && cost(counts[:top+1], k.norm, k.log) <= cost(counts[:top+1], norm, log)+int64(len(own))*8*unit {
		return newTable(k.norm, k.log), modePredefined, dst
	}
	return newTable(norm, log), modeOwn, append(dst, own...)
}

// cost is how long the codes get with a distribution.
func cost(counts []int, norm []int16, log uint8) (sum int64) {
	for c, n := range counts {
		if n > 0 {
			sum += int64(n) * int64(int32(log)*unit-fineLog2(uint32(max(norm[c], 1))))
		}
	}
	return sum
}

// fineLog2 is the binary logarithm in units by repeated squaring, so that
// every machine has the same.
func fineLog2(n uint32) int32 {
	h := bits.Len32(n) - 1
	out := int32(h) * unit
	x := uint64(n) << (31 - h) // 1.31 fixed point
	for bit := int32(unit / 2); bit > 0; bit /= 2 {
		x = x * x >> 31
		if x >= 1<<32 {
			x >>= 1
			out += bit
		}
	}
	return out
}

// normalize scales counts to a sum of 1<<log, each code that occurs at least
// one, each step where it is worth most.
func normalize(counts []int, total int, maxLog uint8) ([]int16, uint8) {
	used := 0
	for _, n := range counts {
		if n > 0 {
			used++
		}
	}
	// A table much larger than the number of codes costs more than it saves.
	log := uint8(min(int(maxLog), max(5, bits.Len(uint(total-1))-2, bits.Len(uint(used)))))
	size := 1 << log
	norm, sum := make([]int16, len(counts)), 0
	for c, n := range counts {
		if n > 0 {
			norm[c] = int16(max(1, n*size/total))
			sum += int(norm[c])
		}
	}
	// The gain of one more is about n/(norm+1/2).
	gain := func(c, step int) (int, int) { return counts[c], 2*int(norm[c]) + step }
	for ; sum < size; sum++ {
		best := -1
		for c := range counts {
			if counts[c] == 0 {
				continue
			}
			if best >= 0 {
				n, d := gain(c, 1)
				bn, bd := gain(best, 1)
				if n*bd <= bn*d {
					continue
				}
			}
			best = c
		}
		norm[best]++
	}
	for ; sum > size; sum-- {
		best := -1
		for c := range counts {
			if norm[c] < 2 {
				continue
			}
			if best >= 0 {
				n, d := gain(c, -1)
				bn, bd := gain(best, -1)
				if n*bd >= bn*d {
					continue
				}
			}
			best = c
		}
		norm[best]--
	}
	return norm, log
}

// appendNorm writes a distribution (RFC 8878, 4.1.1).
func appendNorm(dst []byte, norm []int16, log uint8) []byte {
	w := bitWriter{out: dst}
	w.add(uint32(log-5), 4)
	remaining, threshold, width := 1<<log+1, 1<<log, log+1
	for c := 0; c < len(norm) && remaining > 1; {
		n := int(norm[c])
		c++
		most := 2*threshold - 1 - remaining
		remaining -= max(n, -n)
		v := n + 1
		if v >= threshold {
			v += most
		}
		bitsUsed := width
		if v < most {
			bitsUsed--
		}
		w.add(uint32(v), bitsUsed)
		w.flush()
		for remaining < threshold {
			width--
			threshold >>= 1
		}
		if n == 0 { // how many more zeros follow, in steps of three
			zeros := 0
			for c < len(norm) && norm[c] == 0 {
				c++
				zeros++
			}
			for ; zeros >= 3; zeros -= 3 {
				w.add(3, 2)
				w.flush()
			}
			w.add(uint32(zeros), 2)
			w.flush()
		}
	}
	return w.close()
}

// newTable builds the states of a distribution.
func newTable(norm []int16, log uint8) *table {
	size := 1 << log
	t := &table{log: log, states: make([]uint16, size)}
	symbols, next := make([]uint8, size), make([]int, len(norm)+1)
	high := size - 1
	for c, n := range norm {
		next[c+1] = next[c] + int(max(n, -n))
		if n < 0 { // less than one: at the end of the table
			symbols[high] = uint8(c)
			high--
		}
	}
	pos, step := 0, size>>1+size>>3+3
	for c, n := range norm {
		for range max(n, 0) {
			symbols[pos] = uint8(c)
			for pos = (pos + step) & (size - 1); pos > high; {
				pos = (pos + step) & (size - 1)
			}
		}
	}
	at := append([]int(nil), next...)
	for i, c := range symbols {
		t.states[at[c]] = uint16(size + i)
		at[c]++
	}
	for c, n := range norm {
		d := &t.delta[c]
		switch {
		case n == 1 || n < 0:
			d.bits, d.find = uint32(log)<<16-uint32(size), int32(next[c]-1)
		case n > 1:
			out := uint32(log) - uint32(bits.Len16(uint16(n-1))-1)
			d.bits, d.find = out<<16-uint32(n)<<out, int32(next[c])-int32(n)
		}
	}
	return t
}

// first is the state in which the last code is encoded for nothing.
func (t *table) first(c byte) uint32 {
	if t.log == 0 {
		return 0
	}
	d := t.delta[c]
	n := (d.bits + 1<<15) >> 16
	v := n<<16 - d.bits
	return uint32(t.states[int32(v>>n)+d.find])
}

// encode leaves a state for the one of the code before it.
func (t *table) encode(w *bitWriter, state uint32, c byte) uint32 {
	if t.log == 0 {
		return 0
	}
	d := t.delta[c]
	n := (state + d.bits) >> 16
	w.add(state, uint8(n))
	return uint32(t.states[int32(state>>n)+d.find])
}
