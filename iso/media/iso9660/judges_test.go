package iso9660

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	diskfs "github.com/diskfs/go-diskfs/backend/file"
	reader9660 "github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/google/go-cmp/cmp"

	"joist/internal/run"
	"joist/rootfs/tree"
)

// Readers that others wrote see the same tree.

// written is a volume in a file.
func written(t *testing.T, root *tree.Node) string {
	t.Helper()
	_, b := planned(t, volume(root))
	name := filepath.Join(t.TempDir(), "v.iso")
	must(t, os.WriteFile(name, b, 0o600))
	return name
}

func TestDiskfsReads(t *testing.T) {
	root := sample(t)
	// go-diskfs (1.9.4) takes leading dots off, and reads no entry that is
	// continued.
	for _, p := range []string{"/.hidden", "/1/long", "/1/one"} {
		root.Remove(p)
	}
	root.Children = slices.DeleteFunc(root.Children, func(n *tree.Node) bool { return len(n.Name) > maxEntry })
	f, err := os.Open(written(t, root))
	must(t, err)
	defer f.Close()
	st, err := f.Stat()
	must(t, err)
	v, err := reader9660.Read(diskfs.New(f, true), st.Size(), 0, Sector)
	must(t, err)
	if strings.TrimRight(v.Label(), " ") != "TEST_1" {
		t.Errorf("the volume is called %q", v.Label())
	}
	seen := 0
	err = root.Walk(func(p string, n *tree.Node) error {
		seen++
		if !n.Mode.IsRegular() {
			return nil
		}
		in, err := v.OpenFile(p, os.O_RDONLY)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		b, err := io.ReadAll(in)
		if err != nil || string(b) != string(n.Data.(tree.Bytes)) {
			return fmt.Errorf("%s: %d bytes: %w", p, len(b), err)
		}
		return nil
	})
	if err != nil || seen < 700 {
		t.Errorf("%d entries: %v", seen, err)
	}
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("JOIST_NEED_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	out, err := run.OS{}.Run(context.Background(), run.Cmd{Path: path, Args: args, Env: []string{"LC_ALL=C.UTF-8", "TZ=UTC", "PATH=/usr/bin:/bin", "HOME=/nonexistent"}})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

var lsdl = regexp.MustCompile(`^(\S{10})\s+(\d+) (\d+)\s+(\d+)\s+(\d+) (.{12}) '(.*?)'(?: -> '(.*)')?$`)

func TestXorrisoReads(t *testing.T) {
	root := sample(t)
	name := written(t, root)
	out := tool(t, "xorriso", "-no_rc", "-report_about", "SORRY", "-out_charset", "UTF-8", "-indev", name, "-find", "/", "-sort_lba", "-exec", "lsdl", "--")
	got := map[string]bool{}
	for line := range strings.Lines(out) {
		m := lsdl.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Fatalf("xorriso says %q", line)
		}
		if m[6] != "Jan  2 03:04" && m[6] != "Jan  2  2026" {
			t.Errorf("%s: date %q", m[7], m[6])
		}
		if m[7] == "/" {
			continue
		}
		s := fmt.Sprintf("%s %s:%s %s %s", m[1], m[3], m[4], m[5], m[7])
		if m[8] != "" {
			s += " -> " + m[8]
		}
		got[s] = true
	}
	want := map[string]bool{}
	root.Walk(func(p string, n *tree.Node) error {
		s := fmt.Sprintf("%s %d:%d %d %s", lsMode(n.Mode), n.UID, n.GID, length(n), p)
		if n.Target != "" {
			s += " -> " + n.Target
		}
		want[s] = true
		return nil
	})
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// lsMode is a mode as ls shows it.
func lsMode(m fs.FileMode) string {
	b := []byte("-" + m.Perm().String()[1:])
	switch {
	case m.IsDir():
		b[0] = 'd'
	case m&fs.ModeSymlink != 0:
		b[0] = 'l'
	}
	for i, bit := range map[int]fs.FileMode{3: fs.ModeSetuid, 6: fs.ModeSetgid, 9: fs.ModeSticky} {
		if m&bit == 0 {
			continue
		}
		x, s := "xs", "-S"
		if i == 9 {
			x, s = "xt", "-T"
		}
		if b[i] == x[0] {
			b[i] = x[1]
		} else {
			b[i] = s[1]
		}
	}
	return string(b)
}

// TestIsoinfoReads: the names of both hierarchies, from the path tables too.
func TestIsoinfoReads(t *testing.T) {
	root := sample(t)
	name := written(t, root)
	for _, kind := range []string{"-R", "-J"} {
		out := tool(t, "isoinfo", "-i", name, kind, "-f")
		for _, p := range []string{"/boot/bios.img", "/Mixed.Case.tar.gz", "/mixed_case.tar.gz", "/1/2/3/4/5/6/7/8/9/10/11/12/deep", "/many/a file of the directory called many, number 699", "/sticky"} {
			if !strings.Contains(out, p+"\n") && !strings.Contains(out, p+";1\n") {
				t.Errorf("isoinfo %s does not show %s", kind, p)
			}
		}
	}
	if out := tool(t, "isoinfo", "-i", name, "-R", "-x", "/many/a file of the directory called many, number 699"); out != "699" {
		t.Errorf("isoinfo reads %q", out)
	}
	if out := tool(t, "isoinfo", "-i", name, "-p"); strings.Count(out, ": ") < 16 {
		t.Errorf("path table: %s", out)
	}
}
