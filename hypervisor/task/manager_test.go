package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string, keep int, replay map[string]Replayer) *Manager {
	t.Helper()
	m, err := New(Options{Node: "n1", Dir: dir, Keep: keep, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Recover(t.Context(), replay); err != nil {
		t.Fatal(err)
	}
	return m
}

func wait(t *testing.T, m *Manager, u UPID) Info {
	t.Helper()
	for range 500 {
		i, err := m.Get(u.String())
		if err != nil {
			t.Fatal(err)
		}
		if !i.Running {
			return i
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatal("task does not end")
	return Info{}
}

func TestStatuses(t *testing.T) {
	m := open(t, t.TempDir(), 0, nil)
	defer m.Close(context.Background())
	tests := []struct {
		name, status string
		log          []string
		f            Func
	}{
		{"ok", "OK", []string{"a", "b", "TASK OK"}, func(_ context.Context, l Log) error { l.Printf("a\nb\n"); return nil }},
		{"warned", "WARNINGS: 1", []string{"WARN: w", "TASK WARNINGS: 1"}, func(_ context.Context, l Log) error { l.Warnf("w"); return nil }},
		{"failed", "no space", []string{"TASK ERROR: no space"}, func(context.Context, Log) error { return errors.New("no space\nmore") }},
		{"panic", "internal error: boom", []string{"TASK ERROR: internal error: boom"}, func(context.Context, Log) error { panic("boom") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := m.Start(Spec{Type: "qmstart", ID: "100", User: "root@pam"}, tt.f)
			if err != nil {
				t.Fatal(err)
			}
			if i := wait(t, m, u); i.Status != tt.status {
				t.Errorf("status %q, want %q", i.Status, tt.status)
			}
			lines, total, err := m.Read(u.String(), 0, 0)
			if d := cmp.Diff(tt.log, lines); d != "" || err != nil || total != len(tt.log) {
				t.Error(d, err, total)
			}
		})
	}
}

func TestStopAndPaging(t *testing.T) {
	m := open(t, t.TempDir(), 0, nil)
	defer m.Close(context.Background())
	begun := make(chan struct{})
	u, err := m.Start(Spec{Type: "imgcopy", User: "root@pam!tok"}, func(ctx context.Context, l Log) error {
		for i := range 10 {
			l.Printf("line %d", i)
		}
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	if l, n := m.List(Filter{Source: Active}); n != 1 || !l[0].Running {
		t.Errorf("active: %v", l)
	}
	if lines, total, _ := m.Read(u.String(), 3, 2); total != 10 || cmp.Diff([]string{"line 3", "line 4"}, lines) != "" {
		t.Errorf("page: %v of %d", lines, total)
	}
	if err := m.Stop(u.String()); err != nil {
		t.Fatal(err)
	}
	if i := wait(t, m, u); i.Status != "received interrupt" {
		t.Errorf("status %q", i.Status)
	}
	if err := m.Stop("UPID:n1:00000009:00000009:00000009:x::root@pam:"); !errors.Is(err, ErrUnknown) {
		t.Errorf("stop unknown: %v", err)
	}
}

func TestRefusesBadNames(t *testing.T) {
	m := open(t, t.TempDir(), 0, nil)
	defer m.Close(context.Background())
	for _, s := range []Spec{{Type: "a/b", User: "root@pam"}, {Type: "x", ID: "../..", User: "root@pam"}, {Type: "x"}} {
		if _, err := m.Start(s, nil); err == nil {
			t.Errorf("accepted %+v", s)
		}
	}
}

// TestCrash leaves the folder as a killed daemon does and opens it again.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir, 0, nil)
	hold, begun := make(chan struct{}), make(chan struct{})
	u, err := m.Start(Spec{Type: "qmcreate", ID: "100", User: "root@pam"}, func(ctx context.Context, l Log) error {
		j := JournalOf(ctx)
		for i := range 3 {
			if err := j.Record("volume", i); err != nil {
				return err
			}
		}
		close(begun)
		<-hold
		return j.Done()
	})
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	close(hold)
	m.Close(context.Background())

	// A record that the crash cut in the middle was never acknowledged.
	name := filepath.Join(copied, journalDir, u.String())
	f, _ := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString(`{"kind":"vol`)
	f.Close()

	var undone []string
	m = open(t, copied, 0, map[string]Replayer{"volume": func(_ context.Context, p json.RawMessage) error {
		undone = append(undone, string(p))
		return nil
	}})
	defer m.Close(context.Background())
	if d := cmp.Diff([]string{"2", "1", "0"}, undone); d != "" {
		t.Error(d)
	}
	i, err := m.Get(u.String())
	if err != nil || i.Running || i.Status != "unexpected status" {
		t.Errorf("%+v %v", i, err)
	}
	lines, _, _ := m.Read(u.String(), 0, 0)
	if len(lines) == 0 || lines[len(lines)-1] != "TASK ERROR: unexpected status" {
		t.Errorf("log %q", lines)
	}
	if _, err := os.Stat(name); !os.IsNotExist(err) {
		t.Errorf("journal stays: %v", err)
	}
	n, err := m.Start(Spec{Type: "x", User: "root@pam"}, func(context.Context, Log) error { return nil })
	if err != nil || n.Num <= u.Num {
		t.Errorf("number %d after %d (%v)", n.Num, u.Num, err)
	}
}

func TestFailureUndoes(t *testing.T) {
	var undone []string
	m := open(t, t.TempDir(), 0, map[string]Replayer{"k": func(_ context.Context, p json.RawMessage) error {
		undone = append(undone, string(p))
		return nil
	}})
	defer m.Close(context.Background())
	u, _ := m.Start(Spec{Type: "x", User: "root@pam"}, func(ctx context.Context, _ Log) error {
		JournalOf(ctx).Record("k", "a")
		JournalOf(ctx).Done()
		JournalOf(ctx).Record("k", "b")
		return errors.New("no")
	})
	wait(t, m, u)
	if d := cmp.Diff([]string{`"b"`}, undone); d != "" {
		t.Error(d)
	}
}

func TestFilterAndRetention(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir, 8, nil)
	for i := range 30 {
		u, err := m.Start(Spec{Type: []string{"a", "b"}[i%2], ID: fmt.Sprint(100 + i%3), User: "root@pam"},
			func(context.Context, Log) error {
				if i%5 == 0 {
					return errors.New("bad")
				}
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
		wait(t, m, u)
	}
	all, total := m.List(Filter{})
	if total < 8 || total > 10 {
		t.Errorf("kept %d", total)
	}
	if all[0].UPID.Num < all[1].UPID.Num {
		t.Error("not newest first")
	}
	for _, f := range []Filter{{Type: "a"}, {VMID: "101"}, {Errors: true}, {Statuses: []string{"error"}}, {Limit: 2, Start: 1}} {
		got, _ := m.List(f)
		for _, i := range got {
			if f.Type != "" && i.UPID.Type != f.Type || f.VMID != "" && i.UPID.ID != f.VMID || f.Errors && i.Status == "OK" {
				t.Errorf("%+v gave %+v", f, i)
			}
		}
		if f.Limit > 0 && len(got) != f.Limit {
			t.Errorf("limit gave %d", len(got))
		}
	}
	if _, n := m.List(Filter{Visible: func(UPID) bool { return false }}); n != 0 {
		t.Error("invisible tasks listed")
	}
	m.Close(context.Background())
	b, _ := os.ReadFile(filepath.Join(dir, indexFile))
	if n := strings.Count(string(b), "\n"); n != total {
		t.Errorf("index has %d lines, %d tasks", n, total)
	}
	again := open(t, dir, 8, nil)
	defer again.Close(context.Background())
	if _, n := again.List(Filter{}); n != total {
		t.Errorf("%d tasks after opening again, want %d", n, total)
	}
}

func TestShutdownLeavesJournal(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir, 0, map[string]Replayer{"k": func(context.Context, json.RawMessage) error { t.Error("undone at shutdown"); return nil }})
	begun := make(chan struct{})
	m.Start(Spec{Type: "x", User: "root@pam"}, func(ctx context.Context, _ Log) error {
		JournalOf(ctx).Record("k", 1)
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	})
	<-begun
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(Spec{Type: "x", User: "root@pam"}, nil); !errors.Is(err, ErrNotReady) {
		t.Errorf("start after close: %v", err)
	}
	n := 0
	m = open(t, dir, 0, map[string]Replayer{"k": func(context.Context, json.RawMessage) error { n++; return nil }})
	defer m.Close(context.Background())
	if n != 1 {
		t.Errorf("replayed %d times", n)
	}
}

func FuzzParseUPID(f *testing.F) {
	f.Add("UPID:n1:00000001:00000002:6900AA00:qmstart:100:root@pam:")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUPID(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(s, "/\n") {
			t.Fatalf("accepted %q", s)
		}
		if _, err := ParseUPID(u.String()); err != nil {
			t.Fatalf("%q → %q: %v", s, u, err)
		}
	})
}
