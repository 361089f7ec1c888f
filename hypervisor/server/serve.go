package server

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"joist/api/schema"
)

// codes beyond net/http's.
const statusBadContentType = 506

// refusal is an answer given before a handler is reached. Blank ones carry
// their text in the status line only.
type refusal struct {
	Error
	blank bool
	wait  bool // hold the answer back: wrong credentials
}

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{Error: Error{Status: status, Text: fmt.Sprintf(format, args...)}}
}

// serve answers one request: route, authenticate, authorise, validate, call.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, local bool) {
	a := &answer{w: &tracker{ResponseWriter: w}, r: r}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler { // an answer that breaks off has to show
				panic(p)
			}
			s.d.Log.Error("panic in API call", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			a.fail(&Error{Status: http.StatusInternalServerError, Text: "internal error"})
		}
	}()
	segs := schema.Split(r.URL.Path)
	if len(segs) > 0 && segs[0] == "joist" && s.d.Nodes != nil && !local {
		s.d.Nodes.ServeHTTP(w, r)
		return
	}
	if len(segs) == 0 || segs[0] != "api2" {
		if s.d.Pages != nil {
			s.d.Pages.ServeHTTP(w, r)
			return
		}
		a.blank(http.StatusInternalServerError, fmt.Sprintf("no such file '%s'", r.URL.Path))
		return
	}
	if len(segs) < 2 || segs[1] != "json" && segs[1] != "extjs" {
		a.blank(http.StatusNotImplemented, "no such uri")
		return
	}
	a.extjs = segs[1] == "extjs"
	result, ref := s.call(a, "/"+strings.Join(segs[2:], "/"), local)
	switch {
	case a.w.taken: // a Raw handler has answered
	case ref == nil:
		a.ok(result)
	default:
		if ref.wait {
			pause(r, s.d.FailDelay)
		}
		if ref.blank {
			a.blank(ref.Status, ref.Text)
			return
		}
		a.fail(&ref.Error)
	}
}

func pause(r *http.Request, d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	}
}

// call does what serve says and returns the call's result.
func (s *Server) call(a *answer, path string, local bool) (any, *refusal) {
	r := a.r
	if len(r.Header) > maxHeaders {
		return nil, refuse(http.StatusNotImplemented, "too many http header lines")
	}
	m, found := s.router.Find(r.Method, path)
	if !found {
		if _, ref := s.identify(r, &schema.Method{}, local); ref != nil {
			return nil, ref
		}
		return nil, refuse(http.StatusNotImplemented, "Method '%s %s' not implemented", r.Method, path)
	}
	method := &schema.Method{}
	if m.Index == nil {
		method = &m.Value.Method
	}
	who, ref := s.identify(r, method, local)
	if ref != nil {
		return nil, ref
	}
	if m.Index != nil {
		return index(m.Index), nil
	}
	if name, ok := m.Params["node"]; ok {
		if name == "localhost" {
			name = s.d.Node
			m.Params["node"] = name
		}
		if method.OnNode && name != s.d.Node {
			return nil, s.forward(a, name, local)
		}
	}
	if ref := s.decides(&m.Value.Route); ref != nil {
		return nil, ref
	}
	in, ref := input(a.w, r, method)
	if ref != nil {
		return nil, ref
	}
	may := func(path, priv string) bool { return s.d.Access.May(who.User, who.Token, path, priv) }
	if text, ok := permitted(method.Perm, who, may, fill(m.Params, in)); !ok && !local {
		return nil, refuse(http.StatusForbidden, "%s", text)
	}
	vals, errs := m.Value.check.Check(m.Params, in)
	if len(errs) > 0 {
		ref := refuse(http.StatusBadRequest, "Parameter verification failed.")
		ref.Params = errs
		return nil, ref
	}
	if local {
		may = func(string, string) bool { return true }
	}
	req := &Request{Method: method, Params: vals, Who: who, May: may, HTTP: r}
	if method.Raw {
		req.W = a.w
	}
	result, err := m.Value.Do(r.Context(), req)
	a.total = req.Total
	if err != nil {
		return nil, s.failure(r, err)
	}
	return result, nil
}

// failure turns a handler's error into an answer.
func (s *Server) failure(r *http.Request, err error) *refusal {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Status: http.StatusInternalServerError, Text: err.Error()}
	}
	s.d.Log.Debug("API call failed", "method", r.Method, "path", r.URL.Path, "status", e.Status, "err", err)
	return &refusal{Error: *e, wait: e.Status == http.StatusUnauthorized}
}

// index is the answer for a folder. Different folders name their entries by
// different keys in the original; both common ones are given.
func index(names []string) []map[string]string {
	rows := make([]map[string]string, 0, len(names))
	for _, n := range names {
		rows = append(rows, map[string]string{"name": n, "subdir": n})
	}
	return rows
}

// input reads query and body.
func input(w http.ResponseWriter, r *http.Request, m *schema.Method) (schema.Input, *refusal) {
	query, err := schema.ParseForm(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%s", err)
	}
	if m.Upload {
		return query, nil
	}
	if r.Method == http.MethodGet || r.Method == http.MethodDelete {
		if r.ContentLength != 0 {
			return nil, refuse(http.StatusNotImplemented, "Unexpected content for method '%s'", r.Method)
		}
		return query, nil
	}
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Now().Add(30 * time.Second)) // not every connection has one
	b, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	rc.SetReadDeadline(time.Time{})
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "read request body: %s", err)
	}
	if len(b) > maxBody {
		return nil, refuse(http.StatusNotImplemented, "for data too large")
	}
	body, ref := parseBody(r.Header.Get("Content-Type"), b)
	if ref != nil {
		return nil, ref
	}
	return schema.Merge(body, query), nil
}

func parseBody(contentType string, b []byte) (schema.Input, *refusal) {
	if contentType == "" && len(b) == 0 {
		return schema.Input{}, nil
	}
	kind, _, _ := mime.ParseMediaType(contentType)
	var in schema.Input
	var err error
	switch kind {
	case "application/x-www-form-urlencoded":
		in, err = schema.ParseForm(string(b))
	case "application/json":
		in, err = schema.ParseJSON(b)
	default:
		return nil, refuse(statusBadContentType, "unsupported content type '%s'", contentType)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%s", err)
	}
	return in, nil
}

// fill looks a parameter up as it was sent, for paths of permissions.
func fill(path map[string]string, in schema.Input) func(string) string {
	return func(name string) string {
		if v, ok := path[name]; ok {
			return v
		}
		if v := in[name]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
}
