package client

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// renewAfter is when a ticket is exchanged for a new one; it lives two hours.
const renewAfter = time.Hour

// Options say which node and how to trust it.
type Options struct {
	URL         string // "https://node:8006"; a path is ignored
	Fingerprint string // SHA-256 of the node's certificate in hex, colons allowed; empty: the system's authorities decide
	Insecure    bool   // without Fingerprint: trust any certificate; for tests on a network of their own
	Token       string // "root@pam!name=secret" instead of Login
	// Socket is the path of a node's own socket: whoever may open it is
	// root@pam. URL, certificate and log-in are then not used.
	Socket string

	// Dial replaces the network, as in http.Transport.DialContext.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Params are a request's parameters.
type Params map[string]string

func (p Params) values() url.Values {
	v := url.Values{}
	for k, s := range p {
		v.Set(k, s)
	}
	return v
}

// Client is a connection to one node; it may be used by several goroutines.
type Client struct {
	base  *url.URL
	http  *http.Client
	token string

	mu     sync.Mutex
	ticket ticket
	issued time.Time
	now    func() time.Time
}

type ticket struct {
	Username string `json:"username"`
	Ticket   string `json:"ticket"`
	CSRF     string `json:"CSRFPreventionToken"`
	NeedTFA  int    `json:"NeedTFA"`
}

// New makes a client; it does not connect.
func New(o Options) (*Client, error) {
	if o.Socket != "" {
		return local(o.Socket), nil
	}
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("parse URL %q: want https://node:port", o.URL)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case o.Fingerprint != "":
		want, err := ParseFingerprint(o.Fingerprint)
		if err != nil {
			return nil, err
		}
		conf.InsecureSkipVerify = true // replaced by the comparison below
		conf.VerifyConnection = func(s tls.ConnectionState) error { return checkPin(s, want) }
	case o.Insecure:
		conf.InsecureSkipVerify = true
	}
	t := &http.Transport{
		DialContext:     o.Dial,
		TLSClientConfig: conf,
		// HTTP/1.1 only: HTTP/2 has no reason phrase, which carries errors.
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSHandshakeTimeout: 30 * time.Second,
	}
	return &Client{
		base:  &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/api2/json"},
		http:  &http.Client{Transport: t},
		token: o.Token,
		now:   time.Now,
	}, nil
}

// local is a client of the daemon on this machine.
func local(socket string) *Client {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	return &Client{
		base: &url.URL{Scheme: "http", Host: "joistd", Path: "/api2/json"},
		http: &http.Client{Transport: t},
		now:  time.Now,
	}
}

// ParseFingerprint reads 64 hex digits, with or without colons.
func ParseFingerprint(s string) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("parse fingerprint %q: want the 64 hex digits of a SHA-256 sum", s)
	}
	return [sha256.Size]byte(b), nil
}

func checkPin(s tls.ConnectionState, want [sha256.Size]byte) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("verify certificate: the node sent none")
	}
	got := sha256.Sum256(s.PeerCertificates[0].Raw)
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return fmt.Errorf("verify certificate: its fingerprint is %X, not the expected one", got)
	}
	return nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Login gets a ticket; user is "name@realm".
func (c *Client) Login(ctx context.Context, user, password string) error {
	var t ticket
	err := c.do(ctx, http.MethodPost, "/access/ticket", Params{"username": user, "password": password}, &t, ticket{})
	if err != nil {
		return fmt.Errorf("log in %q: %w", user, err)
	}
	if t.NeedTFA != 0 {
		return fmt.Errorf("log in %q: the account has a second factor; use an API token", user)
	}
	if t.Ticket == "" || t.CSRF == "" {
		return fmt.Errorf("log in %q: the answer has no ticket", user)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ticket, c.issued = t, c.now()
	return nil
}

// credentials renews a ticket that grows old (the ticket itself is accepted
// as the password) and returns the one to use.
func (c *Client) credentials(ctx context.Context) (ticket, error) {
	c.mu.Lock()
	t, old := c.ticket, c.ticket.Ticket != "" && c.now().Sub(c.issued) > renewAfter
	c.mu.Unlock()
	if !old {
		return t, nil
	}
	if err := c.Login(ctx, t.Username, t.Ticket); err != nil {
		return ticket{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ticket, nil
}

// Get reads; out is what "data" is decoded into, or nil.
func (c *Client) Get(ctx context.Context, path string, p Params, out any) error {
	return c.Do(ctx, http.MethodGet, path, p, out)
}

// Post creates or acts.
func (c *Client) Post(ctx context.Context, path string, p Params, out any) error {
	return c.Do(ctx, http.MethodPost, path, p, out)
}

// Put changes.
func (c *Client) Put(ctx context.Context, path string, p Params, out any) error {
	return c.Do(ctx, http.MethodPut, path, p, out)
}

// Delete deletes.
func (c *Client) Delete(ctx context.Context, path string, p Params, out any) error {
	return c.Do(ctx, http.MethodDelete, path, p, out)
}

// Do is one request. Errors of the node are *Error.
func (c *Client) Do(ctx context.Context, method, path string, p Params, out any) error {
	t, err := c.credentials(ctx)
	if err == nil {
		err = c.do(ctx, method, path, p, out, t)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, p Params, out any, t ticket) error {
	u := c.url(path)
	var body io.Reader
	form := p.values().Encode()
	if method == http.MethodGet || method == http.MethodDelete {
		u.RawQuery = form
	} else {
		body = strings.NewReader(form)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	c.authorise(req.Header, method, t)
	return c.send(req, out)
}

// url appends an already escaped path.
func (c *Client) url(path string) *url.URL {
	return c.base.JoinPath(strings.TrimPrefix(path, "/"))
}

func (c *Client) authorise(h http.Header, method string, t ticket) {
	if c.token != "" {
		h.Set("Authorization", "PVEAPIToken="+c.token)
		return
	}
	if t.Ticket == "" {
		return
	}
	h.Set("Cookie", "PVEAuthCookie="+url.QueryEscape(t.Ticket))
	if method != http.MethodGet {
		h.Set("CSRFPreventionToken", t.CSRF)
	}
}

// send makes the request and decodes the envelope.
func (c *Client) send(req *http.Request, out any) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode >= 400 {
		return parseError(resp, raw)
	}
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(raw, &envelope); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if out == nil || len(envelope.Data) == 0 {
		return nil
	}
	if err := json.Unmarshal(envelope.Data, out); err != nil {
		return fmt.Errorf("decode data: %w", err)
	}
	return nil
}

const maxBody = 64 << 20
