package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const upid = "UPID:n1:00000001:00000002:65000000:imgcopy::root@pam:"

// node is a server that behaves as the protocol says.
type node struct {
	mux      *http.ServeMux
	server   *httptest.Server
	logins   []string
	statuses []string // answers of the task's status, used up one by one
}

func newNode(t *testing.T) (*node, *Client) {
	t.Helper()
	n := &node{mux: http.NewServeMux()}
	n.server = httptest.NewTLSServer(n.mux)
	t.Cleanup(n.server.Close)
	n.mux.HandleFunc("POST /api2/json/access/ticket", func(w http.ResponseWriter, r *http.Request) {
		n.logins = append(n.logins, r.FormValue("password"))
		data(w, map[string]any{"username": r.FormValue("username"), "ticket": "PVE:root@pam:65000000::a+b/c=", "CSRFPreventionToken": "T:csrf"})
	})
	n.mux.HandleFunc("GET /api2/json/nodes/n1/tasks/{upid}/status", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("upid") != upid {
			t.Errorf("task id %q", r.PathValue("upid"))
		}
		s := n.statuses[0]
		n.statuses = n.statuses[1:]
		if s == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		status, exit, _ := strings.Cut(s, " ")
		data(w, map[string]any{"status": status, "exitstatus": exit})
	})
	n.mux.HandleFunc("GET /api2/json/nodes/n1/tasks/{upid}/log", func(w http.ResponseWriter, _ *http.Request) {
		data(w, []any{map[string]any{"n": 1, "t": "copying"}, map[string]any{"n": 2, "t": "TASK ERROR: disk full"}})
	})
	sum := sha256.Sum256(n.server.Certificate().Raw)
	c, err := New(Options{URL: n.server.URL, Fingerprint: hex.EncodeToString(sum[:])})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return n, c
}

func data(w http.ResponseWriter, v any) {
	json.NewEncoder(w).Encode(map[string]any{"data": v})
}

func login(t *testing.T, c *Client) {
	t.Helper()
	if err := c.Login(t.Context(), "root@pam", "secret"); err != nil {
		t.Fatal(err)
	}
}

func TestCredentialsAndParams(t *testing.T) {
	n, c := newNode(t)
	var seen []string
	n.mux.HandleFunc("/api2/json/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		cookie, _ := r.Cookie("PVEAuthCookie")
		seen = append(seen, fmt.Sprintf("%s %s [%s] csrf=%s cookie=%v", r.Method, r.URL.RequestURI(), body, r.Header.Get("CSRFPreventionToken"), cookie != nil && cookie.Value == "PVE%3Aroot%40pam%3A65000000%3A%3Aa%2Bb%2Fc%3D"))
		data(w, nil)
	})
	login(t, c)
	ctx := t.Context()
	p := Params{"memory": "512", "net0": "virtio,bridge=vmbr0"}
	for _, err := range []error{
		c.Get(ctx, "/nodes", Params{"type": "vm"}, nil),
		c.Post(ctx, "nodes/n1/qemu", p, nil),
		c.Put(ctx, "/nodes/n1/storage/local/content/local%3Aiso%2Fx.iso", nil, nil),
		c.Delete(ctx, "/nodes/n1/qemu/100", Params{"purge": "1"}, nil),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"GET /api2/json/nodes?type=vm [] csrf= cookie=true",
		"POST /api2/json/nodes/n1/qemu [memory=512&net0=virtio%2Cbridge%3Dvmbr0] csrf=T:csrf cookie=true",
		"PUT /api2/json/nodes/n1/storage/local/content/local%3Aiso%2Fx.iso [] csrf=T:csrf cookie=true",
		"DELETE /api2/json/nodes/n1/qemu/100?purge=1 [] csrf=T:csrf cookie=true",
	}
	if !reflect.DeepEqual(seen, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
}

