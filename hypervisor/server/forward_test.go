package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// road leads from one test server to another, without the nodes' certificates
// that package peer checks.
type road struct{ to map[string]string }

func (r road) Known(node string) bool { _, ok := r.to[node]; return ok }

func (r road) Dial(ctx context.Context, node string) (net.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	return d.DialContext(ctx, "tcp", r.to[node])
}

func (r road) RoundTrip(node string, req *http.Request) (*http.Response, error) {
	req.URL.Scheme, req.URL.Host = "https", node
	t := &http.Transport{DisableCompression: true, DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return r.Dial(ctx, node) }}
	return t.RoundTrip(req)
}

// startTwo returns n1, which knows n2 and an n3 that is away.
func startTwo(t *testing.T) (n1, n2 testServer) {
	t.Helper()
	n2 = startWith(t, Deps{Node: "n2"})
	n1 = startWith(t, Deps{Node: "n1", Peers: road{map[string]string{"n2": n2.addr, "n3": "127.0.0.1:1"}},
		RootTicket: func() (string, string) { return "PVE:root@pam:1::+/=", "csrf" }})
	return n1, n2
}

// TestForward: the answer is the other node's to the letter, whoever is asked.
func TestForward(t *testing.T) {
	n1, n2 := startTwo(t)
	root := []string{"Cookie", cookie, "CSRFPreventionToken", "csrf", "Content-Type", form}
	for name, c := range map[string]struct {
		verb, path, body string
		head             []string
	}{
		"read":          {"GET", "/api2/json/nodes/n2/qemu/100", "", root[:2]},
		"extjs":         {"GET", "/api2/extjs/nodes/n2/qemu/100", "", root[:2]},
		"token":         {"GET", "/api2/json/nodes/n2/qemu/100", "", []string{"Authorization", "PVEAPIToken=root@pam!t=s"}},
		"change":        {"POST", "/api2/json/nodes/n2/qemu/100/config", "net0=virtio&delete=a,b", root},
		"bad parameter": {"GET", "/api2/json/nodes/n2/qemu/1", "", root[:2]},
		"refused":       {"DELETE", "/api2/json/nodes/n2/qemu/100", "", []string{"Cookie", "PVEAuthCookie=PVE%3Ajoe@pve%3A1%3A%3Ax", "CSRFPreventionToken", "csrf"}},
		"fails":         {"DELETE", "/api2/json/nodes/n2/qemu/100", "", root[:4]},
	} {
		t.Run(name, func(t *testing.T) {
			there, want := n2.do(t, c.verb, c.path, c.body, c.head...)
			here, got := n1.do(t, c.verb, c.path, c.body, c.head...)
			if here.Status != there.Status || got != want {
				t.Errorf("through n1: %s %s\nof n2: %s %s", here.Status, got, there.Status, want)
			}
		})
	}
}

func TestForwardTells(t *testing.T) {
	n1, _ := startTwo(t)
	for _, c := range []struct {
		path, status string
		head         []string
	}{
		{"/api2/json/nodes/n3/qemu/100", "595 node 'n3' does not answer: it is down, or cut off from node 'n1'", []string{"Cookie", cookie}},
		{"/api2/json/nodes/n4/qemu/100", "500 hostname lookup 'n4' failed - failed to get address info for: n4: Name or service not known", []string{"Cookie", cookie}},
		{"/api2/json/nodes/n2/qemu/100", "401 No ticket", nil},
		{"/api2/json/nodes/n2/qemu/100", "401 invalid ticket", []string{"Cookie", "PVEAuthCookie=x"}},
	} {
		if resp, body := n1.do(t, "GET", c.path, "", c.head...); resp.Status != c.status {
			t.Errorf("%s: %s %s, want %s", c.path, resp.Status, body, c.status)
		}
	}
	// A public client cannot pretend to be a node that passes something on.
	if resp, body := n1.do(t, "GET", "/api2/json/nodes/n2/qemu/100", "", "Cookie", cookie, "X-Joist-Via", "n2"); resp.StatusCode != 200 {
		t.Errorf("%s %s", resp.Status, body)
	}
}

func TestForwardUpload(t *testing.T) {
	n1, _ := startTwo(t)
	var b bytes.Buffer
	mw := multipart.NewWriter(&b)
	w, err := mw.CreateFormFile("filename", "x.iso")
	if err != nil {
		t.Fatal(err)
	}
	w.Write(bytes.Repeat([]byte("x"), 3<<20))
	mw.Close()
	resp, body := n1.do(t, "POST", "/api2/json/nodes/n2/upload", b.String(), "Cookie", cookie, "Content-Type", mw.FormDataContentType())
	if resp.StatusCode != 200 || !strings.Contains(body, "3145728") {
		t.Errorf("%s %s", resp.Status, body)
	}
}

func TestForwardWebSocket(t *testing.T) {
	n1, _ := startTwo(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dial := func(node string) (*websocket.Conn, error) {
		c, _, err := websocket.Dial(ctx, "wss://"+n1.addr+"/api2/json/nodes/"+node+"/qemu/100/socket", &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}},
			HTTPHeader: http.Header{"Cookie": {cookie}}, Subprotocols: []string{"binary"}})
		return c, err
	}
	c, err := dial("n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if err := c.Write(ctx, websocket.MessageBinary, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := c.Read(ctx); err != nil || string(b) != "hello" {
		t.Errorf("%q %v", b, err)
	}
	if _, _, err := c.Read(ctx); !errors.Is(err, io.EOF) && websocket.CloseStatus(err) == -1 && !strings.Contains(err.Error(), "EOF") {
		t.Errorf("the end: %v", err)
	}
	if _, err := dial("n3"); err == nil || !strings.Contains(err.Error(), "595") {
		t.Errorf("a node that is away: %v", err)
	}
}

// TestNoQuorum: reads and what helps go on, changes are refused with the
// reason.
func TestNoQuorum(t *testing.T) {
	s := startWith(t, Deps{Node: "n1", Quorum: func() error { return errors.New("the cluster has no quorum: 1 of 3 nodes") }})
	root := []string{"Cookie", cookie, "CSRFPreventionToken", "csrf"}
	for _, c := range []struct {
		verb, path string
		want       string
	}{
		{"GET", "/api2/json/nodes/n1/qemu/100", "200 OK"},
		{"POST", "/api2/json/nodes/n1/qemu/100/power", "200 OK"},
		{"POST", "/api2/json/nodes/n1/qemu/100/config", "503 the cluster has no quorum: 1 of 3 nodes"},
		{"DELETE", "/api2/json/nodes/n1/qemu/100", "503 the cluster has no quorum: 1 of 3 nodes"},
	} {
		if resp, body := s.do(t, c.verb, c.path, "", root...); resp.Status != c.want {
			t.Errorf("%s %s: %s %s, want %s", c.verb, c.path, resp.Status, body, c.want)
		}
	}
}
