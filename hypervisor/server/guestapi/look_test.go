package guestapi

import (
	"fmt"
	"image/color"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/api/client"
	"joist/test/vm/rfb"
)

// TestAgent: answers are passed on as they are, and each failure has the text
// that clients look for.
func TestAgent(t *testing.T) {
	n := start(t)
	c := ours(t, n)
	for _, id := range []string{"100", "666"} {
		if err := finished(t, c, "POST", "/nodes/n1/qemu", client.Params{"vmid": id, "agent": "1"}); err != nil {
			t.Fatal(err)
		}
		if err := finished(t, c, "POST", "/nodes/n1/qemu/"+id+"/status/start", nil); err != nil {
			t.Fatal(err)
		}
	}
	const one = "/nodes/n1/qemu/100/agent/"
	var got any
	if err := c.Post(t.Context(), one+"ping", nil, &got); err != nil || !cmp.Equal(got, map[string]any{"result": map[string]any{}}) {
		t.Errorf("%v %v", got, err)
	}
	want := map[string]any{"result": []any{map[string]any{"name": "lo", "ip-addresses": []any{map[string]any{"prefix": 8.0}}}}}
	if err := c.Get(t.Context(), one+"network-get-interfaces", nil, &got); err != nil || !cmp.Equal(got, any(want)) {
		t.Errorf("%v %v", got, err)
	}
	if err := c.Get(t.Context(), one+"get-osinfo", nil, &got); err == nil || !strings.Contains(err.Error(), "Agent error: The command guest-get-osinfo has not been found") {
		t.Error(err)
	}
	if err := c.Get(t.Context(), "/nodes/n1/qemu/666/agent/get-osinfo", nil, &got); err == nil || !strings.Contains(err.Error(), "QEMU guest agent is not running") {
		t.Error(err)
	}
}

// container makes one that runs.
func container(t *testing.T, c *client.Client) {
	t.Helper()
	if err := finished(t, c, "POST", "/nodes/n1/lxc", client.Params{"vmid": "101", "ostemplate": "disks:vztmpl/debian.tar.zst", "rootfs": "disks:1"}); err != nil {
		t.Fatal(err)
	}
	if err := finished(t, c, "POST", "/nodes/n1/lxc/101/status/start", nil); err != nil {
		t.Fatal(err)
	}
}

// TestContainerScreen looks at a container with a VNC client and types.
func TestContainerScreen(t *testing.T) {
	n := start(t)
	c := ours(t, n)
	container(t, c)
	conn, ticket, err := c.VNC(t.Context(), "/nodes/n1/lxc/101")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	screen, err := rfb.New(conn, ticket)
	if err != nil {
		t.Fatal(err)
	}
	img, err := screen.Screen(t.Context())
	if err != nil || img.Rect.Dx() != 640 || img.Rect.Dy() != 384 || screen.Name != "CT101" {
		t.Fatalf("%q %v %v", screen.Name, img.Rect, err)
	}
	// The console says back what is typed: the cursor moves on.
	if err := screen.Type("hello"); err != nil {
		t.Fatal(err)
	}
	cursor := color.RGBA{0xcc, 0xcc, 0xcc, 255}
	for range 200 {
		if img, err = screen.Screen(t.Context()); err != nil {
			t.Fatal(err)
		}
		if img.RGBAAt(5*8, 0) == cursor {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("nothing that was typed is shown")
}

func TestSerialScreen(t *testing.T) {
	n := start(t)
	c := ours(t, n)
	for id, set := range map[string]client.Params{"100": {"vga": "serial0", "serial0": "socket"}, "102": {"vga": "serial1"}, "103": {"vga": "none"}} {
		set["vmid"] = id
		if err := finished(t, c, "POST", "/nodes/n1/qemu", set); err != nil {
			t.Fatal(err)
		}
		if err := finished(t, c, "POST", "/nodes/n1/qemu/"+id+"/status/start", nil); err != nil {
			t.Fatal(err)
		}
	}
	conn, ticket, err := c.VNC(t.Context(), "/nodes/n1/qemu/100")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if s, err := rfb.New(conn, ticket); err != nil || s.Name != "VM 100" {
		t.Errorf("%v %v", s, err)
	}
	for id, want := range map[string]string{"102": "unable to find a serial interface 'serial1'", "103": "guest 103 has no screen"} {
		if _, _, err := c.VNC(t.Context(), "/nodes/n1/qemu/"+id); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestInterfaces(t *testing.T) {
	n := start(t)
	c := ours(t, n)
	container(t, c)
	var got any
	if err := c.Get(t.Context(), "/nodes/n1/lxc/101/interfaces", nil, &got); err != nil {
		t.Fatal(err)
	}
	want := []any{map[string]any{"name": "eth0", "hwaddr": "bc:24:11:00:00:01", "hardware-address": "bc:24:11:00:00:01", "inet": "192.0.2.7/24",
		"inet6": "fe80::1/64", "ip-addresses": []any{map[string]any{"ip-address": "fe80::1", "prefix": 64.0, "ip-address-type": "ipv6"},
			map[string]any{"ip-address": "192.0.2.7", "prefix": 24.0, "ip-address-type": "ipv4"}}}}
	if d := cmp.Diff(any(want), got); d != "" {
		t.Error(d)
	}
}

// TestNodeShell: root's shell on the node, and its task.
func TestNodeShell(t *testing.T) {
	n := start(t)
	c := ours(t, n)
	term, err := c.Term(t.Context(), "/nodes/n1")
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 12)
	if _, err := io.ReadFull(term, buf); err != nil || string(buf) != "shell true$ " {
		t.Errorf("%q %v", buf, err)
	}
	term.Close()
	var rows []map[string]any
	for range 400 {
		if err := c.Get(t.Context(), "/nodes/n1/tasks", client.Params{"typefilter": "vncshell"}, &rows); err != nil {
			t.Fatal(err)
		}
		if len(rows) == 1 && rows[0]["status"] == "OK" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if len(rows) != 1 || rows[0]["status"] != "OK" {
		t.Errorf("tasks %v", rows)
	}
	err = c.Post(t.Context(), "/nodes/n1/termproxy", client.Params{"cmd": "upgrade"}, nil)
	if err == nil || !strings.Contains(fmt.Sprintf("%+v", err), "not supported on this node") {
		t.Errorf("upgrade: %+v", err)
	}
	// The ticket of a shell opens nothing else, nor another's this one.
	var px struct {
		Ticket string
		Port   int
	}
	if err := c.Post(t.Context(), "/nodes/n1/termproxy", nil, &px); err != nil {
		t.Fatal(err)
	}
	err = c.Get(t.Context(), "/nodes/n1/qemu/100/vncwebsocket", client.Params{"port": fmt.Sprint(px.Port), "vncticket": px.Ticket}, nil)
	if err == nil || !strings.Contains(err.Error(), "PVEVNC") {
		t.Errorf("the shell's ticket for a guest: %v", err)
	}
}
