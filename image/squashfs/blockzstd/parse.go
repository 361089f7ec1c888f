package blockzstd

import "math"

// maxNodes bounds how far ways are followed before one is taken.
const maxNodes = 2048

// reprice is how many bytes are parsed between two looks at the statistics.
const reprice = 2048

// node is the cheapest known way to a position.
type node struct {
	price int32
	off   uint32 // of the match that ends here
	n     uint32 // its length, 0: a literal ends here
	lits  uint32 // literals since the last match
	reps  [3]uint32
}

// step is a match on the way, behind so many literals.
type step struct{ lits, off, n uint32 }

// sequence is literals and a match, as the frame has them.
type sequence = step

// after is what the recent offsets become (RFC 8878, 3.1.1.5).
func after(r [3]uint32, off uint32, noLiterals bool) [3]uint32 {
	if off > 3 {
		return [3]uint32{off - 3, r[0], r[1]}
	}
	i := off - 1
	if noLiterals {
		i++
	}
	switch i {
	case 0:
		return r
	case 1:
		return [3]uint32{r[1], r[0], r[2]}
	case 2:
		return [3]uint32{r[2], r[0], r[1]}
	}
	return [3]uint32{r[0] - 1, r[0], r[1]}
}

// parse cuts src[from:to] into sequences and the literals behind them.
func (s *state) parse(from, to int) {
	s.seqs, s.lits, s.end = s.seqs[:0], s.lits[:0], to
	s.price.begin(s.src[from:to])
	anchor, again := from, from+reprice
	for pos := from; pos+8 <= to; {
		if pos >= again {
			s.price.update()
			again = pos + reprice
		}
		ms := s.find(pos, &s.reps, pos == anchor)
		if len(ms) == 0 {
			pos += 1 + (pos-anchor)>>7 // what does not repeat is soon passed
			continue
		}
		if m := ms[len(ms)-1]; int(m.n) >= s.effort.Nice {
			s.take(anchor, step{uint32(pos - anchor), m.off, m.n})
			pos += int(m.n)
			anchor = pos
			s.skipTo(pos)
			continue
		}
		pos, anchor = s.best(anchor, pos, ms)
	}
	s.lits = append(s.lits, s.src[anchor:to]...)
}

// skipTo leaves most positions of a long match out of the tree: those after it
// find the ones before it.
func (s *state) skipTo(pos int) {
	if pos-s.next > 64 {
		s.next = pos - 32
	}
}

// best prices the ways on from pos until all meet, takes the cheapest and
// returns where it ends and where its last match ends.
func (s *state) best(anchor, pos int, ms []match) (int, int) {
	nodes, p := &s.nodes, &s.price
	lits := uint32(pos - anchor)
	nodes[0] = node{price: p.literals(lits), lits: lits, reps: s.reps}
	last := s.relax(0, 0, ms)
	end := 0
	var long match
	for cur := 1; ; cur++ {
		s.settle(pos, cur)
		n := &nodes[cur]
		if end = cur; cur == last || cur >= maxNodes-s.effort.Nice || pos+cur+8 > s.end {
			break
		}
		if skim := s.effort.Skim; skim > 0 && nodes[cur+1].price <= n.price+int32(skim) {
			continue
		}
		ms := s.find(pos+cur, &n.reps, n.lits == 0)
		if len(ms) == 0 {
			continue
		}
		if m := ms[len(ms)-1]; int(m.n) >= s.effort.Nice {
			long = m
			break
		}
		last = s.relax(cur, last, ms)
	}
	return s.walk(anchor, pos, end, long)
}

// relax enters the ways that the matches open from node cur and returns the
// furthest node with a price.
func (s *state) relax(cur, last int, ms []match) int {
	nodes, p := &s.nodes, &s.price
	base := nodes[cur].price + p.lit0
	n := minMatch
	for _, m := range ms {
		price := base + p.offset(m.off)
		to := cur + int(m.n)
		for ; last < to; last++ {
			nodes[last+1].price = math.MaxInt32
		}
		for ; n <= int(m.n); n++ {
			if t, c := &nodes[cur+n], price+p.match[n]; c < t.price {
				t.price, t.off, t.n, t.lits = c, m.off, uint32(n), 0
			}
		}
	}
	return last
}

// settle compares the way to cur over one more literal with the match that
// ends there, and completes the node.
func (s *state) settle(pos, cur int) {
	n, prev, p := &s.nodes[cur], &s.nodes[cur-1], &s.price
	c := prev.price + p.lit[s.src[pos+cur-1]] + p.literals(prev.lits+1) - p.literals(prev.lits)
	if c <= n.price {
		*n = node{price: c, lits: prev.lits + 1, reps: prev.reps}
		return
	}
	f := &s.nodes[cur-int(n.n)]
	n.reps = after(f.reps, n.off, f.lits == 0)
}

// walk takes the way to node end, and the long match behind it if there is one.
func (s *state) walk(anchor, pos, end int, long match) (int, int) {
	s.path = s.path[:0]
	for at := end; at > 0; {
		n := &s.nodes[at]
		if n.n == 0 {
			at--
			continue
		}
		at -= int(n.n)
		s.path = append(s.path, step{s.nodes[at].lits, n.off, n.n})
	}
	for i := len(s.path) - 1; i >= 0; i-- {
		st := s.path[i]
		s.take(anchor, st)
		anchor += int(st.lits + st.n)
	}
	pos += end
	if long.n > 0 {
		s.take(anchor, step{uint32(pos - anchor), long.off, long.n})
		pos += int(long.n)
		anchor = pos
		s.skipTo(pos)
	}
	return pos, anchor
}

// take adds a sequence whose literals begin at anchor, and lets it count for
// the prices of those that follow.
func (s *state) take(anchor int, st step) {
	s.price.count(s.src[anchor:anchor+int(st.lits)], st)
	s.add(anchor, st)
}

func (s *state) add(anchor int, st step) {
	s.lits = append(s.lits, s.src[anchor:anchor+int(st.lits)]...)
	s.seqs = append(s.seqs, st)
	s.reps = after(s.reps, st.off, st.lits == 0)
}
