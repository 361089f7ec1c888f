package build

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"joist/image/boot"
	"joist/image/squashfs"
	"joist/image/verity"
	"joist/internal/finding"
	"joist/rootfs/lock"
	"joist/rootfs/policy"
	"joist/rootfs/tree"
)

// Each mistake is a finding at its line.
func TestExtensionConfig(t *testing.T) {
	name := filepath.Join(t.TempDir(), "joist.toml")
	load := func(text string) (Config, []string) {
		put(t, name, text)
		c, _, fl := LoadConfig(name)
		var said []string
		for _, f := range fl {
			if f.Line == 0 || f.Hint == "" {
				t.Errorf("%s has no line or cure", f.Text)
			}
			said = append(said, f.Code+" "+string(rune('0'+f.Line)))
		}
		return c, said
	}
	for _, c := range []struct{ text, want string }{
		{`extensions = ["ceph", "gluster", "openvswitch"]`, ""},
		{"[[extension]]\nname = \"site\"\npackages = [\"htop\"]", ""},
		{"extensions = [\n\"cheph\",\n\"ceph\", \"ceph\"]", "config-extension 2 config-extension 3"},
		{"[[extension]]\nname = \"../x\"\npackages = [\"htop\"]", "config-extension 2"},
		{"[[extension]]\nname = \"ceph\"\npackages = [\"htop\",\n\"No Package\"]", "config-extension 2 config-package 4"},
		{"[[extension]]\nname = \"a\"\npackages = [\"x1\"]\n[[extension]]\nname = \"a\"", "config-extension 4 config-extension 5"},
		{`extensions = "ceph"`, "config-syntax 1"},
		{"[[extension]]\nname = \"a\"\npackages = [\"x1\"]\nurl = \"x\"", "config-unknown-key 4"},
	} {
		if _, said := load(c.text); strings.Join(said, " ") != c.want {
			t.Errorf("%q: %v, want %q", c.text, said, c.want)
		}
	}
	// Which are chosen changes no lock; one's own do.
	none, _ := load("")
	some, _ := load(`extensions = ["openvswitch", "ceph"]`)
	own, _ := load("[[extension]]\nname = \"base\"\npackages = [\"htop\"]")
	if none.resolveDigest() != some.resolveDigest() || none.resolveDigest() == own.resolveDigest() {
		t.Error("the lock depends on what is chosen, or not on one's own")
	}
	var chosen []string
	for _, x := range append(some.extensions(), own.extensions()...) {
		chosen = append(chosen, x.Name)
	}
	if !slices.Equal(chosen, []string{"ceph", "openvswitch", "base"}) || len(none.extensions()) > 0 {
		t.Error(chosen)
	}
}

// joist.lock of the tree has the packages of all extensions, and none of them
// that the image has.
func TestLockedExtensions(t *testing.T) {
	text, err := os.ReadFile("../../joist.lock")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lock.Decode("joist.lock", text)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range policy.Extensions() {
		set := l.Set(extensionSet(x.Name))
		for _, want := range x.Packages {
			if !slices.ContainsFunc(set, func(p lock.Package) bool { return p.Name == want }) {
				t.Errorf("extension %s lacks %s", x.Name, want)
			}
		}
		for _, p := range set {
			if slices.Contains(p.Sets, setImage) || x.Out[p.Name] != "" {
				t.Errorf("extension %s has %s", x.Name, p.Name)
			}
		}
	}
}

func addFile(t *testing.T, root *tree.Node, p, text, origin string) {
	t.Helper()
	if err := root.Set(p, &tree.Node{Mode: 0o644, Data: tree.Bytes(text), Origin: origin}); err != nil {
		t.Fatal(err)
	}
}

func TestUnion(t *testing.T) {
	base, ext := tree.New(), tree.New()
	addFile(t, base, "/usr/bin/a", "a", "base")
	addFile(t, base, "/usr/share/same", "same", "base")
	addFile(t, base, "/usr/share/other", "one", "base")
	base.Lookup("/usr").Mode = fs.ModeDir | 0o711
	if err := base.AddLink("/lib", "usr/lib"); err != nil {
		t.Fatal(err)
	}
	addFile(t, ext, "/usr/bin/b", "b", "more")
	addFile(t, ext, "/usr/share/same", "same", "more")
	var fl finding.List
	all := union(base, ext, "/", &fl)
	if fl.Stops() || all.Lookup("/usr/bin/a") == nil || all.Lookup("/usr/bin/b") == nil || base.Lookup("/usr/bin/b") != nil {
		t.Errorf("%v", fl)
	}
	if ext.Lookup("/usr/share/same") != nil || ext.Lookup("/usr").Mode.Perm() != 0o711 {
		t.Error("what both have is in the extension, or its folder differs")
	}
	addFile(t, ext, "/usr/share/other", "two", "more")
	addFile(t, ext, "/lib/x", "a folder where the base has a link", "more")
	fl = nil
	union(base, ext, "/", &fl)
	var at []string
	for _, f := range fl {
		at = append(at, f.Code+" "+f.Path)
	}
	if !slices.Equal(at, []string{"extension-replaces /lib", "extension-replaces /usr/share/other"}) {
		t.Error(at)
	}
}

// What is appended is found again behind the system, and damage in it is.
func TestReportExtensions(t *testing.T) {
	b := &Builder{work: t.TempDir(), id: "0123456789abcdef", o: Options{Again: &Inputs{}}}
	write := func(name string, root *tree.Node) boot.Extension {
		t.Helper()
		if err := b.squash(t.Context(), root, name, nil); err != nil {
			t.Fatal(err)
		}
		hash, err := b.verity(filepath.Join(b.work, name))
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(b.work, name))
		if err != nil {
			t.Fatal(err)
		}
		return boot.Extension{Size: st.Size(), VerityRoot: hash}
	}
	var list []boot.Extension
	for _, name := range []string{"one", "two"} {
		root := tree.New()
		content := name // one block, which has no tree
		if name == "two" {
			r := rand.New(rand.NewPCG(1, 2))
			for range 9000 {
				content += string(rune(r.IntN(1 << 14)))
			}
		}
		addFile(t, root, "/usr/share/"+name, content, name)
		x := write(extensionFile(name), root)
		x.Name = name
		list = append(list, x)
	}
	text, err := boot.EncodeExtensions(list)
	if err != nil {
		t.Fatal(err)
	}
	system := tree.New()
	addFile(t, system, boot.ExtensionsFile, string(text), "joist")
	size := write(boot.FileSystem, system).Size
	name := filepath.Join(b.work, boot.FileSystem)
	if err := b.appendExtensions(name, list); err != nil {
		t.Fatal(err)
	}
	report := func() Report {
		t.Helper()
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		img, err := squashfs.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		var r Report
		if err := (artefact{system: img.Root, image: f}).reportExtensions(&r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := report(); len(r.Extensions) != 2 || len(r.Findings) > 0 {
		t.Errorf("%+v", r)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, at, err := verity.Locate(f); err != nil || at+verity.TreeSize(at) != size {
		t.Errorf("the first begins at %d, the system ends at %d: %v", at, size, err)
	}
	if _, err := f.WriteAt([]byte("x"), size+list[0].Size+100); err != nil {
		t.Fatal(err)
	}
	if r := report(); len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, "extension two") {
		t.Errorf("damaged: %+v", r.Findings)
	}
}
