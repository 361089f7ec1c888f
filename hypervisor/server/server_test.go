package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"joist/api/schema"
	"joist/hypervisor/server/cert"
)

// fake knows one ticket, one CSRF token, one API token and one privilege.
type fake struct{}

func (fake) Ticket(t string) (string, error) {
	switch t {
	case "PVE:root@pam:1::+/=":
		return "root@pam", nil
	case "PVE:joe@pve:1::x":
		return "joe@pve", nil
	}
	return "", errors.New("invalid ticket")
}

func (fake) CSRF(token, _ string) error {
	if token != "csrf" {
		return errors.New("Permission denied - invalid csrf token")
	}
	return nil
}

func (fake) Token(user, id, secret string) error {
	if user != "root@pam" || id != "t" || secret != "s" {
		return errors.New("no such token")
	}
	return nil
}

func (fake) May(user, _, path, priv string) bool {
	return user == "root@pam" || path == "/vms/100" && priv == "VM.Audit"
}

func routes() []Route {
	node := NodeParam()
	vmid := schema.Param{Name: "vmid", Type: schema.Integer, Format: "pve-vmid"}
	echo := func(_ context.Context, r *Request) (any, error) { return r.Params, nil }
	fail := func(err error) Handler { return func(context.Context, *Request) (any, error) { return nil, err } }
	m := func(verb, path string, p schema.Perm, params ...schema.Param) schema.Method {
		return schema.Method{Verb: verb, Path: path, Perm: p, Params: params, OnNode: strings.Contains(path, "{node}")}
	}
	audit := schema.Perm{Path: "/vms/{vmid}", Privs: []string{"VM.Audit"}}
	upload := m("POST", "/nodes/{node}/upload", schema.Perm{}, node)
	upload.Upload = true
	socket := m("GET", "/socket", schema.Perm{})
	socket.Raw = true
	console := m("GET", "/nodes/{node}/qemu/{vmid}/socket", schema.Perm{}, node, vmid)
	console.Raw = true
	power := m("POST", "/nodes/{node}/qemu/{vmid}/power", schema.Perm{}, node, vmid)
	power.NoQuorum = true
	noToken := m("GET", "/ticket-only", schema.Perm{})
	noToken.NoToken = true
	return []Route{
		{m("GET", "/nodes/{node}/qemu/{vmid}", audit, node, vmid), echo},
		{m("POST", "/nodes/{node}/qemu/{vmid}/config", audit, node, vmid, schema.Param{Name: "net[n]", Count: 4, Optional: true},
			schema.Param{Name: "delete", List: true, Optional: true}), echo},
		{m("DELETE", "/nodes/{node}/qemu/{vmid}", schema.Perm{Path: "/vms/{vmid}", Privs: []string{"VM.Allocate", "VM.Audit"}}, node, vmid),
			fail(Errorf("Configuration file 'nodes/n1/qemu-server/100.conf' does not exist"))},
		{m("GET", "/world", schema.Perm{World: true}), func(context.Context, *Request) (any, error) { return []string(nil), nil }},
		{m("GET", "/root", schema.Perm{Root: true}), echo},
		{m("GET", "/either", schema.Perm{Or: []schema.Perm{{Root: true}, {Path: "/vms/100", Privs: []string{"VM.Audit", "VM.Clone"}, Any: true}}}), echo},
		{m("GET", "/big", schema.Perm{}), func(_ context.Context, r *Request) (any, error) {
			n := 7
			r.Total = &n
			return strings.Repeat("x", 5000), nil
		}},
		{m("GET", "/multi", schema.Perm{}), fail(errors.New("first\nsecond"))},
		{m("GET", "/panic", schema.Perm{}), func(context.Context, *Request) (any, error) { panic("boom") }},
		{noToken, echo},
		{upload, func(_ context.Context, r *Request) (any, error) {
			mr, err := r.HTTP.MultipartReader()
			if err != nil {
				return nil, err
			}
			total := int64(0)
			for {
				p, err := mr.NextPart()
				if err == io.EOF {
					return total, nil
				}
				if err != nil {
					return nil, err
				}
				n, _ := io.Copy(io.Discard, p)
				total += n
			}
		}},
		{power, echo},
		{socket, echoSocket},
		{console, echoSocket},
	}
}

