package stage1

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	imageboot "joist/image/boot"
)

// volume writes files below a folder; the content of images is made of their
// application identifier.
func volume(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, app := range files {
		b := make([]byte, 40000)
		copy(b[16*2048:], "\x01CD001\x01")
		copy(b[16*2048+574:], app+strings.Repeat(" ", 128-len(app)))
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindISO(t *testing.T) {
	const build, ours = "0123456789abcdef", "JOIST 1.2.3 BUILD 0123456789ABCDEF"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"at the top":       {map[string]string{"joist.iso": ours, "other.iso": "DEBIAN"}, "joist.iso"},
		"in a folder":      {map[string]string{"images/linux/Joist.ISO": ours}, "images/linux/Joist.ISO"},
		"too deep":         {map[string]string{"a/b/c/d/e/joist.iso": ours}, ""},
		"another build":    {map[string]string{"joist.iso": "JOIST 1.2.3 BUILD 0123456789ABCDE0"}, ""},
		"another name":     {map[string]string{"joist.img": ours}, ""},
		"in the dustbin":   {map[string]string{"$RECYCLE.BIN/joist.iso": ours, ".Trash/joist.iso": ours}, ""},
		"of two the right": {map[string]string{"a.iso": "JOIST 1.2.2 BUILD AAAAAAAAAAAAAAAA", "b.iso": ours}, "b.iso"},
	} {
		dir := volume(t, c.files)
		got := findISO(dir, build)
		if got != "" {
			got = strings.TrimPrefix(got, dir+"/")
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	dir := volume(t, nil)
	if err := os.WriteFile(filepath.Join(dir, "short.iso"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link.iso")); err != nil {
		t.Fatal(err)
	}
	if got := findISO(dir, build); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestCopyWanted(t *testing.T) {
	for _, c := range []struct {
		word  string
		total int64
		want  bool
	}{{"", 3 << 30, false}, {"", 4<<30 - 300<<20, true}, {"0", 64 << 30, false}, {"1", 2 << 30, true}} {
		if copyWanted(c.word, c.total) != c.want {
			t.Errorf("%+v", c)
		}
	}
}

func TestCopier(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b", "a")
	if err := os.WriteFile(from, []byte("joist"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := copier{say: t.Logf}
	const sum = "00d3e03b3dd7a2a3f1ce73cef0f1d1a8a3c8a2b7c5a4d0d8a3a4b1f2c3d4e5f6"
	err := c.copy(t.Context(), from, to, imageboot.File{SHA256: sum})
	if err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a wrong sum: %v", err)
	}
	if err := c.copy(t.Context(), from, filepath.Join(dir, "c", "a"), imageboot.File{}); err != nil || c.n != 10 {
		t.Errorf("%d bytes, %v", c.n, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "c", "a")); err != nil || string(got) != "joist" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestMemoryValue(t *testing.T) {
	const text = "MemTotal:        3998504 kB\nMemAvailable:    x kB\n"
	if n, err := memoryValue(text, "MemTotal"); n != 3998504*1024 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, name := range []string{"MemAvailable", "MemFree"} {
		if n, err := memoryValue(text, name); err == nil {
			t.Errorf("%s: %d", name, n)
		}
	}
}
