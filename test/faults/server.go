package faults

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Server serves a disk on a unix socket.
type Server struct {
	Path string // of the socket
	d    *Disk
	l    net.Listener
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil: closed
	errs  []error
}

// Serve begins to serve d on a new socket. Its path must be short (unix(7)).
func Serve(d *Disk, path string) (*Server, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("serve disk: %w", err)
	}
	s := &Server{Path: path, d: d, l: l, conns: map[net.Conn]bool{}}
	s.wg.Go(s.accept)
	return s, nil
}

func (s *Server) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		if s.conns == nil {
			c.Close()
		} else {
			s.conns[c] = true
			s.wg.Go(func() { s.talk(c) })
		}
		s.mu.Unlock()
	}
}

// talk serves one client. One that is killed between two requests has ended
// well; half a request is an error.
func (s *Server) talk(c net.Conn) {
	x := &session{d: s.d, r: bufio.NewReaderSize(c, 1<<20), w: bufio.NewWriterSize(c, 1<<20)}
	err := x.negotiate()
	if err == nil {
		err = x.serve()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns != nil {
		delete(s.conns, c)
		if !errors.Is(err, errDone) && !errors.Is(err, io.EOF) {
			s.errs = append(s.errs, err)
		}
	}
	c.Close()
}

// Close ends all connections and returns what went wrong in them. The disk
// stays open.
func (s *Server) Close() error {
	err := s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()
	return errors.Join(append(s.errs, err)...)
}
