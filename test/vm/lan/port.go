package lan

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
)

const (
	etherLen = 14
	maxFrame = 65536 // QEMU's NET_BUFSIZE is a little more; our guests have an MTU of 1500
	queueLen = 1024  // frames; a full queue drops, as in a real switch
)

// Port is one socket of the switch. A machine may be unplugged and another
// plugged in: QEMU connects when it starts.
type Port struct {
	sw   *Switch
	name string
	path string
	l    net.Listener
	out  chan []byte

	loss atomic.Uint32 // per cent
	cut  atomic.Bool

	mu   sync.Mutex
	conn net.Conn
}

// NewPort adds a port; name is part of its socket's name.
func (s *Switch) NewPort(name string) (*Port, error) {
	path := filepath.Join(s.dir, "lan-"+name)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open port %q: %w", name, err)
	}
	p := &Port{sw: s, name: name, path: path, l: l, out: make(chan []byte, queueLen)}
	s.mu.Lock()
	s.ports = append(s.ports[:len(s.ports):len(s.ports)], p) // forward reads the old slice without the lock
	s.mu.Unlock()
	go p.accept()
	go p.writeLoop()
	return p, nil
}

// Netdev is the argument of QEMU's -netdev for this port (qemu(1), "stream").
func (p *Port) Netdev(id string) string {
	return fmt.Sprintf("stream,id=%s,server=off,addr.type=unix,addr.path=%s", id, p.path)
}

// SetLoss drops that many per cent of the frames, each way.
func (p *Port) SetLoss(percent int) { p.loss.Store(uint32(min(max(percent, 0), 100))) }

// Cut pulls (true) or plugs (false) the cable; the guest's link stays up, as
// behind a broken switch. For a link that goes down use the machine's SetLink.
func (p *Port) Cut(cut bool) { p.cut.Store(cut) }

func (p *Port) drops() bool {
	loss := p.loss.Load()
	return p.cut.Load() || loss > 0 && rand.Uint32N(100) < loss
}

func (p *Port) send(frame []byte) {
	if !p.drops() {
		p.enqueue(frame)
	}
}

func (p *Port) enqueue(frame []byte) {
	select {
	case p.out <- frame:
	default:
	}
}

func (p *Port) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.conn != nil {
			p.conn.Close()
		}
		p.conn = c
		p.mu.Unlock()
		go p.readLoop(c)
	}
}

// readLoop takes frames from QEMU: each is preceded by its length as a 32-bit
// big-endian number (QEMU's net/socket.c and net/stream.c).
func (p *Port) readLoop(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, maxFrame)
	var head [4]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > 2*maxFrame {
			return
		}
		frame := make([]byte, n)
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		if !p.drops() {
			p.sw.forward(p, frame)
		}
	}
}

func (p *Port) writeLoop() {
	for {
		var frame []byte
		select {
		case <-p.sw.ctx.Done():
			return
		case frame = <-p.out:
		}
		p.mu.Lock()
		c := p.conn
		p.mu.Unlock()
		if c == nil {
			continue
		}
		buf := make([]byte, 4+len(frame))
		binary.BigEndian.PutUint32(buf, uint32(len(frame)))
		copy(buf[4:], frame)
		if _, err := c.Write(buf); err != nil {
			c.Close() // the machine is gone; the next one connects anew
		}
	}
}

func (p *Port) close() error {
	err := p.l.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		err = errors.Join(err, ignoreClosed(p.conn.Close()))
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
