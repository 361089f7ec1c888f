package vm

import (
	"context"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// QMP runs one command of QEMU's monitor; args may be nil, out too.
func (m *Machine) QMP(ctx context.Context, command string, args map[string]any, out any) error {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	return m.mon.run(ctx, command, args, out)
}

// cpuLines are the lines of qemu-monitor(7)'s answers that tell: whether the
// machine is paused, where each CPU is and whether it is halted, and which
// interrupts wait for it.
var cpuLines = regexp.MustCompile(`(?m)^\s*(VM status|CPU#|[RE]IP=|LVTT|Timer|ISR|IRR|APR|PPR).*`)

// cpuState is what the CPUs and their interrupt controllers do, twice within a
// second: those of a guest that stands still show the same.
func (m *Machine) cpuState() string {
	ctx, cancel := context.WithTimeout(context.Background(), monitorTimeout)
	defer cancel()
	var out []string
	for round := range 2 {
		if round > 0 {
			time.Sleep(time.Second)
		}
		for _, command := range []string{"info status", "info registers -a", "info lapic"} {
			var text string
			if err := m.QMP(ctx, "human-monitor-command", map[string]any{"command-line": command}, &text); err != nil {
				out = append(out, err.Error())
			}
			out = append(out, cpuLines.FindAllString(text, -1)...)
		}
	}
	return strings.Join(out, "\n  ")
}

// Events are those that QEMU has reported so far, oldest first.
func (m *Machine) Events() []Event { return m.mon.seen() }

// Reset is the reset button.
func (m *Machine) Reset(ctx context.Context) error { return m.QMP(ctx, "system_reset", nil, nil) }

// PowerDown is the power button (ACPI).
func (m *Machine) PowerDown(ctx context.Context) error {
	return m.QMP(ctx, "system_powerdown", nil, nil)
}

// Quit ends QEMU after it has written out what it holds.
func (m *Machine) Quit(ctx context.Context) error {
	if err := m.QMP(ctx, "quit", nil, nil); err != nil && m.Running() {
		return err
	}
	return m.Wait(ctx)
}

// Pause stops the CPUs, Resume lets them run.
func (m *Machine) Pause(ctx context.Context) error { return m.QMP(ctx, "stop", nil, nil) }

// Resume undoes Pause.
func (m *Machine) Resume(ctx context.Context) error { return m.QMP(ctx, "cont", nil, nil) }

// SetLink pulls or plugs the cable of a NIC so that the guest sees it.
func (m *Machine) SetLink(ctx context.Context, nic int, up bool) error {
	return m.QMP(ctx, "set_link", map[string]any{"name": fmt.Sprintf("nic%d", nic), "up": up}, nil)
}

// Eject takes the medium out: a CD leaves its drive, a stick its port.
func (m *Machine) Eject(ctx context.Context, medium int) error {
	id := fmt.Sprintf("medium%d", medium)
	if m.Config.Media[medium].Kind == USBStick {
		return m.QMP(ctx, "device_del", map[string]any{"id": id}, nil)
	}
	return m.QMP(ctx, "eject", map[string]any{"id": id, "force": true}, nil)
}

// Insert puts an image into a CD drive.
func (m *Machine) Insert(ctx context.Context, medium int, path string) error {
	return m.QMP(ctx, "blockdev-change-medium", map[string]any{
		"id": fmt.Sprintf("medium%d", medium), "filename": path, "format": "raw", "read-only-mode": "read-only"}, nil)
}

// Press presses keys on the machine's keyboard, each a combination of QEMU's
// key names such as "ret", "down" or "ctrl-alt-delete".
func (m *Machine) Press(ctx context.Context, combinations ...string) error {
	for _, c := range combinations {
		var keys []map[string]any
		for _, k := range strings.Split(c, "-") {
			keys = append(keys, map[string]any{"type": "qcode", "data": k})
		}
		if err := m.QMP(ctx, "send-key", map[string]any{"keys": keys}, nil); err != nil {
			return err
		}
	}
	return nil
}

// Screen is what the machine's display shows.
func (m *Machine) Screen(ctx context.Context) (image.Image, error) {
	path := filepath.Join(m.Config.Dir, "screen.png")
	if err := m.Screendump(ctx, path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return png.Decode(f)
}

// Screendump writes the display to a PNG file.
func (m *Machine) Screendump(ctx context.Context, path string) error {
	return m.QMP(ctx, "screendump", map[string]any{"filename": path, "format": "png"}, nil)
}
