package rfb

import (
	"fmt"
	"unicode/utf8"
)

// Keysyms, from X11's keysymdef.h; RFC 6143 7.5.4.
const (
	symLeftTab = 0xfe20
	symShiftL  = 0xffe1
	symShiftR  = 0xffe2
	symCtrlL   = 0xffe3
	symCtrlR   = 0xffe4
	symMetaL   = 0xffe7
	symMetaR   = 0xffe8
	symAltL    = 0xffe9
	symAltR    = 0xffea
)

// Modifiers, as xterm counts them in its functions.
const (
	shift = 1 << iota
	alt
	ctrl
)

// modifier returns which one a key is, 0 for none.
func modifier(sym uint32) int {
	switch sym {
	case symShiftL, symShiftR:
		return shift
	case symAltL, symAltR, symMetaL, symMetaR:
		return alt
	case symCtrlL, symCtrlR:
		return ctrl
	}
	return 0
}

// cursorKeys end in a letter: CSI letter, SS3 letter in application mode.
var cursorKeys = map[uint32]byte{0xff50: 'H', 0xff51: 'D', 0xff52: 'A', 0xff53: 'C', 0xff54: 'B', 0xff57: 'F',
	0xff95: 'H', 0xff96: 'D', 0xff97: 'A', 0xff98: 'C', 0xff99: 'B', 0xff9c: 'F'}

// editKeys are CSI number ~; F1 to F4 are SS3 letter.
var editKeys = map[uint32]int{0xff63: 2, 0xffff: 3, 0xff55: 5, 0xff56: 6, 0xff9e: 2, 0xff9f: 3, 0xff9a: 5, 0xff9b: 6,
	0xffc2: 15, 0xffc3: 17, 0xffc4: 18, 0xffc5: 19, 0xffc6: 20, 0xffc7: 21, 0xffc8: 23, 0xffc9: 24}

// typed is what a key sends, as terminfo's xterm-256color has it; nil for keys
// that send nothing.
func typed(sym uint32, mods int, app bool) []byte {
	if letter, ok := cursorKeys[sym]; ok {
		switch {
		case mods != 0:
			return fmt.Appendf(nil, "\x1b[1;%d%c", mods+1, letter)
		case app:
			return []byte{0x1b, 'O', letter}
		}
		return []byte{0x1b, '[', letter}
	}
	if n, ok := editKeys[sym]; ok {
		if mods != 0 {
			return fmt.Appendf(nil, "\x1b[%d;%d~", n, mods+1)
		}
		return fmt.Appendf(nil, "\x1b[%d~", n)
	}
	var out []byte
	switch {
	case sym >= 0xffbe && sym <= 0xffc1: // F1 … F4
		if mods != 0 {
			return fmt.Appendf(nil, "\x1b[1;%d%c", mods+1, 'P'+sym-0xffbe)
		}
		return []byte{0x1b, 'O', byte('P' + sym - 0xffbe)}
	case sym == symLeftTab, sym == 0xff09 && mods&shift != 0:
		return []byte("\x1b[Z")
	case sym == 0xff08:
		out = []byte{0x7f}
	case sym == 0xff09 || sym == 0xff0d || sym == 0xff1b: // Tab, Return, Escape
		out = []byte{byte(sym)}
	case sym == 0xff8d:
		out = []byte{'\r'}
	case sym >= 0xffaa && sym <= 0xffb9: // keypad
		out = []byte{byte(sym - 0xff80)}
	default:
		out = character(sym, mods)
	}
	if mods&alt != 0 && len(out) > 0 {
		out = append([]byte{0x1b}, out...)
	}
	return out
}

// character is what a key with a letter on it sends. Keysyms of Latin-1 are
// its code points; those above 0x01000000 are Unicode's.
func character(sym uint32, mods int) []byte {
	r := rune(-1)
	switch {
	case sym >= 0x20 && sym <= 0x7e || sym >= 0xa0 && sym <= 0xff:
		r = rune(sym)
	case sym >= 0x01000100 && sym <= 0x0110ffff:
		r = rune(sym & 0xffffff)
	case sym == 0x20ac: // the euro's own keysym, older than those of Unicode
		r = '€'
	}
	if !utf8.ValidRune(r) {
		return nil
	}
	if mods&ctrl != 0 {
		switch {
		case r >= '@' && r <= '~':
			return []byte{byte(r) & 0x1f}
		case r == ' ' || r == '2':
			return []byte{0}
		case r >= '3' && r <= '7':
			return []byte{byte(r) - '3' + 0x1b}
		case r == '8' || r == '?':
			return []byte{0x7f}
		case r == '/':
			return []byte{0x1f}
		}
	}
	return utf8.AppendRune(nil, r)
}
