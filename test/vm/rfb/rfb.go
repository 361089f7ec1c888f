// Package rfb is the smallest useful client of the Remote Framebuffer protocol
// (RFC 6143): it logs in, fetches the screen as an image and presses keys, so
// that a test can see what a guest shows through the node's console.
//
//	c, err := rfb.New(conn, password)
//	img, err := c.Screen(ctx)
//
// It asks for raw pixels only: a test wants certainty, not bandwidth.
package rfb

import (
	"bufio"
	"context"
	"crypto/des"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
	"math/bits"
	"net"
	"slices"
	"time"
)

// maxPixels bounds what a server may make us allocate.
const maxPixels = 8192 * 8192

// Security types (RFC 6143, 7.1.2 and 8.1.1).
const (
	secNone = 1
	secVNC  = 2
)

// Messages from the server (RFC 6143, 7.6) and encodings (7.7, 7.8).
const (
	msgUpdate    = 0
	msgColourMap = 1
	msgBell      = 2
	msgCutText   = 3

	encRaw         = 0
	encDesktopSize = -223
)

// Client is a connection after the handshake. It is for one goroutine.
type Client struct {
	Name string // the desktop's name

	conn   net.Conn
	r      *bufio.Reader
	screen *image.RGBA
	full   bool // an update of the whole screen is needed
}

// New does the handshake on conn; password is for VNC authentication, of which
// the protocol uses the first eight bytes.
func New(conn net.Conn, password string) (*Client, error) {
	c := &Client{conn: conn, r: bufio.NewReaderSize(conn, 64<<10), full: true}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"agree on version", c.version},
		{"authenticate", func() error { return c.authenticate(password) }},
		{"initialise", c.initialise},
	} {
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("rfb: %s: %w", step.name, err)
		}
	}
	return c, nil
}

func (c *Client) version() error {
	var v [12]byte
	if _, err := io.ReadFull(c.r, v[:]); err != nil {
		return err
	}
	if string(v[:]) < "RFB 003.008\n" {
		return fmt.Errorf("server speaks %q, want RFB 003.008", v[:])
	}
	_, err := io.WriteString(c.conn, "RFB 003.008\n")
	return err
}

func (c *Client) authenticate(password string) error {
	n, err := c.r.ReadByte()
	if err != nil {
		return err
	}
	if n == 0 {
		return c.reason()
	}
	types := make([]byte, n)
	if _, err := io.ReadFull(c.r, types); err != nil {
		return err
	}
	switch {
	case slices.Contains(types, secNone):
		if _, err := c.conn.Write([]byte{secNone}); err != nil {
			return err
		}
	case slices.Contains(types, secVNC):
		if err := c.respond(password); err != nil {
			return err
		}
	default:
		return fmt.Errorf("server offers security types %v only", types)
	}
	var result uint32
	if err := c.read(&result); err != nil {
		return err
	}
	if result != 0 {
		return c.reason()
	}
	return nil
}

