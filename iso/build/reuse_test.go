package build

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/image/boot"
	"joist/internal/finding"
	"joist/internal/progress"
	"joist/rootfs/lock"
)

func TestBlobs(t *testing.T) {
	s := blobs{filepath.Join(t.TempDir(), "programs")}
	if _, ok := s.get("k"); ok {
		t.Error("something is there before anything was put")
	}
	if err := s.put("k", []byte("program")); err != nil {
		t.Fatal(err)
	}
	if b, ok := s.get("k"); !ok || string(b) != "program" {
		t.Errorf("%q, %v", b, ok)
	}
	at := filepath.Join(s.dir, "k")
	text, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", string(text[:len(text)-1]), string(text[:len(text)-1]) + "x"} {
		put(t, at, bad)
		if _, ok := s.get("k"); ok {
			t.Errorf("a damaged result of %d bytes was taken", len(bad))
		}
	}
}

// The key of a program follows its own sources, and nothing else.
func TestSourceDigests(t *testing.T) {
	src := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module m\n\ngo 1.24\n", "cmd/a/main.go": "package main\n\nimport (\n\t_ \"embed\"\n\t\"m/lib\"\n)\n\n//go:embed text\nvar s string\n\nfunc main() { lib.F(s) }\n",
		"cmd/a/text": "one", "cmd/b/main.go": "package main\n\nfunc main() {}\n", "lib/lib.go": "package lib\n\nfunc F(string) {}\n", "lib/lib_test.go": "package lib\n",
	} {
		at := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, at, text)
	}
	g, err := findGo(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	read := func() map[string]string {
		t.Helper()
		d, _, err := g.sourceDigests(t.Context(), src, false, []string{"./cmd/a", "./cmd/b"})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	last := read()
	for _, c := range []struct {
		file, text string
		a, b       bool // which change
	}{
		{"lib/lib_test.go", "package lib // changed\n", false, false},
		{"lib/lib.go", "package lib\n\nfunc F(string) { println() }\n", true, false},
		{"cmd/a/text", "two", true, false},
		{"cmd/b/main.go", "package main\n\nfunc main() { println() }\n", false, true},
	} {
		put(t, filepath.Join(src, c.file), c.text)
		now := read()
		if (now["./cmd/a"] != last["./cmd/a"]) != c.a || (now["./cmd/b"] != last["./cmd/b"]) != c.b {
			t.Errorf("after a change of %s: a changed %v, b changed %v", c.file, now["./cmd/a"] != last["./cmd/a"], now["./cmd/b"] != last["./cmd/b"])
		}
		last = now
	}
}

// kept is a builder with a system in its cache.
func kept(t *testing.T) (*Builder, System) {
	t.Helper()
	b := &Builder{id: "0123456789abcdef", cache: t.TempDir(), work: t.TempDir()}
	b.o = Options{Say: func(finding.List) {}, Sink: progress.Discard, Out: t.TempDir()}
	s := b.inWork()
	s.Manifest.Files = map[string]boot.File{}
	for name, at := range s.files() {
		put(t, at, name)
		d, err := describe(at)
		if err != nil {
			t.Fatal(err)
		}
		s.Manifest.Files[name] = d
	}
	s.Bill = []byte("bill")
	var fl finding.List
	fl.Warnf("w", "x", "", "warned")
	b.say(fl)
	b.keepSystem(t.Context(), s)
	b.work = t.TempDir()
	return b, s
}

func TestKeptSystem(t *testing.T) {
	b, s := kept(t)
	var told finding.List
	b.o.Say = func(fl finding.List) { told = append(told, fl...) }
	got, ok, err := b.keptSystem(t.Context())
	if err != nil || !ok || got.Manifest.Files[boot.FileInitrd] != s.Manifest.Files[boot.FileInitrd] || string(got.Bill) != "bill" || len(told) != 1 {
		t.Fatalf("%+v, %v, %v, told %v", got, ok, err, told)
	}
	if c, err := os.ReadFile(got.Kernel); err != nil || string(c) != boot.FileKernel {
		t.Errorf("the kernel is %q, %v", c, err)
	}
	// Damaged, or of other inputs: none, and nothing of it is left behind.
	for what, spoil := range map[string]func(*Builder, string){
		"damaged":         func(_ *Builder, dir string) { put(t, filepath.Join(dir, boot.FileSystem), "system.sqfz") },
		"without a file":  func(_ *Builder, dir string) { os.Remove(filepath.Join(dir, boot.FileInitrd)) },
		"broken record":   func(_ *Builder, dir string) { put(t, filepath.Join(dir, recordFile), "{") },
		"of other inputs": func(b *Builder, _ string) { b.id = "fedcba9876543210" },
	} {
		b, _ := kept(t)
		key, err := b.systemKey()
		if err != nil {
			t.Fatal(err)
		}
		spoil(b, filepath.Join(b.cache, "system", key))
		if _, ok, err := b.keptSystem(t.Context()); ok || err != nil {
			t.Errorf("%s: taken %v, %v", what, ok, err)
		}
		if left := names(t, b.work); len(left) > 0 {
			t.Errorf("%s: left are %v", what, left)
		}
	}
}

func TestUnchanged(t *testing.T) {
	b, _ := kept(t)
	name := filepath.Join(b.o.Out, "x.iso")
	sum := sha256.Sum256([]byte("medium"))
	hash := hex.EncodeToString(sum[:])
	fill := func() {
		put(t, name, "medium")
		put(t, filepath.Join(b.o.Out, sumsFile), hash+"  x.iso\n")
	}
	is := func(what string, want bool) {
		t.Helper()
		if got, err := b.unchanged(ISO); err != nil || got != want {
			t.Errorf("%s: unchanged %v, %v", what, got, err)
		}
	}
	fill()
	is("before anything was built", false)
	if err := b.noteResult(ISO, map[string]string{"x.iso": hash}); err != nil {
		t.Fatal(err)
	}
	is("as it was built", true)
	put(t, name, "medivm")
	is("a changed artefact", false)
	fill()
	put(t, filepath.Join(b.o.Out, sumsFile), "")
	is("a list that does not name it", false)
	os.Remove(name)
	is("no artefact", false)
	fill()
	b.id = "fedcba9876543210"
	is("other inputs", false)
}

func TestPruneOldest(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"c", "a", "b", newEntry + "x"} {
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(time.Duration(i) * time.Minute)
		if err := os.Chtimes(at, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := pruneOldest(dir, 2); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("left are %v", got)
	}
}

func TestBoundFiles(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for i, name := range []string{"a/oldest", "b", "a/c", "a/used"} {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, at, "12345")
		when := now.Add(time.Duration(i-3) * 2 * time.Hour)
		if err := os.Chtimes(at, when, when); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (out []string) {
		if err := walkFiles(dir, func(name string, _ fs.FileInfo) error {
			out = append(out, strings.TrimPrefix(name, dir+"/"))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, c := range []struct {
		limit int64
		want  []string
	}{{20, []string{"a/c", "a/oldest", "a/used", "b"}}, {15, []string{"a/c", "a/used", "b"}}, {14, []string{"a/c", "a/used"}}, {0, []string{"a/used"}}} {
		if err := boundFiles(dir, c.limit, now.Add(-inUse)); err != nil {
			t.Fatal(err)
		}
		if got := left(); !slices.Equal(got, c.want) {
			t.Errorf("of at most %d bytes are left %v, want %v", c.limit, got, c.want)
		}
	}
	if err := boundFiles(filepath.Join(dir, "absent"), 0, now); err != nil {
		t.Error(err)
	}
}

func TestPruneAll(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	old, now := filepath.Join(cache, "joist/pool/aa/old"), filepath.Join(cache, "joist/pool/aa/new")
	if err := os.MkdirAll(filepath.Dir(old), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, old, "12345")
	put(t, now, "123")
	long := time.Now().Add(-2 * keepFor)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	if before, after, err := PruneCache(t.Context(), false); err != nil || before != 8 || after != 3 {
		t.Errorf("%d before, %d after, %v", before, after, err)
	}
	if _, after, err := PruneCache(t.Context(), true); err != nil || after != 0 {
		t.Errorf("%d after all, %v", after, err)
	}
}

func TestDiffLocks(t *testing.T) {
	p := func(name, version, sets string) lock.Package {
		return lock.Package{Name: name, Version: version, Suite: "trixie", SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(name+version))), Sets: strings.Fields(sets), Size: 1500000}
	}
	was := lock.Lock{Packages: []lock.Package{p("a", "1", "image"), p("b", "1", "image"), p("c", "1", "tools"), p("same", "1", "image")}}
	is := lock.Lock{Packages: []lock.Package{p("b", "2", "image"), p("c", "1", "image tools"), p("d", "1", "image"), p("same", "1", "image")}}
	want := "- a 1 (image)\n~ b 1 → 2 from trixie (image)\n~ c 1: was for tools, is for image, tools\n+ d 1 from trixie (image), 1.5 MB\n"
	if got := diffLocks(was, is); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := diffLocks(is, is); got != "the same packages\n" {
		t.Error(got)
	}
}
