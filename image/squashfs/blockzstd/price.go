package blockzstd

import "math/bits"

// unit is one bit in prices.
const unit = 1 << 8

// maxPriced is the longest match whose price is in the table: Nice is less.
const maxPriced = maxNodes

// prices are what codes will cost, guessed from what was coded so far.
type prices struct {
	lit   [256]int32
	ll    [maxLLCode + 1]int32
	llLow [64]int32
	lit0  int32 // of a sequence without literals
	of    [32]int32
	match [maxPriced + 1]int32

	nLit [256]uint32
	nLL  [maxLLCode + 1]uint32
	nML  [maxMLCode + 1]uint32
	nOF  [32]uint32
}

// begin starts from the bytes of the block and from what most blocks are like.
func (p *prices) begin(b []byte) {
	clear(p.nLit[:])
	for _, c := range b {
		p.nLit[c]++
	}
	for i := range p.nLit {
		if p.nLit[i] > 0 {
			p.nLit[i] = 1 + p.nLit[i]>>8
		}
	}
	for i := range p.nLL {
		p.nLL[i] = 1
	}
	for i := range p.nML {
		p.nML[i] = 1
	}
	for i := range p.nOF {
		p.nOF[i] = 1
	}
	p.nLL[0], p.nLL[1], p.nLL[2], p.nLL[3] = 8, 4, 3, 2
	for i := range 12 {
		p.nML[i] = uint32(5 - i/3)
	}
	p.nOF[0], p.nOF[1] = 6, 3
	for i := 6; i < 17; i++ {
		p.nOF[i] = 3
	}
	p.update()
}

// count notes a sequence that was taken.
func (p *prices) count(lits []byte, st step) {
	for _, c := range lits {
		p.nLit[c] += 2
	}
	p.nLL[llCode(st.lits)]++
	p.nML[mlCode(st.n)]++
	p.nOF[ofCode(st.off)]++
}

// update computes the prices anew.
func (p *prices) update() {
	weigh(p.lit[:], p.nLit[:])
	weigh(p.ll[:], p.nLL[:])
	weigh(p.of[:], p.nOF[:])
	for c := range p.of {
		p.of[c] += int32(c) * unit
	}
	for c := range p.ll {
		p.ll[c] += int32(llBits[c]) * unit
	}
	for n := range p.llLow {
		p.llLow[n] = p.ll[llCode(uint32(n))]
	}
	p.lit0 = p.llLow[0]
	var ml [maxMLCode + 1]int32
	weigh(ml[:], p.nML[:])
	for n := minMatch; n <= maxPriced; n++ {
		c := mlCode(uint32(n))
		p.match[n] = ml[c] + int32(mlBits[c])*unit
	}
}

// weigh turns counts into prices; what never came is a bit dearer than what
// came once.
func weigh(price []int32, count []uint32) {
	var sum uint32
	for _, n := range count {
		sum += n
	}
	whole := log2(sum)
	for i, n := range count {
		if n == 0 {
			price[i] = whole + unit
		} else {
			price[i] = whole - log2(n)
		}
	}
}

// log2 is the binary logarithm in units, linear between the powers of two as
// in zstd's own estimate: all that counts is that every machine has the same.
func log2(n uint32) int32 {
	n++
	h := bits.Len32(n) - 1
	return int32(h)*unit + int32((uint64(n)<<8)>>h) - unit
}

func (p *prices) literals(n uint32) int32 {
	if n < uint32(len(p.llLow)) {
		return p.llLow[n]
	}
	return p.ll[llCode(n)]
}

func (p *prices) offset(off uint32) int32 { return p.of[ofCode(off)] }