func TestRenewal(t *testing.T) {
	n, c := newNode(t)
	n.mux.HandleFunc("GET /api2/json/version", func(w http.ResponseWriter, _ *http.Request) { data(w, nil) })
	login(t, c)
	now := time.Now()
	c.now = func() time.Time { return now }
	for _, step := range []time.Duration{0, renewAfter / 2, renewAfter} {
		now = now.Add(step)
		if err := c.Get(t.Context(), "/version", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"secret", "PVE:root@pam:65000000::a+b/c="}; !reflect.DeepEqual(n.logins, want) {
		t.Errorf("log-ins with %q, want %q", n.logins, want)
	}
}

func TestErrors(t *testing.T) {
	n, c := newNode(t)
	n.mux.HandleFunc("GET /api2/json/full", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(400)
		io.WriteString(w, `{"data":null,"message":"Parameter verification failed.\n","errors":{"vmid":"type check failed\n","a":"b"}}`)
	})
	n.mux.HandleFunc("GET /api2/json/bare", func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		rw.WriteString("HTTP/1.1 500 VM 100 is not running\r\nConnection: close\r\n\r\n")
		rw.Flush()
	})
	for path, want := range map[string]string{
		"/full": "GET /full: Parameter verification failed.; a: b; vmid: type check failed (400)",
		"/bare": "GET /bare: VM 100 is not running (500)",
	} {
		err := c.Get(t.Context(), path, nil, nil)
		var e *Error
		if !errors.As(err, &e) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestPin(t *testing.T) {
	n, _ := newNode(t)
	c, err := New(Options{URL: n.server.URL, Fingerprint: strings.Repeat("00:", 31) + "00"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Login(t.Context(), "root@pam", "secret"); err == nil || len(n.logins) != 0 {
		t.Errorf("a wrong certificate got the password: %v", err)
	}
	if c, err = New(Options{URL: n.server.URL}); err != nil {
		t.Fatal(err)
	}
	if err := c.Login(t.Context(), "root@pam", "secret"); err == nil {
		t.Error("an unknown authority was trusted")
	}
	for _, o := range []Options{{URL: "http://n1"}, {URL: "n1:8006"}, {URL: "https://n1", Fingerprint: "AB"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "joist") // short: socket paths have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data(w, fmt.Sprint(r.Method, r.URL.Path, len(r.Header["Cookie"])))
	})}
	defer srv.Close()
	go srv.Serve(ln)
	c, err := New(Options{Socket: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got string
	if err := c.Post(t.Context(), "/nodes/n1/status", Params{"command": "reboot"}, &got); err != nil || got != "POST/api2/json/nodes/n1/status0" {
		t.Errorf("%q %v", got, err)
	}
}

func TestTask(t *testing.T) {
	n, c := newNode(t)
	n.statuses = []string{"running", "", "stopped WARNINGS: 1"}
	if err := c.WaitTask(t.Context(), upid); err != nil {
		t.Error(err)
	}
	n.statuses = []string{"stopped disk full"}
	var te *TaskError
	if err := c.WaitTask(t.Context(), upid); !errors.As(err, &te) || te.Exit != "disk full" || len(te.Log) != 2 {
		t.Errorf("got %v", err)
	}
	if err := c.WaitTask(t.Context(), "UPID:n1"); err == nil {
		t.Error("a broken task id was accepted")
	}
}

func TestUpload(t *testing.T) {
	n, c := newNode(t)
	login(t, c)
	content := strings.Repeat("0123456789", 10000)
	n.mux.HandleFunc("POST /api2/json/nodes/n1/storage/local/upload", func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength <= int64(len(content)) {
			t.Errorf("Content-Length %d", r.ContentLength)
		}
		f, h, err := r.FormFile("filename")
		if err != nil {
			t.Error(err)
			return
		}
		got, _ := io.ReadAll(f)
		if string(got) != content || h.Filename != "x.iso" || r.FormValue("content") != "iso" || r.FormValue("checksum") != "ab" {
			t.Errorf("got %d bytes, %q, %v", len(got), h.Filename, r.Form)
		}
		data(w, upid)
	})
	n.statuses = []string{"stopped OK"}
	var last int64
	err := c.Upload(t.Context(), "n1", "local", File{Content: "iso", Name: "x.iso", Size: int64(len(content)), Data: strings.NewReader(content), SHA256: "ab"},
		func(sent int64) { last = sent })
	if err != nil || last != int64(len(content)) {
		t.Errorf("sent %d, %v", last, err)
	}
}

// console serves a proxy method and its websocket.
func (n *node) console(t *testing.T, method string, serve func(context.Context, *websocket.Conn)) {
	n.mux.HandleFunc("POST /api2/json/nodes/n1/qemu/100/"+method, func(w http.ResponseWriter, _ *http.Request) {
		data(w, map[string]any{"user": "root@pam", "ticket": "PVEVNC:1::x+y", "port": "5901", "password": map[string]string{"vncproxy": "12345678"}[method]})
	})
	n.mux.HandleFunc("GET /api2/json/nodes/n1/qemu/100/vncwebsocket", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("port") != "5901" || r.FormValue("vncticket") != "PVEVNC:1::x+y" {
			t.Errorf("query %s", r.URL.RawQuery)
		}
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"binary"}})
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		serve(r.Context(), ws)
	})
}

