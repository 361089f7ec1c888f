// Package rfb shows a text console as a desktop: it is a server of the Remote
// Framebuffer protocol, RFC 6143, whose screen is a terminal of vterm's. A
// guest without a display, a container, is seen by VNC clients that way.
//
// It asks for no password: whoever passes its stream on checks who is asking.
package rfb

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"joist/hypervisor/guest"
	"joist/hypervisor/guest/vterm"
)

// DefaultCols and DefaultRows are the size of a terminal that nobody asked
// another one for.
const (
	DefaultCols = 80
	DefaultRows = 24
	maxCols     = 240
	maxRows     = 100
)

// Cells turns a size in pixels into one in characters, 0 into the default.
func Cells(width, height int) (cols, rows int) {
	side := func(pixels, cell, def, most int) int {
		if pixels <= 0 {
			return def
		}
		return min(max(pixels/cell, 20), most)
	}
	return side(width, cellW, DefaultCols, maxCols), side(height, cellH, DefaultRows, maxRows)
}

// look is how a cell was shown to the client.
type look struct {
	cell   vterm.Cell
	cursor bool
	known  bool
}

type server struct {
	rw   io.ReadWriter
	in   *bufio.Reader
	con  guest.Console
	name string
	keys chan []byte

	mu     sync.Mutex
	wake   *sync.Cond
	screen *vterm.Screen
	shown  []look
	format format
	wanted bool // the client waits for an update
	fresh  bool // there may be one
	ended  error
	mods   int
	paint  painter
}

// Serve shows a console on rw until either of them ends, or ctx. It closes the
// console; rw is the caller's, who must close it when Serve has returned, and
// to end it early.
func Serve(ctx context.Context, rw io.ReadWriter, con guest.Console, name string, cols, rows int) error {
	defer con.Close()
	s := &server{rw: rw, in: bufio.NewReader(rw), con: con, name: name, keys: make(chan []byte, 256), screen: vterm.New(cols, rows), format: trueColour}
	s.wake = sync.NewCond(&s.mu)
	cols, rows = s.screen.Size()
	s.shown = make([]look, cols*rows)
	if err := s.greet(); err != nil {
		return fmt.Errorf("greet VNC client: %w", err)
	}
	if err := con.Resize(uint16(cols), uint16(rows)); err != nil {
		return fmt.Errorf("set size of console: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, part := range []func(context.Context) error{s.listen, s.follow, s.typist} {
		go func() { s.end(part(ctx)) }()
	}
	stop := context.AfterFunc(ctx, func() { s.end(ctx.Err()) })
	defer stop()
	return s.update()
}

// end lets Serve return; the first reason counts.
func (s *server) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		if s.ended = err; err == nil {
			s.ended = io.EOF
		}
	}
	s.wake.Broadcast()
}

// greet is the opening, RFC 6143 7.1 to 7.3.
func (s *server) greet() error {
	if _, err := io.WriteString(s.rw, "RFB 003.008\n"); err != nil {
		return err
	}
	var version [12]byte
	if _, err := io.ReadFull(s.in, version[:]); err != nil {
		return err
	}
	if string(version[:]) != "RFB 003.008\n" {
		return fmt.Errorf("client speaks %q, want RFB 003.008", version[:])
	}
	if _, err := s.rw.Write([]byte{1, 1}); err != nil { // one security type: none
		return err
	}
	if t, err := s.in.ReadByte(); err != nil || t != 1 {
		return errors.Join(err, errors.New("client chose a security type that was not offered"))
	}
	if _, err := s.rw.Write([]byte{0, 0, 0, 0}); err != nil { // result: good
		return err
	}
	if _, err := s.in.ReadByte(); err != nil { // to share or not: each client has a terminal of its own
		return err
	}
	cols, rows := s.screen.Size()
	b := binary.BigEndian.AppendUint16(nil, uint16(cols*cellW))
	b = binary.BigEndian.AppendUint16(b, uint16(rows*cellH))
	b = append(b, trueColour.wire()...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.name)))
	_, err := s.rw.Write(append(b, s.name...))
	return err
}

