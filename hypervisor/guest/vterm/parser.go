package vterm

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// state is where the parser is in a function, after the state machine that
// Paul Williams drew of DEC's terminals (vt100.net/emu/dec_ansi_parser).
type state uint8

const (
	ground state = iota
	escape
	escapeMore // ESC and an intermediate byte
	function   // CSI: parameters
	skip       // CSI that cannot be meant
	text       // OSC, DCS, APC, PM, SOS: up to ST or BEL
	textEnd    // an ESC in it
)

const (
	maxParams = 32
	maxParam  = 1 << 16
)

type parser struct {
	state   state
	utf8    [utf8.UTFMax]byte
	pending int // bytes of utf8
	params  [maxParams]int
	sub     [maxParams]bool // the parameter was set off by a colon: it belongs to the one before
	n       int
	private byte // one of "<=>?" in front of the parameters
	middle  byte // the last intermediate byte
}

// Write takes what the program writes. It never fails.
func (s *Screen) Write(p []byte) (int, error) {
	for _, b := range p {
		s.byte(b)
	}
	return len(p), nil
}

func (s *Screen) byte(b byte) {
	p := &s.parser
	switch {
	case p.state == ground && (b >= 0x80 || p.pending > 0):
		s.unicode(b)
	case b == 0x18 || b == 0x1a: // CAN, SUB
		p.state = ground
	case b == 0x1b && p.state == text:
		p.state = textEnd
	case b == 0x1b:
		*p = parser{state: escape}
	case p.state == text:
		if b == 0x07 {
			p.state = ground
		}
	case p.state == textEnd:
		*p = parser{state: escape}
		if b == '\\' {
			p.state = ground
		} else {
			s.byte(b)
		}
	case b < 0x20: // controls act in the middle of functions too
		s.control(b)
	case b == 0x7f:
	case p.state == ground:
		s.printable(rune(b))
	case p.state == escape || p.state == escapeMore:
		s.escaped(b)
	default:
		s.param(b)
	}
}

// unicode collects UTF-8. A character that is none shows as U+FFFD.
func (s *Screen) unicode(b byte) {
	p := &s.parser
	if p.pending > 0 && !utf8.RuneStart(b) || p.pending == 0 {
		p.utf8[p.pending] = b
		p.pending++
		if !utf8.FullRune(p.utf8[:p.pending]) {
			return
		}
		r, n := utf8.DecodeRune(p.utf8[:p.pending])
		rest := p.pending - n
		p.pending = 0
		s.printable(r)
		for range rest { // the bytes after the first of what was no character
			s.printable(utf8.RuneError)
		}
		return
	}
	p.pending = 0
	s.printable(utf8.RuneError)
	s.byte(b)
}

// printable writes a character. Marks that go onto the one before them have
// no place of their own and are left out; C1 controls in UTF-8 are not used by
// anybody.
func (s *Screen) printable(r rune) {
	switch {
	case r >= 0x80 && r < 0xa0, unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return
	case s.graphic[s.shift] && r >= '_' && r <= '~':
		r = lineDrawing[r-'_']
	}
	s.put(r)
}

// lineDrawing is DEC's special graphics from '_' to '~'.
var lineDrawing = [...]rune{' ', '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼',
	'⎺', '⎻', '─', '⎼', '⎽', '├', '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·'}

func (s *Screen) control(b byte) {
	switch b {
	case '\a':
		s.bells++
	case '\b':
		s.by(-1, 0)
	case '\t':
		s.tab(1)
	case '\n', '\v', '\f':
		s.feed()
	case '\r':
		s.x, s.wrap = 0, false
	case 0x0e, 0x0f: // SO, SI
		s.shift = int(0x0f - b)
	}
}

func (s *Screen) escaped(b byte) {
	p := &s.parser
	if b < 0x30 {
		p.middle, p.state = b, escapeMore
		return
	}
	p.state = ground
	if p.middle != 0 {
		switch {
		case p.middle == '(' || p.middle == ')':
			s.graphic[p.middle-'('] = b == '0'
		case p.middle == '#' && b == '8': // DECALN
			for i := range s.buf.cells {
				s.buf.cells[i] = Cell{Rune: 'E'}
			}
		}
		return
	}
	switch b {
	case '[':
		p.state = function
	case ']', 'P', 'X', '^', '_':
		p.state = text
	case '7':
		s.save()
	case '8':
		s.restore()
	case 'D':
		s.feed()
	case 'E':
		s.x = 0
		s.feed()
	case 'H':
		s.tabs[s.x] = true
	case 'M':
		s.back()
	case 'Z':
		s.identify()
	case 'c':
		s.reset()
	}
}

