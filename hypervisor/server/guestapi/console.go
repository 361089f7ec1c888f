package guestapi

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	wire "joist/api/guest"
	"joist/api/schema"
	"joist/hypervisor/control"
	"joist/hypervisor/guest"
	"joist/hypervisor/server"
	"joist/hypervisor/task"
)

// Consoles come in two calls: the first makes a ticket and names a port, the
// second, a WebSocket, brings both. Nothing listens on that port: it is the
// number under which the node remembers the first call, in the range that
// clients expect.
const (
	firstPort  = 5900
	lastPort   = 5999
	openWithin = 40 * time.Second
)

// session is one console between its two calls and until its end.
type session struct {
	port     int
	user     string
	path     string // what the ticket is for
	ticket   string
	password string // of RFB; "" for a terminal
	serial   string
	expires  time.Time

	opened chan struct{} // closed when the WebSocket came
	ended  chan struct{} // closed when it is gone
	stop   chan struct{} // closed when the task was stopped
}

// consoles is the sessions by port.
type consoles struct {
	now func() time.Time
	mu  sync.Mutex
	set map[int]*session
}

func newConsoles(now func() time.Time) *consoles { return &consoles{now: now, set: map[int]*session{}} }

// add gives a session the first free port.
func (c *consoles) add(s *session) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := firstPort; p <= lastPort; p++ {
		if c.set[p] == nil {
			s.port, s.expires = p, c.now().Add(openWithin)
			s.opened, s.ended, s.stop = make(chan struct{}), make(chan struct{}), make(chan struct{})
			c.set[p] = s
			return nil
		}
	}
	return errors.New("unable to find free port (5900-5999)")
}

// take opens a session, once.
func (c *consoles) take(port int, user, path string) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.set[port]
	if s == nil || s.user != user || s.path != path || c.now().After(s.expires) {
		return nil, fmt.Errorf("no console is waiting on port %d", port)
	}
	select {
	case <-s.opened:
		return nil, fmt.Errorf("the console on port %d is in use", port)
	default:
		close(s.opened)
		return s, nil
	}
}

func (c *consoles) drop(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set[s.port] == s {
		delete(c.set, s.port)
	}
}

type routeMaker func(verb, path, text, priv string, do server.Handler, params ...schema.Param) server.Route

func (k kind) consoleRoutes(r routeMaker, one string) []server.Route {
	ws := r("GET", one+"/vncwebsocket", "The console itself, as a WebSocket.", "VM.Console", k.websocket,
		schema.Param{Name: "port", Type: schema.Integer, Min: schema.F(firstPort), Max: schema.F(lastPort), Text: "port of the first call"},
		schema.Param{Name: "vncticket", MaxLen: 512, Text: "ticket of the first call"})
	ws.Raw = true
	out := []server.Route{ws, r("POST", one+"/termproxy", "Make a ticket for the text console.", "VM.Console", k.termProxy,
		schema.Param{Name: "serial", Optional: true, Enum: []string{"serial0", "serial1", "serial2", "serial3"}, Text: "which serial port"})}
	vnc := []schema.Param{boolP("websocket", "has no effect: there is no other way"), boolP("generate-password", "a password instead of the ticket")}
	if k.kind == guest.LXC {
		vnc = append(vnc, intP("width", "has no effect"), intP("height", "has no effect"))
	}
	return append(out, r("POST", one+"/vncproxy", "Make a ticket for the screen.", "VM.Console", k.vncProxy, vnc...))
}

