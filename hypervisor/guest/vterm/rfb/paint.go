package rfb

import (
	"image"

	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/font/inconsolata"
	"golang.org/x/image/math/fixed"

	"joist/hypervisor/guest/vterm"
)

// A cell in pixels: the size of the font.
const (
	cellW = 8
	cellH = 16
)

// levels is how many shades lie between background and foreground.
const levels = 16

// glyph is the shade of each pixel, 0 … levels-1.
type glyph [cellW * cellH]uint8

type colour struct{ r, g, b uint8 }

// The terminal's own colours, and the first sixteen of the palette, which are
// those of VGA's text mode.
var (
	foreground = colour{0xcc, 0xcc, 0xcc}
	background = colour{0, 0, 0}
	basic      = [16]colour{{0, 0, 0}, {0xaa, 0, 0}, {0, 0xaa, 0}, {0xaa, 0x55, 0}, {0, 0, 0xaa}, {0xaa, 0, 0xaa}, {0, 0xaa, 0xaa}, {0xaa, 0xaa, 0xaa},
		{0x55, 0x55, 0x55}, {0xff, 0x55, 0x55}, {0x55, 0xff, 0x55}, {0xff, 0xff, 0x55}, {0x55, 0x55, 0xff}, {0xff, 0x55, 0xff}, {0x55, 0xff, 0xff}, {0xff, 0xff, 0xff}}
)

// palette is xterm's: sixteen colours, a cube of 6 × 6 × 6, 24 greys.
func palette(n uint8) colour {
	switch {
	case n < 16:
		return basic[n]
	case n >= 232:
		v := 8 + 10*(n-232)
		return colour{v, v, v}
	}
	step := func(i uint8) uint8 {
		if i == 0 {
			return 0
		}
		return 55 + 40*i
	}
	n -= 16
	return colour{step(n / 36), step(n / 6 % 6), step(n % 6)}
}

func resolve(c vterm.Color, def colour) colour {
	if n, ok := c.Index(); ok {
		return palette(n)
	}
	if r, g, b, ok := c.RGB(); ok {
		return colour{r, g, b}
	}
	return def
}

func mix(a, b colour, n, of int) colour {
	one := func(x, y uint8) uint8 { return uint8((int(x)*n + int(y)*(of-n)) / of) }
	return colour{one(a.r, b.r), one(a.g, b.g), one(a.b, b.b)}
}

// colours are those that a cell is painted with.
func colours(c vterm.Cell, cursor bool) (fg, bg colour) {
	fg, bg = resolve(c.FG, foreground), resolve(c.BG, background)
	if c.Attr&vterm.Reverse != 0 {
		fg, bg = bg, fg
	}
	if c.Attr&vterm.Faint != 0 {
		fg = mix(fg, bg, 1, 2)
	}
	if c.Attr&vterm.Hidden != 0 {
		fg = bg
	}
	if cursor {
		fg, bg = bg, fg
		if fg == bg {
			fg, bg = background, foreground
		}
	}
	return fg, bg
}

// painter makes glyphs and keeps them.
type painter struct{ cache map[glyphKey]*glyph }

type glyphKey struct {
	r    rune
	attr vterm.Attr
}

// maxGlyphs bounds the cache; a guest may write any character there is.
const maxGlyphs = 4096

func (p *painter) glyph(c vterm.Cell) *glyph {
	key := glyphKey{c.Rune, c.Attr & (vterm.Bold | vterm.Underline | vterm.Struck)}
	if g := p.cache[key]; g != nil {
		return g
	}
	if p.cache == nil || len(p.cache) >= maxGlyphs {
		p.cache = map[glyphKey]*glyph{}
	}
	g := draw(key.r, key.attr)
	p.cache[key] = g
	return g
}

func draw(r rune, attr vterm.Attr) *glyph {
	g := &glyph{}
	switch {
	case r == 0 || r == ' ':
	case r >= 0x2500 && r < 0x2580:
		g.box(r)
	case r >= 0x2580 && r < 0x25a0:
		g.block(r)
	case attr&vterm.Bold != 0:
		g.letter(inconsolata.Bold8x16, r)
	default:
		g.letter(inconsolata.Regular8x16, r)
	}
	if attr&vterm.Underline != 0 {
		g.fill(0, cellH-2, cellW, cellH-1, levels-1)
	}
	if attr&vterm.Struck != 0 {
		g.fill(0, cellH/2, cellW, cellH/2+1, levels-1)
	}
	return g
}

// similar are characters that the font has in place of some that it has not.
var similar = map[rune]rune{'‘': '\'', '’': '\'', '“': '"', '”': '"', '–': '-', '—': '-', '‐': '-', '…': '.', '•': '·', '●': '·', '◆': '·', '→': '>', '←': '<',
	'↑': '^', '↓': 'v', '▲': '^', '▼': 'v', '▶': '>', '◀': '<', '≤': '<', '≥': '>', '≠': '#', '−': '-', '✓': 'v', '␉': 't', '⎺': '¯', '⎻': '-', '⎼': '-', '⎽': '_'}

