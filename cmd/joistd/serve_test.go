package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luthermonson/go-proxmox"

	"joist/api/node"
)

// password and its hash, made by crypt(3).
const (
	password = "s3cret pass"
	hash     = "$5$rounds=2000$saltsalt$nt0cZwvEpkAicu6GJSyFNm3goCRqTrYg4cwdATIUBo0"
)

// startDaemon runs the whole daemon in a folder and waits until it says that
// it is ready.
func startDaemon(t *testing.T, p *paths) (addr string, stop func()) {
	t.Helper()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(filepath.Dir(p.socket), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", notify.LocalAddr().String())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	begun := time.Now()
	go func() { done <- serve(ctx, slog.New(slog.NewTextHandler(t.Output(), nil)), p) }()
	b := make([]byte, 64)
	notify.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := notify.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		cancel()
		t.Fatalf("not ready: %q %v %v", b[:n], err, <-done)
	}
	t.Logf("ready after %v", time.Since(begun))
	var s node.APIStatus
	text, err := os.ReadFile(p.apiState)
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil || s.Port == 0 || len(s.Fingerprint) != 95 {
		t.Errorf("API state %s: %v", text, err)
	}
	return fmt.Sprintf("127.0.0.1:%d", s.Port), func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		notify.Close()
		os.Remove(notify.LocalAddr().String())
	}
}

