package server

import (
	"net/http"
	"net/url"
	"strings"

	"joist/api/schema"
)

const cookieName = "PVEAuthCookie"

// identify finds out who is calling: by cookie, by the ticket in the
// Authorization header, by API token, in this order. Methods for everybody
// need none of them.
func (s *Server) identify(r *http.Request, m *schema.Method, local bool) (Identity, *refusal) {
	if local {
		return Identity{User: rootUser}, nil
	}
	if m.Perm.World {
		return Identity{}, nil
	}
	ticket, token := credentials(r)
	switch {
	case ticket != "":
		user, err := s.d.Auth.Ticket(ticket)
		if err != nil {
			return Identity{}, unauthorised(err)
		}
		if r.Method != http.MethodGet && !m.Upload {
			if err := s.d.Auth.CSRF(r.Header.Get("CSRFPreventionToken"), user); err != nil {
				return Identity{}, unauthorised(err)
			}
		}
		return Identity{User: user}, nil
	case token != "":
		return s.byToken(token, r, m)
	}
	return Identity{}, &refusal{Error: Error{Status: http.StatusUnauthorized, Text: "No ticket"}, blank: true}
}

func unauthorised(err error) *refusal {
	return &refusal{Error: Error{Status: http.StatusUnauthorized, Text: err.Error()}, blank: true, wait: true}
}

func (s *Server) byToken(token string, r *http.Request, m *schema.Method) (Identity, *refusal) {
	full, secret, _ := strings.Cut(token, "=")
	user, id, ok := strings.Cut(full, "!")
	if !ok || user == "" || id == "" || secret == "" {
		return Identity{}, unauthorised(&Error{Text: "no such token '" + full + "'"})
	}
	if err := s.d.Auth.Token(user, id, secret); err != nil {
		return Identity{}, unauthorised(err)
	}
	if m.NoToken {
		return Identity{}, refuse(http.StatusForbidden,
			"Permission check failed (URI '%s' not available with API token, need proper ticket.)", r.URL.Path)
	}
	return Identity{User: user, Token: id}, nil
}

// credentials returns the ticket or the token that the request carries.
func credentials(r *http.Request) (ticket, token string) {
	for _, c := range r.Cookies() {
		if c.Name != cookieName || c.Value == "" {
			continue
		}
		if v, err := url.PathUnescape(c.Value); err == nil { // a + stays a +
			return v, ""
		}
		return c.Value, ""
	}
	h := r.Header.Get("Authorization")
	if v, ok := strings.CutPrefix(h, cookieName+"="); ok {
		if u, err := url.PathUnescape(v); err == nil {
			v = u
		}
		return v, ""
	}
	for _, prefix := range []string{"PVEAPIToken=", "PVEAPIToken "} {
		if v, ok := strings.CutPrefix(h, prefix); ok {
			return "", v
		}
	}
	return "", ""
}