func (c *Client) reason() error {
	var n uint32
	if err := c.read(&n); err != nil {
		return fmt.Errorf("refused without a reason: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(c.r, int64(min(n, 4096))))
	if err != nil {
		return err
	}
	return fmt.Errorf("refused: %s", text)
}

// respond answers the challenge: it is encrypted with DES, the password's
// bytes with their bits in reverse order being the key (RFC 6143, 7.2.2, and
// errata 4951).
func (c *Client) respond(password string) error {
	if _, err := c.conn.Write([]byte{secVNC}); err != nil {
		return err
	}
	var challenge [16]byte
	if _, err := io.ReadFull(c.r, challenge[:]); err != nil {
		return err
	}
	var key [8]byte
	copy(key[:], password)
	for i := range key {
		key[i] = bits.Reverse8(key[i])
	}
	block, err := des.NewCipher(key[:])
	if err != nil {
		return err
	}
	block.Encrypt(challenge[:8], challenge[:8])
	block.Encrypt(challenge[8:], challenge[8:])
	_, err = c.conn.Write(challenge[:])
	return err
}

func (c *Client) initialise() error {
	if _, err := c.conn.Write([]byte{1}); err != nil { // shared: leave others connected
		return err
	}
	var head struct {
		Width, Height uint16
		Format        [16]byte
		NameLength    uint32
	}
	if err := c.read(&head); err != nil {
		return err
	}
	if head.NameLength > 4096 {
		return fmt.Errorf("desktop name of %d bytes", head.NameLength)
	}
	name := make([]byte, head.NameLength)
	if _, err := io.ReadFull(c.r, name); err != nil {
		return err
	}
	c.Name = string(name)
	if err := c.resize(int(head.Width), int(head.Height)); err != nil {
		return err
	}
	// SetPixelFormat: 32 bits, depth 24, little endian, true colour, 8 bits
	// each, red at bit 0: the bytes are R, G, B, x. SetEncodings: two.
	_, err := c.conn.Write([]byte{
		0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0,
		2, 0, 0, 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21,
	})
	return err
}

func (c *Client) resize(w, h int) error {
	if w*h > maxPixels {
		return fmt.Errorf("screen of %d × %d", w, h)
	}
	c.screen = image.NewRGBA(image.Rect(0, 0, w, h))
	c.full = true
	return nil
}

// Screen asks for the whole screen and returns a copy of it.
func (c *Client) Screen(ctx context.Context) (*image.RGBA, error) {
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if err := c.request(); err != nil {
			return nil, fmt.Errorf("rfb: request screen: %w", err)
		}
		c.full = false
		if err := c.update(); err != nil {
			return nil, errors.Join(ctx.Err(), fmt.Errorf("rfb: read screen: %w", err))
		}
		if c.full { // the size changed: what came was not the whole screen
			continue
		}
		img := image.NewRGBA(c.screen.Rect)
		copy(img.Pix, c.screen.Pix)
		return img, nil
	}
}

// request asks for a non-incremental update.
func (c *Client) request() error {
	b := []byte{3, 0, 0, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(c.screen.Rect.Dx()))
	b = binary.BigEndian.AppendUint16(b, uint16(c.screen.Rect.Dy()))
	_, err := c.conn.Write(b)
	return err
}

// update reads messages up to and including the next framebuffer update.
func (c *Client) update() error {
	for {
		kind, err := c.r.ReadByte()
		if err != nil {
			return err
		}
		switch kind {
		case msgUpdate:
			return c.rectangles()
		case msgBell:
		case msgColourMap:
			var h struct {
				_     byte
				First uint16
				Count uint16
			}
			if err = c.read(&h); err == nil {
				_, err = c.r.Discard(6 * int(h.Count))
			}
		case msgCutText:
			var h struct {
				_      [3]byte
				Length uint32
			}
			if err = c.read(&h); err == nil {
				_, err = io.CopyN(io.Discard, c.r, int64(h.Length))
			}
		default:
			err = fmt.Errorf("unknown message %d", kind)
		}
		if err != nil {
			return err
		}
	}
}

func (c *Client) rectangles() error {
	var h struct {
		_     byte
		Count uint16
	}
	if err := c.read(&h); err != nil {
		return err
	}
	for range h.Count {
		var r struct {
			X, Y, W, H uint16
			Encoding   int32
		}
		if err := c.read(&r); err != nil {
			return err
		}
		var err error
		switch r.Encoding {
		case encDesktopSize:
			err = c.resize(int(r.W), int(r.H))
		case encRaw:
			err = c.raw(image.Rect(int(r.X), int(r.Y), int(r.X)+int(r.W), int(r.Y)+int(r.H)))
		default:
			err = fmt.Errorf("unknown encoding %d", r.Encoding)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) raw(r image.Rectangle) error {
	if !r.In(c.screen.Rect) {
		return fmt.Errorf("rectangle %v outside %v", r, c.screen.Rect)
	}
	for y := r.Min.Y; y < r.Max.Y; y++ {
		row := c.screen.Pix[c.screen.PixOffset(r.Min.X, y):][:4*r.Dx()]
		if _, err := io.ReadFull(c.r, row); err != nil {
			return err
		}
		for i := 3; i < len(row); i += 4 {
			row[i] = 255
		}
	}
	return nil
}

// Key presses and releases a key by its X11 keysym (Latin-1 characters are
// their own; Return is 0xff0d).
func (c *Client) Key(keysym uint32) error {
	for _, down := range []byte{1, 0} {
		b := binary.BigEndian.AppendUint32([]byte{4, down, 0, 0}, keysym)
		if _, err := c.conn.Write(b); err != nil {
			return fmt.Errorf("rfb: press key: %w", err)
		}
	}
	return nil
}

// Type presses the keys of a text in Latin-1; newline is Return.
func (c *Client) Type(text string) error {
	for _, r := range text {
		k := uint32(r)
		if r == '\n' {
			k = 0xff0d
		}
		if err := c.Key(k); err != nil {
			return err
		}
	}
	return nil
}

// Colours counts the different colours of an image: a blank screen has one.
func Colours(img *image.RGBA) int {
	seen := map[[4]byte]bool{}
	for i := 0; i+4 <= len(img.Pix); i += 4 {
		seen[[4]byte(img.Pix[i:i+4])] = true
	}
	return len(seen)
}

func (c *Client) read(v any) error { return binary.Read(c.r, binary.BigEndian, v) }
