package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/internal/finding"
	"joist/internal/progress"
	"joist/internal/run"
)

// names lists a folder, hidden files too.
func names(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

// A build's folder goes with it; what a killed build left goes with the next,
// even where its folders are not writable.
func TestOutdir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "build")
	stale := filepath.Join(dir, ".work-123", "deep", "locked")
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	for p, text := range map[string]string{filepath.Join(stale, "f"): "x", filepath.Join(dir, "kept.iso"): "x"} {
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(stale, 0o500); err != nil {
		t.Fatal(err)
	}
	o, err := openOut(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{".lock", filepath.Base(o.work), "kept.iso"}) {
		t.Errorf("at the start there are %v", got)
	}
	if st, err := os.Stat(o.work); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the work folder is %v, %v", st.Mode(), err)
	}
	if err := o.close(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{".lock", "kept.iso"}) {
		t.Errorf("at the end there are %v", got)
	}
	if _, err := openOut(t.Context(), filepath.Join(dir, "kept.iso"), nil); err == nil {
		t.Error("a file was taken for the output folder")
	}
}

// Two builds into one folder: the second says so and waits, and can be
// interrupted while it does.
func TestOutdirLock(t *testing.T) {
	dir := t.TempDir()
	first, err := openOut(t.Context(), dir, func() { t.Error("the first waited") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := openOut(ctx, dir, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted while waiting: %v", err)
	}
	waiting, second := make(chan bool, 1), make(chan error, 1)
	go func() {
		o, err := openOut(context.Background(), dir, func() { waiting <- true })
		if err == nil {
			err = o.close()
		}
		second <- err
	}()
	<-waiting
	if _, err := os.Stat(first.work); err != nil {
		t.Errorf("the second build broke the first: %v", err)
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
}

func TestPublish(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "z.zst"), "template")
	write(filepath.Join(dir, "a.iso"), "old")
	write(filepath.Join(dir, sumsFile), strings.Repeat("1", 64)+"  a.iso\n"+strings.Repeat("2", 64)+"  gone.iso\n"+strings.Repeat("3", 64)+"  z.zst\nrubbish\n")
	o, err := openOut(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	if _, err := o.publish(map[string]string{"a.iso": "absent"}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("publishing nothing: %v", err)
	}
	write(filepath.Join(o.work, "medium.iso"), "new")
	write(filepath.Join(o.work, "m.json"), "{}")
	if _, err := o.publish(map[string]string{"a.iso": "medium.iso", "sub/m.json": "m.json"}, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, sumsFile))
	// printf new | sha256sum; printf {} | sha256sum
	want := "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437  a.iso\n" +
		"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a  sub/m.json\n" + strings.Repeat("3", 64) + "  z.zst\n"
	if diff := cmp.Diff(want, string(b)); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a.iso")); err != nil || string(b) != "new" {
		t.Errorf("the artefact is %q, %v", b, err)
	}
}

func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "joist.lock")
	for _, text := range []string{"first", "second, longer"} {
		if err := replaceFile(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(name); err != nil || string(b) != text {
			t.Errorf("%q, %v", b, err)
		}
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := replaceFile(filepath.Join(dir, "joist.lock", "x"), nil); err == nil {
		t.Error("a file below a file")
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left are %v", got)
	}
}

func TestExplainFull(t *testing.T) {
	stderr := func(s string) error {
		return fmt.Errorf("compress system: %w", &run.Error{Cmd: run.Cmd{Path: "/usr/bin/sqfstar"}, Exit: 1, Stderr: []byte(s), Err: errors.New("exit status 1")})
	}
	for _, c := range []struct {
		err  error
		full bool
	}{
		{nil, false}, {errors.New("other"), false}, {stderr("Write failed because of a bug\n"), false},
		{fmt.Errorf("write: %w", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), true}, {syscall.EDQUOT, true},
		{stderr("Write failed because No space left on device\nFATAL ERROR: probably out of space on output filesystem\n"), true},
	} {
		got := explainFull(c.err, "/out", "/cache")
		var fe *finding.Error
		if errors.As(got, &fe) != c.full {
			t.Errorf("%v became %v", c.err, got)
		}
		if c.full && (!strings.Contains(got.Error(), "disk-full") || !strings.Contains(got.Error(), "--out")) {
			t.Errorf("the finding says %v", got)
		}
	}
}

func TestPruneCache(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-48 * time.Hour)
	for name, at := range map[string]time.Time{"current": old, "recent": time.Now(), "old": old, newEntry + "killed": time.Now()} {
		if err := os.MkdirAll(filepath.Join(dir, name, "usr"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := pruneCache(dir, "current", time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"current", "recent"}) {
		t.Errorf("left are %v", got)
	}
}

// A folder of the cache is made once, and only as a whole.
func TestCached(t *testing.T) {
	b := &Builder{cache: t.TempDir()}
	get := func(key string, fail error) (string, bool, error) {
		made := false
		dir, err := b.cached(t.Context(), "kind", key, func(tmp string) error {
			made = true
			return errors.Join(fail, os.WriteFile(filepath.Join(tmp, "f"), []byte(key), 0o644))
		})
		return dir, made, err
	}
	broken := errors.New("broken")
	if _, _, err := get("a", broken); !errors.Is(err, broken) {
		t.Errorf("a failure became %v", err)
	}
	if got := names(t, filepath.Join(b.cache, "kind")); len(got) != 0 {
		t.Errorf("a failure left %v", got)
	}
	for i, want := range []bool{true, false} {
		dir, made, err := get("a", nil)
		text, err2 := os.ReadFile(filepath.Join(dir, "f"))
		if err != nil || err2 != nil || made != want || string(text) != "a" {
			t.Errorf("call %d: made %v, content %q, %v, %v", i, made, text, err, err2)
		}
	}
	if _, made, err := get("b", nil); !made || err != nil {
		t.Errorf("another key: made %v, %v", made, err)
	}
	if got := names(t, b.cache); !slices.Equal(got, []string{"kind", "kind.lock"}) {
		t.Errorf("the cache has %v", got)
	}
}

func TestTimes(t *testing.T) {
	var times Times
	at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
	for _, e := range []progress.Event{
		{Step: "compile", State: progress.Started, At: at(0)}, {Step: "fetch", State: progress.Started, At: at(0.5)}, {Step: "fetch", State: progress.Running, At: at(1)},
		{Step: "fetch", State: progress.Finished, At: at(2)}, {Step: "compile", State: progress.Finished, At: at(10)},
		{Step: "write", State: progress.Started, At: at(10)}, {Step: "write", State: progress.Failed, At: at(12.25)}, {Step: "hangs", State: progress.Started, At: at(13)},
	} {
		times.Sink(e)
	}
	var b strings.Builder
	times.Write(&b)
	want := `   begin  seconds  step
     0.0     10.0  compile
     0.5      1.5  fetch
    10.0      2.2  write
             12.2  total
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	(&Times{}).Write(&b)
	if b.Len() != 0 {
		t.Errorf("a build without steps prints %q", b.String())
	}
}