func (s *Screen) param(b byte) {
	p := &s.parser
	switch {
	case b >= 0x40:
		if p.state == function {
			p.state = ground
			p.n = min(p.n+1, maxParams)
			s.run(b)
		}
		p.state = ground
	case p.state == skip:
	case b >= '0' && b <= '9':
		if p.n < maxParams {
			p.params[p.n] = min(p.params[p.n]*10+int(b-'0'), maxParam)
		}
	case b == ';' || b == ':':
		if p.n < maxParams {
			p.n++
		}
		if p.n < maxParams {
			p.sub[p.n] = b == ':'
		}
	case b >= 0x3c:
		if p.n > 0 || p.params[0] > 0 {
			p.state = skip
		}
		p.private = b
	default:
		p.middle = b
	}
}

// arg is a parameter; 0 and what is missing mean def.
func (p *parser) arg(i, def int) int {
	if i >= p.n || p.params[i] == 0 {
		return def
	}
	return p.params[i]
}

// run carries out a control function.
func (s *Screen) run(final byte) {
	p := &s.parser
	switch {
	case p.private == '?' && p.middle == 0 && (final == 'h' || final == 'l'):
		for _, m := range p.params[:p.n] {
			s.mode(m, final == 'h')
		}
	case p.private == '>' && final == 'c':
		s.answers = append(s.answers, "\x1b[>0;0;0c"...)
	case p.middle == '!' && final == 'p': // DECSTR
		s.top, s.bottom, s.insert, s.hidden, s.appKeys, s.autowrap = 0, s.rows, false, false, false, true
		s.look, s.origin, s.graphic, s.shift = Cell{}, false, [2]bool{}, 0
	case p.private == 0 && p.middle == 0:
		if !s.move(final) {
			s.edit(final)
		}
	}
}

// move carries out what moves the cursor.
func (s *Screen) move(final byte) bool {
	p := &s.parser
	n := p.arg(0, 1)
	y := s.y
	if s.origin {
		y -= s.top
	}
	switch final {
	case 'A':
		s.by(0, -n)
	case 'B', 'e':
		s.by(0, n)
	case 'C', 'a':
		s.by(n, 0)
	case 'D':
		s.by(-n, 0)
	case 'E':
		s.by(-s.x, n)
	case 'F':
		s.by(-s.x, -n)
	case 'G', '`':
		s.to(n-1, y)
	case 'H', 'f':
		s.to(p.arg(1, 1)-1, n-1)
	case 'I':
		s.tab(min(n, s.cols))
	case 'Z':
		s.tab(-min(n, s.cols))
	case 'd':
		s.to(s.x, n-1)
	case 's':
		s.save()
	case 'u':
		s.restore()
	default:
		return false
	}
	return true
}

// edit carries out what changes cells and modes.
func (s *Screen) edit(final byte) {
	p := &s.parser
	n := p.arg(0, 1)
	switch final {
	case '@':
		s.chars(n)
	case 'J':
		s.eraseDisplay(p.arg(0, 0))
	case 'K':
		s.eraseLine(p.arg(0, 0))
	case 'L':
		s.lines(n)
	case 'M':
		s.lines(-n)
	case 'P':
		s.chars(-n)
	case 'S':
		s.scroll(s.top, s.bottom, n)
	case 'T':
		s.scroll(s.top, s.bottom, -n)
	case 'X':
		s.erase(s.line(s.y)[s.x:min(s.x+n, s.cols)])
	case 'b':
		for range min(n, s.cols*s.rows) {
			if s.last != 0 {
				s.put(s.last)
			}
		}
	case 'c':
		s.identify()
	case 'g':
		if p.arg(0, 0) == 3 {
			clear(s.tabs)
		} else {
			s.tabs[s.x] = false
		}
	case 'h', 'l':
		if p.arg(0, 0) == 4 {
			s.insert = final == 'h'
		}
	case 'm':
		s.style()
	case 'n':
		s.report(p.arg(0, 0))
	case 'r':
		s.region(p.arg(0, 1), p.arg(1, 0))
	}
}

