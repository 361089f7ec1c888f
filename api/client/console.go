package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// keepAlive is how often a terminal says that it is still there.
const keepAlive = 30 * time.Second

// consoleLimit is the payload limit of a websocket message.
const consoleLimit = 128 << 10

// proxy is the answer of termproxy and vncproxy; port comes as a number or as
// a numeric string.
type proxy struct {
	User     string      `json:"user"`
	Ticket   string      `json:"ticket"`
	Password string      `json:"password"`
	Port     json.Number `json:"port"`
}

// open calls a proxy method and connects to its websocket. The connection
// lives until it is closed; ctx bounds the opening.
func (c *Client) open(ctx context.Context, path, method string, p Params) (proxy, net.Conn, error) {
	var px proxy
	if err := c.Post(ctx, path+"/"+method, p, &px); err != nil {
		return px, nil, err
	}
	t, err := c.credentials(ctx)
	if err != nil {
		return px, nil, err
	}
	u := c.url(path + "/vncwebsocket")
	u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	u.RawQuery = Params{"port": px.Port.String(), "vncticket": px.Ticket}.values().Encode()
	h := http.Header{}
	c.authorise(h, http.MethodGet, t)
	ws, resp, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{
		HTTPClient: c.http, HTTPHeader: h, Subprotocols: []string{"binary"},
	})
	if err != nil {
		if resp != nil && resp.StatusCode >= 400 {
			raw, _ := io.ReadAll(io.LimitReader(resp.Body, consoleLimit)) // the status alone is an error, too
			err = parseError(resp, raw)
		}
		return px, nil, fmt.Errorf("open console of %s: %w", path, err)
	}
	ws.SetReadLimit(consoleLimit)
	return px, websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary), nil
}

// VNC opens the display of a guest ("/nodes/n1/qemu/100"). RFB flows over the
// connection; password is what its VNC authentication takes.
func (c *Client) VNC(ctx context.Context, path string) (conn net.Conn, password string, err error) {
	px, conn, err := c.open(ctx, path, "vncproxy", Params{"websocket": "1"})
	if err != nil {
		return nil, "", err
	}
	if px.Password != "" {
		return conn, px.Password, nil
	}
	return conn, px.Ticket, nil
}

// Terminal is a text console. Reads are what the guest says; writes are typed.
type Terminal struct {
	conn   net.Conn
	mu     sync.Mutex
	closed chan struct{}
	once   sync.Once
}

// Term opens the text console of a guest or, with "/nodes/n1", of the node.
func (c *Client) Term(ctx context.Context, path string) (*Terminal, error) {
	px, conn, err := c.open(ctx, path, "termproxy", nil)
	if err != nil {
		return nil, err
	}
	t := &Terminal{conn: conn, closed: make(chan struct{})}
	if err := t.hello(ctx, px); err != nil {
		conn.Close()
		return nil, fmt.Errorf("open terminal of %s: %w", path, err)
	}
	go t.stayAlive()
	return t, nil
}

// hello sends the ticket and waits for "OK".
func (t *Terminal) hello(ctx context.Context, px proxy) error {
	if _, err := io.WriteString(t.conn, px.User+":"+px.Ticket+"\n"); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { t.conn.Close() })
	defer stop()
	var ok [2]byte
	if _, err := io.ReadFull(t.conn, ok[:]); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("read greeting: %w", err))
	}
	if !bytes.Equal(ok[:], []byte("OK")) {
		return fmt.Errorf("the node said %q, not OK", ok)
	}
	return nil
}

func (t *Terminal) stayAlive() {
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		select {
		case <-t.closed:
			return
		case <-tick.C:
			if t.frame("2") != nil {
				return
			}
		}
	}
}

func (t *Terminal) frame(s string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := io.WriteString(t.conn, s)
	return err
}

// Read reads the guest's output.
func (t *Terminal) Read(p []byte) (int, error) { return t.conn.Read(p) }

// Write types p.
func (t *Terminal) Write(p []byte) (int, error) {
	const most = 32 << 10 // well under the message limit
	for sent := 0; sent < len(p); {
		part := p[sent:min(len(p), sent+most)]
		var b strings.Builder
		fmt.Fprintf(&b, "0:%d:", len(part))
		b.Write(part)
		if err := t.frame(b.String()); err != nil {
			return sent, err
		}
		sent += len(part)
	}
	return len(p), nil
}

// Resize tells the guest the terminal's size in characters.
func (t *Terminal) Resize(columns, rows int) error {
	return t.frame(fmt.Sprintf("1:%d:%d:", columns, rows))
}

// Close ends the session.
func (t *Terminal) Close() error {
	t.once.Do(func() { close(t.closed) })
	return t.conn.Close()
}