func echoSocket(ctx context.Context, r *Request) (any, error) {
	c, err := websocket.Accept(r.W, r.HTTP, &websocket.AcceptOptions{Subprotocols: []string{"binary"}})
	if err != nil {
		return nil, err
	}
	defer c.CloseNow()
	typ, b, err := c.Read(ctx)
	if err == nil {
		err = c.Write(ctx, typ, b)
	}
	return nil, err
}

type testServer struct {
	addr   string
	client *http.Client
	config *tls.Config
}

func startServer(t *testing.T) testServer {
	t.Helper()
	return startWith(t, Deps{Node: "n1"})
}

func startWith(t *testing.T, d Deps) testServer {
	t.Helper()
	d.Routes, d.Auth, d.Access, d.Log, d.FailDelay = routes(), fake{}, fake{}, slog.New(slog.DiscardHandler), failDelay
	s, err := New(d)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cert.Ensure(t.TempDir(), cert.Subject{Name: "n1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, ln, &tls.Config{Certificates: []tls.Certificate{c}}) }()
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return testServer{ln.Addr().String(), client, config}
}

func (s testServer) do(t *testing.T, verb, path, body string, head ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(verb, "https://"+s.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(head); i += 2 {
		r.Header.Set(head[i], head[i+1])
	}
	resp, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

const (
	cookie = "PVEAuthCookie=PVE%3Aroot@pam%3A1%3A%3A+/="
	form   = "application/x-www-form-urlencoded"
)

func TestProtocol(t *testing.T) {
	s := startServer(t)
	root := []string{"Cookie", cookie}
	write := []string{"Cookie", cookie, "CSRFPreventionToken", "csrf", "Content-Type", form}
	joe := []string{"Authorization", "PVEAuthCookie=PVE:joe@pve:1::x"}
	token := []string{"Authorization", "PVEAPIToken=root@pam!t=s"}
	with := func(base []string, more ...string) []string { return append(base[:len(base):len(base)], more...) }
	errs := func(text string, params ...string) string {
		b, _ := json.Marshal(text + "\n")
		out := `{"data":null,"message":` + string(b)
		if len(params) > 0 {
			b, _ := json.Marshal(map[string]string{params[0]: params[1] + "\n"})
			out += `,"errors":` + string(b)
		}
		return out + "}"
	}
	bad := "Parameter verification failed."
	missing := "Configuration file 'nodes/n1/qemu-server/100.conf' does not exist"
	tests := []struct {
		name, verb, path, body string
		head                   []string
		status, answer         string
	}{
		{"cookie", "GET", "/api2/json/nodes/n1/qemu/100", "", root, "200 OK", `{"data":{"node":"n1","vmid":100}}`},
		{"slashes and escapes", "GET", "/api2/json//nodes/n%31/qemu/100/?", "", root, "200 OK", `{"data":{"node":"n1","vmid":100}}`},
		{"localhost", "GET", "/api2/json/nodes/localhost/qemu/100", "", root, "200 OK", `{"data":{"node":"n1","vmid":100}}`},
		{"header", "GET", "/api2/json/nodes/n1/qemu/100", "", joe, "200 OK", `{"data":{"node":"n1","vmid":100}}`},
		{"token", "GET", "/api2/json/nodes/n1/qemu/100", "", token, "200 OK", `{"data":{"node":"n1","vmid":100}}`},
		{"token with space", "GET", "/api2/json/root", "", []string{"Authorization", "PVEAPIToken root@pam!t=s"}, "403 Permission check failed (user != root@pam)", errs("Permission check failed (user != root@pam)")},
		{"token refused", "GET", "/api2/json/ticket-only", "", token, "403 Permission check failed (URI '/api2/json/ticket-only' not available with API token, need proper ticket.)", errs("Permission check failed (URI '/api2/json/ticket-only' not available with API token, need proper ticket.)")},
		{"token needs no csrf", "POST", "/api2/json/nodes/n1/qemu/100/config", "", token, "200 OK", `{"data":{"node":"n1","vmid":100}}`},
		{"wrong token", "GET", "/api2/json/root", "", []string{"Authorization", "PVEAPIToken=root@pam!t=x"}, "401 no such token", ""},
		{"no credentials", "GET", "/api2/json/root", "", nil, "401 No ticket", ""},
		{"wrong ticket", "GET", "/api2/json/root", "", []string{"Cookie", "PVEAuthCookie=x"}, "401 invalid ticket", ""},
		{"no csrf", "POST", "/api2/json/nodes/n1/qemu/100/config", "", root, "401 Permission denied - invalid csrf token", ""},
		{"world", "GET", "/api2/json/world", "", nil, "200 OK", `{"data":[]}`},
		{"denied", "DELETE", "/api2/json/nodes/n1/qemu/100", "", with(joe, "CSRFPreventionToken", "csrf"), "403 Permission check failed (/vms/100, VM.Allocate, VM.Audit)", errs("Permission check failed (/vms/100, VM.Allocate, VM.Audit)")},
		{"denied by path", "GET", "/api2/json/nodes/n1/qemu/101", "", joe, "403 Permission check failed (/vms/101, VM.Audit)", errs("Permission check failed (/vms/101, VM.Audit)")},
		{"either", "GET", "/api2/json/either", "", joe, "200 OK", `{"data":{}}`},
		{"form", "POST", "/api2/json/nodes/n1/qemu/100/config?net1=q", "net0=a+b&net1=x&delete=a&delete=b", write, "200 OK", `{"data":{"delete":["a","b"],"net0":"a b","net1":"q","node":"n1","vmid":100}}`},
		{"json", "POST", "/api2/json/nodes/n1/qemu/100/config", `{"net0":1,"delete":["a"]}`, with(root, "CSRFPreventionToken", "csrf", "Content-Type", "application/json"), "200 OK", `{"data":{"delete":["a"],"net0":"1","node":"n1","vmid":100}}`},
		{"parameter error", "POST", "/api2/json/nodes/n1/qemu/100/config", "net4=x", write, "400 " + bad, errs(bad, "net4", "property is not defined in schema and the schema does not allow additional properties")},
		{"extjs error", "POST", "/api2/extjs/nodes/n1/qemu/100/config", "net4=", write, "200 OK", `{"data":null,"success":0,"status":400,"message":"Parameter verification failed.\n","errors":{"net4":"property is not defined in schema and the schema does not allow additional properties\n"}}`},
		{"extjs", "GET", "/api2/extjs/root", "", root, "200 OK", `{"data":{},"success":1}`},
		{"failure", "DELETE", "/api2/json/nodes/n1/qemu/100", "", with(root, "CSRFPreventionToken", "csrf"), "500 " + missing, errs(missing)},
		{"first line", "GET", "/api2/json/multi", "", root, "500 first", errs("first")},
		{"panic", "GET", "/api2/json/panic", "", root, "500 internal error", errs("internal error")},
		{"foreign node", "GET", "/api2/json/nodes/x/qemu/100", "", root, "500 hostname lookup 'x' failed - failed to get address info for: x: Name or service not known", errs("hostname lookup 'x' failed - failed to get address info for: x: Name or service not known")},
		{"index", "GET", "/api2/json/nodes/n1/", "", root, "200 OK", `{"data":[{"name":"qemu","subdir":"qemu"},{"name":"upload","subdir":"upload"}]}`},
		{"unknown path", "GET", "/api2/json/foo", "", root, "501 Method 'GET /foo' not implemented", errs("Method 'GET /foo' not implemented")},
		{"unknown verb", "PUT", "/api2/json/root", "", write, "501 Method 'PUT /root' not implemented", errs("Method 'PUT /root' not implemented")},
		{"unknown format", "GET", "/api2/yaml/root", "", root, "501 no such uri", ""},
		{"no format", "GET", "/api2/", "", root, "501 no such uri", ""},
		{"no API", "GET", "/version", "", nil, "500 no such file '/version'", ""},
		{"body on GET", "GET", "/api2/json/root", "a=b", root, "501 Unexpected content for method 'GET'", errs("Unexpected content for method 'GET'")},
		{"content type", "POST", "/api2/json/nodes/n1/qemu/100/config", "<x/>", with(root, "CSRFPreventionToken", "csrf", "Content-Type", "text/xml"), "506 unsupported content type 'text/xml'", errs("unsupported content type 'text/xml'")},
		{"too large", "POST", "/api2/json/nodes/n1/qemu/100/config", strings.Repeat("x", maxBody+1), write, "501 for data too large", errs("for data too large")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, body := s.do(t, tt.verb, tt.path, tt.body, tt.head...)
			if r.Status != tt.status {
				t.Errorf("status %q, want %q", r.Status, tt.status)
			}
			if d := cmp.Diff(tt.answer, body); d != "" {
				t.Error(d)
			}
			if r.Header.Get("Server") != daemonName || r.Header.Get("Expires") == "" || r.Header.Get("Pragma") != "no-cache" {
				t.Errorf("headers %v", r.Header)
			}
			if r.StatusCode >= 400 != r.Close {
				t.Errorf("closes: %v", r.Close)
			}
		})
	}
}

// failDelay is far longer than an answer takes on a busy machine.
const failDelay = time.Second

func TestDelay(t *testing.T) {
	s := startServer(t)
	for _, tt := range []struct {
		head string
		late bool
	}{{"", false}, {"PVEAuthCookie=wrong", true}} {
		begun := time.Now()
		s.do(t, "GET", "/api2/json/root", "", "Authorization", tt.head)
		if late := time.Since(begun) >= failDelay; late != tt.late {
			t.Errorf("%q: took %v", tt.head, time.Since(begun))
		}
	}
}

func TestTransport(t *testing.T) {
	s := startServer(t)
	r, body := s.do(t, "GET", "/api2/json/big", "", "Cookie", cookie, "Accept-Encoding", "deflate, gzip")
	if r.Proto != "HTTP/1.1" || r.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("%s %v", r.Proto, r.Header)
	}
	z, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(z); !bytes.HasSuffix(b, []byte(`x","total":7}`)) {
		t.Errorf("ends in %q", b[len(b)-20:])
	}
	if r, _ := s.do(t, "GET", "/api2/json/big", "", "Cookie", cookie); r.Header.Get("Content-Encoding") != "" {
		t.Error("compressed without being asked")
	}
	for verb, want := range map[string]string{"GET": "301", "POST": "308"} {
		req, _ := http.NewRequest(verb, "http://"+s.addr+"/api2/json/version?a=b", nil)
		resp, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Location"); got != "https://"+s.addr+"/api2/json/version?a=b" || !strings.HasPrefix(resp.Status, want) {
			t.Errorf("%s: %s %s", verb, resp.Status, got)
		}
	}
	for v, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, MinVersion: v, MaxVersion: v})
		if (err == nil) != want {
			t.Errorf("TLS %x: %v", v, err)
		}
		if err == nil {
			c.Close()
		}
	}
}