// maxAnswers bounds what a program that never reads can make us keep.
const maxAnswers = 4096

// identify says that this is a VT100 with advanced video, as a VT102 does.
func (s *Screen) identify() { s.answer("\x1b[?6c") }

func (s *Screen) report(what int) {
	switch what {
	case 5:
		s.answer("\x1b[0n")
	case 6:
		y := s.y
		if s.origin {
			y -= s.top
		}
		s.answer(fmt.Sprintf("\x1b[%d;%dR", y+1, s.x+1))
	}
}

func (s *Screen) answer(text string) {
	if len(s.answers)+len(text) <= maxAnswers {
		s.answers = append(s.answers, text...)
	}
}

// mode sets one of DEC's private modes.
func (s *Screen) mode(m int, on bool) {
	switch m {
	case 1:
		s.appKeys = on
	case 5:
		s.reversed = on
	case 6:
		s.origin = on
		s.to(0, 0)
	case 7:
		s.autowrap = on
	case 25:
		s.hidden = !on
	case 47, 1047:
		s.alternate(on, m == 1047 && on)
	case 1048, 1049:
		if m == 1049 && !on {
			s.alternate(false, false)
		}
		if on {
			s.save()
		} else {
			s.restore()
		}
		if m == 1049 && on {
			s.alternate(true, true)
		}
	}
}

// attrOn and attrOff are what the parameters of SGR set and take back.
var (
	attrOn  = [...]Attr{1: Bold, 2: Faint, 3: Italic, 4: Underline, 5: Blink, 6: Blink, 7: Reverse, 8: Hidden, 9: Struck, 21: Underline}
	attrOff = [...]Attr{22: Bold | Faint, 23: Italic, 24: Underline, 25: Blink, 27: Reverse, 28: Hidden, 29: Struck}
)

// style is SGR.
func (s *Screen) style() {
	p := &s.parser
	for i := 0; i < p.n; {
		v, next := p.params[i], i+1
		for next < p.n && p.sub[next] {
			next++
		}
		switch {
		case v == 0:
			s.look = Cell{}
		case v == 4 && next > i+1 && p.params[i+1] == 0: // 4:0, no underline
			s.look.Attr &^= Underline
		case v < len(attrOn) && attrOn[v] != 0:
			s.look.Attr |= attrOn[v]
		case v < len(attrOff) && attrOff[v] != 0:
			s.look.Attr &^= attrOff[v]
		case v >= 30 && v <= 37:
			s.look.FG = Indexed(uint8(v - 30))
		case v >= 40 && v <= 47:
			s.look.BG = Indexed(uint8(v - 40))
		case v >= 90 && v <= 97:
			s.look.FG = Indexed(uint8(v - 90 + 8))
		case v >= 100 && v <= 107:
			s.look.BG = Indexed(uint8(v - 100 + 8))
		case v == 39:
			s.look.FG = 0
		case v == 49:
			s.look.BG = 0
		case v == 38 || v == 48:
			var c Color
			var ok bool
			if c, next, ok = p.colour(i, next); ok && v == 38 {
				s.look.FG = c
			} else if ok {
				s.look.BG = c
			}
		}
		i = next
	}
}

// colour reads what follows 38 or 48 at i: 5;N or 2;R;G;B, or the same with
// colons, where a colour space may stand before R (ITU-T T.416, 13.1.8).
func (p *parser) colour(i, end int) (c Color, next int, ok bool) {
	parts := p.params[i+1 : end]
	if next = end; len(parts) == 0 {
		parts = p.params[min(i+1, p.n):p.n]
		switch {
		case len(parts) >= 2 && parts[0] == 5:
			next = i + 3
		case len(parts) >= 4 && parts[0] == 2:
			next = i + 5
		default:
			return 0, p.n, false
		}
		parts = p.params[i+1 : next]
	}
	switch {
	case len(parts) >= 2 && parts[0] == 5:
		return Indexed(uint8(parts[1])), next, true
	case len(parts) >= 4 && parts[0] == 2:
		rgb := parts[len(parts)-3:]
		if len(parts) > 5 { // tolerances follow
			rgb = parts[2:5]
		}
		return RGB(uint8(rgb[0]), uint8(rgb[1]), uint8(rgb[2])), next, true
	}
	return 0, next, false
}
