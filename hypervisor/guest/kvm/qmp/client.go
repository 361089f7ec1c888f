// Package qmp talks to a running QEMU over its machine protocol
// (QEMU: docs/interop/qmp-spec.rst): commands with a deadline each, any number
// at once, replies of any size, descriptors passed along, and events for any
// number of readers, none of whom can hold up the others.
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed: the connection is gone; QEMU ended or somebody closed it.
var ErrClosed = errors.New("connection to QEMU is closed")

// Error is QEMU's answer to a command that it did not carry out.
type Error struct {
	Command string `json:"-"`
	Class   string `json:"class"` // "GenericError", "CommandNotFound", "DeviceNotFound" …
	Desc    string `json:"desc"`
}

func (e *Error) Error() string { return e.Command + ": " + e.Desc }

// Event is something that QEMU tells unasked.
type Event struct {
	Name string
	Data json.RawMessage
	Time time.Time
}

// Client is one connection. QEMU serves one client per monitor socket at a
// time.
type Client struct {
	conn    net.Conn
	version string

	send sync.Mutex // one command is written at a time, with its descriptors

	mu      sync.Mutex
	next    uint64
	waiting map[string]chan message
	subs    []*Subscription
	err     error
	done    chan struct{}
}

type message struct {
	QMP       *greeting       `json:"QMP"`
	ID        string          `json:"id"`
	Return    json.RawMessage `json:"return"`
	Error     *Error          `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

type greeting struct {
	Version struct {
		QEMU struct{ Major, Minor, Micro int } `json:"qemu"`
	} `json:"version"`
}

// Dial connects to the monitor socket at path.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to QEMU: %w", err)
	}
	return New(ctx, conn)
}

// New speaks over conn, which it owns from now on, and negotiates. A monitor
// that serves somebody else stays silent: ctx must have a deadline.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, waiting: map[string]chan message{}, done: make(chan struct{})}
	// Reading the greeting is the one read outside the loop; closing the
	// connection is what ends it early.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	r := bufio.NewReader(conn)
	var hello message
	line, err := r.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if !stop() {
		err = ctx.Err()
	}
	if err == nil && hello.QMP == nil {
		err = errors.New("this is no QEMU monitor")
	}
	if err != nil {
		conn.Close()
		if errors.Is(err, io.EOF) {
			err = ErrClosed
		}
		return nil, fmt.Errorf("greet QEMU: %w", err)
	}
	v := hello.QMP.Version.QEMU
	c.version = fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
	go c.read(r)
	if err := c.Do(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Version is QEMU's, "10.0.13".
func (c *Client) Version() string { return c.version }

// Do runs a command and decodes its reply into result unless that is nil. args
// is anything that encodes to a JSON object, or nil. When ctx ends first the
// command may still be carried out.
func (c *Client) Do(ctx context.Context, command string, args, result any) error {
	return c.DoFiles(ctx, command, args, result)
}

// DoFiles is Do with descriptors, which QEMU takes with commands such as
// getfd and add-fd. The files stay the caller's.
func (c *Client) DoFiles(ctx context.Context, command string, args, result any, files ...*os.File) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	id, reply, err := c.enter()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	defer c.leave(id)
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        string `json:"id"`
	}{command, args, id})
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if err := c.write(ctx, append(b, '\n'), files); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case m := <-reply:
		if m.Error != nil {
			m.Error.Command = command
			return m.Error
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(m.Return, result); err != nil {
			return fmt.Errorf("%s: read reply: %w", command, err)
		}
		return nil
	case <-c.done:
		return fmt.Errorf("%s: %w", command, c.Err())
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", command, ctx.Err())
	}
}

func (c *Client) enter() (string, chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return "", nil, c.err
	}
	c.next++
	id := strconv.FormatUint(c.next, 10)
	reply := make(chan message, 1)
	c.waiting[id] = reply
	return id, reply, nil
}

func (c *Client) leave(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

func (c *Client) write(ctx context.Context, b []byte, files []*os.File) error {
	c.send.Lock()
	defer c.send.Unlock()
	// A QEMU that is stopped does not read; half a command would spoil the
	// stream for all that follow, so that a write cut short ends the client.
	deadline, _ := ctx.Deadline()
	c.conn.SetWriteDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var n int
	var err error
	if len(files) == 0 {
		n, err = c.conn.Write(b)
	} else {
		n, err = c.writeFiles(b, files)
	}
	if err == nil {
		return nil
	}
	if n > 0 || ctx.Err() == nil {
		c.fail(fmt.Errorf("%w: %w", ErrClosed, err))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// writeFiles sends the descriptors with the first byte of the command, as
// QEMU expects them: they are taken up when the command is parsed.
func (c *Client) writeFiles(b []byte, files []*os.File) (int, error) {
	u, ok := c.conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("descriptors need a unix socket")
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	n, _, err := u.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	if err == nil && n < len(b) {
		var m int
		m, err = c.conn.Write(b[n:])
		n += m
	}
	return n, err
}

// read hands out what comes until the connection ends.
func (c *Client) read(r *bufio.Reader) {
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				err = ErrClosed
			} else {
				err = fmt.Errorf("%w: %w", ErrClosed, err)
			}
			c.fail(err)
			return
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			c.fail(fmt.Errorf("%w: unreadable message: %w", ErrClosed, err))
			return
		}
		c.deliver(m)
	}
}

func (c *Client) deliver(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Event != "" {
		e := Event{Name: m.Event, Data: m.Data,
			Time: time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)}
		for _, s := range c.subs {
			s.add(e)
		}
		return
	}
	if reply, ok := c.waiting[m.ID]; ok {
		delete(c.waiting, m.ID)
		reply <- m // has room for one and gets one
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	c.conn.Close()
}

// Close ends the connection; QEMU lives on.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	return nil
}

// Done is closed when the connection is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why Done was closed.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Subscribe returns a queue of the events from now on.
func (c *Client) Subscribe() *Subscription {
	s := &Subscription{client: c, ready: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs = append(c.subs, s)
	return s
}

// maxQueue bounds what a reader that does not read can cost. The oldest
// events go first: the last ones say how a guest ended.
const maxQueue = 4096

// Subscription is one reader's queue of events.
type Subscription struct {
	client *Client
	ready  chan struct{}

	mu      sync.Mutex
	queue   []Event
	dropped int
}

func (s *Subscription) add(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == maxQueue {
		s.queue = s.queue[1:]
		s.dropped++
	}
	s.queue = append(s.queue, e)
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *Subscription) take() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return Event{}, false
	}
	e := s.queue[0]
	s.queue = s.queue[1:]
	return e, true
}

// Next waits for the next event. Events that came before the connection ended
// are still delivered, then the error is ErrClosed.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok := s.take(); ok {
			return e, nil
		}
		select {
		case <-s.ready:
		case <-s.client.done:
			if e, ok := s.take(); ok {
				return e, nil
			}
			return Event{}, s.client.Err()
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// Dropped says how many events were lost because nobody read.
func (s *Subscription) Dropped() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	s.client.subs = slices.DeleteFunc(s.client.subs, func(x *Subscription) bool { return x == s })
}
