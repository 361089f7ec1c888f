package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// statusAway is what clients know for a node that does not answer.
const statusAway = 595

// viaHeader names the node that passed a request on. It is believed on
// node-to-node connections only, and a request is passed on once.
const viaHeader = "X-Joist-Via"

// Peers reaches other nodes of the cluster. On its connections both sides have
// proved that they belong to it; the request still carries the credentials of
// whoever asked, which the other node checks again.
type Peers interface {
	Known(node string) bool
	RoundTrip(node string, r *http.Request) (*http.Response, error)
	Dial(ctx context.Context, node string) (net.Conn, error)
}

// hopByHop are the headers that concern one connection only (RFC 9110, 7.6.1).
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// forward passes a request on to the node it concerns and its answer back.
func (s *Server) forward(a *answer, node string, local bool) *refusal {
	r := a.r
	if s.d.Peers == nil || !s.d.Peers.Known(node) {
		return refuse(http.StatusInternalServerError,
			"hostname lookup '%s' failed - failed to get address info for: %s: Name or service not known", node, node)
	}
	if via := r.Header.Get(viaHeader); via != "" && PeerOf(r) != "" {
		return refuse(http.StatusInternalServerError, "node '%s' passed on a call that is for node '%s'", via, node)
	}
	out := r.Clone(r.Context())
	out.RequestURI = ""
	// A name and nothing else: a client's X-Forwarded-For and the like stay
	// what they are, claims.
	out.Header.Set(viaHeader, s.d.Node)
	if local { // whoever may open the local socket is root, but the other node cannot see that
		ticket, csrf := s.d.RootTicket()
		out.Header.Del("Authorization")
		out.Header.Set("Cookie", cookieName+"="+url.PathEscape(ticket))
		out.Header.Set("CSRFPreventionToken", csrf)
		out.Header.Set("Accept-Encoding", r.Header.Get("Accept-Encoding"))
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return s.splice(a, node, out)
	}
	for _, h := range hopByHop {
		out.Header.Del(h)
	}
	if r.ContentLength == 0 {
		out.Body = nil // or the transport sends an empty chunked body
	}
	out.Host = node
	resp, err := s.d.Peers.RoundTrip(node, out)
	if err != nil {
		return s.away(node, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		if err != nil {
			return s.away(node, err)
		}
		_, text, _ := strings.Cut(resp.Status, " ") // net/http cannot write it
		a.hijack(resp.StatusCode, text, b)
		return nil
	}
	h := a.w.Header()
	for k, v := range resp.Header {
		if !slices.Contains(hopByHop, k) {
			h[k] = v
		}
	}
	a.w.WriteHeader(http.StatusOK)
	if _, err := io.Copy(a.w, resp.Body); err != nil {
		// The status is out: only a broken connection still tells the client.
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (s *Server) away(node string, err error) *refusal {
	s.d.Log.Warn("pass call on", "node", node, "err", err)
	if errors.Is(err, context.Canceled) {
		return refuse(statusAway, "the call to node '%s' was given up", node)
	}
	return refuse(statusAway, "node '%s' does not answer: it is down, or cut off from node '%s'", node, s.d.Node)
}

// splice joins a WebSocket of the client with one of the other node, byte for
// byte, handshake included.
func (s *Server) splice(a *answer, node string, out *http.Request) *refusal {
	there, err := s.d.Peers.Dial(a.r.Context(), node)
	if err != nil {
		return s.away(node, err)
	}
	defer there.Close()
	out.Host = node
	if err := out.Write(there); err != nil {
		return s.away(node, err)
	}
	here, buf, err := a.w.Hijack()
	if err != nil {
		return refuse(http.StatusInternalServerError, "take over connection: %s", err)
	}
	defer here.Close()
	ended := make(chan struct{}, 2)
	copyTo := func(to io.Writer, from io.Reader) {
		io.Copy(to, from)
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
		}
		ended <- struct{}{}
	}
	go copyTo(there, buf)
	go copyTo(here, there)
	// Both directions of a WebSocket end together: the closing handshake is
	// over when either side closes (RFC 6455, 7.1.1).
	<-ended
	return nil
}

// PeerOf is the node at the other end of a node-to-node connection, empty on
// any other.
func PeerOf(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	// The handshake took the certificate only for one of the cluster.
	for _, n := range r.TLS.PeerCertificates[0].DNSNames {
		if node, _, ok := strings.Cut(n, "."); ok {
			return node
		}
	}
	return ""
}

// decides reports whether the call may be answered without a quorum, or why it
// may not.
func (s *Server) decides(m *Route) *refusal {
	if m.Verb == http.MethodGet || m.NoQuorum || s.d.Quorum == nil {
		return nil
	}
	if err := s.d.Quorum(); err != nil {
		return refuse(http.StatusServiceUnavailable, "%s", err)
	}
	return nil
}
