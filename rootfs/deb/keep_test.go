package deb

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestKeep(t *testing.T) {
	name := debOf(t, ".xz", tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o755}, file("./usr/a", "content of a"), file("./usr/b", "content of b"))
	keep := filepath.Join(t.TempDir(), "new", "kept")
	open := func() *Package {
		t.Helper()
		p, err := Open(name)
		if err != nil {
			t.Fatal(err)
		}
		p.Keep(keep)
		return p
	}
	want, err := walk(open())
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(keep)
	if err != nil {
		t.Fatalf("nothing was kept: %v", err)
	}

	// From here on the copy is read: the package's own data is destroyed.
	p := open()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	broken := append([]byte(nil), b...)
	clear(broken[p.data.offset : p.data.offset+p.data.size])
	if err := os.WriteFile(name, broken, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := walk(p)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("the copy reads otherwise: %v\n%s", err, diff)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}

	// A damaged copy says so once and is gone.
	for what, bytes := range map[string][]byte{"empty": nil, "cut": whole[:len(whole)-6], "flipped": flip(whole, len(whole)/2), "checksum": flip(whole, len(whole)-1)} {
		if err := os.WriteFile(keep, bytes, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := walk(p); !errors.Is(err, ErrKept) {
			t.Errorf("%s copy: %v", what, err)
		}
		if got, err := walk(p); err != nil || !cmp.Equal(want, got) {
			t.Errorf("after the %s copy: %v", what, err)
		}
		if again, err := os.ReadFile(keep); err != nil || len(again) != len(whole) {
			t.Errorf("after the %s copy no new one was made: %v", what, err)
		}
	}

	// An error of the caller is not the copy's.
	stop := errors.New("stop")
	if err := p.Walk(func(*tar.Header, io.Reader) error { return stop }); !errors.Is(err, stop) || errors.Is(err, ErrKept) {
		t.Errorf("an error of the caller became %v", err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("an error of the caller cost the copy: %v", err)
	}
}

func flip(b []byte, at int) []byte {
	b = append([]byte(nil), b...)
	b[at] ^= 0x40
	return b
}

// A walk that is broken off keeps nothing, and a folder that cannot be
// written to is no error.
func TestKeepNothing(t *testing.T) {
	name := debOf(t, ".gz", file("./a", "a"), file("./b", "b"))
	dir := t.TempDir()
	p, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	p.Keep(filepath.Join(dir, "kept"))
	stop := errors.New("stop")
	if err := p.Walk(func(*tar.Header, io.Reader) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("a broken walk left %v, %v", list, err)
	}
	p.Keep(filepath.Join(name, "kept")) // below a file
	if _, err := walk(p); err != nil {
		t.Error(err)
	}
}

func TestPruneKept(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for name, age := range map[string]time.Duration{"used": time.Hour, "old": 48 * time.Hour, ".new-1": 48 * time.Hour} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, name), now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := PruneKept(dir, now.Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 || list[0].Name() != "used" {
		t.Errorf("left are %v, %v", list, err)
	}
	if err := PruneKept(filepath.Join(dir, "absent"), now); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
}
