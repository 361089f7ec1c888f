package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"joist/hypervisor/guest"
	"joist/hypervisor/guest/kvm/qmp"
)

// Machine is one running virtual machine; the driver has one value for each,
// and every caller gets the same.
type Machine struct {
	*guest.Handle
	d     *Driver
	vmid  int
	group guest.Group
	agent chan struct{} // holds one: who speaks to the agent

	unwatch func() // of an adopted machine

	mu       sync.Mutex
	mon      *qmp.Client
	followed chan struct{} // closed when mon's events have all been seen
	shutdown *shutdownEvent
	released bool
	console  *hub
}

var (
	_ guest.Guest    = (*Machine)(nil)
	_ guest.Consoler = (*Machine)(nil)
)

// ExitSelf is what Exit says of a guest that powered itself off.
const ExitSelf = "guest shut down"

func (d *Driver) newMachine(rec guest.Record) *Machine {
	return &Machine{Handle: guest.NewHandle(d.Runs, rec, d.Log), d: d, vmid: rec.VMID, group: d.Groups.Group(rec.VMID), agent: make(chan struct{}, 1)}
}

// running writes down that the guest has got the CPU in this QEMU.
func (m *Machine) running(qemu guest.Process) error {
	return m.Update(func(r *guest.Record) { r.State, r.Process = guest.Running, qemu })
}

// release stops watching: the daemon ends, the machine does not.
func (m *Machine) release() {
	m.mu.Lock()
	m.released = true
	m.mu.Unlock()
	if m.unwatch != nil {
		m.unwatch()
	}
	m.disconnect()
}

// Monitor returns the connection to QEMU, made anew when it was lost.
func (m *Machine) Monitor(ctx context.Context) (*qmp.Client, error) {
	m.mu.Lock()
	mon := m.mon
	m.mu.Unlock()
	if mon != nil && mon.Err() == nil {
		return mon, nil
	}
	// Each monitor serves one client at a time and keeps others waiting in
	// silence: take turns until ctx ends.
	var err error
	for i := 0; ; i++ {
		ask, cancel := context.WithTimeout(ctx, time.Second)
		mon, err = qmp.Dial(ask, filepath.Join(m.d.Runs.Folder(m.vmid), monitorNames[i%len(monitorNames)]))
		cancel()
		if err == nil {
			return m.connected(mon), nil
		}
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return nil, err
		}
	}
}

// connected keeps a fresh connection and follows its events. When two were
// made at once the first one stays.
func (m *Machine) connected(mon *qmp.Client) *qmp.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mon != nil && m.mon.Err() == nil {
		mon.Close()
		return m.mon
	}
	m.mon, m.followed = mon, make(chan struct{})
	go m.follow(mon.Subscribe(), m.followed)
	return mon
}

func (m *Machine) disconnect() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mon != nil {
		m.mon.Close()
	}
	if m.console != nil {
		m.console.close()
	}
}

type shutdownEvent struct {
	Guest  bool   `json:"guest"`
	Reason string `json:"reason"` // QEMU: qapi/run-state.json, ShutdownCause
}

// follow remembers how QEMU says that it ends.
func (m *Machine) follow(s *qmp.Subscription, done chan struct{}) {
	defer close(done)
	for {
		e, err := s.Next(context.Background())
		if err != nil {
			return
		}
		if e.Name != "SHUTDOWN" {
			continue
		}
		var ev shutdownEvent
		if json.Unmarshal(e.Data, &ev) == nil {
			m.mu.Lock()
			m.shutdown = &ev
			m.mu.Unlock()
		}
	}
}

// watch waits for the end of QEMU, cleans up and says why it ended. c is nil
// when somebody else started it.
func (m *Machine) watch(ended <-chan struct{}, c *child) {
	<-ended
	m.mu.Lock()
	released, followed := m.released, m.followed
	m.mu.Unlock()
	if released {
		return
	}
	if followed != nil { // events that were sent are still in the socket
		select {
		case <-followed:
		case <-time.After(time.Second):
		}
	}
	exit := m.verdict(c)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	err := m.Tidy(ctx, func(_ context.Context, rec guest.Record) error { return m.d.clean(rec) })
	if err != nil {
		m.d.Log.Error("clean up after a guest", "vmid", m.vmid, "error", err)
	}
	m.disconnect()
	m.d.machines.Forget(m)
	m.Finish(exit)
}

