package build

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/internal/finding"
	"joist/internal/progress"
	"joist/internal/run"
	"joist/rootfs/policy"
	"joist/rootfs/sandbox"
	"joist/rootfs/tree"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

// options are those of a build in a folder of the test.
func options(t *testing.T) Options {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	src, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return Options{Source: src, Out: filepath.Join(t.TempDir(), "out"), Sink: progress.Discard, Say: func(finding.List) {}}
}

func TestNew(t *testing.T) {
	o := options(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1750000000")
	b, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if b.built.Unix() != 1750000000 || !strings.HasPrefix(b.work, o.Out) {
		t.Errorf("built at %v in %s", b.built, b.work)
	}
	// A step that fails leaves nothing behind.
	if _, err := b.Make(t.Context(), ISO, "floppy"); err == nil || !strings.Contains(err.Error(), `"floppy"`) {
		t.Errorf("another kind: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.o.Mirror = "http://127.0.0.1:9"
	if _, err := b.Make(ctx, ISO); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, o.Out); !slices.Equal(got, []string{".lock"}) {
		t.Errorf("left are %v", got)
	}
}

func TestNewRefuses(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(bad, []byte("version = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, config, epoch, path, want string }{
		{"configuration", bad, "", "", "config-syntax"},
		{"configuration that is not there", bad + "x", "", "", "config-unreadable"},
		{"time", "", "yesterday", "", "SOURCE_DATE_EPOCH"},
		{"time before 1970", "", "-1", "", "SOURCE_DATE_EPOCH"},
		{"no Go", "", "", "/nowhere", "install Go 1.21"},
	} {
		t.Run(c.what, func(t *testing.T) {
			o := options(t)
			o.Config = c.config
			t.Setenv("SOURCE_DATE_EPOCH", c.epoch)
			if c.path != "" {
				t.Setenv("PATH", c.path)
			}
			_, err := New(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
			if _, err := os.Stat(o.Out); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the output folder was made: %v", err)
			}
		})
	}
}

func TestParseKinds(t *testing.T) {
	for line, want := range map[string][]Kind{
		"iso": {ISO}, "all": Kinds(), "netboot iso netboot": {Netboot, ISO}, "template debian": {Template}, "template": {Template}, "template debian iso": {Template, ISO},
		"template debian-12": {TemplateOld}, "template debian debian-12 iso": {Template, TemplateOld, ISO}, "template debian-13": {Template}, "all template debian-12": append(Kinds(), TemplateOld),
		"template-debian-12": nil, "template iso debian": nil, "template debian arch": nil, "debian-12": nil,
		"": nil, "isoo": nil, "iso debian": nil, "template arch": nil, "debian": nil,
	} {
		got, err := ParseKinds(strings.Fields(line))
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
}

// What a person has set for Go does not change the programs.
func TestGoEnv(t *testing.T) {
	got := goEnv([]string{"HOME=/h", "GOFLAGS=-race", "GOPROXY=https://proxy.example", "GOARCH=arm64", "GOWORK=/x", "GOAMD64=v3", "CGO_ENABLED=1", "GOTOOLCHAIN=auto"})
	want := []string{"HOME=/h", "GOPROXY=https://proxy.example", "GOTOOLCHAIN=auto",
		"GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBuildID(t *testing.T) {
	b := &Builder{cfg: Defaults(), bins: map[string][]byte{"joistd": []byte("a"), "joist": []byte("b")}, built: time.Unix(1, 0)}
	id := b.buildID()
	if len(id) != 16 || b.buildID() != id {
		t.Errorf("build id %q", id)
	}
	for what, change := range map[string]func(*Builder){
		"a program":     func(b *Builder) { b.bins = map[string][]byte{"joistd": []byte("c"), "joist": []byte("b")} },
		"the lock":      func(b *Builder) { b.lockText = []byte("x") },
		"the time":      func(b *Builder) { b.built = time.Unix(2, 0) },
		"the level":     func(b *Builder) { b.cfg.Image.Compression = 1 },
		"a file":        func(b *Builder) { b.extra.files = []contentFile{{target: "/etc/x", data: []byte("x")}} },
		"a certificate": func(b *Builder) { b.extra.certificates = []certificate{{name: "x.crt", pem: []byte("x")}} },
		"the firmware":  func(b *Builder) { b.cfg.Image.Firmware = policy.FirmwareNone },
	} {
		other := *b
		change(&other)
		if other.buildID() == id {
			t.Errorf("%s is not in the build id", what)
		}
	}
	other := *b
	if other.cfg.Where = (Where{"https://mirror.example", "http://proxy.example:1", "a", "b", "c", "d"}); other.buildID() != id {
		t.Error("where the build takes things from is in the build id")
	}
}

// Owners, devices and set-user-ID bits reach the image
// although nobody who builds may set them, and twice the same bytes.
func TestSquash(t *testing.T) {
	root := tree.New()
	for p, n := range map[string]*tree.Node{
		"/usr/bin/ping": {Mode: 0o755, Data: tree.Bytes("ping")},
		"/usr/bin/su":   {Mode: fs.ModeSetuid | 0o755, UID: 0, GID: 42, Data: tree.Bytes("su")},
		"/dev/null":     {Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		"/var/lib/x":    {Mode: fs.ModeDir | 0o750, UID: 991, GID: 991},
		"/usr/bin/a":    {Mode: 0o755, Data: tree.Bytes("ping")},
		"/etc/mtab":     {Mode: fs.ModeSymlink | 0o777, Target: "/proc/self/mounts"},
	} {
		if err := root.Set(p, n); err != nil {
			t.Fatal(err)
		}
	}
	b := &Builder{cfg: Defaults(), built: time.Unix(1750000000, 0), work: t.TempDir(), cache: t.TempDir(), o: Options{Say: func(fl finding.List) { t.Error(fl) }}}
	for _, name := range []string{"a.sqfs", "b.sqfs"} { // the second from the cache of blocks
		if err := b.squash(t.Context(), root, name, func(n, of int64) {}); err != nil {
			t.Fatal(err)
		}
	}
	one, err := os.ReadFile(filepath.Join(b.work, "a.sqfs"))
	two, err2 := os.ReadFile(filepath.Join(b.work, "b.sqfs"))
	if err != nil || err2 != nil || !bytes.Equal(one, two) {
		t.Error("two images of one tree differ", err, err2)
	}
	unsquashfs, err := exec.LookPath("unsquashfs")
	if err != nil {
		if os.Getenv("JOIST_NEED_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	judge := func(args ...string) []byte {
		t.Helper()
		out, err := run.OS{}.Run(t.Context(), run.Cmd{Path: unsquashfs, Args: append(args, "a.sqfs"), Dir: b.work, Env: []string{"TZ=UTC", "LC_ALL=C"}})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	listing := judge("-lln")
	for _, want := range []string{"-rwsr-xr-x 0/42", "crw-rw-rw- 0/0", "1,  3", "drwxr-x--- 991/991", "squashfs-root/etc/mtab -> /proc/self/mounts", "2025-06-15 15:06"} {
		if !strings.Contains(string(listing), want) {
			t.Errorf("%q is not in\n%s", want, listing)
		}
	}
	// A pseudo file definition (mksquashfs(1)) has the times too.
	judge("-quiet", "-no-progress", "-pf", "pseudo")
	pseudo, err := os.ReadFile(filepath.Join(b.work, "pseudo"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"/ D 1750000000 755 0 0\n", "usr/bin/su R 1750000000 4755 0 42 ", "dev/null C 1750000000 666 0 0 1 3\n",
	} {
		if !strings.Contains(string(pseudo), want) {
			t.Errorf("%q is not in\n%s", want, pseudo)
		}
	}
}

// What a boot reads first lies first.
func TestBootOrder(t *testing.T) {
	var last int
	for _, p := range []string{"/usr/sbin/joist-init", "/etc/passwd", "/usr/lib64/ld-linux-x86-64.so.2", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libudev.so.1.7",
		"/usr/lib/systemd/systemd-udevd", "/usr/sbin/joistd", "/usr/lib/modules/6.1/kernel/a.ko", "/usr/sbin/joistd-other"} {
		r := bootOrder(p, nil)
		if r <= last && p != "/usr/sbin/joist-init" {
			t.Errorf("%s has rank %d, what comes before it %d", p, r, last)
		}
		last = r
	}
	if bootOrder("/usr/lib/x86_64-linux-gnu/libexec/tool", nil) != last {
		t.Error("a folder whose name begins like a library's is read first")
	}
}

func TestFinish(t *testing.T) {
	root := tree.New()
	for _, p := range []string{"/boot/vmlinuz-1", "/var/lib/dpkg/x", "/usr/lib/firmware/intel-ucode/06", "/home/x", "/usr/lib/firmware/kept"} {
		if err := root.AddFile(p, 0o644, tree.Bytes("x")); err != nil {
			t.Fatal(err)
		}
	}
	b := &Builder{cfg: Defaults(), id: "0123456789abcdef"}
	if err := b.finish(root, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]bool{
		"/boot": true, "/boot/vmlinuz-1": false, "/var": true, "/var/lib": false, "/usr/share/factory/var/lib/dpkg/x": true, "/home": false,
		"/usr/lib/firmware/intel-ucode": false, "/usr/lib/firmware/kept": true, "/usr/lib/joist/build.json": true, "/etc/os-release": true, "/proc": true,
	} {
		if got := root.Lookup(p) != nil; got != want {
			t.Errorf("%s is there: %v", p, got)
		}
	}
	if m := root.Lookup("/tmp").Mode; m != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("/tmp is %v", m)
	}
}
