package guestapi

import (
	"context"
	"fmt"
	"net"

	wire "joist/api/guest"
	"joist/hypervisor/control"
	"joist/hypervisor/guest"
	"joist/hypervisor/guest/vterm/rfb"
	"joist/hypervisor/server"
)

// view is what a session looks at, found when its client comes: a guest may
// have been started anew since the session was made.
type view struct {
	terminal guest.Consoler
	screen   control.Screen
	done     <-chan struct{} // closed when there is nothing to look at any more
}

// terminal finds a guest's text console.
func (k kind) terminal(vmid int) (view, error) {
	h, err := k.a.Guests.Handle(k.kind, vmid)
	if err != nil {
		return view{}, err
	}
	con, ok := h.(guest.Consoler)
	if !ok {
		return view{}, server.Errorf("%s %d has no text console", k.kind, vmid)
	}
	return view{terminal: con, done: h.Done()}, nil
}

// screen finds a guest's display. Containers, and machines whose display is
// their serial port, have a terminal on one.
func (k kind) screen(vmid, cols, rows int) (view, error) {
	h, err := k.a.Guests.Handle(k.kind, vmid)
	if err != nil {
		return view{}, err
	}
	v, err := k.a.Guests.Get(k.kind, vmid)
	if err != nil {
		return view{}, err
	}
	text := k.kind == guest.LXC
	if vga, err := wire.ParseVGA(v.Running["vga"]); err == nil && k.kind == guest.KVM {
		if vga.Type == "none" {
			return view{}, server.Errorf("guest %d has no screen (vga: none)", vmid)
		}
		text = vga.Serial()
		if text && (vga.Type != "serial0" || v.Running["serial0"] == "") {
			return view{}, server.Errorf("unable to find a serial interface '%s'", vga.Type)
		}
	}
	if con, ok := h.(guest.Consoler); ok && text {
		return view{screen: textScreen{con, name(v), cols, rows}, done: h.Done()}, nil
	}
	if s, ok := h.(control.Screen); ok && !text {
		return view{screen: s, done: h.Done()}, nil
	}
	return view{}, server.Errorf("guest %d has no screen", vmid)
}

// textScreen shows a text console as a display.
type textScreen struct {
	con        guest.Consoler
	name       string
	cols, rows int
}

// VNC implements control.Screen. The stream ends with the console.
func (t textScreen) VNC(ctx context.Context) (net.Conn, error) {
	con, err := t.con.Console(ctx)
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		rfb.Serve(ctx, theirs, con, t.name, t.cols, t.rows) // how a console ends is nobody's error
	}()
	return ours, nil
}

// nodeShell is the node's own console.
type nodeShell struct {
	a *API
	n int // names it
}

// Console implements guest.Consoler.
func (s nodeShell) Console(ctx context.Context) (guest.Console, error) {
	if s.a.Shell == nil {
		return nil, fmt.Errorf("this node opens no shells")
	}
	return s.a.Shell(ctx, s.n)
}
