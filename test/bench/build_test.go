package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"joist/image/squashfs"
	"joist/rootfs/tree"
	"joist/test/vm"
)

// bench is the set-up of one run.
type bench struct {
	root   string // the checkout
	cache  string // packages that were fetched before
	joist  string // the builder
	dir    string // for all that is made
	rounds int
	rows   strings.Builder
}

// TestBuildFigures compares the builder with mmdebstrap, mksquashfs and xorriso
// and writes build/figures-build.md. It runs for a long time and only where
// JOIST_BENCH is 1; JOIST_BENCH_ROUNDS says how often each thing is measured and
// JOIST_BENCH_BOOT=1 boots the image that was rebuilt. JOIST_BENCH_INSTALLED=1
// also lets mmdebstrap install the packages, for which it fetches those that
// joist has no use for. No figure is a gate; one
// that cannot be had is.
func TestBuildFigures(t *testing.T) {
	if os.Getenv("JOIST_BENCH") != "1" {
		t.Skip("JOIST_BENCH is not 1: this takes many minutes")
	}
	b := newBench(t)
	t.Run("image", b.image)
	t.Run("squashfs", b.squashfs)
	t.Run("rebuild", b.rebuild)
	text := b.head(t) + b.rows.String()
	path := filepath.Join(b.root, "build", "figures-build.md")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s:\n%s", path, text)
}

func newBench(t *testing.T) *bench {
	b := &bench{dir: t.TempDir(), rounds: 3}
	var err error
	if b.root, err = vm.Root(); err != nil {
		t.Fatal(err)
	}
	if n := os.Getenv("JOIST_BENCH_ROUNDS"); n != "" {
		if b.rounds, err = strconv.Atoi(n); err != nil || b.rounds < 1 {
			t.Fatalf("JOIST_BENCH_ROUNDS is %q", n)
		}
	}
	for _, p := range []string{"mmdebstrap", "mksquashfs", "unsquashfs", "xorriso"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%v: run scripts/tools.sh bench", err)
		}
	}
	if b.cache, err = os.UserCacheDir(); err != nil {
		t.Fatal(err)
	}
	b.joist = filepath.Join(b.dir, "joist")
	b.must(t, command{name: "go", args: []string{"build", "-trimpath", "-buildvcs=false", "-o", b.joist, "./cmd/joist"}, dir: b.root, env: []string{"CGO_ENABLED=0"}})
	return b
}