func (k kind) termProxy(_ context.Context, r *server.Request) (any, error) {
	h, err := k.a.Guests.Handle(k.kind, vmid(r))
	if err != nil {
		return nil, err
	}
	if _, ok := h.(guest.Consoler); !ok {
		return nil, server.Errorf("%s %d has no text console", k.kind, vmid(r))
	}
	v, err := k.view(r)
	if err != nil {
		return nil, err
	}
	port := r.Params.String("serial")
	if port == "" {
		port = "serial0"
	}
	// A serial port that the running machine does not have is known before
	// anybody connects.
	if k.kind == guest.KVM && v.Running[port] == "" {
		return nil, server.Errorf("unable to find a serial interface '%s'", port)
	}
	if k.kind == guest.KVM && port != "serial0" {
		return nil, server.ParamErrorf("serial", "only serial0 has a console on this node")
	}
	return k.proxy(r, "vncproxy", &session{serial: port})
}

func (k kind) vncProxy(_ context.Context, r *server.Request) (any, error) {
	h, err := k.a.Guests.Handle(k.kind, vmid(r))
	if err != nil {
		return nil, err
	}
	v, err := k.view(r)
	if err != nil {
		return nil, err
	}
	_, ok := h.(control.Screen)
	if vga, err := wire.ParseVGA(v.Running["vga"]); !ok || err == nil && k.kind == guest.KVM && (vga.Serial() || vga.Type == "none") {
		return nil, server.Errorf("guest %d has no screen, only a text console (termproxy)", vmid(r))
	}
	password, err := newPassword()
	if err != nil {
		return nil, err
	}
	return k.proxy(r, "vncproxy", &session{password: password})
}

// newPassword is as long as RFB takes: eight characters, 40 bits.
func newPassword() (string, error) {
	var b [5]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make password: %w", err)
	}
	return base32.StdEncoding.EncodeToString(b[:]), nil
}

// proxy is the first call: port, ticket, and a task for as long as it takes.
func (k kind) proxy(r *server.Request, kindOfTask string, s *session) (any, error) {
	s.user, s.path = r.Who.User, fmt.Sprintf("/vms/%d", vmid(r))
	if err := k.a.consoles.add(s); err != nil {
		return nil, err
	}
	s.ticket = k.a.Tickets.IssueVNC(s.user, s.path, s.port)
	if s.password != "" {
		// RFB sees the first eight characters of a password only; a ticket's
		// own are the same for everybody.
		s.ticket = s.password + ":" + s.ticket
	}
	upid, err := k.a.Tasks.Start(task.Spec{Type: kindOfTask, ID: strconv.Itoa(vmid(r)), User: r.Who.Name()},
		func(ctx context.Context, log task.Log) error { return k.a.consoles.attend(ctx, s, log) })
	if err != nil {
		k.a.consoles.drop(s)
		return nil, err
	}
	out := map[string]any{"user": s.user, "ticket": s.ticket, "port": s.port, "upid": upid.String()}
	if s.password != "" {
		out["cert"] = k.a.Cert
		if r.Params.Bool("generate-password", false) {
			out["password"] = s.password
		}
	}
	return out, nil
}

// attend is the console's task: it lasts as long as the console.
func (c *consoles) attend(ctx context.Context, s *session, log task.Log) error {
	defer c.drop(s)
	wait := time.NewTimer(openWithin)
	defer wait.Stop()
	select {
	case <-s.opened:
	case <-wait.C:
		return errors.New("connection timed out")
	case <-ctx.Done():
		return ctx.Err()
	}
	log.Printf("client connected")
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		close(s.stop)
		return ctx.Err()
	}
}

// bare is the ticket without the password in front of it.
func bare(ticket string) string {
	if len(ticket) > 9 && ticket[8] == ':' && !strings.HasPrefix(ticket, "PVEVNC:") {
		return ticket[9:]
	}
	return ticket
}

