package proc

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"joist/internal/run"
)

func reaping(t *testing.T) *Table {
	t.Helper()
	tab := NewTable()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { tab.Reap(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return tab
}

func TestEveryStatusFindsItsOwner(t *testing.T) {
	tab := reaping(t)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			code := i % 7
			_, exit, err := tab.Start(Attr{Path: "/bin/sh", Argv: []string{"sh", "-c", "exit " + string(rune('0'+code))}})
			if err != nil {
				t.Error(err)
				return
			}
			if e := <-exit; !e.Status.Exited() || e.Status.ExitStatus() != code {
				t.Errorf("got %v, want %d", e, code)
			}
		})
	}
	wg.Wait()
	if len(tab.waiting) != 0 {
		t.Errorf("%d left in the table", len(tab.waiting))
	}
}

func TestOrphansAreReaped(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skip(err)
	}
	r := Runner{reaping(t)}
	out, err := r.Run(context.Background(), run.Cmd{Path: "sh", Args: []string{"-c", "sleep 0.1 & echo $!"}})
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strings.TrimSpace(string(out))
	for range 100 {
		if _, err := os.Stat(proc); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s is still there", proc)
}

func TestRunner(t *testing.T) {
	r := Runner{reaping(t)}
	ctx := context.Background()
	out, err := r.Run(ctx, run.Cmd{Path: "sh", Args: []string{"-c", "echo hello; echo sad >&2; exit 3"}})
	if string(out) != "hello\n" || run.ExitCode(err) != 3 || err.Error() != "sh: sad" {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := r.Run(ctx, run.Cmd{Path: "no-such-program"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := r.Run(short, run.Cmd{Path: "sleep", Args: []string{"10"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	var lines []string
	if _, err := r.Run(ctx, run.Cmd{Path: "sh", Args: []string{"-c", "echo a; echo b"}, Line: func(s string) { lines = append(lines, s) }}); err != nil || strings.Join(lines, "") != "ab" {
		t.Errorf("got %q, %v", lines, err)
	}
}

func TestExitText(t *testing.T) {
	tab := reaping(t)
	pid, exit, err := tab.Start(Attr{Path: "/bin/sleep", Argv: []string{"sleep", "10"}})
	if err != nil {
		t.Fatal(err)
	}
	tab.Signal(pid, unix.SIGTERM)
	if got := (<-exit).String(); got != "killed by SIGTERM" {
		t.Errorf("got %q", got)
	}
}
