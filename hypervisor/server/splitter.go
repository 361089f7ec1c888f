package server

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// tlsHandshake is the first byte of a TLS connection: the record type of a
// ClientHello (RFC 8446, 5.1). No HTTP method begins with it.
const tlsHandshake = 0x16

// splitter accepts connections and hands each to one of two listeners by its
// first byte.
type splitter struct {
	ln            net.Listener
	secure, plain *queue
	slots         chan struct{}
	log           *slog.Logger
	once          sync.Once
}

func newSplitter(ln net.Listener, conns int, log *slog.Logger) *splitter {
	done := make(chan struct{})
	return &splitter{
		ln:     ln,
		secure: &queue{addr: ln.Addr(), conns: make(chan net.Conn), done: done},
		plain:  &queue{addr: ln.Addr(), conns: make(chan net.Conn), done: done},
		slots:  make(chan struct{}, conns),
		log:    log,
	}
}

// Close stops accepting and ends both listeners.
func (s *splitter) Close() {
	s.once.Do(func() {
		close(s.secure.done)
		s.ln.Close()
	})
}

// run accepts until the listener is closed. Running out of descriptors is
// waited out; it ends when connections do.
func (s *splitter) run() error {
	for {
		s.slots <- struct{}{}
		c, err := s.ln.Accept()
		if err != nil {
			<-s.slots
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.log.Warn("accept connection", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-s.secure.done:
				return net.ErrClosed
			}
		}
		go s.sort(&sniffed{Conn: c, release: sync.OnceFunc(func() { <-s.slots })})
	}
}

func (s *splitter) sort(c *sniffed) {
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := c.Conn.Read(c.first[:]); n != 1 || err != nil {
		c.Close()
		return
	}
	c.SetReadDeadline(time.Time{})
	c.unread = true
	to := s.plain
	if c.first[0] == tlsHandshake {
		to = s.secure
	}
	select {
	case to.conns <- c:
	case <-to.done:
		c.Close()
	}
}

// sniffed is a connection whose first byte was read ahead.
type sniffed struct {
	net.Conn
	first   [1]byte
	unread  bool
	release func()
}

func (c *sniffed) Read(b []byte) (int, error) {
	if c.unread && len(b) > 0 {
		c.unread = false
		b[0] = c.first[0]
		return 1, nil
	}
	return c.Conn.Read(b)
}

func (c *sniffed) Close() error {
	c.release()
	return c.Conn.Close()
}

// CloseWrite ends the direction to the client, for answers that are followed
// by closing.
func (c *sniffed) CloseWrite() error {
	if t, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return t.CloseWrite()
	}
	return nil
}

// queue is a listener that is fed from outside.
type queue struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error   { return nil }
func (q *queue) Addr() net.Addr { return q.addr }
