package guestapi

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
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

	"joist/api/schema"
	"joist/hypervisor/control"
	"joist/hypervisor/guest"
	"joist/hypervisor/guest/vterm/rfb"
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
	expires  time.Time
	number   int // of its task; no other in this boot has it
	look     func() (view, error)

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

// add gives a session the first free port, and the ticket for it. RFB sees the
// first eight characters of a password only; a ticket's own are the same for
// everybody, so that those of a screen begin with the password.
func (c *consoles) add(s *session, t Tickets) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := firstPort; p <= lastPort; p++ {
		if c.set[p] == nil {
			s.port, s.expires = p, c.now().Add(openWithin)
			if s.ticket = t.IssueVNC(s.user, s.path, s.port); s.password != "" {
				s.ticket = s.password + ":" + s.ticket
			}
			s.opened, s.ended, s.stop = make(chan struct{}), make(chan struct{}), make(chan struct{})
			c.set[p] = s
			return nil
		}
	}
	return errors.New("unable to find free port (5900-5999)")
}

// take opens a session, once. A wrong ticket does not use it up.
func (c *consoles) take(port int, user, path, ticket string) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.set[port]
	if s == nil || s.user != user || s.path != path || c.now().After(s.expires) {
		return nil, fmt.Errorf("no console is waiting on port %d", port)
	}
	if subtle.ConstantTimeCompare([]byte(s.ticket), []byte(ticket)) != 1 {
		return nil, errTicket
	}
	select {
	case <-s.opened:
		return nil, fmt.Errorf("the console on port %d is in use", port)
	default:
		close(s.opened)
		return s, nil
	}
}

var errTicket = &server.Error{Status: http.StatusUnauthorized, Text: "invalid PVEVNC ticket"}

func (c *consoles) drop(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set[s.port] == s {
		delete(c.set, s.port)
	}
}

type routeMaker func(verb, path, text, priv string, do server.Handler, params ...schema.Param) server.Route

// socketParams are those of the second call.
func socketParams() []schema.Param {
	return []schema.Param{{Name: "port", Type: schema.Integer, Min: schema.F(firstPort), Max: schema.F(lastPort), Text: "port of the first call"},
		{Name: "vncticket", MaxLen: 512, Text: "ticket of the first call"}}
}

func (k kind) consoleRoutes(r routeMaker, one string) []server.Route {
	ws := r("GET", one+"/vncwebsocket", "The console itself, as a WebSocket.", "VM.Console", k.websocket, socketParams()...)
	ws.Raw = true
	out := []server.Route{ws, r("POST", one+"/termproxy", "Make a ticket for the text console.", "VM.Console", k.termProxy,
		schema.Param{Name: "serial", Optional: true, Enum: []string{"serial0", "serial1", "serial2", "serial3"}, Text: "which serial port"})}
	vnc := []schema.Param{boolP("websocket", "has no effect: there is no other way"), boolP("generate-password", "a password instead of the ticket")}
	if k.kind == guest.LXC {
		vnc = append(vnc, intP("width", "of the terminal, in pixels"), intP("height", "of the terminal, in pixels"))
	}
	return append(out, r("POST", one+"/vncproxy", "Make a ticket for the screen.", "VM.Console", k.vncProxy, vnc...))
}

// shellRoutes are the console of the node itself. Only root has one: whom else
// the API knows is nobody on the node.
func (a *API) shellRoutes() []server.Route {
	perm := schema.Perm{And: []schema.Perm{{Root: true}, {Path: "/nodes/{node}", Privs: []string{"Sys.Console"}}}}
	const one = "/nodes/{node}"
	return []server.Route{
		{Method: schema.Method{Verb: "POST", Path: one + "/termproxy", Text: "Make a ticket for a shell on the node.", OnNode: true, Perm: perm, NoToken: true, NoQuorum: true,
			Params: []schema.Param{server.NodeParam(), {Name: "cmd", Optional: true, Enum: []string{"login", "upgrade", "ceph_install"}, Text: "what to run; only login"},
				{Name: "cmd-opts", Optional: true, MaxLen: 1024, Text: "arguments for cmd; login takes none"}}}, Do: a.shellProxy},
		{Method: schema.Method{Verb: "GET", Path: one + "/vncwebsocket", Text: "The shell itself, as a WebSocket.", OnNode: true, Perm: perm, NoToken: true, Raw: true,
			Params: append([]schema.Param{server.NodeParam()}, socketParams()...)}, Do: a.shellSocket},
	}
}

