package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"joist/hypervisor/guest"
)

// Console opens the first serial port. QEMU serves one connection per port;
// the hub shares it among all who look.
func (m *Machine) Console(ctx context.Context) (guest.Console, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.console != nil {
		if v, ok := m.console.join(); ok {
			return v, nil
		}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(m.d.Runs.Folder(m.vmid), "serial0"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open console of guest %d: it has no serial port (serial0: socket)", m.vmid)
	}
	if err != nil {
		return nil, fmt.Errorf("open console of guest %d: %w", m.vmid, err)
	}
	m.console = newHub(conn)
	v, ok := m.console.join()
	if !ok {
		return nil, fmt.Errorf("open console of guest %d: %w", m.vmid, io.ErrClosedPipe)
	}
	return v, nil
}

// hub copies one stream to several viewers and takes input from any of them.
// It ends with the stream or with the last viewer.
type hub struct {
	conn net.Conn

	mu      sync.Mutex
	viewers map[*viewer]bool
	closed  bool
}

func newHub(conn net.Conn) *hub {
	h := &hub{conn: conn, viewers: map[*viewer]bool{}}
	go h.run()
	return h
}

func (h *hub) run() {
	buf := make([]byte, 32<<10)
	for {
		n, err := h.conn.Read(buf)
		h.mu.Lock()
		for v := range h.viewers {
			v.put(buf[:n])
		}
		h.mu.Unlock()
		if err != nil {
			h.close()
			return
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.conn.Close()
	for v := range h.viewers {
		v.end()
		delete(h.viewers, v)
	}
}

func (h *hub) join() (*viewer, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, false
	}
	v := &viewer{hub: h, ready: sync.NewCond(new(sync.Mutex))}
	h.viewers[v] = true
	return v, true
}

func (h *hub) leave(v *viewer) {
	h.mu.Lock()
	delete(h.viewers, v)
	last := len(h.viewers) == 0
	if last {
		h.closed = true
	}
	h.mu.Unlock()
	v.end()
	if last {
		h.conn.Close()
	}
}

// maxBacklog is what a viewer may leave unread; a terminal that hangs loses
// the oldest part and holds up neither the guest nor the others.
const maxBacklog = 1 << 20

type viewer struct {
	hub   *hub
	ready *sync.Cond
	data  []byte
	ended bool
}

func (v *viewer) put(b []byte) {
	v.ready.L.Lock()
	defer v.ready.L.Unlock()
	v.data = append(v.data, b...)
	if over := len(v.data) - maxBacklog; over > 0 {
		v.data = append([]byte(nil), v.data[over:]...)
	}
	v.ready.Broadcast()
}

func (v *viewer) end() {
	v.ready.L.Lock()
	defer v.ready.L.Unlock()
	v.ended = true
	v.ready.Broadcast()
}

// Read waits for output; io.EOF means the console is gone.
func (v *viewer) Read(p []byte) (int, error) {
	v.ready.L.Lock()
	defer v.ready.L.Unlock()
	for len(v.data) == 0 && !v.ended {
		v.ready.Wait()
	}
	if len(v.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, v.data)
	v.data = v.data[n:]
	return n, nil
}

// Write types.
func (v *viewer) Write(p []byte) (int, error) { return v.hub.conn.Write(p) }

// Resize does nothing: a serial line has no size.
func (v *viewer) Resize(cols, rows uint16) error { return nil }

// Close leaves the console.
func (v *viewer) Close() error {
	v.hub.leave(v)
	return nil
}
