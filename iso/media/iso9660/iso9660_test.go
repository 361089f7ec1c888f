package iso9660

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/rootfs/tree"
)

var update = flag.Bool("update", false, "rewrite golden files")

// must places nodes or ends the test.
func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func volume(root *tree.Node) Volume {
	return Volume{ID: "TEST_1", Publisher: "JOIST", Application: "JOIST 0.1.0 BUILD 0123456789ABCDEF", Root: root,
		Time: time.Date(2026, 1, 2, 4, 4, 5, 0, time.FixedZone("east", 3600)), Pad: 150 * Sector}
}

// sample has what is easily got wrong.
func sample(t testing.TB) *tree.Node {
	root := tree.New()
	must(t,
		root.AddFile("/boot/bios.img", 0o444, tree.Bytes(strings.Repeat("b", 5000))),
		root.AddFile("/efi.img", 0o444, tree.Bytes(strings.Repeat("e", 4096))),
		root.AddFile("/empty", 0o600, tree.Bytes("")),
		root.AddFile("/.hidden", 0o4755, tree.Bytes("dot")),
		root.AddFile("/Mixed.Case.tar.gz", 0o644, tree.Bytes("x")),
		root.AddFile("/mixed_case.tar.gz", 0o644, tree.Bytes("y")),
		root.AddFile("/"+strings.Repeat("long-name_", 25)+"123", 0o644, tree.Bytes("253")),
		root.AddFile("/"+strings.Repeat("long-name_", 25)+"124", 0o644, tree.Bytes("254")),
		root.AddFile("/Grüße, 世界 🙂.txt", 0o644, tree.Bytes("utf")),
		root.AddFile("/1/2/3/4/5/6/7/8/9/10/11/12/deep", 0o644, tree.Bytes("deep")),
		root.AddLink("/link", "boot/bios.img"),
		root.AddLink("/1/absolute", "/a/../b/./c"),
		root.AddLink("/1/up", "../../.."),
		root.AddLink("/1/long", strings.Repeat("x/", 250)+strings.Repeat("y", 255)),
		root.AddLink("/1/one", strings.Repeat("z", 1000)),
		root.Set("/owned", &tree.Node{Mode: 0o640 | fs.ModeSetgid, UID: 65534, GID: 1000000, Data: tree.Bytes("owned")}),
		root.Set("/sticky", &tree.Node{Mode: fs.ModeDir | fs.ModeSticky | 0o777}),
	)
	for i := range 700 {
		must(t, root.AddFile(fmt.Sprintf("/many/a file of the directory called many, number %d", i), 0o644, tree.Bytes(fmt.Sprint(i))))
	}
	return root
}

func planned(t testing.TB, v Volume) (*Layout, []byte) {
	t.Helper()
	l, err := v.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return l, volumeBytes(t, l)
}

// check reads a volume back and compares it with its tree.
func check(t testing.TB, root *tree.Node, b []byte) map[string]found {
	t.Helper()
	got, err := read(b, false)
	if err != nil {
		t.Fatal(err)
	}
	want := expect(root)
	for p, f := range got {
		n := root.Lookup(p)
		if n != nil && n.Mode.IsRegular() && n.Data != nil && !bytes.Equal(f.content(b), []byte(n.Data.(tree.Bytes))) {
			t.Errorf("%s: the content differs", p)
		}
		if strings.HasSuffix(p, "/") {
			f.size = 0
		}
		f.extents, f.date = nil, ""
		got[p] = f
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(found{})); d != "" {
		t.Error(d)
	}
	second, err := read(b, true)
	if err != nil {
		t.Fatalf("joliet: %v", err)
	}
	if len(second) != len(got) {
		t.Errorf("Joliet shows %d entries of %d", len(second), len(got))
	}
	return second
}

