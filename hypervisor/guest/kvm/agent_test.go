package kvm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/hypervisor/guest"
)

// agent is the inside of a guest: for each line it says what answer gives.
func agent(t *testing.T, m *Machine, answer func(command string, id json.RawMessage) string) {
	t.Helper()
	folder := m.d.Runs.Folder(m.vmid)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(folder, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for r := bufio.NewReader(c); ; {
				line, err := r.ReadBytes('\n')
				if err != nil {
					break
				}
				var x struct {
					Execute   string
					Arguments struct{ ID json.RawMessage }
				}
				if err := json.Unmarshal(bytes.TrimPrefix(line, []byte{agentMark}), &x); err != nil {
					t.Errorf("agent got %q", line)
				}
				io.WriteString(c, answer(x.Execute, x.Arguments.ID))
			}
			c.Close()
		}
	}()
}

func TestAgent(t *testing.T) {
	d := New(Config{Runs: guest.Runs{Dir: t.TempDir()}, Log: slog.New(slog.DiscardHandler)})
	m := d.newMachine(guest.Record{VMID: 100})
	agent(t, m, func(command string, id json.RawMessage) string {
		switch command {
		case "guest-sync-delimited": // behind what an earlier caller has left
			return `{"return": 1}` + "\n\xff" + `{"return": 7}` + "\n\xff" + `{"return": ` + string(id) + "}\n"
		case "guest-ping":
			return `{"return": {}}` + "\n"
		case "guest-get-osinfo":
			return `{"return": {"id": "debian"}}` + "\n"
		case "guest-big":
			return `{"return": "` + strings.Repeat("x", maxReply) + `"}` + "\n"
		}
		return `{"error": {"class": "CommandNotFound", "desc": "The command ` + command + ` has not been found"}}` + "\n"
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for command, want := range map[string]string{"guest-ping": "{}", "guest-get-osinfo": `{"id": "debian"}`} {
		if got, err := m.AskAgent(ctx, command); err != nil || string(got) != want {
			t.Errorf("%s: %s %v", command, got, err)
		}
	}
	_, err := m.AskAgent(ctx, "guest-fly")
	var refused *guest.AgentError
	if !errors.As(err, &refused) || err.Error() != "Agent error: The command guest-fly has not been found" {
		t.Error(err)
	}
	if _, err := m.AskAgent(ctx, "guest-big"); err == nil || errors.As(err, &refused) {
		t.Errorf("an endless answer: %v", err)
	}
}

// TestNoAgent: QEMU takes the connection whether or not there is an agent.
func TestNoAgent(t *testing.T) {
	d := New(Config{Runs: guest.Runs{Dir: t.TempDir()}, Log: slog.New(slog.DiscardHandler)})
	m := d.newMachine(guest.Record{VMID: 100})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := m.AskAgent(ctx, "guest-ping"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a channel: %v", err)
	}
	agent(t, m, func(string, json.RawMessage) string { return "" })
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.AskAgent(ctx, "guest-ping"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an agent: %v", err)
	}
}

func FuzzTalk(f *testing.F) {
	f.Add([]byte("\xff{\"return\": 5}\n{\"return\": {}}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		rw := struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard}
		if reply, err := talk(rw, "guest-ping", 5); err == nil && !json.Valid(reply) {
			t.Errorf("%q", reply)
		}
	})
}