func (g *glyph) letter(face *basicfont.Face, r rune) {
	if s, ok := similar[r]; ok {
		r = s
	}
	at, mask, from, _, ok := face.Glyph(fixed.P(0, face.Ascent), r) // U+FFFD where the font has nothing
	alpha, is := mask.(*image.Alpha)
	if !ok || !is {
		g.fill(1, 2, cellW-1, cellH-3, levels/2)
		return
	}
	for y := max(at.Min.Y, 0); y < min(at.Max.Y, cellH); y++ {
		for x := max(at.Min.X, 0); x < min(at.Max.X, cellW); x++ {
			g[y*cellW+x] = alpha.AlphaAt(from.X+x-at.Min.X, from.Y+y-at.Min.Y).A / (256 / levels)
		}
	}
}

func (g *glyph) fill(x0, y0, x1, y1 int, level uint8) {
	for y := y0; y < y1; y++ {
		for x := x0; x < x1; x++ {
			g[y*cellW+x] = level
		}
	}
}

// Arms of a box character.
const (
	up = 1 << iota
	right
	down
	left
)

// boxes are the arms of U+2500 to U+257F, by the first of each run that has
// the same. Heavy, double and dashed lines are drawn as the plain ones are.
var boxes = [...]struct {
	first rune
	arms  int
}{
	{0x2500, left | right}, {0x2502, up | down}, {0x2504, left | right}, {0x2506, up | down}, {0x2508, left | right}, {0x250a, up | down},
	{0x250c, down | right}, {0x2510, down | left}, {0x2514, up | right}, {0x2518, up | left}, {0x251c, up | down | right}, {0x2524, up | down | left},
	{0x252c, down | left | right}, {0x2534, up | left | right}, {0x253c, up | down | left | right}, {0x254c, left | right}, {0x254e, up | down},
	{0x2550, left | right}, {0x2551, up | down}, {0x2552, down | right}, {0x2555, down | left}, {0x2558, up | right}, {0x255b, up | left},
	{0x255e, up | down | right}, {0x2561, up | down | left}, {0x2564, down | left | right}, {0x2567, up | left | right}, {0x256a, up | down | left | right},
	{0x256d, down | right}, {0x256e, down | left}, {0x256f, up | left}, {0x2570, up | right}, {0x2571, 0}, {0x2574, left}, {0x2575, up}, {0x2576, right},
	{0x2577, down}, {0x2578, left}, {0x2579, up}, {0x257a, right}, {0x257b, down}, {0x257c, left | right}, {0x257d, up | down}, {0x257e, left | right}, {0x257f, up | down},
}

func (g *glyph) box(r rune) {
	arms := 0
	for _, b := range boxes {
		if b.first <= r {
			arms = b.arms
		}
	}
	const x, y, full = cellW / 2, cellH / 2, levels - 1
	if arms&up != 0 {
		g.fill(x, 0, x+1, y+1, full)
	}
	if arms&down != 0 {
		g.fill(x, y, x+1, cellH, full)
	}
	if arms&left != 0 {
		g.fill(0, y, x+1, y+1, full)
	}
	if arms&right != 0 {
		g.fill(x, y, cellW, y+1, full)
	}
	if r == 0x2571 || r == 0x2573 {
		for i := range cellH {
			g[i*cellW+(cellH-1-i)/2] = full
		}
	}
	if r == 0x2572 || r == 0x2573 {
		for i := range cellH {
			g[i*cellW+i/2] = full
		}
	}
}

// quadrants of U+2596 to U+259F: 1 upper left, 2 upper right, 4 lower left, 8
// lower right.
var quadrants = [...]int{4, 8, 1, 1 | 4 | 8, 1 | 8, 1 | 2 | 4, 1 | 2 | 8, 2, 2 | 4, 2 | 4 | 8}

func (g *glyph) block(r rune) {
	const full = levels - 1
	switch n := int(r - 0x2580); {
	case n == 0:
		g.fill(0, 0, cellW, cellH/2, full)
	case n <= 8: // lower eighths
		g.fill(0, cellH-n*cellH/8, cellW, cellH, full)
	case n <= 15: // left eighths
		g.fill(0, 0, (16-n)*cellW/8, cellH, full)
	case n == 16:
		g.fill(cellW/2, 0, cellW, cellH, full)
	case n <= 19: // shades
		g.fill(0, 0, cellW, cellH, uint8((n-16)*levels/4))
	case n == 20:
		g.fill(0, 0, cellW, cellH/8, full)
	case n == 21:
		g.fill(cellW-1, 0, cellW, cellH, full)
	default:
		q := quadrants[n-22]
		for i := range 4 {
			if q&(1<<i) != 0 {
				x, y := i%2*cellW/2, i/2*cellH/2
				g.fill(x, y, x+cellW/2, y+cellH/2, full)
			}
		}
	}
}
