// Package server speaks the protocol of the REST API: transport, envelope,
// authentication, parameters, errors. What the calls do is in the folders
// below it, one per noun, each a list of Routes.
package server

import (
	"context"
	"fmt"
	"net/http"

	"joist/api/schema"
)

// Identity is who is calling.
type Identity struct {
	User  string // "root@pam"
	Token string // token id when a token was used, else ""
}

// Name is the identity as tasks and logs show it: root@pam or root@pam!token.
func (i Identity) Name() string {
	if i.Token != "" {
		return i.User + "!" + i.Token
	}
	return i.User
}

// Values are a request's parameters after validation, path parameters among
// them: string, int64, float64, bool or []string by the declared type. List
// strings are []string.
type Values map[string]any

func (v Values) Has(name string) bool { _, ok := v[name]; return ok }

// String returns a parameter as text, "" when it is absent.
func (v Values) String(name string) string {
	switch x := v[name].(type) {
	case nil:
		return ""
	case string:
		return x
	default:
		return fmt.Sprint(x)
	}
}

// Int returns an integer parameter, def when it is absent.
func (v Values) Int(name string, def int) int {
	if x, ok := v[name].(int64); ok {
		return int(x)
	}
	return def
}

// Bool returns a boolean parameter, def when it is absent.
func (v Values) Bool(name string, def bool) bool {
	if x, ok := v[name].(bool); ok {
		return x
	}
	return def
}

// List returns an array or list parameter.
func (v Values) List(name string) []string {
	x, _ := v[name].([]string)
	return x
}

// Request is one call that passed routing, authentication, validation and the
// method's permission expression.
type Request struct {
	Method *schema.Method
	Params Values
	Who    Identity
	// May reports whether the caller has the privilege on the path.
	May  func(path, priv string) bool
	HTTP *http.Request
	// W is set for Raw methods only.
	W http.ResponseWriter
	// Total, when a handler sets it, is the envelope's "total".
	Total *int
}

// Handler does one call. Its result becomes "data": nil is null, a task.UPID
// or any value that encodes to JSON; empty lists must not be nil slices.
type Handler func(ctx context.Context, r *Request) (any, error)

// Route binds a declaration to its handler.
type Route struct {
	schema.Method
	Do Handler
}

// Error is a failure with the status and texts that clients see. Any other
// error from a handler becomes status 500 with its text.
type Error struct {
	Status int
	Text   string            // one line
	Params map[string]string // parameter → what is wrong with it (status 400)
}

func (e *Error) Error() string { return e.Text }

// Errorf makes an Error of status 500, the API's answer to all that is not a
// matter of parameters or permissions, "does not exist" included.
func Errorf(format string, args ...any) error {
	return &Error{Status: http.StatusInternalServerError, Text: fmt.Sprintf(format, args...)}
}

// ParamErrorf makes the error for one bad parameter.
func ParamErrorf(param, format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Text: "Parameter verification failed.",
		Params: map[string]string{param: fmt.Sprintf(format, args...)}}
}

// Denied makes the error for a missing privilege.
func Denied(path, priv string) error {
	return &Error{Status: http.StatusForbidden, Text: fmt.Sprintf("Permission check failed (%s, %s)", path, priv)}
}

// NodeParam declares the {node} of a path.
func NodeParam() schema.Param {
	return schema.Param{Name: "node", Format: "pve-node", Text: "name of the node"}
}
