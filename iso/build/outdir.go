package build

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"joist/internal/finding"
	"joist/internal/run"
)

// workPattern names the folders of builds under way, inside the output folder
// so that a finished file gets its name by a rename.
const workPattern = ".work-*"

// outdir is the output folder of one build. It is locked: a second build into
// the same folder waits, and what a killed one left is known to be nobody's.
type outdir struct {
	dir, work string
	lock      *os.File
}

// openOut makes and locks the folder. waiting is called once if another build
// has the lock.
func openOut(ctx context.Context, dir string, waiting func()) (o outdir, err error) {
	o.dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return o, fmt.Errorf("make the output folder: %w", err)
	}
	o.lock, err = lockFile(ctx, filepath.Join(dir, ".lock"), waiting)
	if err != nil {
		return o, fmt.Errorf("lock the output folder: %w", err)
	}
	stale, err := filepath.Glob(filepath.Join(dir, workPattern))
	for _, s := range stale {
		err = errors.Join(err, removeAll(s))
	}
	if err == nil {
		o.work, err = os.MkdirTemp(dir, workPattern)
	}
	if err != nil {
		o.lock.Close()
		return o, fmt.Errorf("make a work folder: %w", err)
	}
	return o, nil
}

// close removes the work folder and lets the next build in.
func (o outdir) close() error {
	return errors.Join(removeAll(o.work), o.lock.Close())
}

// lockFile waits for an exclusive lock (flock(2)) on a file that it makes.
// The kernel gives it up when the process ends, however that happens.
func lockFile(ctx context.Context, name string, waiting func()) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			break
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// removeAll also removes folders that their owner may not write to, which
// packages bring.
func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// Names of the list of artefacts with their hashes, for sha256sum --check, and
// of its Ed25519 signature (64 bytes, RFC 8032).
const (
	sumsFile = "SHA256SUMS"
	sigFile  = "SHA256SUMS.sig"
)

// publish gives finished files their names in the output folder (name → name
// in the work folder) and lists their hashes, signed where there is a key. All
// that can fail for want of space is done before the first rename. It returns
// the hashes.
func (o outdir) publish(files map[string]string, key ed25519.PrivateKey) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(o.dir, sumsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	sums, list := map[string]string{}, string(text)
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for name, local := range files {
		g.Go(func() error {
			d, err := describe(filepath.Join(o.work, local))
			mu.Lock()
			defer mu.Unlock()
			sums[name] = d.SHA256
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for name, sum := range sums {
		list = sumLines(list, name, sum, func(name string) bool {
			_, err := os.Stat(filepath.Join(o.dir, name))
			return err == nil || files[name] != ""
		})
	}
	if err := os.WriteFile(filepath.Join(o.work, sumsFile), []byte(list), 0o644); err != nil {
		return nil, err
	}
	if key != nil {
		if err := os.WriteFile(filepath.Join(o.work, sigFile), ed25519.Sign(key, []byte(list)), 0o644); err != nil {
			return nil, err
		}
	} else if list != string(text) {
		// A signature of the former list would say that this one is forged.
		if err := remove(filepath.Join(o.dir, sigFile)); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(o.dir, name)), 0o755); err != nil {
			return nil, err
		}
		if err := os.Rename(filepath.Join(o.work, files[name]), filepath.Join(o.dir, name)); err != nil {
			return nil, err
		}
	}
	if err := os.Rename(filepath.Join(o.work, sumsFile), filepath.Join(o.dir, sumsFile)); err != nil || key == nil {
		return sums, err
	}
	return sums, os.Rename(filepath.Join(o.work, sigFile), filepath.Join(o.dir, sigFile))
}

// sumLines is the text of SHA256SUMS with a new line for name; lines of files
// that are gone are dropped.
func sumLines(old, name, sum string, exists func(string) bool) string {
	lines := []string{sum + "  " + name}
	for line := range strings.Lines(old) {
		line = strings.TrimSuffix(line, "\n")
		if _, n, ok := strings.Cut(line, "  "); ok && n != name && exists(n) {
			lines = append(lines, line)
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[min(len(a), 66):], b[min(len(b), 66):]) })
	return strings.Join(lines, "\n") + "\n"
}

// replaceFile writes a file whole or not at all.
func replaceFile(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// explainFull turns a full disk, whoever met it, into a finding.
func explainFull(err error, out, cache string) error {
	var e *run.Error
	var fe *finding.Error
	if err == nil || errors.As(err, &fe) {
		return err
	}
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if errors.As(err, &e) {
		full = full || strings.Contains(string(e.Stderr), syscall.ENOSPC.Error()) || strings.Contains(strings.ToLower(string(e.Stderr)), "no space left")
	}
	if !full {
		return err
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	var fl finding.List
	fl.Stopf("disk-full", out, fmt.Sprintf("a build needs 2 GB in %s and 3 GB in %s; free some, or choose others with --out and XDG_CACHE_HOME", out, cache),
		"no space left: %s", first)
	return fl.Err()
}
