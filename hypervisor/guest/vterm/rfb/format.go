package rfb

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// format is how the client wants pixels, RFC 6143 7.4.
type format struct {
	bytes      int // of a pixel: 1, 2 or 4
	depth      uint8
	big        bool
	max        [3]uint16 // of red, green, blue
	shift      [3]uint8
	trueColour bool
}

// trueColour is ours: 32 bits, red above green above blue.
var trueColour = format{bytes: 4, depth: 24, max: [3]uint16{255, 255, 255}, shift: [3]uint8{16, 8, 0}, trueColour: true}

func (f format) wire() []byte {
	bit := map[bool]byte{true: 1}
	b := []byte{byte(8 * f.bytes), f.depth, bit[f.big], bit[f.trueColour]}
	for _, m := range f.max {
		b = binary.BigEndian.AppendUint16(b, m)
	}
	return append(b, f.shift[0], f.shift[1], f.shift[2], 0, 0, 0)
}

// readFormat takes every format without a colour map; no client of today asks
// for one.
func readFormat(b []byte) (format, error) {
	f := format{bytes: int(b[0]) / 8, depth: b[1], big: b[2] != 0, trueColour: b[3] != 0, shift: [3]uint8{b[10], b[11], b[12]}}
	for i := range f.max {
		f.max[i] = binary.BigEndian.Uint16(b[4+2*i:])
		if f.shift[i] > 31 {
			return f, fmt.Errorf("VNC client wants pixels shifted by %d bits", f.shift[i])
		}
	}
	if !f.trueColour {
		return f, errors.New("VNC client wants a colour map, which this server does not have")
	}
	if b[0] != 8 && b[0] != 16 && b[0] != 32 {
		return f, fmt.Errorf("VNC client wants pixels of %d bits", b[0])
	}
	return f, nil
}

// pixel is a colour in the client's format; f.bytes of it count.
func (f format) pixel(c colour) (out [4]byte) {
	var v uint32
	for i, part := range [3]uint8{c.r, c.g, c.b} {
		v |= (uint32(part)*uint32(f.max[i]) + 127) / 255 << f.shift[i]
	}
	switch {
	case f.bytes == 1:
		out[0] = byte(v)
	case f.bytes == 2 && f.big:
		binary.BigEndian.PutUint16(out[:], uint16(v))
	case f.bytes == 2:
		binary.LittleEndian.PutUint16(out[:], uint16(v))
	case f.big:
		binary.BigEndian.PutUint32(out[:], v)
	default:
		binary.LittleEndian.PutUint32(out[:], v)
	}
	return out
}
