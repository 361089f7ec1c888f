package vterm

import (
	"slices"
	"strings"
)

// Attr is how a cell looks besides its colours.
type Attr uint8

// The attributes of SGR, ECMA-48 8.3.117.
const (
	Bold Attr = 1 << iota
	Faint
	Italic
	Underline
	Blink
	Reverse
	Hidden
	Struck
)

// Color is the terminal's own colour (zero), one of a palette of 256, or a
// colour of its own.
type Color uint32

const (
	indexed Color = 1 << 24
	direct  Color = 2 << 24
)

// Indexed is a colour of the palette.
func Indexed(n uint8) Color { return indexed | Color(n) }

// RGB is a colour of its own.
func RGB(r, g, b uint8) Color { return direct | Color(r)<<16 | Color(g)<<8 | Color(b) }

// Index returns the number in the palette, if c is one of it.
func (c Color) Index() (n uint8, ok bool) { return uint8(c), c&^0xffffff == indexed }

// RGB returns the parts of a colour of its own.
func (c Color) RGB() (r, g, b uint8, ok bool) {
	return uint8(c >> 16), uint8(c >> 8), uint8(c), c&^0xffffff == direct
}

// Cell is one place of the screen. Rune is 0 where nothing was written, and
// in the right half of a wide character.
type Cell struct {
	Rune   rune
	FG, BG Color
	Attr   Attr
}

// pen is what characters are written with, and where.
type pen struct {
	x, y    int
	wrap    bool // the last column was written: the next character begins a line
	look    Cell // colours and attributes
	origin  bool // positions count from the scroll region
	graphic [2]bool
	shift   int // which of graphic is in use
}

// buffer is one of the two screens.
type buffer struct {
	cells []Cell
	saved pen
}

// Screen is a terminal. It is for one goroutine at a time.
type Screen struct {
	cols, rows  int
	main, other buffer // other is the alternate screen
	buf         *buffer
	pen
	top, bottom int // scroll region, bottom not in it
	tabs        []bool
	last        rune // for REP

	autowrap, insert, hidden, reversed bool
	appKeys                            bool
	bells                              int
	answers                            []byte
	parser                             parser
}

// MaxSide bounds both sides of a screen.
const MaxSide = 500

// New makes a terminal of that size.
func New(cols, rows int) *Screen {
	s := &Screen{cols: min(max(cols, 2), MaxSide), rows: min(max(rows, 2), MaxSide)}
	s.reset()
	return s
}

// Size is columns and rows.
func (s *Screen) Size() (cols, rows int) { return s.cols, s.rows }

// Cell returns what is at a place, as it is to be seen: with the whole
// screen's reversal in it.
func (s *Screen) Cell(x, y int) Cell {
	c := s.buf.cells[y*s.cols+x]
	if s.reversed {
		c.Attr ^= Reverse
	}
	return c
}

// Cursor is where the next character goes, and whether that is shown.
func (s *Screen) Cursor() (x, y int, visible bool) { return s.x, s.y, !s.hidden }

// AppKeys reports whether the program wants the arrow keys as DECCKM says.
func (s *Screen) AppKeys() bool { return s.appKeys }

// Bells returns how often it rang since the last call.
func (s *Screen) Bells() int {
	n := s.bells
	s.bells = 0
	return n
}

// Answers returns what the terminal has to say to the program: reports of
// where the cursor is and what kind of terminal this is.
func (s *Screen) Answers() []byte {
	b := s.answers
	s.answers = nil
	return b
}