// verdict says why QEMU ended, "" when somebody asked for it.
func (m *Machine) verdict(c *child) string {
	m.mu.Lock()
	shutdown := m.shutdown
	m.mu.Unlock()
	last := lastLine(filepath.Join(m.d.Runs.Folder(m.vmid), logFile))
	switch {
	case m.Asked():
		return ""
	case c != nil && c.status.Signaled():
		return fmt.Sprintf("qemu was killed by signal %d (%s)", c.status.Signal(), c.status.Signal())
	case c != nil && c.status.ExitStatus() != 0:
		return strings.TrimSuffix(fmt.Sprintf("qemu failed with status %d: %s", c.status.ExitStatus(), last), ": ")
	case shutdown != nil && shutdown.Guest:
		return ExitSelf
	case shutdown != nil && shutdown.Reason == "host-qmp-quit":
		return "" // only root reaches the monitors: one of our other processes
	case shutdown != nil:
		return "qemu was ended from outside (" + shutdown.Reason + ")"
	case c != nil:
		return "qemu ended"
	default:
		return strings.TrimSuffix("qemu crashed or was killed: "+last, ": ")
	}
}

// Stop ends the machine; see guest.Guest.
func (m *Machine) Stop(ctx context.Context, how guest.StopMode) error {
	if m.Ended() {
		return nil
	}
	var err error
	if how == guest.Kill {
		err = m.kill(ctx)
	} else {
		err = m.powerDown(ctx)
	}
	if err != nil {
		return fmt.Errorf("stop guest %d: %w", m.vmid, err)
	}
	return nil
}

func (m *Machine) powerDown(ctx context.Context) error {
	mon, err := m.Monitor(ctx)
	if err != nil {
		return err
	}
	return m.Shutdown(ctx, 0, func() error { return mon.Do(ctx, "system_powerdown", nil, nil) })
}

// ending reports whether QEMU is gone although Done is not closed yet.
func (m *Machine) ending() bool { return !m.Record().Process.Alive() }

// kill lets QEMU flush and close its files, then ends it by force.
func (m *Machine) kill(ctx context.Context) error {
	m.Ask(true)
	quit, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if mon, err := m.Monitor(quit); err == nil {
		if mon.Do(quit, "quit", nil, nil) == nil || m.ending() {
			if m.Wait(quit) == nil {
				return nil
			}
		}
	}
	if err := m.group.Kill(10 * time.Second); err != nil && !m.ending() {
		return err
	}
	return m.Wait(ctx)
}

// Reset presses the reset button.
func (m *Machine) Reset(ctx context.Context) error {
	return m.command(ctx, "reset", "system_reset", nil)
}

// Pause holds the CPUs, Resume lets them go on.
func (m *Machine) Pause(ctx context.Context) error { return m.command(ctx, "pause", "stop", nil) }

// Resume lets the CPUs go on.
func (m *Machine) Resume(ctx context.Context) error { return m.command(ctx, "resume", "cont", nil) }

// SendKey presses keys together and lets them go; names are QEMU's qcodes
// joined with "-", "ctrl-alt-delete".
func (m *Machine) SendKey(ctx context.Context, keys string) error {
	var list []any
	for k := range strings.SplitSeq(keys, "-") {
		list = append(list, map[string]string{"type": "qcode", "data": k})
	}
	return m.command(ctx, "send keys to", "send-key", map[string]any{"keys": list})
}

func (m *Machine) command(ctx context.Context, verb, name string, args any) error {
	mon, err := m.Monitor(ctx)
	if err == nil {
		err = mon.Do(ctx, name, args, nil)
	}
	if err != nil {
		return fmt.Errorf("%s guest %d: %w", verb, m.vmid, err)
	}
	return nil
}

// Screendump returns the screen as a PPM image.
func (m *Machine) Screendump(ctx context.Context) ([]byte, error) {
	b, err := m.screendump(ctx)
	if err != nil {
		return nil, fmt.Errorf("take picture of guest %d: %w", m.vmid, err)
	}
	return b, nil
}

// VNC connects to the machine's screen: a bare RFB stream without
// authentication. Whoever passes it on checks who is asking.
func (m *Machine) VNC(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(m.d.Runs.Folder(m.vmid), vncSocket))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("connect to screen of guest %d: it has none", m.vmid)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to screen of guest %d: %w", m.vmid, err)
	}
	return conn, nil
}
