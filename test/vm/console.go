package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Console is one serial port: everything the guest says is kept and written
// to a log; waiting moves a mark, so that each text is found once.
type Console struct {
	name string
	log  io.Writer // raw
	said io.Writer // without escape sequences and carriage returns; may be nil

	mu      sync.Mutex
	conn    io.ReadWriteCloser
	text    []byte // without escape sequences and carriage returns
	mark    int
	strip   stripper
	changed chan struct{} // closed and replaced when text grows
	ended   bool
}

func newConsole(name string, log io.Writer) *Console {
	return &Console{name: name, log: log, changed: make(chan struct{})}
}

// Attach makes a console of any connection that carries a terminal, such as a
// guest's text console behind the node's API.
func Attach(name string, conn io.ReadWriteCloser, log io.Writer) *Console {
	c := newConsole(name, log)
	c.conn = conn
	go c.attach(conn)
	return c
}

// Close ends the connection.
func (c *Console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// attach takes QEMU's connection and reads it to its end.
func (c *Console) attach(conn io.ReadWriteCloser) {
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		c.take(buf[:n])
		if err != nil {
			c.end()
			return
		}
	}
}

func (c *Console) take(b []byte) {
	if len(b) == 0 {
		return
	}
	c.log.Write(b) // a lost log line is no reason to fail a test
	c.mu.Lock()
	defer c.mu.Unlock()
	old := len(c.text)
	c.text = c.strip.append(c.text, b)
	if c.said != nil {
		c.said.Write(c.text[old:]) // who listens has no say
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	close(c.changed)
	c.changed = make(chan struct{})
}

// ErrEnded means that the machine stopped before it said what was awaited.
var ErrEnded = errors.New("machine ended")

// WaitFor waits until the console's text after the mark matches re, moves the
// mark behind the match and returns the match with its groups.
func (c *Console) WaitFor(ctx context.Context, re *regexp.Regexp) ([]string, error) {
	start := time.Now()
	for {
		c.mu.Lock()
		rest := c.text[c.mark:]
		if at := re.FindSubmatchIndex(rest); at != nil {
			groups := make([]string, 0, len(at)/2)
			for _, g := range re.FindSubmatch(rest) {
				groups = append(groups, string(g))
			}
			c.mark += at[1]
			c.mu.Unlock()
			return groups, nil
		}
		changed, ended := c.changed, c.ended
		c.mu.Unlock()
		if ended {
			return nil, fmt.Errorf("wait for %q on %s: %w; it said last:\n%s", re, c.name, ErrEnded, c.Tail(20))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %q on %s for %s: %w; it said last:\n%s",
				re, c.name, time.Since(start).Round(time.Second), ctx.Err(), c.Tail(20))
		}
	}
}

// Send types text. A guest's UART has a FIFO of 16 bytes and boot loaders
// poll it, so it is sent in small pieces.
func (c *Console) Send(text string) error {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return fmt.Errorf("send to %s: not connected", c.name)
	}
	for len(text) > 0 {
		n := min(len(text), 8)
		if _, err := io.WriteString(conn, text[:n]); err != nil {
			return fmt.Errorf("send to %s: %w", c.name, err)
		}
		if text = text[n:]; text != "" {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// Text is everything said so far.
func (c *Console) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// Tail is the last n lines.
func (c *Console) Tail(n int) string {
	lines := strings.Split(strings.TrimRight(c.Text(), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Skip moves the mark to the end.
func (c *Console) Skip() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark = len(c.text)
}

// stripper removes terminal control sequences (ECMA-48: ESC [ … final byte,
// ESC ] … BEL or ESC \, ESC with an intermediate byte and one more, and ESC
// with one byte) and carriage returns; its state outlives a read that ends
// inside a sequence.
type stripper struct{ state stripState }

type stripState byte

const (
	inText stripState = iota
	afterEscape
	inCSI    // ESC [
	inString // ESC ], a title or the like
	inShort  // ESC and an intermediate byte, as when a character set is chosen
)

func (s *stripper) append(dst, src []byte) []byte {
	for _, b := range src {
		switch s.state {
		case afterEscape:
			s.state = sequence(b)
		case inCSI:
			if b >= 0x40 && b <= 0x7e {
				s.state = inText
			}
		case inString:
			switch b {
			case 0x07:
				s.state = inText
			case 0x1b:
				s.state = afterEscape // of the terminator, ESC \
			}
		case inShort:
			s.state = inText
		case inText:
			switch b {
			case 0x1b:
				s.state = afterEscape
			case '\r', 0:
			default:
				dst = append(dst, b)
			}
		}
	}
	return dst
}

// sequence is what the byte after ESC begins.
func sequence(b byte) stripState {
	switch {
	case b == '[':
		return inCSI
	case b == ']':
		return inString
	case b >= 0x20 && b <= 0x2f:
		return inShort
	}
	return inText
}