func TestUpload(t *testing.T) {
	s := startServer(t)
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	f, _ := w.CreateFormFile("filename", "x.iso")
	f.Write(make([]byte, 3*maxBody))
	w.Close()
	r, body := s.do(t, "POST", "/api2/json/nodes/n1/upload", b.String(), "Cookie", cookie, "Content-Type", w.FormDataContentType())
	if want := fmt.Sprintf(`{"data":%d}`, 3*maxBody); r.StatusCode != 200 || body != want {
		t.Errorf("%s %s", r.Status, body)
	}
}

func TestWebSocket(t *testing.T) {
	s := startServer(t)
	h := http.Header{"Cookie": {cookie}}
	c, _, err := websocket.Dial(t.Context(), "wss://"+s.addr+"/api2/json/socket", &websocket.DialOptions{
		HTTPHeader: h, Subprotocols: []string{"binary"},
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if c.Subprotocol() != "binary" {
		t.Errorf("subprotocol %q", c.Subprotocol())
	}
	if err := c.Write(t.Context(), websocket.MessageBinary, []byte("RFB")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := c.Read(t.Context()); err != nil || string(b) != "RFB" {
		t.Errorf("%q %v", b, err)
	}
	if r, _ := s.do(t, "GET", "/api2/json/socket", "", "Cookie", cookie); r.StatusCode < 400 {
		t.Errorf("no upgrade: %s", r.Status)
	}
}

// TestKeepAlive sends two requests over one connection.
func TestKeepAlive(t *testing.T) {
	s := startServer(t)
	c, err := tls.Dial("tcp", s.addr, s.config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for range 2 {
		fmt.Fprintf(c, "GET /api2/json/world HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		io.Copy(io.Discard, resp.Body)
	}
}