func testPaths(t *testing.T) *paths {
	t.Helper()
	dir, err := os.MkdirTemp("", "joistd") // short: socket paths have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := func(s string) string { return filepath.Join(dir, s) }
	p := &paths{root: dir, sys: "/", listen: "127.0.0.1:0", socket: at("joistd.sock"), state: dir, etcd: at("etcd"), cluster: at("cluster"), hosts: at("hosts"), peers: "127.0.0.1:2380", tasks: at("tasks"),
		tls: at("tls"), shadow: at("root.shadow"), apiState: at("api.json"), netState: at("network.json"), crashes: at("crash"), init: at("init.sock"), build: at("build.json")}
	for name, v := range map[string]any{
		at(node.ConfigFile): node.Config{Name: "n1", Domain: "example.org", Timezone: "Europe/Vienna", Keyboard: "de", InstallationID: "0123456789abcdef"},
		p.netState:          node.NetStatus{Bridge: "vmbr0", Link: "eth0", Up: true, Method: "static", Addresses: []string{"192.0.2.10/24"}, Gateway: "192.0.2.1", DNS: []string{"192.0.2.53"}, Search: "example.org"},
		p.build:             map[string]string{"version": "0.1.0", "build_id": "00112233aabbccdd"},
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := node.WriteJSON(name, 0o600, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(p.shadow, []byte(hash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestClient uses a client library that exists, unchanged, over TLS.
func TestClient(t *testing.T) {
	p := testPaths(t)
	addr, stop := startDaemon(t, p)
	defer stop()
	ctx := t.Context()
	client := func(pw string) *proxmox.Client {
		return proxmox.NewClient("https://"+addr+"/api2/json", proxmox.WithInsecureSkipVerify(),
			proxmox.WithCredentials(&proxmox.Credentials{Username: "root@pam", Password: pw}))
	}
	c := client(password)
	v, err := c.Version(ctx)
	if err != nil || v.Version != "9.1.4" || v.RepoID != "00112233aabbccdd" {
		t.Fatalf("%+v %v", v, err)
	}
	nodes, err := c.Nodes(ctx)
	if err != nil || len(nodes) != 1 || nodes[0].Node != "n1" || nodes[0].Status != "online" || nodes[0].MaxMem == 0 || len(nodes[0].SSLFingerprint) != 95 {
		t.Errorf("nodes: %+v %v", nodes, err)
	}
	n, err := c.Node(ctx, "n1")
	if err != nil || n.Memory.Total == 0 || n.CPUInfo.CPUs == 0 || len(n.LoadAvg) != 3 || n.PVEVersion != "pve-manager/9.1.4/00112233aabbccdd" {
		t.Errorf("node: %+v %v", n, err)
	}
	if _, err := c.Node(ctx, "doesnotexist"); err == nil ||
		!strings.Contains(err.Error(), "500 hostname lookup 'doesnotexist' failed - failed to get address info for: doesnotexist:") {
		t.Errorf("foreign node: %v", err)
	}
	cl, err := c.Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := cl.NextID(ctx); err != nil || id != 100 {
		t.Errorf("next id %d %v", id, err)
	}
	rs, err := cl.Resources(ctx)
	if err != nil || len(rs) == 0 || rs[0].Type != "node" {
		t.Errorf("resources: %+v %v", rs, err)
	}
	if _, err := cl.Resources(ctx, "bad"); err == nil {
		t.Error("bad resource type accepted")
	}
	nets, err := n.Networks(ctx)
	if err != nil || len(nets) != 2 || nets[0].Iface != "vmbr0" || nets[0].Address != "192.0.2.10" {
		t.Errorf("networks: %+v %v", nets, err)
	}
	perms, err := c.Permissions(ctx, nil)
	if err != nil || !bool(perms["/"]["VM.Allocate"]) {
		t.Errorf("permissions: %v %v", perms, err)
	}
	users, err := c.Users(ctx)
	if err != nil || len(users) != 1 || users[0].UserID != "root@pam" {
		t.Errorf("users: %+v %v", users, err)
	}
	crashed := "20261129T010203-0-panic"
	if err := errors.Join(os.MkdirAll(p.crashes, 0o700), os.WriteFile(filepath.Join(p.crashes, crashed), []byte("Panic#1 Part1\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var shapes = map[string]func(v any) bool{
		"/nodes/n1/dns":          func(v any) bool { return v.(map[string]any)["dns1"] == "192.0.2.53" },
		"/nodes/n1/time":         func(v any) bool { m := v.(map[string]any); return m["localtime"].(float64) > m["time"].(float64) },
		"/nodes/n1/subscription": func(v any) bool { return v.(map[string]any)["status"] == "notfound" },
		"/nodes/n1/tasks":        func(v any) bool { return len(v.([]any)) == 0 },
		"/nodes/n1":              func(v any) bool { return len(v.([]any)) > 5 },
		"/cluster/status":        func(v any) bool { return v.([]any)[0].(map[string]any)["ip"] == "192.0.2.10" },
		"/cluster/ha/resources":  func(v any) bool { return len(v.([]any)) == 0 },
		"/cluster/options":       func(v any) bool { return v.(map[string]any)["keyboard"] == "de" },
		"/access/acl":            func(v any) bool { return len(v.([]any)) == 0 },
		"/access/roles":          func(v any) bool { return len(v.([]any)) == 18 },
		"/access/domains":        func(v any) bool { return v.([]any)[0].(map[string]any)["realm"] == "pam" },
	}
	shapes["/nodes/n1/crashes"] = func(v any) bool {
		m := v.([]any)[0].(map[string]any)
		return m["id"] == crashed && m["reason"] == "Panic" && m["size"] == 14.0
	}
	shapes["/nodes/n1/crashes/"+crashed] = func(v any) bool { return v == "Panic#1 Part1\n" }
	shapes["/nodes/n1/support"] = func(v any) bool {
		m := v.(map[string]any)
		b, err := base64.StdEncoding.DecodeString(m["content"].(string))
		return err == nil && bytes.HasPrefix(b, []byte("\x1f\x8b")) && strings.HasPrefix(m["name"].(string), "joist-support-n1-")
	}
	for path, ok := range shapes {
		var v any
		if err := c.Get(ctx, path, &v); err != nil || !ok(v) {
			t.Errorf("%s: %v %v", path, v, err)
		}
	}
	if err := c.Delete(ctx, "/nodes/n1/crashes/"+crashed, nil); err != nil {
		t.Error(err)
	}
	for _, err := range []error{c.Delete(ctx, "/nodes/n1/crashes/"+crashed, nil), c.Get(ctx, "/nodes/n1/crashes/root.shadow", new(string))} {
		if err == nil || !strings.Contains(err.Error(), "there is no such crash") {
			t.Errorf("a crash that is not there: %v", err)
		}
	}
	if err := c.Get(ctx, "/nodes/n1/tasks/UPID:n1:00000001:00000001:00000001:x::root@pam:/status", &struct{}{}); err == nil {
		t.Error("unknown task found")
	}
	begun := time.Now()
	if _, err := client("wrong").Version(ctx); err == nil || time.Since(begun) < 3*time.Second {
		t.Errorf("wrong password: %v after %v", err, time.Since(begun))
	}
}

func TestPowerAndLocalSocket(t *testing.T) {
	p := testPaths(t)
	ln, err := net.Listen("unix", p.init)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	asked := make(chan string, 1)
	go func() { // like PID 1: the daemon asks for its status meanwhile
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			if !strings.Contains(line, `"status"`) {
				asked <- line
			}
			io.WriteString(c, `{"ok":true}`+"\n")
			c.Close()
		}
	}()
	addr, stop := startDaemon(t, p)
	defer stop()
	if fi, err := os.Stat(p.socket); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", fi, err)
	}
	l := newLocal(p.socket)
	defer l.c.CloseIdleConnections()
	if err := l.call(t.Context(), http.MethodPost, "/nodes/localhost/status?command=reboot", &struct{}{}); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got != `{"verb":"reboot"}`+"\n" {
		t.Errorf("init was asked %q", got)
	}
	var v struct{ Version string }
	if err := l.call(t.Context(), http.MethodGet, "/version", &v); err != nil || v.Version == "" {
		t.Errorf("%+v %v", v, err)
	}
	// Without the socket the same call needs credentials.
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer c.CloseIdleConnections()
	r, err := c.Get("https://" + addr + "/api2/json/version")
	if err != nil || r.StatusCode != http.StatusUnauthorized {
		t.Errorf("%v %v", r, err)
	}
}

// TestRestart starts the daemon twice on the same state.
func TestRestart(t *testing.T) {
	p := testPaths(t)
	var first string
	for range 2 {
		_, stop := startDaemon(t, p)
		b, err := os.ReadFile(filepath.Join(p.tls, "node.crt"))
		stop()
		if err != nil || first != "" && first != string(b) {
			t.Errorf("certificate changed: %v", err)
		}
		first = string(b)
	}
}