func TestReadBack(t *testing.T) {
	root := sample(t)
	v := volume(root)
	v.Boot = []BootImage{{Path: "/boot/bios.img", Load: 4}, {Path: "/efi.img", EFI: true}}
	l, b := planned(t, v)
	second := check(t, root, b)
	for _, p := range []string{
		"/Mixed.Case.tar.gz", "/mixed_case.tar.gz", "/.hidden", "/Grüße, 世界 _.txt", "/1/2/3/4/5/6/7/8/9/10/11/12/deep",
		"/" + strings.Repeat("long-name_", 6) + "long", "/" + strings.Repeat("long-name_", 6) + "l001",
	} {
		if _, ok := second[p]; !ok {
			t.Errorf("Joliet does not show %s", p)
		}
	}
	if second["/Mixed.Case.tar.gz"].date != "[126 1 2 3 4 5 0]" {
		t.Errorf("the date is %s", second["/Mixed.Case.tar.gz"].date)
	}
	if l.Files[0].Paths[0] != "/boot/bios.img" || l.Files[1].Paths[0] != "/efi.img" {
		t.Error("the boot images are not the first files")
	}
	_, again := planned(t, v)
	if !bytes.Equal(b, again) {
		t.Error("two runs differ")
	}
}

// TestLayout shows where everything lies, and that nothing overlaps.
func TestLayout(t *testing.T) {
	root := sample(t)
	root.Remove("/many")
	same := filepath.Join(t.TempDir(), "same")
	must(t, os.WriteFile(same, []byte("same content"), 0o600))
	src, err := tree.FromFile(same)
	must(t, err, root.AddFile("/copy/one", 0o644, src), root.AddFile("/copy/two", 0o644, src))
	v := volume(root)
	v.Boot = []BootImage{{Path: "/boot/bios.img", Load: 4}, {Path: "/efi.img", EFI: true}}
	l, _ := planned(t, v)
	var out strings.Builder
	end := int64(SystemArea)
	line := func(c Chunk, what string) {
		if c.At%Sector != 0 || c.At < end {
			t.Errorf("%s lies at %d, before %d", what, c.At, end)
		}
		end = c.At + c.Data.Size()
		fmt.Fprintf(&out, "%4d %7d %s\n", c.At/Sector, c.Data.Size(), what)
	}
	for _, c := range l.Meta {
		line(c, "-")
	}
	for _, f := range l.Files {
		line(f.Chunk, strings.Join(f.Paths, " "))
	}
	fmt.Fprintf(&out, "%4d end\n", l.Size/Sector)
	golden(t, "layout.txt", out.String())
	if one, ok := l.Find("/copy/two"); !ok || one.Paths[0] != "/copy/one" {
		t.Error("a file used twice lies there twice")
	}
	if _, ok := l.Find("/empty"); ok {
		t.Error("an empty file has a place")
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
}

// TestCatalogue reads what firmware reads.
func TestCatalogue(t *testing.T) {
	root := tree.New()
	big := make(tree.Bytes, 40<<20)
	must(t, root.AddFile("/bios", 0o444, tree.Bytes(strings.Repeat("b", 3000))), root.AddFile("/efi", 0o444, tree.Bytes(strings.Repeat("e", 3000))), root.AddFile("/large", 0o444, big))
	v := volume(root)
	v.Boot = []BootImage{{Path: "/bios", Load: 4}, {Path: "/efi", EFI: true}, {Path: "/large", EFI: true}}
	l, b := planned(t, v)
	boot := b[17*Sector:][:Sector]
	if boot[0] != 0 || !bytes.HasPrefix(boot[7:], []byte("EL TORITO SPECIFICATION\x00")) {
		t.Fatal("the boot record is not in sector 17")
	}
	c := b[int(little.Uint32(boot[71:]))*Sector:][:Sector]
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += little.Uint16(c[i:])
	}
	if sum != 0 || c[0] != 1 || c[1] != 0 || c[30] != 0x55 || c[31] != 0xaa {
		t.Errorf("validation entry % x", c[:32])
	}
	for i, w := range []struct {
		at   int
		load uint16
		path string
	}{{32, 4, "/bios"}, {96, 6, "/efi"}, {160, 0, "/large"}} {
		e := c[w.at:]
		f, _ := l.Find(w.path)
		if e[0] != 0x88 || e[1] != 0 || little.Uint16(e[6:]) != w.load || int64(little.Uint32(e[8:]))*Sector != f.At {
			t.Errorf("entry %d: % x", i, e[:32])
		}
	}
	if !bytes.Equal(c[64:68], []byte{0x90, 0xef, 1, 0}) || !bytes.Equal(c[128:132], []byte{0x91, 0xef, 1, 0}) {
		t.Errorf("section headers % x, % x", c[64:68], c[128:132])
	}
}

