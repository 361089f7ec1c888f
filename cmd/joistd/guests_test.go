package main

import (
	"net/http"
	"strings"
	"testing"
)

// TestGuestsOverTheSocket creates a machine without disks, and ends the day as
// PID 1 does: afterwards nothing starts any more.
func TestGuestsOverTheSocket(t *testing.T) {
	p := testPaths(t)
	_, stop := startDaemon(t, p)
	defer func() { stop() }()
	l := newLocal(p.socket)
	defer l.c.CloseIdleConnections()
	var upid string
	if err := l.call(t.Context(), http.MethodPost, "/nodes/localhost/qemu?vmid=100&name=web", &upid); err != nil || !strings.Contains(upid, ":qmcreate:100:root@pam:") {
		t.Fatal(upid, err)
	}
	var rows []struct {
		ID, Name, Status string
	}
	if err := l.call(t.Context(), http.MethodGet, "/cluster/resources?type=vm", &rows); err != nil || len(rows) != 1 || rows[0].Name != "web" || rows[0].Status != "stopped" {
		t.Errorf("%+v %v", rows, err)
	}
	if err := l.call(t.Context(), http.MethodGet, "/cluster/resources?type=storage", &rows); err != nil || len(rows) != 1 || rows[0].ID != "storage/n1/local" {
		t.Errorf("%+v %v", rows, err)
	}
	var out strings.Builder
	if err := stopGuests(t.Context(), p.socket, &out); err != nil {
		t.Fatal(err, out.String())
	}
	stop()
	_, stop = startDaemon(t, p)
	if err := l.call(t.Context(), http.MethodPost, "/nodes/localhost/qemu/100/status/start", &upid); err == nil || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("start after the end: %v", err)
	}
}