// follow reads the console into the terminal.
func (s *server) follow(ctx context.Context) error {
	buf := make([]byte, 32<<10)
	for ctx.Err() == nil {
		n, err := s.con.Read(buf)
		s.mu.Lock()
		s.screen.Write(buf[:n])
		s.fresh = true
		answers := s.screen.Answers()
		s.wake.Broadcast()
		s.mu.Unlock()
		s.send(answers)
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// send queues what is typed. A guest that does not read loses keys, as it
// would on a real line, and holds up nobody.
func (s *server) send(b []byte) {
	if len(b) == 0 {
		return
	}
	select {
	case s.keys <- b:
	default:
	}
}

func (s *server) typist(ctx context.Context) error {
	for {
		select {
		case b := <-s.keys:
			if _, err := s.con.Write(b); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// listen reads the client's messages, RFC 6143 7.5.
func (s *server) listen(ctx context.Context) error {
	for ctx.Err() == nil {
		kind, err := s.in.ReadByte()
		if err != nil {
			return err
		}
		switch kind {
		case 0:
			err = s.setFormat()
		case 2:
			err = s.encodings()
		case 3:
			err = s.request()
		case 4:
			err = s.key()
		case 5: // the mouse: a terminal has none
			_, err = s.in.Discard(5)
		case 6:
			err = s.cutText()
		default:
			err = fmt.Errorf("VNC client sent an unknown message %d", kind)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s *server) read(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(s.in, b)
	return b, err
}

func (s *server) setFormat() error {
	b, err := s.read(19)
	if err != nil {
		return err
	}
	f, err := readFormat(b[3:])
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.format = f
	return nil
}

// encodings are skipped: every client takes raw pixels.
func (s *server) encodings() error {
	b, err := s.read(3)
	if err != nil {
		return err
	}
	_, err = s.in.Discard(4 * int(binary.BigEndian.Uint16(b[1:])))
	return err
}

// request asks for an update; one that is not incremental asks for cells again
// that were shown.
func (s *server) request() error {
	b, err := s.read(9)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b[0] == 0 {
		at := func(i int) int { return int(binary.BigEndian.Uint16(b[i:])) }
		cols, rows := s.screen.Size()
		for y := at(3) / cellH; y < min((at(3)+at(7)+cellH-1)/cellH, rows); y++ {
			for x := at(1) / cellW; x < min((at(1)+at(5)+cellW-1)/cellW, cols); x++ {
				s.shown[y*cols+x].known = false
			}
		}
		s.fresh = true
	}
	s.wanted = true
	s.wake.Broadcast()
	return nil
}

func (s *server) key() error {
	b, err := s.read(7)
	if err != nil {
		return err
	}
	sym, pressed := binary.BigEndian.Uint32(b[3:]), b[0] != 0
	s.mu.Lock()
	app := s.screen.AppKeys()
	m := modifier(sym)
	if s.mods |= m; !pressed {
		s.mods &^= m
	}
	mods := s.mods
	s.mu.Unlock()
	if pressed && m == 0 {
		s.send(typed(sym, mods, app))
	}
	return nil
}

// maxCut bounds a clipboard, which is then ignored: a terminal cannot know
// when it is wanted.
const maxCut = 1 << 20

func (s *server) cutText() error {
	b, err := s.read(7)
	if err != nil {
		return err
	}
	n := int32(binary.BigEndian.Uint32(b[3:]))
	if n < 0 { // the extended form: its length is negative
		n = -n
	}
	if n < 0 || n > maxCut {
		return fmt.Errorf("VNC client sent a clipboard of %d bytes", n)
	}
	_, err = s.in.Discard(int(n))
	return err
}

// pause between two updates: more than fifty a second nobody sees.
const pause = 20 * time.Millisecond

// update sends what has changed whenever the client has asked and there is
// something.
func (s *server) update() error {
	for {
		s.mu.Lock()
		for s.ended == nil && !(s.wanted && s.fresh) {
			s.wake.Wait()
		}
		if err := s.ended; err != nil {
			s.mu.Unlock()
			return err
		}
		s.fresh = false
		msg := s.changes()
		s.wanted = len(msg) == 0
		if s.screen.Bells() > 0 {
			msg = append(msg, 2) // 7.6.3
		}
		s.mu.Unlock()
		if len(msg) == 0 {
			continue
		}
		if _, err := s.rw.Write(msg); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

// changes makes a framebuffer update, RFC 6143 7.6.1: a rectangle for each run
// of cells in a row that differ from what was shown. It is empty when none do.
func (s *server) changes() []byte {
	cols, rows := s.screen.Size()
	cx, cy, on := s.screen.Cursor()
	msg, count := []byte{0, 0, 0, 0}, 0
	for y := range rows {
		for x := 0; x < cols; {
			first := x
			for ; x < cols; x++ {
				now := look{s.screen.Cell(x, y), on && x == cx && y == cy, true}
				if s.shown[y*cols+x] == now {
					break
				}
				s.shown[y*cols+x] = now
			}
			if x > first {
				msg = s.rectangle(msg, first, x, y)
				count++
			} else {
				x++
			}
		}
	}
	if count == 0 {
		return nil
	}
	binary.BigEndian.PutUint16(msg[2:], uint16(count))
	return msg
}

// rectangle appends the cells from first to end of a row as raw pixels, 7.7.1.
func (s *server) rectangle(msg []byte, first, end, y int) []byte {
	cols, _ := s.screen.Size()
	for _, n := range []int{first * cellW, y * cellH, (end - first) * cellW, cellH} {
		msg = binary.BigEndian.AppendUint16(msg, uint16(n))
	}
	msg = append(msg, 0, 0, 0, 0)
	size := s.format.bytes
	row := (end - first) * cellW * size
	from := len(msg)
	msg = append(msg, make([]byte, row*cellH)...)
	for x := first; x < end; x++ {
		l := s.shown[y*cols+x]
		fg, bg := colours(l.cell, l.cursor)
		var shades [levels][4]byte
		for i := range levels {
			shades[i] = s.format.pixel(mix(fg, bg, i, levels-1))
		}
		for i, level := range s.paint.glyph(l.cell) {
			at := from + i/cellW*row + ((x-first)*cellW+i%cellW)*size
			copy(msg[at:at+size], shades[level][:size])
		}
	}
	return msg
}