func TestTerm(t *testing.T) {
	n, c := newNode(t)
	login(t, c)
	got := make(chan string, 8)
	n.console(t, "termproxy", func(ctx context.Context, ws *websocket.Conn) {
		for i := range 3 {
			_, b, err := ws.Read(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			got <- string(b)
			if i == 0 {
				ws.Write(ctx, websocket.MessageBinary, []byte("OKwelcome"))
			}
		}
		ws.Close(websocket.StatusNormalClosure, "")
	})
	ctx, cancel := context.WithCancel(t.Context())
	term, err := c.Term(ctx, "/nodes/n1/qemu/100")
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	cancel() // bounds the opening only
	if _, err := term.Write([]byte("ls\n")); err != nil {
		t.Error(err)
	}
	if err := term.Resize(80, 25); err != nil {
		t.Error(err)
	}
	all, err := io.ReadAll(term)
	if string(all) != "welcome" || err != nil {
		t.Errorf("read %q, %v", all, err)
	}
	for _, want := range []string{"root@pam:PVEVNC:1::x+y\n", "0:3:ls\n", "1:80:25:"} {
		if s := <-got; s != want {
			t.Errorf("node got %q, want %q", s, want)
		}
	}
}

func TestVNC(t *testing.T) {
	n, c := newNode(t)
	login(t, c)
	n.console(t, "vncproxy", func(ctx context.Context, ws *websocket.Conn) {
		ws.Write(ctx, websocket.MessageBinary, []byte("RFB 003.008\n"))
		ws.Read(ctx)
	})
	conn, password, err := c.VNC(t.Context(), "/nodes/n1/qemu/100")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 12)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "RFB 003.008\n" || password != "12345678" {
		t.Errorf("%q %q %v", b, password, err)
	}
}

// TestTaskLog: the words for an empty log are not a line of it, which the first
// line would otherwise come after.
func TestTaskLog(t *testing.T) {
	n, c := newNode(t)
	const other = "UPID:n1:00000001:00000002:65000000:diskreplace::root@pam:"
	n.mux.HandleFunc("GET /api2/json/nodes/n1/tasks/"+other+"/log", func(w http.ResponseWriter, _ *http.Request) {
		data(w, []any{map[string]any{"n": 1, "t": "no content"}})
	})
	login(t, c)
	if lines, err := c.TaskLog(t.Context(), other); err != nil || len(lines) != 0 {
		t.Errorf("%q, %v", lines, err)
	}
	if lines, err := c.TaskLog(t.Context(), strings.Replace(other, "diskreplace", "copy", 1)); err != nil || len(lines) != 2 {
		t.Errorf("%q, %v", lines, err)
	}
}
