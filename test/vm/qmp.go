package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
)

// Event is something QEMU reported (docs/interop/qmp-spec in QEMU).
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// monitor is a QMP client.
type monitor struct {
	conn net.Conn

	mu      sync.Mutex
	next    int
	waiting map[int]chan qmpReply
	events  []Event
	err     error // set when the connection ended
}

type qmpReply struct {
	ID     int             `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event
	Greeting json.RawMessage `json:"QMP"`
}

// newMonitor reads the greeting and leaves the negotiation mode.
func newMonitor(ctx context.Context, conn net.Conn) (*monitor, error) {
	m := &monitor{conn: conn, waiting: map[int]chan qmpReply{}}
	go m.read()
	if err := m.run(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *monitor) read() {
	d := json.NewDecoder(m.conn)
	for {
		var r qmpReply
		if err := d.Decode(&r); err != nil {
			m.mu.Lock()
			m.err = fmt.Errorf("read from monitor: %w", err)
			for id, ch := range m.waiting {
				close(ch)
				delete(m.waiting, id)
			}
			m.mu.Unlock()
			return
		}
		m.mu.Lock()
		switch ch := m.waiting[r.ID]; {
		case r.Greeting != nil:
		case r.Name != "":
			m.events = append(m.events, r.Event)
		case ch != nil:
			delete(m.waiting, r.ID)
			ch <- r
		}
		m.mu.Unlock()
	}
}

func (m *monitor) run(ctx context.Context, command string, args map[string]any, out any) error {
	m.mu.Lock()
	if m.err != nil {
		m.mu.Unlock()
		return m.err
	}
	m.next++
	id, ch := m.next, make(chan qmpReply, 1)
	m.waiting[id] = ch
	m.mu.Unlock()

	request := map[string]any{"execute": command, "id": id}
	if args != nil {
		request["arguments"] = args
	}
	line, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("run %s: %w", command, err)
	}
	if _, err := m.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("run %s: %w", command, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("run %s: %w", command, ctx.Err())
	case r, ok := <-ch:
		switch {
		case !ok:
			return fmt.Errorf("run %s: %w", command, ErrEnded)
		case r.Error != nil:
			return fmt.Errorf("run %s: %s: %s", command, r.Error.Class, r.Error.Desc)
		case out != nil:
			return json.Unmarshal(r.Return, out)
		}
		return nil
	}
}

func (m *monitor) seen() []Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Event(nil), m.events...)
}
