package rfb

import (
	"bytes"
	"context"
	"encoding/binary"
	"image"
	"image/color"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"image/png"

	"joist/hypervisor/guest/vterm"
	client "joist/test/vm/rfb"
)

// console is the guest's side: what it writes, what was typed.
type console struct {
	io.Reader
	typed chan string
	sizes chan [2]uint16
	close func()
}

func (c *console) Write(p []byte) (int, error) { c.typed <- string(p); return len(p), nil }
func (c *console) Resize(x, y uint16) error    { c.sizes <- [2]uint16{x, y}; return nil }
func (c *console) Close() error                { c.close(); return nil }

// serve runs a server; w is what the guest writes to.
func serve(t *testing.T, cols, rows int) (conn net.Conn, con *console, w *io.PipeWriter, ended chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	r, w := io.Pipe()
	con = &console{Reader: r, typed: make(chan string, 100), sizes: make(chan [2]uint16, 10), close: func() { r.Close() }}
	ended = make(chan error, 1)
	go func() { ended <- Serve(context.Background(), theirs, con, "CT 101", cols, rows) }()
	t.Cleanup(func() { ours.Close(); theirs.Close(); w.Close() })
	return ours, con, w, ended
}

// TestScreen looks at the console with another implementation of the protocol
// and compares with a picture.
func TestScreen(t *testing.T) {
	conn, con, w, ended := serve(t, 40, 6)
	c, err := client.New(conn, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "CT 101" || <-con.sizes != [2]uint16{40, 6} {
		t.Errorf("name %q", c.Name)
	}
	io.WriteString(w, "Debian GNU/Linux 13 box \x1b[1mpts/1\x1b[m\r\n\r\n\x1b[32mbox\x1b[m \x1b[7mlogin:\x1b[m \x1b[4mroot\x1b[m\r\n\x1b[44;93m┌──╥─┐ ░▒▓█▌▄ äß €“”\x1b[m\r\n\x1b[2mfaint\x1b[m \x1b[9mstruck\x1b[m \x1b[38;2;255;128;0morange\x1b[m")
	var img *image.RGBA
	for range 100 { // the text comes in when it comes
		if img, err = c.Screen(t.Context()); err != nil {
			t.Fatal(err)
		}
		if client.Colours(img) > 20 && img.RGBAAt(19*cellW+4, 4*cellH+8) != (color.RGBA{A: 255}) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	golden(t, img, "testdata/screen.png")

	if err := c.Type("ls -l\n"); err != nil {
		t.Fatal(err)
	}
	for _, sym := range []uint32{0xff52, 0xffc2, 0xff08, 0x010020ac} {
		c.Key(sym)
	}
	got := ""
	for len(got) < 18 {
		got += <-con.typed
	}
	if got != "ls -l\r\x1b[A\x1b[15~\x7f€" {
		t.Errorf("typed %q", got)
	}
	io.WriteString(w, "\x1b[6n\a")
	if got := <-con.typed; got != "\x1b[5;20R" {
		t.Errorf("answered %q", got)
	}
	w.Close()
	if err := <-ended; err != io.EOF {
		t.Error(err)
	}
}

func golden(t *testing.T, img *image.RGBA, name string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		var b bytes.Buffer
		if err := png.Encode(&b, img); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if want.Bounds() != img.Bounds() {
		t.Fatalf("%v, want %v", img.Bounds(), want.Bounds())
	}
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			if color.RGBAModel.Convert(want.At(x, y)) != color.Color(img.RGBAAt(x, y)) {
				t.Fatalf("differs at %d, %d: %v, want %v", x, y, img.RGBAAt(x, y), want.At(x, y))
			}
		}
	}
}

// TestIncremental: only cells that changed are sent again, in the pixels that
// the client asked for.
func TestIncremental(t *testing.T) {
	conn, con, w, _ := serve(t, 20, 4)
	in := &reader{t, conn}
	send := func(b ...byte) {
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	in.take(12)
	send([]byte("RFB 003.008\n")...)
	in.take(2)
	send(1)
	in.take(4)
	send(1)
	if head := in.take(24 + 6); !bytes.Equal(head[:4], []byte{0, 160, 0, 64}) || string(head[24:]) != "CT 101" {
		t.Errorf("server said %v", head)
	}
	<-con.sizes
	// 16 bits, 5-6-5, big endian; two encodings; a mouse; a clipboard.
	send(0, 0, 0, 0, 16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0, 2, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0, 0, 5, 0, 0, 1, 0, 1, 6, 0, 0, 0, 0, 0, 0, 2, 'h', 'i')
	send(3, 0, 0, 0, 0, 0, 0, 160, 0, 64)
	if n := len(in.update(2)); n != 4 {
		t.Errorf("%d rectangles, want 4", n)
	}
	send(3, 1, 0, 0, 0, 0, 0, 160, 0, 64)
	io.WriteString(w, "\x1b[2;3H\x1b[41m \x1b[m")
	// The cell, beside it the cursor, and where the cursor was.
	rects := in.update(2)
	if len(rects) != 2 || !bytes.Equal(rects[1].head, []byte{0, 16, 0, 16, 0, 16, 0, 16, 0, 0, 0, 0}) {
		t.Fatalf("%+v", rects)
	}
	if red := binary.BigEndian.Uint16(rects[1].pixels); red != 0xa800 {
		t.Errorf("red is %#x", red)
	}
}

type reader struct {
	t *testing.T
	r io.Reader
}

func (r *reader) take(n int) []byte {
	r.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		r.t.Fatal(err)
	}
	return b
}

type rect struct{ head, pixels []byte }

