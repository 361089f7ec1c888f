package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sample is a small tree with a merged /usr and every kind of entry.
func sample(t *testing.T) *Node {
	t.Helper()
	root := New()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(root.AddLink("/lib", "usr/lib"))
	_, err := root.Dir("/usr/lib")
	must(err)
	must(root.AddFile("/lib/so/libx.so.1", 0o644, Bytes("elf")))
	must(root.AddLink("/usr/lib/libx.so", "so/libx.so.1"))
	must(root.AddLink("/usr/lib/up", "../share/note"))
	must(root.AddFile("/usr/share/note", 0o600, Bytes("note")))
	must(root.AddLink("/abs", "/usr/lib/up"))
	must(root.AddLink("/loop", "loop"))
	must(root.AddLink("/gone", "nowhere"))
	must(root.Set("/dev/null", &Node{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3}))
	must(root.Set("/dev/sda", &Node{Mode: fs.ModeDevice | 0o660, GID: 6, Major: 8}))
	must(root.Set("/run/pipe", &Node{Mode: fs.ModeNamedPipe | 0o600}))
	must(root.Set("/usr/bin/ping", &Node{Mode: fs.ModeSetuid | 0o755, UID: 5, GID: 7, Data: Bytes("ping"), Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02"}}))
	return root
}

func TestResolve(t *testing.T) {
	root := sample(t)
	for _, c := range []struct{ path, want string }{
		{"/", ""},
		{"/usr/lib/so/libx.so.1", "libx.so.1"},
		{"/lib/so/libx.so.1", "libx.so.1"},
		{"lib//so/./libx.so.1", "libx.so.1"},
		{"/lib/libx.so", "libx.so.1"},
		{"/abs", "note"},
		// The kernel takes ".." where the link leads to, not where it lies.
		{"/lib/up", "note"},
		{"/lib/../share/note", "note"},
		{"/../../usr/share/note", "note"},
		{"/share/note", "-"},
		{"/loop", "-"},
		{"/gone", "-"},
		{"/usr/share/note/..", "-"},
		{"/usr/share/note/x", "-"},
	} {
		got := "-"
		if n := root.Resolve(c.path); n != nil {
			got = n.Name
		}
		if got != c.want {
			t.Errorf("Resolve(%q) is %q, want %q", c.path, got, c.want)
		}
	}
	if n := root.Lookup("/lib/libx.so"); n == nil || n.Mode&fs.ModeSymlink == 0 {
		t.Errorf("Lookup follows the link at the end: %v", n)
	}
	if n := root.Lookup("/loop"); n == nil {
		t.Error("Lookup does not find a link that leads to itself")
	}
}

func TestSetAndRemove(t *testing.T) {
	root := sample(t)
	if err := root.Set("/", &Node{}); err == nil {
		t.Error("the root could be replaced")
	}
	if err := root.AddFile("/usr/share/note/x", 0o644, Bytes("x")); err == nil {
		t.Error("a file was put below a file")
	}
	if err := root.AddFile("/gone/x", 0o644, Bytes("x")); err == nil {
		t.Error("a file was put below a dangling link")
	}
	if err := root.AddFile("/lib/new", 0o644, Bytes("new")); err != nil {
		t.Fatal(err)
	}
	if b, err := root.Read("/usr/lib/new"); err != nil || string(b) != "new" {
		t.Errorf("a file put through a link reads %q, %v", b, err)
	}
	// A directory that comes again keeps what is in it and takes the new mode.
	if err := root.Set("/usr/lib", &Node{Mode: fs.ModeDir | 0o700}); err != nil {
		t.Fatal(err)
	}
	if n := root.Resolve("/usr/lib"); n.Mode.Perm() != 0o700 || n.Child("new") == nil {
		t.Errorf("directory set again: %v, new is %v", n.Mode, n.Child("new"))
	}
	if !root.Remove("/lib/new") || root.Resolve("/usr/lib/new") != nil || root.Remove("/lib/new") {
		t.Error("removing through a link does not work once")
	}
	if _, err := root.Read("/usr/lib/new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading a removed file: %v", err)
	}
}

func TestWalk(t *testing.T) {
	var got []string
	err := sample(t).Walk(func(p string, n *Node) error {
		got = append(got, p)
		if p == "/usr" {
			return SkipDir
		}
		return nil
	})
	want := []string{"/abs", "/dev", "/dev/null", "/dev/sda", "/gone", "/lib", "/loop", "/run", "/run/pipe", "/usr"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("walk: %v\n%s", err, diff)
	}
	stop := errors.New("stop")
	if err := sample(t).Walk(func(string, *Node) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the function became %v", err)
	}
}

// entries reads an archive back into one line an entry.
func entries(t *testing.T, archive []byte) []string {
	t.Helper()
	var out []string
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		l := []string{h.FileInfo().Mode().String(), h.Name}
		if h.Linkname != "" {
			l = append(l, "→", h.Linkname)
		}
		if len(b) > 0 {
			l = append(l, string(b))
		}
		if h.Uid != 0 || h.Gid != 0 {
			l = append(l, "owner", string(rune('0'+h.Uid)), string(rune('0'+h.Gid)))
		}
		if h.Devmajor != 0 {
			l = append(l, "device", string(rune('0'+h.Devmajor)), string(rune('0'+h.Devminor)))
		}
		if v, ok := h.PAXRecords["SCHILY.xattr.security.capability"]; ok {
			l = append(l, "capability", strings.ReplaceAll(v, "\x00", "0"))
		}
		if !h.ModTime.Equal(time.Unix(1e9, 0)) {
			t.Errorf("%s: time is %v", h.Name, h.ModTime)
		}
		out = append(out, strings.Join(l, " "))
	}
}

func TestWriteTar(t *testing.T) {
	var a, b bytes.Buffer
	for _, w := range []*bytes.Buffer{&a, &b} {
		if err := sample(t).WriteTar(w, time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two archives of equal trees differ")
	}
	want := []string{
		"drwxr-xr-x ./",
		"Lrwxrwxrwx ./abs → /usr/lib/up",
		"drwxr-xr-x ./dev/",
		"Dcrw-rw-rw- ./dev/null device 1 3",
		"Drw-rw---- ./dev/sda owner 0 6 device 8 0",
		"Lrwxrwxrwx ./gone → nowhere",
		"Lrwxrwxrwx ./lib → usr/lib",
		"Lrwxrwxrwx ./loop → loop",
		"drwxr-xr-x ./run/",
		"prw------- ./run/pipe",
		"drwxr-xr-x ./usr/",
		"drwxr-xr-x ./usr/bin/",
		"urwxr-xr-x ./usr/bin/ping ping owner 5 7 capability \x0100\x02",
		"drwxr-xr-x ./usr/lib/",
		"Lrwxrwxrwx ./usr/lib/libx.so → so/libx.so.1",
		"drwxr-xr-x ./usr/lib/so/",
		"-rw-r--r-- ./usr/lib/so/libx.so.1 elf",
		"Lrwxrwxrwx ./usr/lib/up → ../share/note",
		"drwxr-xr-x ./usr/share/",
		"-rw------- ./usr/share/note note",
	}
	if diff := cmp.Diff(want, entries(t, a.Bytes())); diff != "" {
		t.Error(diff)
	}
	bad := New()
	bad.Put(&Node{Name: "socket", Mode: fs.ModeSocket})
	if err := bad.WriteTar(io.Discard, time.Now()); err == nil || !strings.Contains(err.Error(), "archive /socket") {
		t.Errorf("a socket was archived: %v", err)
	}
}

// Hard links are written after the content they share, also when their name
// comes first or the name they were made for is gone or another file.
func TestWriteTarHardLinks(t *testing.T) {
	shared, empty := Bytes("shared"), Bytes{}
	root := New()
	for _, f := range []struct {
		name, link string
		data       Bytes
		perm       fs.FileMode
	}{
		{"b-first", "", shared, 0o755}, {"a-before", "/b-first", shared, 0o755}, {"c-after", "/b-first", shared, 0o755},
		{"d-copy", "", shared, 0o644}, {"e-other-mode", "/b-first", shared, 0o600},
		{"f-empty", "/gone", empty, 0o644}, {"g-orphan", "/gone", Bytes("orphan"), 0o644},
	} {
		root.Put(&Node{Name: f.name, Mode: f.perm, Data: f.data, LinkTo: f.link})
	}
	var b bytes.Buffer
	if err := root.WriteTar(&b, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"drwxr-xr-x ./",
		"-rwxr-xr-x ./a-before shared",
		"-rwxr-xr-x ./b-first shared",
		"-rwxr-xr-x ./c-after → ./a-before",
		"-rw-r--r-- ./d-copy shared",
		"-rw------- ./e-other-mode shared",
		"-rw-r--r-- ./f-empty",
		"-rw-r--r-- ./g-orphan orphan",
	}
	if diff := cmp.Diff(want, entries(t, b.Bytes())); diff != "" {
		t.Error(diff)
	}
}

func TestWriteDir(t *testing.T) {
	dir := t.TempDir()
	root := sample(t)
	if err := root.WriteDir(dir); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "lib/up")); err != nil || string(b) != "note" {
		t.Errorf("the written folder's links do not lead: %q, %v", b, err)
	}
	st, err := os.Lstat(filepath.Join(dir, "usr/bin/ping"))
	if err != nil || st.Mode() != 0o755 {
		t.Errorf("a program of root's is written as %v, %v", st.Mode(), err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "dev/null")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a device was written: %v", err)
	}
	if err := root.WriteDir(dir); err == nil {
		t.Error("files were written over")
	}
	src, err := FromFile(filepath.Join(dir, "usr/share/note"))
	if err != nil || src.Size() != 4 {
		t.Fatalf("FromFile: %v, %d", err, src.Size())
	}
	if err := root.AddFile("/copy", 0o644, src); err != nil {
		t.Fatal(err)
	}
	if b, err := root.Read("/copy"); err != nil || string(b) != "note" {
		t.Errorf("content in a file reads %q, %v", b, err)
	}
	if _, err := FromFile(filepath.Join(dir, "absent")); err == nil {
		t.Error("FromFile of nothing")
	}
}

// What is written has the modes of the tree, not those that the umask leaves.
func TestWriteDirModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	root := New()
	want := map[string]fs.FileMode{
		"/root": fs.ModeDir | 0o700, "/tmp": fs.ModeDir | fs.ModeSticky | 0o777, "/usr": fs.ModeDir | 0o755, "/var/local": fs.ModeDir | fs.ModeSetgid | 0o775,
		"/closed": fs.ModeDir | 0o555, "/closed/file": 0o444, "/usr/program": 0o755,
	}
	for p, m := range want {
		n := &Node{Mode: m}
		if m.IsRegular() {
			n.Data = Bytes("x")
		}
		if err := root.Set(p, n); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	for _, p := range []string{"/usr", "/closed"} { // a folder that is there is like any other
		if err := os.Mkdir(filepath.Join(dir, p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := root.WriteDir(dir); err != nil {
		t.Fatal(err)
	}
	want["/closed"], want["/closed/file"] = fs.ModeDir|0o755, 0o644 // for whoever must write and remove
	for p, m := range want {
		if st, err := os.Lstat(filepath.Join(dir, p)); err != nil || st.Mode() != m {
			t.Errorf("%s is %v, want %v (%v)", p, st.Mode(), m, err)
		}
	}
}
