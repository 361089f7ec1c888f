package deb

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"joist/internal/finding"
	"joist/internal/progress"
	"joist/rootfs/lock"
)

// TestArchive resolves, fetches and opens real packages through the machine's
// own apt configuration. It is skipped with -short and where no source is
// configured or reachable.
func TestArchive(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the network")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c, err := New(Config{Cache: os.Getenv("JOIST_TEST_CACHE"), Root: "/"})
	if err != nil {
		t.Fatal(err)
	}
	suites := []string{"trixie", "trixie-updates", "trixie-security"}
	start := time.Now()
	ix, fs, err := c.Index(ctx, suites)
	var none *finding.Error
	if errors.As(err, &none) && none.List[0].Code == "source-none" && !strings.Contains(err.Error(), "verify") {
		t.Skip(err) // no network, but never a signature that fails
	}
	if err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("index: %d packages, fetched, unpacked and parsed in %v, %d MB live, %d MB from the system",
		ix.Len(), time.Since(start).Round(time.Millisecond), m.HeapAlloc>>20, m.Sys>>20)
	for _, f := range append(c.Notes(), fs...) {
		t.Log(f)
	}
	again, err := New(Config{Cache: os.Getenv("JOIST_TEST_CACHE"), Root: "/"})
	if err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	if _, _, err := again.Index(ctx, suites); err != nil {
		t.Fatal(err)
	}
	t.Logf("index: again, from the cache, in %v", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	wants := []string{"base-files", "bash", "coreutils", "qemu-system-x86", "lxc", "lvm2"}
	l, fs, err := Resolve(ctx, c, suites, wants, map[string]string{"systemd": "PID 1 is ours", "perl-base": "no scripts run"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		t.Log(f)
	}
	t.Logf("resolve: %d packages in %v", len(l.Packages), time.Since(start).Round(time.Microsecond))
	if fs.Stops() || len(l.Packages) < 50 {
		t.Fatal("closure is not complete")
	}
	if _, err := lock.Encode(l); err != nil {
		t.Fatal(err)
	}
	var few []lock.Package
	for _, p := range l.Packages {
		if p.Size < 1<<20 || os.Getenv("JOIST_TEST_ALL") != "" {
			few = append(few, p)
		}
	}
	start = time.Now()
	paths, err := c.Fetch(ctx, few, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("fetch: %d packages in %v", len(few), time.Since(start).Round(time.Millisecond))
	start = time.Now()
	var files, bytes int64
	for _, p := range few {
		d, err := Open(paths[p.Name])
		if err != nil {
			t.Fatal(err)
		}
		if d.Control.Get("Package") != p.Name || d.Control.Get("Version") != p.Version {
			t.Fatalf("%s holds %s %s", p.Name, d.Control.Get("Package"), d.Control.Get("Version"))
		}
		err = d.Walk(func(h *tar.Header, r io.Reader) error {
			files++
			n, err := io.Copy(io.Discard, r)
			bytes += n
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("open: %d files, %d MB in %v", files, bytes>>20, time.Since(start).Round(time.Millisecond))
}
