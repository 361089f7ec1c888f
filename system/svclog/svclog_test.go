package svclog

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func clock() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func TestEarlyLinesReachTheFile(t *testing.T) {
	dir := t.TempDir()
	l := New("udevd", clock)
	l.Copy(strings.NewReader("one\ntwo"))
	if err := l.Open(dir); err != nil {
		t.Fatal(err)
	}
	l.Line("three")
	l.Close()
	l.Line("four")
	b, _ := os.ReadFile(filepath.Join(dir, "udevd.log"))
	want := "2026-01-02T03:04:05.000Z one\n2026-01-02T03:04:05.000Z two\n2026-01-02T03:04:05.000Z three\n"
	if string(b) != want {
		t.Errorf("got %q", b)
	}
	if got := l.Tail(2); len(got) != 2 || !strings.HasSuffix(got[1], "four") {
		t.Errorf("tail %q", got)
	}
}

func TestBounded(t *testing.T) {
	dir := t.TempDir()
	l := New("x", clock)
	if err := l.Open(dir); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		l.Line(fmt.Sprintf("%d %s", i, strings.Repeat("y", 1000)))
	}
	var sum int64
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		st, _ := f.Info()
		sum += st.Size()
		if st.Size() > fileMax {
			t.Errorf("%s has %d bytes", f.Name(), st.Size())
		}
	}
	if len(files) != 2 || sum < fileMax {
		t.Errorf("%d files, %d bytes", len(files), sum)
	}
	if len(l.Tail(1000)) != keep {
		t.Errorf("%d lines kept", len(l.Tail(1000)))
	}
}