// websocket is the second call.
func (k kind) websocket(ctx context.Context, r *server.Request) (any, error) {
	path, port, ticket := fmt.Sprintf("/vms/%d", vmid(r)), r.Params.Int("port", 0), r.Params.String("vncticket")
	if err := k.a.Tickets.CheckVNC(bare(ticket), r.Who.User, path, port); err != nil {
		return nil, &server.Error{Status: http.StatusUnauthorized, Text: err.Error()}
	}
	h, err := k.a.Guests.Handle(k.kind, vmid(r))
	if err != nil {
		return nil, err
	}
	s, err := k.a.consoles.take(port, r.Who.User, path)
	if err != nil {
		return nil, err
	}
	defer close(s.ended)
	if s.ticket != ticket {
		return nil, &server.Error{Status: http.StatusUnauthorized, Text: "invalid PVEVNC ticket"}
	}
	ws, err := websocket.Accept(r.W, r.HTTP, &websocket.AcceptOptions{Subprotocols: []string{"binary"}})
	if err != nil {
		return nil, nil // Accept has answered
	}
	ws.SetReadLimit(maxTyped)
	// The request's context ends when its handler does, not with the
	// connection, which is no longer the HTTP server's.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go func() {
		select {
		case <-s.stop:
		case <-h.Done():
		case <-ctx.Done():
		}
		cancel()
	}()
	c := &stream{ctx: ctx, ws: ws}
	defer ws.Close(websocket.StatusNormalClosure, "")
	if s.password != "" {
		return nil, serveScreen(ctx, c, h.(control.Screen), s.password)
	}
	return nil, serveTerminal(ctx, c, h.(guest.Consoler), s.user, s.ticket)
}

// stream is the bytes in a WebSocket's messages. Clients send text messages
// too; what they are does not matter.
type stream struct {
	ctx  context.Context
	ws   *websocket.Conn
	rest io.Reader
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.rest == nil {
			_, r, err := s.ws.Reader(s.ctx)
			if err != nil {
				return 0, err
			}
			s.rest = r
		}
		n, err := s.rest.Read(p)
		if errors.Is(err, io.EOF) {
			s.rest = nil
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (s *stream) Write(p []byte) (int, error) {
	if err := s.ws.Write(s.ctx, websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// greetWithin bounds the opening of either protocol.
const greetWithin = 20 * time.Second

// serveScreen connects a VNC client to a machine's screen.
func serveScreen(ctx context.Context, c *stream, screen control.Screen, password string) error {
	vnc, err := screen.VNC(ctx)
	if err != nil {
		return err
	}
	defer vnc.Close()
	if err := vnc.SetDeadline(time.Now().Add(greetWithin)); err != nil {
		return err
	}
	if err := greetServer(vnc); err != nil {
		return err
	}
	if err := vnc.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if err := within(ctx, c, func() error { return greetClient(c, password) }); err != nil {
		return err
	}
	return pipe(ctx, func() error { return copyTo(vnc, c) }, func() error { return copyTo(c, vnc) }, func() { vnc.Close() })
}

// serveTerminal connects a terminal to a guest's console.
func serveTerminal(ctx context.Context, c *stream, h guest.Consoler, user, ticket string) error {
	r := bufio.NewReader(c)
	if err := within(ctx, c, func() error { return greetTerminal(r, c, user, ticket) }); err != nil {
		return err
	}
	con, err := h.Console(ctx)
	if err != nil {
		return err
	}
	defer con.Close()
	return pipe(ctx, func() error { return typed(r, con) }, func() error { return copyTo(c, con) }, func() { con.Close() })
}

// within gives a greeting its time and then ends the connection.
func within(ctx context.Context, c *stream, greet func() error) error {
	t := time.AfterFunc(greetWithin, func() { c.ws.CloseNow() })
	defer t.Stop()
	return greet()
}

func copyTo(to io.Writer, from io.Reader) error {
	_, err := io.Copy(to, from)
	return err
}

// pipe runs both directions until one ends, and then ends the other. How a
// console ends is nobody's error.
func pipe(ctx context.Context, in, out func() error, closeGuest func()) error {
	done := make(chan struct{}, 2)
	go func() { in(); done <- struct{}{} }()
	go func() { out(); done <- struct{}{} }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	closeGuest()
	return nil
}
