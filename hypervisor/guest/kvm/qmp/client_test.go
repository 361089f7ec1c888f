package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const hello = `{"QMP": {"version": {"qemu": {"micro": 13, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}`

// fake is a QEMU that answers each command with what do returns, in order.
func fake(t *testing.T, do func(cmd, id string) []string) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		fmt.Fprintf(theirs, "%s\r\n", hello)
		for sc := bufio.NewScanner(theirs); sc.Scan(); {
			var m struct{ Execute, ID string }
			json.Unmarshal(sc.Bytes(), &m)
			if m.Execute == "qmp_capabilities" {
				fmt.Fprintf(theirs, `{"return": {}, "id": %q}`+"\r\n", m.ID)
				continue
			}
			for _, line := range do(m.Execute, m.ID) {
				if line == "close" {
					theirs.Close()
					return
				}
				fmt.Fprintf(theirs, "%s\r\n", line)
			}
		}
	}()
	c, err := New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); theirs.Close() })
	return c
}

func TestRepliesOutOfOrder(t *testing.T) {
	var mu sync.Mutex
	var held []string
	c := fake(t, func(cmd, id string) []string {
		mu.Lock()
		defer mu.Unlock()
		held = append([]string{fmt.Sprintf(`{"return": %q, "id": %q}`, cmd, id)}, held...)
		if len(held) < 3 {
			return nil
		}
		return append([]string{`{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}`}, held...)
	})
	var wg sync.WaitGroup
	for _, cmd := range []string{"a", "b", "c"} {
		wg.Go(func() {
			var got string
			if err := c.Do(t.Context(), cmd, nil, &got); err != nil || got != cmd {
				t.Errorf("%s: %q %v", cmd, got, err)
			}
		})
	}
	wg.Wait()
}

func TestErrorsAndBigReplies(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	c := fake(t, func(cmd, id string) []string {
		switch cmd {
		case "big":
			return []string{fmt.Sprintf(`{"return": %q, "id": %q}`, big, id)}
		case "die":
			return []string{`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}, "timestamp": {"seconds": 1, "microseconds": 0}}`, "close"}
		case "slow":
			return nil
		}
		return []string{fmt.Sprintf(`{"error": {"class": "CommandNotFound", "desc": "no such thing"}, "id": %q}`, id)}
	})
	if c.Version() != "10.0.13" {
		t.Error(c.Version())
	}
	var got string
	if err := c.Do(t.Context(), "big", nil, &got); err != nil || got != big {
		t.Fatal(len(got), err)
	}
	var e *Error
	if err := c.Do(t.Context(), "nope", nil, nil); !errors.As(err, &e) || e.Class != "CommandNotFound" || err.Error() != "nope: no such thing" {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Do(ctx, "slow", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	first, second := c.Subscribe(), c.Subscribe()
	second.Close()
	if err := c.Do(t.Context(), "die", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	<-c.Done()
	if ev, err := first.Next(t.Context()); err != nil || ev.Name != "SHUTDOWN" || !ev.Time.Equal(time.Unix(1, 0)) {
		t.Fatal(ev, err)
	}
	if _, err := first.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), "later", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestUnreadEvents(t *testing.T) {
	c := fake(t, func(cmd, id string) []string {
		var out []string
		for i := range maxQueue + 10 {
			out = append(out, fmt.Sprintf(`{"event": "E%d", "timestamp": {"seconds": 1, "microseconds": 0}}`, i))
		}
		return append(out, fmt.Sprintf(`{"return": {}, "id": %q}`, id))
	})
	s := c.Subscribe()
	if err := c.Do(t.Context(), "noise", nil, nil); err != nil {
		t.Fatal(err)
	}
	if e, err := s.Next(t.Context()); err != nil || e.Name != "E10" || s.Dropped() != 10 {
		t.Fatal(e, err, s.Dropped())
	}
}

func TestSilentMonitor(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, ours); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// TestQEMU uses a real QEMU without a machine.
func TestQEMU(t *testing.T) {
	bin, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip(err)
	}
	sock := filepath.Join(t.TempDir(), "qmp")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-machine", "none", "-nodefaults", "-display", "none",
		"-chardev", "socket,id=m,fd=3,server=on,wait=off", "-mon", "chardev=m,mode=control")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{f}, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := Dial(ctx, sock)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	var schema []json.RawMessage
	if err := c.Do(ctx, "query-qmp-schema", nil, &schema); err != nil || len(schema) < 100 {
		t.Fatal(len(schema), err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DoFiles(ctx, "getfd", map[string]string{"fdname": "x"}, nil, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if n, err := unix.FcntlInt(r.Fd(), unix.F_GETFL, 0); err != nil || n < 0 {
		t.Fatal(err)
	}
	if err := c.Do(ctx, "closefd", map[string]string{"fdname": "x"}, nil); err != nil {
		t.Fatal(err)
	}
	if n, _ := r.Read(make([]byte, 1)); n != 0 { // end of file: QEMU held the last writer
		t.Fatal("the descriptor did not arrive")
	}
	c.Close()
	// The monitor serves the next client after the first has gone; the socket's
	// name was removed with the listener, so that only Dial's error is looked at.
	if _, err := Dial(ctx, sock); err == nil {
		t.Fatal("connected to a name that is gone")
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(`{"return": {}, "id": "1"}`)
	f.Add(`{"event": "X"}`)
	f.Add(`{"id": 5}`)
	f.Fuzz(func(t *testing.T, line string) {
		ours, theirs := net.Pipe()
		c := &Client{conn: ours, waiting: map[string]chan message{"1": make(chan message, 1)}, done: make(chan struct{})}
		s := c.Subscribe()
		go func() { theirs.Write([]byte(line + "\n")); theirs.Close() }()
		c.read(bufio.NewReader(ours))
		s.Next(context.Background())
	})
}