func (b *bench) must(t *testing.T, c command) usage {
	t.Helper()
	u, err := c.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// head says what the figures were measured on.
func (b *bench) head(t *testing.T) string {
	version := func(name string, args ...string) string {
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		if len(out) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return first
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%d processors, load at the end %s; %s; %s; %s; medians of %d rounds that were run in turn.\n", runtime.NumCPU(), strings.Fields(string(load) + " ?")[0],
		version("mmdebstrap", "--version"), version("mksquashfs", "-version"), version("xorriso", "--version"), b.rounds)
}

func (b *bench) printf(format string, args ...any) { fmt.Fprintf(&b.rows, format, args...) }

// row is one line of a table: what, time, processor time, memory, size.
func (b *bench) row(what string, list []usage) {
	m := median(list)
	memory := "–"
	if m.memory > 0 {
		memory = fmt.Sprintf("%.0f MB", float64(m.memory)/1e6)
	}
	size := "–" // of what makes a folder
	if m.size > 0 {
		size = fmt.Sprintf("%.1f MB", float64(m.size)/1e6)
	}
	b.printf("| %s | %.1f s | %.1f s | %s | %s |\n", what, m.wall.Seconds(), m.cpu.Seconds(), memory, size)
}

// image is the whole way from packages to an ISO. All have the packages, as they
// come from the archive, in a cache; ours has the programs of the sandbox
// installed as the others have theirs, and Go's caches. It is measured with
// nothing else, and as a builder finds it who changed the level: packages
// unpacked and programs compiled, no block compressed.
func (b *bench) image(t *testing.T) {
	config := filepath.Join(b.dir, "joist.toml")
	if err := os.WriteFile(config, []byte("[image]\nfirmware = \"none\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	unpacked := extracted(t, b)
	var whole *other
	if os.Getenv("JOIST_BENCH_INSTALLED") == "1" {
		whole = installed(t, b)
	}
	xdg := filepath.Join(b.dir, "xdg")
	var bare, blocks []usage
	for i := range b.rounds {
		if whole != nil {
			t.Logf("round %d: installed %.1f s", i, wall(whole.build(t)))
		}
		b.freshCache(t, xdg, "unpacked", "modules", "programs", "blocks", "system", "results")
		bare = append(bare, b.must(t, b.iso(xdg, config)))
		u := unpacked.build(t)
		b.freshCache(t, xdg, "blocks", "system", "results")
		blocks = append(blocks, b.must(t, b.iso(xdg, config)))
		t.Logf("round %d: ours %.1f and %.1f s, theirs %.1f s", i, wall(bare[i]), wall(blocks[i]), wall(u))
	}
	b.printf("\n## ISO from cached packages (no firmware)\n\n| | time | processor | memory | ISO |\n|---|---|---|---|---|\n")
	b.row("A: `joist build iso`, nothing but packages cached", bare)
	b.row("B: `joist build iso`, no block cached", blocks)
	b.row(fmt.Sprintf("C: mmdebstrap, the same %d packages unpacked, no script run; mksquashfs %s; xorriso", len(unpacked.names), otherLevel), unpacked.whole)
	b.row("of C: mmdebstrap", unpacked.boot)
	b.row("of C: mksquashfs", unpacked.squash)
	if whole != nil {
		b.row(fmt.Sprintf("D: mmdebstrap, the same list installed (%d packages); mksquashfs %s; xorriso", len(whole.names), otherLevel), whole.whole)
		b.row("of D: mmdebstrap", whole.boot)
		b.row("of D: mksquashfs", whole.squash)
	}
	b.printf("\n| ratio | time | processor |\n|---|---|---|\n")
	ratio := func(what string, x, y []usage) {
		b.printf("| %s | %s | %s |\n", what, ratios(x, y, wall), ratios(x, y, cpu))
	}
	ratio("A ÷ C", bare, unpacked.whole)
	ratio("B ÷ C", blocks, unpacked.whole)
	if whole != nil {
		ratio("A ÷ D", bare, whole.whole)
		ratio("B ÷ D", blocks, whole.whole)
	}
}

// iso is one build with a cache of its own.
func (b *bench) iso(xdg, config string) command {
	out := filepath.Join(b.dir, "ours")
	return command{name: b.joist, args: []string{"build", "iso", "--locked", "--config", config, "--out", out}, dir: b.root,
		env: append(b.goCaches(), "XDG_CACHE_HOME="+xdg, "SOURCE_DATE_EPOCH=1700000000"), out: filepath.Join(out, "joist-0.1.0-amd64.iso")}
}

// goCaches keeps Go's own cache where it is although XDG_CACHE_HOME moves.
func (b *bench) goCaches() []string {
	if c := os.Getenv("GOCACHE"); c != "" {
		return nil
	}
	return []string{"GOCACHE=" + filepath.Join(b.cache, "go-build")}
}

// freshCache has the packages of the person's cache, the sandbox with Go's cache
// inside it, and OpenZFS's modules, which are compiled once for each kernel and
// which the others have not at all; it loses the named parts.
func (b *bench) freshCache(t *testing.T, xdg string, without ...string) {
	t.Helper()
	dir := filepath.Join(xdg, "joist")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pool", "sandbox", "cgo", "zfs"} {
		from, to := filepath.Join(b.cache, "joist", name), filepath.Join(dir, name)
		if _, err := os.Stat(from); err != nil {
			t.Fatalf("%v: build the image once before", err)
		}
		if err := os.Symlink(from, to); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	for _, name := range without {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// squashfs compares the writers alone, on the files of the system.
func (b *bench) squashfs(t *testing.T) {
	dir, root, content := b.systemFiles(t)
	b.printf("\n## squashfs alone (%.0f MB of files, zstd, blocks of %d KiB)\n\n| level | ours | mksquashfs | size ours ÷ theirs | processor time ours ÷ theirs | MB/s a core, ours and theirs |\n|---|---|---|---|---|---|\n",
		float64(content)/1e6, squashfs.DefaultBlockSize>>10)
	for _, level := range []int{3, 9, 15} {
		var ours, theirs []usage
		for range b.rounds {
			ours = append(ours, b.writeSquashfs(t, root, level))
			theirs = append(theirs, b.must(t, mksquashfs(dir, filepath.Join(b.dir, "theirs.sqfs"), strconv.Itoa(level))))
		}
		o, m := median(ours), median(theirs)
		speed := func(u usage) float64 { return float64(content) / 1e6 / u.cpu.Seconds() }
		b.printf("| %d | %.1f MB, %.1f s | %.1f MB, %.1f s | %.3f | %s | %.1f, %.1f |\n", level, float64(o.size)/1e6, o.cpu.Seconds(), float64(m.size)/1e6, m.cpu.Seconds(),
			float64(o.size)/float64(m.size), ratios(ours, theirs, cpu), speed(o), speed(m))
		t.Logf("level %d: ours %d bytes in %v, theirs %d in %v", level, o.size, o.cpu, m.size, m.cpu)
	}
}

func mksquashfs(dir, out, level string) command {
	return command{name: "mksquashfs", args: []string{dir, out, "-comp", "zstd", "-Xcompression-level", level, "-b", strconv.Itoa(squashfs.DefaultBlockSize),
		"-noappend", "-no-progress", "-quiet"}, out: out}
}

// systemFiles unpacks the system of the image that was just built, and gives it
// as a tree whose content is in these files.
func (b *bench) systemFiles(t *testing.T) (dir string, root *tree.Node, content int64) {
	image := filepath.Join(b.dir, "system.sqfs")
	iso := filepath.Join(b.dir, "ours", "joist-0.1.0-amd64.iso")
	b.must(t, command{name: "sh", args: []string{"-c", `osirrox=$(xorriso -indev "$1" -find /joist -name system.sqfs 2>/dev/null | tr -d "'") && xorriso -osirrox on -indev "$1" -extract "$osirrox" "$2"`, "sh", iso, image}})
	dir = filepath.Join(b.dir, "system")
	b.must(t, command{name: "unsquashfs", args: []string{"-quiet", "-no-progress", "-dest", dir, image}})
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := squashfs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	err = img.Root.Walk(func(p string, n *tree.Node) error {
		if !n.Mode.IsRegular() || n.Data == nil {
			return nil
		}
		content += n.Data.Size()
		n.Data, err = tree.FromFile(filepath.Join(dir, p))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir, img.Root, content
}

// writeSquashfs measures our writer, in this process.
func (b *bench) writeSquashfs(t *testing.T, root *tree.Node, level int) usage {
	t.Helper()
	f, err := os.Create(filepath.Join(b.dir, "ours.sqfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	runtime.GC()
	begin, used := time.Now(), selfTime(t)
	st, err := squashfs.Write(t.Context(), f, root, squashfs.Options{Level: level})
	if err != nil {
		t.Fatal(err)
	}
	return usage{wall: time.Since(begin), cpu: selfTime(t) - used, size: st.Size}
}

func selfTime(t *testing.T) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// rebuild is what a developer waits for: `make iso` after a change in joistd,
// and again with nothing changed, in a copy of the sources.
func (b *bench) rebuild(t *testing.T) {
	src := b.sources(t)
	xdg := filepath.Join(b.dir, "xdg") // the image's; what it lacks the first build makes
	iso := filepath.Join(src, "build", "joist-0.1.0-amd64.iso")
	env := append(b.goCaches(), "XDG_CACHE_HOME="+xdg, "SOURCE_DATE_EPOCH=1700000000")
	build := command{name: "make", args: []string{"--no-print-directory", "iso"}, dir: src, env: env, out: iso}
	b.must(t, build)
	var changed, same []usage
	for i := range b.rounds {
		text := fmt.Sprintf("package main\n\nimport \"os\"\n\n// changed is another value in each round, and the linker cannot leave it out.\nvar changed = os.Getenv(\"JOIST_BENCH_%d_%d\")\n", i, time.Now().Unix())
		if err := os.WriteFile(filepath.Join(src, "cmd", "joistd", "changed.go"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		changed = append(changed, b.must(t, build))
		same = append(same, b.must(t, build))
		t.Logf("round %d: changed %.1f s, same %.1f s", i, changed[i].wall.Seconds(), same[i].wall.Seconds())
	}
	b.printf("\n## make iso again\n\n| | time | processor | memory | ISO |\n|---|---|---|---|---|\n")
	b.row("after a change in joistd", changed)
	b.row("nothing changed", same)
	if os.Getenv("JOIST_BENCH_BOOT") == "1" {
		u := b.must(t, command{name: "go", args: []string{"test", "./test/e2e", "-run", "^TestShortBootMediumSeaBIOSCD$", "-count=1", "-timeout", "20m"}, dir: b.root, env: []string{"JOIST_ISO=" + iso, "JOIST_NEED_TOOLS=1"}})
		b.printf("\nThe image of the last change was booted from a CD under SeaBIOS to the installer (%.0f s with the test's compilation).\n", u.wall.Seconds())
	}
}

// sources copies what git would commit.
func (b *bench) sources(t *testing.T) string {
	t.Helper()
	list, err := output(t.Context(), b.root, "git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(b.dir, "src")
	names := slices.DeleteFunc(strings.Split(list, "\x00"), func(s string) bool { return s == "" })
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(b.root, name))
		if os.IsNotExist(err) {
			continue // deleted and not committed
		}
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(b.root, name))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, st.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	return src
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	out, err := c.Output()
	return string(out), err
}
