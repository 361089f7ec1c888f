package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Bit is a boolean the way the API writes it.
func Bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// answer writes the response to one request.
type answer struct {
	w     *tracker
	r     *http.Request
	extjs bool
	total *int // "total" of the envelope
}

// envelope is the outer object of every answer.
type envelope struct {
	Data    any               `json:"data"`
	Total   *int              `json:"total,omitempty"`
	Success *int              `json:"success,omitempty"` // extjs only, as Status
	Status  int               `json:"status,omitempty"`
	Message string            `json:"message,omitempty"`
	Errors  map[string]string `json:"errors,omitempty"`
}

// ok writes a result.
func (a *answer) ok(data any) {
	e := envelope{Data: plain(data), Total: a.total}
	if a.extjs {
		one := 1
		e.Success = &one
	}
	b, err := json.Marshal(e)
	if err != nil {
		a.fail(&Error{Status: http.StatusInternalServerError, Text: "encode result: " + err.Error()})
		return
	}
	a.write(b)
}

// plain makes a nil slice an empty list: null there breaks clients.
func plain(v any) any {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Slice && r.IsNil() {
		return []struct{}{}
	}
	return v
}

// fail writes an error. In extjs it is a result with status 200; in json the
// status line carries the text, which net/http cannot do: the connection is
// taken over and closed afterwards.
func (a *answer) fail(e *Error) {
	if a.w.taken {
		return
	}
	env := envelope{Message: line(e.Text) + "\n"}
	for k, v := range e.Params {
		if env.Errors == nil {
			env.Errors = map[string]string{}
		}
		env.Errors[k] = v + "\n"
	}
	if a.extjs {
		zero := 0
		env.Success, env.Status = &zero, e.Status
	}
	b, err := json.Marshal(env)
	if err != nil { // strings only: cannot happen
		b = []byte(`{"data":null}`)
	}
	if a.extjs {
		a.write(b)
		return
	}
	a.hijack(e.Status, e.Text, b)
}

// blank writes an error without a body.
func (a *answer) blank(status int, text string) { a.hijack(status, text, nil) }

func (a *answer) write(b []byte) {
	h := a.w.Header()
	for k, v := range headers(time.Now()) {
		h.Set(k, v)
	}
	if len(b) > gzipAbove && accepts(a.r, "gzip") {
		h.Set("Content-Encoding", "gzip")
		var buf bytes.Buffer
		z, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed) // the level is valid
		z.Write(b)
		z.Close()
		b = buf.Bytes()
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	http.NewResponseController(a.w).SetWriteDeadline(time.Now().Add(60 * time.Second))
	a.w.WriteHeader(http.StatusOK)
	a.w.Write(b)
	http.NewResponseController(a.w).SetWriteDeadline(time.Time{})
}

func headers(now time.Time) map[string]string {
	date := now.UTC().Format(http.TimeFormat)
	return map[string]string{
		"Content-Type":  "application/json;charset=UTF-8",
		"Cache-Control": "max-age=0",
		"Pragma":        "no-cache",
		"Date":          date,
		"Expires":       date,
		"Server":        daemonName,
	}
}

// accepts reports whether the client takes an encoding.
func accepts(r *http.Request, coding string) bool {
	for _, e := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(e, ";")
		if strings.TrimSpace(name) == coding {
			return strings.ReplaceAll(q, " ", "") != "q=0"
		}
	}
	return false
}

// hijack writes a whole response by hand, reason phrase included, and closes
// the connection.
func (a *answer) hijack(status int, reason string, body []byte) {
	conn, buf, err := a.w.Hijack()
	if err != nil { // no connection behind it (tests): do without the phrase
		a.w.Header().Set("Content-Type", "application/json;charset=UTF-8")
		a.w.WriteHeader(status)
		a.w.Write(body)
		return
	}
	defer conn.Close()
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %03d %s\r\n", status, phrase(reason, status))
	h := headers(time.Now())
	for _, k := range []string{"Cache-Control", "Content-Type", "Date", "Expires", "Pragma", "Server"} {
		fmt.Fprintf(&b, "%s: %s\r\n", k, h[k])
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\nConnection: close\r\n\r\n", len(body))
	if a.r.Method != http.MethodHead {
		b.Write(body)
	}
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write(b.Bytes()); err != nil {
		return
	}
	// Closing with unread input resets the connection and may take the answer
	// with it (tcp(7), RFC 9112 9.6): end our direction, drain theirs.
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	io.CopyN(io.Discard, buf, 16<<20)
}

// line is the first line of a text.
func line(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// phrase makes a text fit into a status line.
func phrase(s string, status int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, line(s))
	if len(s) > 1024 {
		s = strings.ToValidUTF8(s[:1024], "")
	}
	if s == "" {
		s = http.StatusText(status)
	}
	return s
}

// tracker remembers whether somebody has begun to answer.
type tracker struct {
	http.ResponseWriter
	taken bool
}

func (t *tracker) WriteHeader(code int) {
	t.taken = true
	t.ResponseWriter.WriteHeader(code)
}

func (t *tracker) Write(b []byte) (int, error) {
	t.taken = true
	return t.ResponseWriter.Write(b)
}

// Hijack implements http.Hijacker for WebSockets and for our own errors.
func (t *tracker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, b, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err == nil {
		t.taken = true
	}
	return c, b, err
}

// Unwrap lets http.ResponseController reach the real writer.
func (t *tracker) Unwrap() http.ResponseWriter { return t.ResponseWriter }
