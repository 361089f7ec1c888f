package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"joist/api/schema"
)

// Limits of one request, those that clients know.
const (
	maxHeaders     = 64
	maxHeaderBytes = 8 << 10
	maxBody        = 512 << 10
	maxConns       = 500
	gzipAbove      = 1024
	daemonName     = "pve-api-daemon/3.0"
)

// Authenticator checks what a caller brings. A failure's text goes to the
// client.
type Authenticator interface {
	Ticket(ticket string) (user string, err error)
	CSRF(token, user string) error
	Token(user, id, secret string) error
}

// Authorizer knows who may do what. Token is "" for a user with a ticket.
type Authorizer interface {
	May(user, token, path, priv string) bool
}

// Deps is what a Server works with.
type Deps struct {
	Node   string // this node's name
	Routes []Route
	Auth   Authenticator
	Access Authorizer
	Log    *slog.Logger
	// FailDelay holds back the answer to wrong credentials, so that they
	// cannot be guessed quickly; 3 s on a node.
	FailDelay time.Duration
	// Peers reaches the other nodes of a cluster; nil: there are none.
	Peers Peers
	// RootTicket makes credentials of root@pam, with which a call of the local
	// socket is passed on.
	RootTicket func() (ticket, csrf string)
	// Quorum says, in one sentence, why the cluster can change nothing right
	// now; nil: it always can.
	Quorum func() error
	// Nodes answers what is below /joist/: joiners and other nodes. The
	// certificate at the connection's other end says who it is (PeerOf).
	Nodes http.Handler
	// Pages answers what is not below /api2; without it such paths are an
	// error.
	Pages http.Handler
}

// Server answers API requests.
type Server struct {
	d      Deps
	router schema.Router[*endpoint]
}

// endpoint is a route that is ready to be called.
type endpoint struct {
	Route
	check *schema.Checker
}

// New checks every route's declaration and builds the routing table.
func New(d Deps) (*Server, error) {
	s := &Server{d: d}
	for _, r := range d.Routes {
		e := &endpoint{Route: r}
		var err error
		if e.check, err = schema.NewChecker(&e.Method); err != nil {
			return nil, err
		}
		if r.Do == nil {
			return nil, fmt.Errorf("declare %s %s: no handler", r.Verb, r.Path)
		}
		if err = s.router.Add(&e.Method, e); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// ServeHTTP answers one request from the network.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.serve(w, r, false) }

// Serve answers HTTPS on ln, and plain HTTP on the same port with a redirect,
// until ctx ends. config needs a certificate only.
func (s *Server) Serve(ctx context.Context, ln net.Listener, config *tls.Config) error {
	config = config.Clone()
	config.MinVersion = tls.VersionTLS12
	config.NextProtos = []string{"http/1.1"} // HTTP/2 has no reason phrase
	split := newSplitter(ln, maxConns, s.d.Log)
	secure := s.httpServer(s)
	plain := s.httpServer(http.HandlerFunc(redirect))
	ended := make(chan error, 3)
	go func() { ended <- split.run() }()
	go func() { ended <- secure.Serve(tls.NewListener(split.secure, config)) }()
	go func() { ended <- plain.Serve(split.plain) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	split.Close()
	stop(secure)
	stop(plain)
	if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve API on %s: %w", ln.Addr(), err)
	}
	return nil
}

// ServeLocal answers on a Unix socket until ctx ends. Whoever may open the
// socket is root@pam: the socket's mode is the authentication.
func (s *Server) ServeLocal(ctx context.Context, ln net.Listener) error {
	h := s.httpServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, true) }))
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(ln) }()
	select {
	case <-ctx.Done():
		stop(h)
		return nil
	case err := <-ended:
		return fmt.Errorf("serve API on %s: %w", ln.Addr(), err)
	}
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    maxHeaderBytes,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ErrorLog:          slog.NewLogLogger(s.d.Log.Handler(), slog.LevelDebug),
	}
}

// stop lets requests in flight end for a short time.
func stop(h *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if h.Shutdown(ctx) != nil {
		h.Close()
	}
}

// redirect sends a client that speaks plain HTTP to the same port's HTTPS.
func redirect(w http.ResponseWriter, r *http.Request) {
	code := http.StatusPermanentRedirect
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		code = http.StatusMovedPermanently
	}
	w.Header().Set("Connection", "close")
	w.Header().Set("Location", "https://"+r.Host+r.URL.RequestURI())
	w.WriteHeader(code)
}
