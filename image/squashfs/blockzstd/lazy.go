package blockzstd

import "math/bits"

// lazy cuts src[from:to] into sequences without pricing the ways: the match at
// a position is taken unless one of the next two has a better one.
func (s *state) lazy(from, to int) {
	s.seqs, s.lits, s.end = s.seqs[:0], s.lits[:0], to
	anchor := from
	for pos := from; pos+10 <= to; {
		m, gain := choice(s.find(pos, &s.reps, pos == anchor))
		if gain <= 0 {
			pos += 1 + (pos-anchor)>>7 // what does not repeat is soon passed
			continue
		}
		for ahead := 1; ahead <= 2 && pos+ahead+8 <= to && int(m.n) < s.effort.Nice; {
			// What is skipped becomes literals, which a better match must pay.
			if n, g := choice(s.find(pos+ahead, &s.reps, false)); g > gain+2+3*ahead {
				m, gain, pos, ahead = n, g, pos+ahead, 1
			} else {
				ahead++
			}
		}
		if m.off > 3 {
			for at := pos - int(m.off) + 3; pos > anchor && at > 0 && s.src[pos-1] == s.src[at-1]; at-- {
				pos, m.n = pos-1, m.n+1
			}
		}
		s.add(anchor, step{uint32(pos - anchor), m.off, m.n})
		pos += int(m.n)
		anchor = pos
		s.skipTo(pos)
	}
	s.lits = append(s.lits, s.src[anchor:to]...)
}

// choice is the match that saves most: about four bits a byte, less its offset.
func choice(ms []match) (best match, gain int) {
	for _, m := range ms {
		if g := int(m.n)*4 - bits.Len32(m.off); g > gain {
			best, gain = m, g
		}
	}
	return best, gain
}