// String is the text on the screen, without the blanks at the end of lines.
func (s *Screen) String() string {
	var b strings.Builder
	for y := range s.rows {
		var line strings.Builder
		for x := range s.cols {
			switch r := s.buf.cells[y*s.cols+x].Rune; {
			case r != 0:
				line.WriteRune(r)
			case x == 0 || !wide(s.buf.cells[y*s.cols+x-1].Rune):
				line.WriteByte(' ')
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

func (s *Screen) reset() {
	s.main.cells, s.other.cells = make([]Cell, s.cols*s.rows), make([]Cell, s.cols*s.rows)
	s.main.saved, s.other.saved = pen{}, pen{}
	s.buf, s.pen = &s.main, pen{}
	s.top, s.bottom = 0, s.rows
	s.tabs = make([]bool, s.cols)
	for x := 8; x < s.cols; x += 8 {
		s.tabs[x] = true
	}
	s.autowrap, s.insert, s.hidden, s.reversed, s.appKeys, s.last = true, false, false, false, false, 0
}

// blank is what erasing leaves: the colour of the background stays, as
// terminfo's "bce" promises for xterm.
func (s *Screen) blank() Cell { return Cell{BG: s.look.BG} }

func (s *Screen) line(y int) []Cell { return s.buf.cells[y*s.cols : (y+1)*s.cols] }

func (s *Screen) erase(cells []Cell) {
	b := s.blank()
	for i := range cells {
		cells[i] = b
	}
}

// put writes one character.
func (s *Screen) put(r rune) {
	w := 1
	if wide(r) {
		w = 2
	}
	if s.wrap && s.autowrap || s.x+w > s.cols {
		s.x = 0
		s.feed()
	}
	s.wrap = false
	line := s.line(s.y)
	if s.insert {
		copy(line[min(s.x+w, s.cols):], line[s.x:])
	}
	c := s.look
	c.Rune = r
	// Half of a wide character that is written over is no character.
	if s.x > 0 && line[s.x].Rune == 0 && wide(line[s.x-1].Rune) {
		line[s.x-1].Rune = ' '
	}
	line[s.x] = c
	if w == 2 {
		c.Rune = 0
		line[s.x+1] = c
	}
	s.last = r
	if s.x += w; s.x >= s.cols {
		s.x, s.wrap = s.cols-1, true
	}
}

// feed goes one line down and scrolls at the end of the region.
func (s *Screen) feed() {
	s.wrap = false
	switch {
	case s.y == s.bottom-1:
		s.scroll(s.top, s.bottom, 1)
	case s.y < s.rows-1:
		s.y++
	}
}

// back goes one line up and scrolls at the beginning of the region.
func (s *Screen) back() {
	s.wrap = false
	switch {
	case s.y == s.top:
		s.scroll(s.top, s.bottom, -1)
	case s.y > 0:
		s.y--
	}
}

// scroll moves the lines from top to bottom up by n, or down by -n.
func (s *Screen) scroll(top, bottom, n int) {
	part := s.buf.cells[top*s.cols : bottom*s.cols]
	k := min(max(n, -n), bottom-top) * s.cols
	if n > 0 {
		copy(part, part[k:])
		s.erase(part[len(part)-k:])
	} else {
		copy(part[k:], part)
		s.erase(part[:k])
	}
}

// to moves the cursor, counted from the region when the program wants that.
func (s *Screen) to(x, y int) {
	low, high := 0, s.rows-1
	if s.origin {
		low, high = s.top, s.bottom-1
		y += s.top
	}
	s.x, s.y, s.wrap = min(max(x, 0), s.cols-1), min(max(y, low), high), false
}

// by moves the cursor; up and down end at the region if it began in it.
func (s *Screen) by(dx, dy int) {
	low, high := 0, s.rows-1
	if dy < 0 && s.y >= s.top {
		low = s.top
	}
	if dy > 0 && s.y < s.bottom {
		high = s.bottom - 1
	}
	s.x, s.y, s.wrap = min(max(s.x+dx, 0), s.cols-1), min(max(s.y+dy, low), high), false
}

func (s *Screen) tab(n int) {
	s.wrap = false
	for ; n > 0 && s.x < s.cols-1; n-- {
		for s.x++; s.x < s.cols-1 && !s.tabs[s.x]; s.x++ {
		}
	}
	for ; n < 0 && s.x > 0; n++ {
		for s.x--; s.x > 0 && !s.tabs[s.x]; s.x-- {
		}
	}
}

// lines inserts n lines at the cursor, or deletes -n.
func (s *Screen) lines(n int) {
	if s.y < s.top || s.y >= s.bottom {
		return
	}
	s.scroll(s.y, s.bottom, -n)
	s.x, s.wrap = 0, false
}

// chars inserts n blanks at the cursor, or deletes -n characters.
func (s *Screen) chars(n int) {
	rest := s.line(s.y)[s.x:]
	k := min(max(n, -n), len(rest))
	if n > 0 {
		copy(rest[k:], rest)
		s.erase(rest[:k])
	} else {
		copy(rest, rest[k:])
		s.erase(rest[len(rest)-k:])
	}
	s.wrap = false
}

// eraseDisplay is ED, eraseLine is EL: 0 to the end, 1 from the beginning, 2
// all of it.
func (s *Screen) eraseDisplay(how int) {
	at := s.y*s.cols + s.x
	switch how {
	case 0:
		s.erase(s.buf.cells[at:])
	case 1:
		s.erase(s.buf.cells[:at+1])
	case 2, 3:
		s.erase(s.buf.cells)
	}
	s.wrap = false
}

func (s *Screen) eraseLine(how int) {
	line := s.line(s.y)
	switch how {
	case 0:
		s.erase(line[s.x:])
	case 1:
		s.erase(line[:s.x+1])
	case 2:
		s.erase(line)
	}
	s.wrap = false
}

func (s *Screen) save() { s.buf.saved = s.pen }

func (s *Screen) restore() {
	s.pen = s.buf.saved
	s.x, s.y = min(s.x, s.cols-1), min(s.y, s.rows-1)
}

// alternate shows the other screen, or the first one again.
func (s *Screen) alternate(on, clear bool) {
	if on && clear {
		s.erase(s.other.cells)
	}
	if s.buf = &s.main; on {
		s.buf = &s.other
	}
	s.wrap = false
}

// region is DECSTBM.
func (s *Screen) region(top, bottom int) {
	if bottom == 0 || bottom > s.rows {
		bottom = s.rows
	}
	if top = max(top, 1) - 1; top < bottom-1 {
		s.top, s.bottom = top, bottom
		s.to(0, 0)
	}
}

// Resize gives the terminal another size. What is on the screen stays at the
// top left; where the lower lines would go, the upper ones do.
func (s *Screen) Resize(cols, rows int) {
	cols, rows = min(max(cols, 2), MaxSide), min(max(rows, 2), MaxSide)
	if cols == s.cols && rows == s.rows {
		return
	}
	up := max(s.y-rows+1, 0)
	for _, b := range []*buffer{&s.main, &s.other} {
		cells := make([]Cell, cols*rows)
		for y := 0; y < rows && y+up < s.rows; y++ {
			copy(cells[y*cols:(y+1)*cols], b.cells[(y+up)*s.cols:(y+up+1)*s.cols])
		}
		b.cells = cells
	}
	s.tabs = slices.Grow(s.tabs, cols)[:cols]
	for x := s.cols; x < cols; x++ {
		s.tabs[x] = x%8 == 0
	}
	s.cols, s.rows, s.top, s.bottom = cols, rows, 0, rows
	s.x, s.y, s.wrap = min(s.x, cols-1), min(s.y-up, rows-1), false
}

// wideRanges are the characters that take two places: East Asian Width W and F
// (Unicode Standard Annex 11), whole blocks where nearly all are, and emoji.
var wideRanges = [...][2]rune{{0x1100, 0x115f}, {0x2e80, 0x303e}, {0x3041, 0x33ff}, {0x3400, 0x4dbf}, {0x4e00, 0x9fff}, {0xa000, 0xa4cf},
	{0xac00, 0xd7a3}, {0xf900, 0xfaff}, {0xfe30, 0xfe6f}, {0xff00, 0xff60}, {0xffe0, 0xffe6}, {0x1f300, 0x1f64f}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd}}

func wide(r rune) bool {
	if r < wideRanges[0][0] {
		return false
	}
	for _, w := range wideRanges {
		if r >= w[0] && r <= w[1] {
			return true
		}
	}
	return false
}