// sparse is content that is never held.
type sparse int64

func (s sparse) Open() (io.ReadCloser, error) { return nil, fs.ErrInvalid }
func (s sparse) Size() int64                  { return int64(s) }

// TestSections: files of 4 GiB and more have several extents, one behind the
// other, each but the last of whole sectors.
func TestSections(t *testing.T) {
	const gib = 1 << 30
	for size, want := range map[int64][]int64{
		4*gib - 2049: {4*gib - 2049}, 4*gib - 2048: {4*gib - 2048}, 4*gib - 2047: {4*gib - 2048, 1}, 4 * gib: {4*gib - 2048, 2048},
		9*gib + 5: {4*gib - 2048, 4*gib - 2048, gib + 4096 + 5},
	} {
		root := tree.New()
		must(t, root.AddFile("/a", 0o644, tree.Bytes("a")), root.AddFile("/large", 0o644, sparse(size)), root.AddFile("/z", 0o644, tree.Bytes("z")))
		l, err := volume(root).Plan()
		must(t, err)
		b := make([]byte, 200*Sector) // what lies before the large file
		for _, c := range l.Meta {
			copy(b[c.At:], c.Data.(tree.Bytes))
		}
		for _, at := range []int{16, 17} { // the reader wants to see all of a volume
			both32(b[at*Sector+80:], int64(len(b)/Sector))
		}
		got, err := read(b, false)
		must(t, err)
		f := got["/large"]
		next := f.extents[0].at
		for i, e := range f.extents {
			if e.at != next || i >= len(want) || e.size != want[i] {
				t.Errorf("%d bytes: extents %v, want sizes %v", size, f.extents, want)
				break
			}
			next += e.size
		}
		if f.size != size {
			t.Errorf("%d bytes became %d", size, f.size)
		}
		if z, _ := l.Find("/z"); z.At < next {
			t.Errorf("%d bytes: the next file lies inside", size)
		}
	}
	root := tree.New()
	must(t, root.AddFile("/large", 0o644, sparse(8<<40)))
	if _, err := volume(root).Plan(); err == nil {
		t.Error("a volume of more than 2^32 sectors was planned")
	}
}

func TestIdentifiers(t *testing.T) {
	var list []*tree.Node
	for _, n := range []string{"a.b", "A.B", "A_B", "grub-core-disk.img", ".profile", "x.", "no", "archive.tar.superlong", strings.Repeat("w", 40) + ".iso", "ü", "ü.ü"} {
		list = append(list, &tree.Node{Name: n})
	}
	for _, n := range []string{"dir.d", "dir_d", "no"} {
		list = append(list, &tree.Node{Name: n, Mode: fs.ModeDir})
	}
	var got strings.Builder
	two := joliet{}.identifiers(list)
	for i, id := range (rockRidge{}).identifiers(list) {
		j, err := jolietName(two[i], list[i].Mode.IsDir())
		must(t, err)
		fmt.Fprintf(&got, "%s %s %s\n", list[i].Name, id, j)
	}
	golden(t, "names.txt", got.String())
}