func (r *reader) update(size int) (out []rect) {
	h := r.take(4)
	for range binary.BigEndian.Uint16(h[2:]) {
		head := r.take(12)
		out = append(out, rect{head, r.take(int(binary.BigEndian.Uint16(head[4:])) * int(binary.BigEndian.Uint16(head[6:])) * size)})
	}
	return out
}

func TestFormats(t *testing.T) {
	f := func(b ...byte) []byte { return append(b, 0, 0, 0) }
	for _, c := range []struct {
		b    []byte
		want []byte // of orange; nil: refused
	}{
		{trueColour.wire(), []byte{0, 128, 255, 0}},
		{f(32, 24, 1, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16), []byte{0, 0, 128, 255}},
		{f(16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0), []byte{0x00, 0xfc}},
		{f(8, 8, 0, 1, 0, 7, 0, 7, 0, 3, 0, 3, 6), []byte{0x27}},
		{f(32, 24, 0, 0, 0, 255, 0, 255, 0, 255, 0, 8, 16), nil},
		{f(24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16), nil},
		{f(32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 99), nil},
	} {
		got, err := readFormat(c.b)
		if (err != nil) != (c.want == nil) {
			t.Errorf("%v: %v", c.b, err)
		}
		if px := got.pixel(colour{255, 128, 0}); err == nil && !bytes.Equal(px[:got.bytes], c.want) {
			t.Errorf("%v: %v, want %v", c.b, px, c.want)
		}
	}
}

func TestKeys(t *testing.T) {
	for _, c := range []struct {
		sym  uint32
		mods int
		app  bool
		want string
	}{
		{'a', 0, false, "a"}, {'A', shift, false, "A"}, {'c', ctrl, false, "\x03"}, {'C', ctrl | shift, false, "\x03"}, {' ', ctrl, false, "\x00"},
		{'[', ctrl, false, "\x1b"}, {'x', alt, false, "\x1bx"}, {'x', alt | ctrl, false, "\x1b\x18"}, {0xe4, 0, false, "ä"}, {0x010020ac, 0, false, "€"},
		{0x20ac, 0, false, "€"}, {0xff0d, 0, false, "\r"}, {0xff8d, 0, false, "\r"}, {0xff08, 0, false, "\x7f"}, {0xff09, 0, false, "\t"},
		{0xff09, shift, false, "\x1b[Z"}, {symLeftTab, shift, false, "\x1b[Z"}, {0xff1b, 0, false, "\x1b"}, {0xff52, 0, false, "\x1b[A"}, {0xff52, 0, true, "\x1bOA"},
		{0xff53, ctrl, true, "\x1b[1;5C"}, {0xffff, 0, false, "\x1b[3~"}, {0xff55, shift, false, "\x1b[5;2~"}, {0xffbe, 0, false, "\x1bOP"},
		{0xffbe, alt, false, "\x1b[1;3P"}, {0xffc9, 0, false, "\x1b[24~"}, {0xffb5, 0, false, "5"}, {0xffaf, 0, false, "/"}, {0xff97, 0, false, "\x1b[A"},
		{0xffe5, 0, false, ""}, {0xfe03, 0, false, ""}, {0x0100d800, 0, false, ""}, {0x01ffffff, 0, false, ""}, {'6', ctrl, false, "\x1e"}, {'?', ctrl, false, "\x7f"},
	} {
		if got := string(typed(c.sym, c.mods, c.app)); got != c.want {
			t.Errorf("%#x %d %v: %q, want %q", c.sym, c.mods, c.app, got, c.want)
		}
	}
}

func TestColours(t *testing.T) {
	if palette(9) != (colour{0xff, 0x55, 0x55}) || palette(16) != (colour{}) || palette(196) != (colour{255, 0, 0}) || palette(231) != (colour{255, 255, 255}) ||
		palette(255) != (colour{238, 238, 238}) {
		t.Error("palette")
	}
	for _, c := range []struct {
		cell   vterm.Cell
		cursor bool
		fg, bg colour
	}{
		{vterm.Cell{}, false, foreground, background},
		{vterm.Cell{}, true, background, foreground},
		{vterm.Cell{Attr: vterm.Reverse}, false, background, foreground},
		{vterm.Cell{Attr: vterm.Hidden}, false, background, background},
		{vterm.Cell{Attr: vterm.Hidden}, true, background, foreground},
	} {
		if fg, bg := colours(c.cell, c.cursor); fg != c.fg || bg != c.bg {
			t.Errorf("%+v: %v on %v", c, fg, bg)
		}
	}
}

// TestGlyphs: what can be seen is there, and nothing panics.
func TestGlyphs(t *testing.T) {
	var p painter
	for r := rune(0); r < 0x3000; r++ {
		g := p.glyph(vterm.Cell{Rune: r})
		if ink := slices.ContainsFunc(g[:], func(l uint8) bool { return l > 0 }); !ink && r > 0x20 && r != 0xa0 && r != 0xad && r != 0x7f {
			t.Errorf("%U is empty", r)
		}
		if len(p.cache) > maxGlyphs {
			t.Fatal("cache grows")
		}
	}
}

// TestRefusals: what is no protocol ends the connection.
func TestRefusals(t *testing.T) {
	for _, bad := range []string{"RFB 003.003\n", "RFB 003.008\n\x02", "RFB 003.008\n\x01\x01\xff", "RFB 003.008\n\x01\x01\x06\x00\x00\x00\x7f\xff\xff\xff"} {
		conn, _, _, ended := serve(t, 20, 4)
		go io.Copy(io.Discard, conn)
		go io.Copy(conn, strings.NewReader(bad))
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%q: no error", bad)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%q: still served", bad)
		}
	}
	if c, r := Cells(0, 0); c != 80 || r != 24 {
		t.Error("default size")
	}
	if c, r := Cells(800, 1<<30); c != 100 || r != maxRows {
		t.Error("size", c, r)
	}
}
