package guesttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"joist/hypervisor/guest"
)

// Guest has what a driver's guest can have: buttons, an agent, a console that
// says back what is typed, and a screen that does so after the opening of RFB.
type Guest struct {
	Spec  guest.Spec
	Keys  chan string    // what SendKey was given
	Sizes chan [2]uint16 // what its consoles were resized to

	d      *Driver
	done   chan struct{}
	exit   string
	paused bool
}

// NewGuest makes a guest that no driver has.
func NewGuest(s guest.Spec) *Guest {
	return &Guest{Spec: s, Keys: make(chan string, 10), Sizes: make(chan [2]uint16, 10), done: make(chan struct{})}
}

// VMID is the guest's number.
func (g *Guest) VMID() int { return g.Spec.VMID }

// Status is always the same but for Pause.
func (g *Guest) Status(context.Context) (guest.Status, error) {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	s := guest.Status{VMID: g.VMID(), Kind: g.d.kind, State: guest.Running, PID: 4711, Uptime: time.Minute, CPU: 0.25, Mem: 1 << 20, Accel: "tcg"}
	if g.paused {
		s.State = guest.Paused
	}
	return s, nil
}

// End is the guest's end, "" when it was asked for.
func (g *Guest) End(exit string) {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	if g.d.running[g.VMID()] != g {
		return
	}
	delete(g.d.running, g.VMID())
	g.exit = exit
	close(g.done)
}

// Stop ends the guest, unless it is deaf; see guest.Guest.
func (g *Guest) Stop(ctx context.Context, how guest.StopMode) error {
	if how == guest.Shutdown && g.d.Deaf {
		<-ctx.Done()
		return fmt.Errorf("the guest did not shut down: %w", ctx.Err())
	}
	g.d.mu.Lock()
	g.d.stopped = append(g.d.stopped, g.VMID())
	g.d.mu.Unlock()
	g.End("")
	return nil
}

// Done is closed by End.
func (g *Guest) Done() <-chan struct{} { return g.done }

// Exit is what End was given.
func (g *Guest) Exit() string { return g.exit }

// Close does nothing.
func (g *Guest) Close() error { return nil }

// Reset does nothing.
func (g *Guest) Reset(context.Context) error { return nil }

// Pause shows in the status.
func (g *Guest) Pause(context.Context) error { return g.pause(true) }

// Resume takes Pause back.
func (g *Guest) Resume(context.Context) error { return g.pause(false) }

func (g *Guest) pause(on bool) error {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	g.paused = on
	return nil
}

// SendKey puts the keys into Keys.
func (g *Guest) SendKey(_ context.Context, keys string) error {
	g.Keys <- keys
	return nil
}

// ResizeDisk is noted by the driver.
func (g *Guest) ResizeDisk(_ context.Context, key string, size int64) error {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	g.d.resized = append(g.d.resized, fmt.Sprint(key, " ", size>>30))
	return nil
}

// Console opens a terminal that says back what is typed.
func (g *Guest) Console(context.Context) (guest.Console, error) {
	r, w := io.Pipe()
	return &Terminal{r, w, g}, nil
}

// Terminal is a console that reads from one pipe and writes to another.
type Terminal struct {
	*io.PipeReader
	*io.PipeWriter
	Guest *Guest // hears of sizes
}

// Resize puts the size into Sizes.
func (t *Terminal) Resize(cols, rows uint16) error {
	t.Guest.Sizes <- [2]uint16{cols, rows}
	return nil
}

// Close ends both pipes.
func (t *Terminal) Close() error { return errors.Join(t.PipeReader.Close(), t.PipeWriter.Close()) }

// VNC opens the screen; containers have none. It shakes hands as RFC 6143 says
// (7.1), offers a type of its own (30) before "None" (1), and then says back
// what it hears.
func (g *Guest) VNC(context.Context) (net.Conn, error) {
	if g.d.kind == guest.LXC {
		return nil, errors.New("none")
	}
	a, b := net.Pipe()
	go func() {
		defer b.Close()
		io.WriteString(b, "RFB 003.008\n")
		v := make([]byte, 12)
		io.ReadFull(b, v)
		b.Write([]byte{2, 30, 1})
		io.ReadFull(b, v[:1])
		b.Write([]byte{0, 0, 0, 0})
		io.Copy(b, b)
	}()
	return a, nil
}

// NoAgent is the VMID of a guest without an agent.
const NoAgent = 666

// AskAgent knows two commands.
func (g *Guest) AskAgent(_ context.Context, command string) (json.RawMessage, error) {
	switch {
	case g.VMID() == NoAgent:
		return nil, context.DeadlineExceeded
	case command == "guest-ping":
		return json.RawMessage("{}"), nil
	case command == "guest-network-get-interfaces":
		return json.RawMessage(`[{"name":"lo","ip-addresses":[{"prefix":8}]}]`), nil
	}
	return nil, &guest.AgentError{Desc: "The command " + command + " has not been found"}
}