func TestCheck(t *testing.T) {
	for name, spoil := range map[string]func(*Volume){
		"volume id":     func(v *Volume) { v.ID = "lower" },
		"application":   func(v *Volume) { v.Application = "é" },
		"date":          func(v *Volume) { v.Time = time.Time{} },
		"root":          func(v *Volume) { v.Root = nil },
		"boot image":    func(v *Volume) { v.Boot = []BootImage{{Path: "/gone"}} },
		"empty image":   func(v *Volume) { v.Boot = []BootImage{{Path: "/empty"}} },
		"load":          func(v *Volume) { v.Boot = []BootImage{{Path: "/efi.img", Load: 1 << 16}} },
		"boot path":     func(v *Volume) { v.Boot = []BootImage{{Path: "/boot//bios.img"}} },
		"too many":      func(v *Volume) { v.Boot = make([]BootImage, 17) },
		"device":        func(v *Volume) { v.Root.Set("/null", &tree.Node{Mode: fs.ModeDevice}) },
		"long name":     func(v *Volume) { v.Root.AddFile("/"+strings.Repeat("n", 254), 0o644, nil) },
		"bad text":      func(v *Volume) { v.Root.AddFile("/\xff", 0o644, nil) },
		"name with nul": func(v *Volume) { v.Root.AddFile("/a\x00b", 0o644, nil) },
		"owner":         func(v *Volume) { v.Root.Child("efi.img").UID = -1 },
		"long target":   func(v *Volume) { v.Root.AddLink("/l", strings.Repeat("n", 1001)) },
		"no target":     func(v *Volume) { v.Root.AddLink("/l", "") },
		"padding":       func(v *Volume) { v.Pad = -1 },
	} {
		v := volume(sample(t))
		spoil(&v)
		if _, err := v.Plan(); err == nil {
			t.Errorf("a wrong %s was accepted", name)
		}
	}
}

// FuzzReadBack makes a tree of noise and reads it back.
func FuzzReadBack(f *testing.F) {
	for seed := range int64(20) {
		f.Add(seed, "näme.x", "../t/./\xff")
	}
	f.Fuzz(func(t *testing.T, seed int64, name, target string) {
		rnd := rand.New(rand.NewSource(seed))
		root := noise(rnd, name, target)
		l, err := volume(root).Plan()
		if err != nil {
			return // the tree holds what no volume can; TestCheck has the list
		}
		b := volumeBytes(t, l)
		got, err := read(b, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := read(b, true); err != nil {
			t.Fatal(err)
		}
		want := expect(root)
		for p, f := range want {
			g, ok := got[p]
			if !ok || g.mode != f.mode || g.links != f.links || g.target != plain(f.target) || !strings.HasSuffix(p, "/") && g.size != f.size {
				t.Fatalf("%q: want %v, got %v", p, f, g)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d entries became %d", len(want), len(got))
		}
	})
}

// plain is a target without what its components do not carry.
func plain(target string) string {
	var parts []string
	for _, c := range strings.Split(target, "/") {
		if c != "" {
			parts = append(parts, c)
		}
	}
	out := strings.Join(parts, "/")
	if strings.HasPrefix(target, "/") {
		out = "/" + out
	}
	return out
}

func noise(rnd *rand.Rand, name, target string) *tree.Node {
	root := tree.New()
	dirs := []string{"/"}
	letters := []rune(name + "aA._-é世")
	for range rnd.Intn(200) {
		var b strings.Builder
		for range 1 + rnd.Intn(1+rnd.Intn(120)) {
			b.WriteRune(letters[rnd.Intn(len(letters))])
		}
		p := path.Join(dirs[rnd.Intn(len(dirs))], b.String())
		switch rnd.Intn(4) {
		case 0:
			if _, err := root.Dir(p); err == nil {
				dirs = append(dirs, p)
			}
		case 1:
			root.AddLink(p, strings.Repeat(target, 1+rnd.Intn(4)))
		default:
			root.AddFile(p, fs.FileMode(rnd.Intn(0o1000)), tree.Bytes(make([]byte, rnd.Intn(5000))))
		}
	}
	return root
}
