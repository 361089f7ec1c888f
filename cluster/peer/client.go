package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrAway: a node does not answer at any of its addresses.
var ErrAway = errors.New("node does not answer")

// Client reaches other nodes, wherever they are now.
type Client struct {
	book *Book
	id   *Identity
	port int

	mu   sync.Mutex
	pool map[string]*http.Transport
}

// NewClient makes a Client; port is where every node's API is.
func NewClient(b *Book, id *Identity, port int) *Client {
	return &Client{book: b, id: id, port: port, pool: map[string]*http.Transport{}}
}

const (
	dialTime  = 5 * time.Second
	nextAfter = 300 * time.Millisecond // until the next address is tried too (RFC 8305)
	// deadAfter is how long a node may be silent on a connection before that
	// is given up, however long the call on it may take.
	deadAfter = 10 * time.Second
)

// dialer makes connections on which the kernel notices that the other machine
// has lost its power: without it a call on a connection that is there already
// waits for a quarter of an hour. TCP_USER_TIMEOUT bounds how long sent data
// may stay unacknowledged, keepalives do the same while an answer is awaited
// (tcp(7)).
func dialer(dead time.Duration) *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: dead / 2, Interval: dead / 4, Count: 3},
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(dead.Milliseconds()))
			}); e != nil {
				return e
			}
			return err
		},
	}
}

// Dial opens a connection to a node on which both have proved themselves.
func (c *Client) Dial(ctx context.Context, node string) (net.Conn, error) {
	config, err := c.id.ClientConfig(node, c.book.Allowed)
	if err != nil {
		return nil, err
	}
	addresses := c.book.Addresses(node)
	if len(addresses) == 0 {
		return nil, fmt.Errorf("reach node %q: no address of it is known", node)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	results := make(chan dialed, len(addresses))
	for i, a := range addresses {
		go func() {
			select {
			case <-time.After(time.Duration(i) * nextAfter):
			case <-ctx.Done():
				results <- dialed{err: ctx.Err()}
				return
			}
			d := tls.Dialer{NetDialer: dialer(deadAfter), Config: config}
			conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(a, strconv.Itoa(c.port)))
			results <- dialed{conn, err}
		}()
	}
	var all []error
	for n := range addresses {
		r := <-results
		if r.err == nil {
			go discard(results, len(addresses)-n-1)
			return r.conn, nil
		}
		all = append(all, r.err)
	}
	return nil, fmt.Errorf("reach node %q: %w: %w", node, ErrAway, errors.Join(slices.Compact(all)...))
}

type dialed struct {
	conn net.Conn
	err  error
}

// discard closes the connections that came second.
func discard(results <-chan dialed, n int) {
	for range n {
		if r := <-results; r.err == nil {
			r.conn.Close()
		}
	}
}

// RoundTrip sends a request to a node. Scheme and host of its URL are set
// here.
func (c *Client) RoundTrip(node string, r *http.Request) (*http.Response, error) {
	r.URL.Scheme, r.URL.Host = "https", node
	return c.transport(node).RoundTrip(r)
}

func (c *Client) transport(node string) *http.Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.pool[node]
	if t == nil {
		t = &http.Transport{
			DialTLSContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx, node) },
			IdleConnTimeout:    20 * time.Second, // shorter than the server's
			DisableCompression: true,             // what the caller accepts is the caller's to say
		}
		c.pool[node] = t
	}
	return t
}

// Known reports whether the node belongs to the cluster.
func (c *Client) Known(node string) bool {
	_, ok := c.book.Node(node)
	return ok
}

// Close ends the connections that wait for a next request.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.pool {
		t.CloseIdleConnections()
	}
}