func (a *API) shellPath() string { return "/nodes/" + a.Node }

func (a *API) shellProxy(_ context.Context, r *server.Request) (any, error) {
	if cmd := r.Params.String("cmd"); cmd != "" && cmd != "login" {
		return nil, server.ParamErrorf("cmd", "'%s' is not supported on this node: nothing is ever installed on it", cmd)
	}
	if a.Shell == nil {
		return nil, server.Errorf("this node opens no shells")
	}
	s := &session{path: a.shellPath()}
	s.look = func() (view, error) { return view{terminal: nodeShell{a, s.number}}, nil }
	return a.proxy(r, task.Spec{Type: "vncshell"}, s)
}

func (a *API) shellSocket(ctx context.Context, r *server.Request) (any, error) {
	return a.connect(ctx, r, a.shellPath())
}

func (k kind) termProxy(_ context.Context, r *server.Request) (any, error) {
	id := vmid(r)
	if _, err := k.terminal(id); err != nil {
		return nil, err
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
	return k.proxy(r, &session{look: func() (view, error) { return k.terminal(id) }})
}

func (k kind) vncProxy(_ context.Context, r *server.Request) (any, error) {
	id := vmid(r)
	cols, rows := rfb.Cells(r.Params.Int("width", 0), r.Params.Int("height", 0))
	look := func() (view, error) { return k.screen(id, cols, rows) }
	if _, err := look(); err != nil {
		return nil, err
	}
	password, err := newPassword()
	if err != nil {
		return nil, err
	}
	return k.proxy(r, &session{password: password, look: look})
}

func (k kind) proxy(r *server.Request, s *session) (any, error) {
	s.path = fmt.Sprintf("/vms/%d", vmid(r))
	return k.a.proxy(r, task.Spec{Type: "vncproxy", ID: strconv.Itoa(vmid(r))}, s)
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
func (a *API) proxy(r *server.Request, spec task.Spec, s *session) (any, error) {
	s.user, spec.User = r.Who.User, r.Who.Name()
	if err := a.consoles.add(s, a.Tickets); err != nil {
		return nil, err
	}
	upid, err := a.Tasks.Start(spec, func(ctx context.Context, log task.Log) error { return a.consoles.attend(ctx, s, log) })
	if err != nil {
		a.consoles.drop(s)
		return nil, err
	}
	a.consoles.mu.Lock()
	s.number = int(upid.Num) // nobody has the ticket yet
	a.consoles.mu.Unlock()
	out := map[string]any{"user": s.user, "ticket": s.ticket, "port": s.port, "upid": upid.String()}
	if s.password != "" {
		out["cert"] = a.Cert
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
	return k.a.connect(ctx, r, fmt.Sprintf("/vms/%d", vmid(r)))
}

func (a *API) connect(ctx context.Context, r *server.Request, path string) (any, error) {
	port, ticket := r.Params.Int("port", 0), r.Params.String("vncticket")
	if err := a.Tickets.CheckVNC(bare(ticket), r.Who.User, path, port); err != nil {
		return nil, &server.Error{Status: http.StatusUnauthorized, Text: err.Error()}
	}
	s, err := a.consoles.take(port, r.Who.User, path, ticket)
	if err != nil {
		return nil, err
	}
	defer close(s.ended)
	at, err := s.look()
	if err != nil {
		return nil, err
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
		case <-at.done:
		case <-ctx.Done():
		}
		cancel()
	}()
	c := &stream{ctx: ctx, ws: ws}
	defer ws.Close(websocket.StatusNormalClosure, "")
	if at.screen != nil {
		return nil, serveScreen(ctx, c, at.screen, s.password)
	}
	return nil, serveTerminal(ctx, c, at.terminal, s.user, s.ticket)
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
