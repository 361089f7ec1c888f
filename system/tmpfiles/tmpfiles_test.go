package tmpfiles

import (
	"os"
	"path/filepath"
	"testing"
)

const text = `# a comment
d /run/sshd 0755 root root -
D!  /run/lvm 0700
d /var/tmp 1777 root root 30d
L+ /var/lock - - - - ../run/lock
f /run/utmp 0664 root utmp - hello there
d /dev/net 0755
x /tmp/podman-run-*
d "/var/lib/a b" - 1234 -
d /var/../etc 0755
z /run/x 0644
d %S/chrony 0750 _chrony _chrony
d /run/%b
`

func TestParse(t *testing.T) {
	lines, skipped := Parse(text)
	if len(lines) != 7 || skipped != 5 {
		t.Fatalf("%d lines, %d skipped: %+v", len(lines), skipped, lines)
	}
	if l := lines[3]; l.Type != 'L' || !l.Force || l.Arg != "../run/lock" {
		t.Errorf("link: %+v", l)
	}
	if l := lines[4]; l.Arg != "hello there" || l.Group != "utmp" || l.Mode != 0o664 {
		t.Errorf("file: %+v", l)
	}
	if l := lines[6]; l.Path != "/var/lib/chrony" || l.User != "_chrony" {
		t.Errorf("specifier: %+v", l)
	}
}

// L+ replaces what is in the link's place, a folder with files included, and
// leaves the link alone that is there already.
func TestForcedLink(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "var/run/old"), 0o755); err != nil {
		t.Fatal(err)
	}
	lines, _ := Parse("L+ /var/run - - - - /run\n")
	var made [2]os.FileInfo
	for i := range made {
		if err := Apply(root, lines, Table(""), Table("")); err != nil {
			t.Fatal(err)
		}
		var err error
		if made[i], err = os.Lstat(filepath.Join(root, "var/run")); err != nil || made[i].Mode()&os.ModeSymlink == 0 {
			t.Fatal(made[i], err)
		}
	}
	if !os.SameFile(made[0], made[1]) || !made[0].ModTime().Equal(made[1].ModTime()) {
		t.Error("the link was made again")
	}
	if to, _ := os.Readlink(filepath.Join(root, "var/run")); to != "/run" {
		t.Errorf("it leads to %q", to)
	}
}

func TestApply(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give files away")
	}
	root := t.TempDir()
	lines, _ := Parse(text)
	group := Table("utmp:x:43:\n_chrony:x:105:")
	for range 2 { // the second time changes nothing
		if err := Apply(root, lines, Table("_chrony:x:104:105::/:/x"), group); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(filepath.Join(root, "var/tmp"))
	if err != nil || st.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("var/tmp: %v, %v", st, err)
	}
	if to, _ := os.Readlink(filepath.Join(root, "var/lock")); to != "../run/lock" {
		t.Errorf("var/lock -> %q", to)
	}
	if b, _ := os.ReadFile(filepath.Join(root, "run/utmp")); string(b) != "hello there" {
		t.Errorf("utmp: %q", b)
	}
	bad := []Line{{Type: 'd', Path: "/run/a", User: "nobody-here"}, {Type: 'd', Path: "/run/b"}}
	if err := Apply(root, bad, Table(""), Table("")); err == nil {
		t.Error("unknown user taken")
	}
	if _, err := os.Stat(filepath.Join(root, "run/b")); err != nil {
		t.Errorf("a failure stopped the rest: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(text)
	f.Fuzz(func(t *testing.T, s string) {
		lines, _ := Parse(s)
		for _, l := range lines {
			if !ours(l.Path) {
				t.Errorf("%q got through", l.Path)
			}
		}
	})
}
