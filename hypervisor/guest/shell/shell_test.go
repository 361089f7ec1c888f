package shell

import (
	"bufio"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"joist/hypervisor/guest"
)

func shells(t *testing.T) Shells {
	t.Helper()
	return Shells{Groups: guest.Groups{Dir: filepath.Join(t.TempDir(), "tasks")}, Argv: []string{"/bin/sh"}, Home: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
}

// until reads lines up to one that begins with mark.
func until(t *testing.T, r *bufio.Reader, mark string) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		line = strings.TrimLeft(line, "#$ ")               // a shell that is slow prompts after the echo of what was typed
		if rest, ok := strings.CutPrefix(line, mark); ok { // what was typed is echoed, but begins otherwise
			return strings.TrimSpace(rest)
		}
		if err != nil {
			t.Fatalf("no %q: %v", mark, err)
		}
	}
}

// TestShell: it is a terminal of the asked size, in its group, and what it has
// started in the background ends with it.
func TestShell(t *testing.T) {
	s := shells(t)
	con, err := s.Open(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	if err := con.Resize(100, 30); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(con)
	io.WriteString(con, "PS1=; stty -echo; echo size=$(stty size); tty >/dev/null && echo tty=yes; (trap '' HUP; sleep 1000) & echo pid=$!\n")
	if got := until(t, r, "size="); got != "30 100" {
		t.Errorf("size %q", got)
	}
	if got := until(t, r, "tty="); got != "yes" {
		t.Errorf("tty %q", got)
	}
	pid, err := strconv.Atoi(until(t, r, "pid="))
	if err != nil {
		t.Fatal(err)
	}
	// A plain folder is no cgroup: children do not enter it by themselves.
	if err := os.WriteFile(filepath.Join(s.Groups.Dir, "7", "cgroup.procs"), []byte(strconv.Itoa(pid)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), 7); err == nil {
		t.Error("two shells in one group")
	}
	begun := time.Now()
	if err := con.Close(); err != nil {
		t.Error(err)
	}
	if _, err := guest.FindProcess(pid); err == nil {
		t.Error("a process outlives its shell")
	}
	if left, _ := s.Groups.List(); len(left) != 0 || time.Since(begun) > 2*patience {
		t.Errorf("left %v after %s", left, time.Since(begun))
	}
	if err := con.Close(); err != nil {
		t.Error("second Close:", err)
	}
}

// TestEnd: a shell that is left says so to who reads.
func TestEnd(t *testing.T) {
	s := shells(t)
	con, err := s.Open(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(con, "exit\n")
	if _, err := io.Copy(io.Discard, con); err != nil {
		t.Error(err)
	}
	con.Close()
	s.Argv = []string{"/does/not/exist"}
	if _, err := s.Open(t.Context(), 2); err == nil {
		t.Error("a shell that is not there")
	}
	if err := os.MkdirAll(filepath.Join(s.Groups.Dir, "3"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.Sweep()
	if left, _ := s.Groups.List(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
