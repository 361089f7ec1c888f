package squashfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	diskfs "github.com/diskfs/go-diskfs/filesystem/squashfs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"joist/rootfs/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSameBytes(t *testing.T) {
	root := everything(t)
	at := time.Unix(1700000000, 0)
	want := writeBytes(t, root, Options{Time: at, Workers: 1})
	for _, o := range []Options{{Workers: 2}, {Workers: 7}, {Workers: 64}, {Time: at.In(time.FixedZone("x", 3600))}} {
		o.Time = at
		if got := writeBytes(t, root, o); !bytes.Equal(got, want) {
			t.Errorf("%d workers give other bytes", o.Workers)
		}
	}
	if got := writeBytes(t, root, Options{Time: at.Add(time.Second), Workers: 1}); bytes.Equal(got, want) {
		t.Error("the time is not in the image")
	}
}

func TestStats(t *testing.T) {
	_, st := write(t, everything(t), Options{})
	// The copies of a large and a small text, the two of ping, and a text of
	// one digit that is among the many.
	if st.Duplicates != 4 || st.Holes != 9 || st.Raw < 8 || st.Fragments == 0 || st.Inodes != st.Files+18 {
		t.Errorf("%+v", st)
	}
}

// TestOrder: what is ranked low lies near the start of the image.
func TestOrder(t *testing.T) {
	root := tree.New()
	for _, n := range []string{"a", "b", "c", "d"} {
		if err := root.AddFile("/"+n, 0o644, noise(uint64(n[0]), 200<<10)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		order func(string, *tree.Node) int
		want  string
	}{
		{nil, "abcd"},
		{func(p string, _ *tree.Node) int { return -int(p[1]) }, "dcba"},
		{func(p string, _ *tree.Node) int { return strings.Index("/c/b", p) & 0xff }, "cbad"},
	} {
		img := writeBytes(t, root, Options{Order: c.order})
		got := ""
		for at := 0; len(got) < 4; {
			best, name := len(img), ""
			for _, n := range []string{"a", "b", "c", "d"} {
				if i := bytes.Index(img[at:], noise(uint64(n[0]), 200<<10)[:64]); i >= 0 && at+i < best {
					best, name = at+i, n
				}
			}
			if name == "" {
				t.Fatal("content is missing")
			}
			got, at = got+name, best+1
		}
		if got != c.want {
			t.Errorf("files lie as %s, want %s", got, c.want)
		}
	}
}

// TestMistakes: all that cannot be written is said at once, with the path.
func TestMistakes(t *testing.T) {
	root := tree.New()
	root.Children = []*tree.Node{
		{Name: "a/b", Mode: 0o644}, {Name: "big", Mode: 0o644, UID: -1}, {Name: "big", Mode: 0o644, GID: 1 << 40},
		{Name: "dev", Mode: fs.ModeDevice, Major: 5000}, {Name: "irregular", Mode: fs.ModeIrregular},
		{Name: "link", Mode: fs.ModeSymlink}, {Name: strings.Repeat("n", 256), Mode: 0o644},
		{Name: "x", Mode: 0o644, Xattrs: map[string]string{"system.posix_acl_access": "x"}},
	}
	_, err := Write(context.Background(), nowhere{}, root, Options{})
	for _, want := range []string{`/a/b: "a/b" is not a file name`, "/big: -1 is not a user", "/big: the entry is there twice", "/big: 1099511627776",
		"/dev: device 5000:0", "/irregular: type", "/link: a symbolic link needs", "longer than 255", `/x: extended attribute "system.posix_acl_access"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	for _, o := range []Options{{BlockSize: 1000}, {BlockSize: 2 << 20}, {BlockSize: 1 << 17 * 3}, {Level: 23}, {Level: -1}, {Time: time.Unix(-1, 0)}, {Time: time.Unix(1<<33, 0)}} {
		if _, err := Write(context.Background(), nowhere{}, tree.New(), o); !errors.Is(err, ErrOptions) {
			t.Errorf("options %+v give %v", o, err)
		}
	}
	if _, err := Write(context.Background(), nowhere{}, &tree.Node{}, Options{}); err == nil {
		t.Error("a file as root was written")
	}
}

// source is content of a file that misbehaves.
type source struct {
	says int64
	has  int
	err  error
}

func (s source) Size() int64 { return s.says }
func (s source) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, s.has)), failing{s.err})), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

func TestReadErrors(t *testing.T) {
	torn := errors.New("torn")
	for _, big := range []int{0, 1 << 20} {
		for _, c := range []struct {
			s    source
			want string
		}{
			{source{int64(big) + 10, big + 5, nil}, "where"},
			{source{int64(big) + 10, big + 15, nil}, "where"},
			{source{int64(big) + 10, big + 5, torn}, "torn"},
			{source{int64(big) + 10, big + 10, torn}, "torn"},
		} {
			for _, twice := range []bool{false, true} { // two of a size are hashed first
				root := tree.New()
				if err := root.AddFile("/usr/bad", 0o644, c.s); err != nil {
					t.Fatal(err)
				}
				if twice {
					if err := root.AddFile("/good", 0o644, text(1, int(c.s.says))); err != nil {
						t.Fatal(err)
					}
				}
				_, err := Write(context.Background(), nowhere{}, root, Options{})
				if err == nil || !strings.Contains(err.Error(), "read /usr/bad: ") || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%+v gives %v", c.s, err)
				}
			}
		}
	}
}

// full is a disk that takes so many bytes.
type full struct{ left int }

var errFull = errors.New("no space left on device")

func (f *full) WriteAt(p []byte, _ int64) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

type broken struct{}

func (broken) Compress(_, _ []byte) ([]byte, error) { return nil, errFull }

func TestStops(t *testing.T) {
	root := tree.New()
	for i := range 40 {
		if err := root.AddFile(fmt.Sprintf("/%d", i), 0o644, noise(uint64(i), 300<<10)); err != nil {
			t.Fatal(err)
		}
	}
	for _, left := range []int{0, 2 << 20, 8 << 20} {
		if _, err := Write(context.Background(), &full{left}, root, Options{}); !errors.Is(err, errFull) {
			t.Errorf("a disk of %d bytes gives %v", left, err)
		}
	}
	if _, err := Write(context.Background(), nowhere{}, root, Options{Codec: Codec{Compressor: broken{}}}); !errors.Is(err, errFull) {
		t.Errorf("a broken compressor gives %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f, err := os.Create(path.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = Write(ctx, f, root, Options{Progress: func(done, total int64) {
		if done > total/2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	head := make([]byte, 4)
	if f.ReadAt(head, 0); string(head) == "hsqs" {
		t.Error("half an image looks whole")
	}
}

// hollow is a file of zeros that ends in something.
type hollow struct {
	size int64
	end  []byte
}

func (h hollow) Size() int64 { return h.size }
func (h hollow) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(io.LimitReader(zeros{}, h.size-int64(len(h.end))), bytes.NewReader(h.end))), nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestLarge has a file beyond 4 GiB, most of it a hole.
func TestLarge(t *testing.T) {
	const size = 4<<30 + 3<<20
	end := text(1, 1000)
	root := tree.New()
	if err := root.AddFile("/large", 0o644, hollow{size, end}); err != nil {
		t.Fatal(err)
	}
	img, st := write(t, root, Options{})
	if st.Holes != size/DefaultBlockSize-1 {
		t.Errorf("%d holes", st.Holes)
	}
	m, err := os.Open(path.Join(mounted(t, img), "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	got := make([]byte, 2000)
	if n, err := m.ReadAt(got, size-2000); n != 2000 || !bytes.Equal(got, append(make([]byte, 1000), end...)) {
		t.Errorf("the end differs (%d, %v)", n, err)
	}
}

// TestDiskfs reads an image with a third implementation.
func TestDiskfs(t *testing.T) {
	root := everything(t)
	// Its reader of extended attributes fails on the images of mksquashfs too.
	if err := root.Walk(func(_ string, n *tree.Node) error { n.Xattrs = nil; return nil }); err != nil {
		t.Fatal(err)
	}
	img, st := write(t, root, Options{})
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fsys, err := diskfs.Read(file.New(f, true), st.Size, 0, 4096)
	if err != nil {
		t.Fatal(err)
	}
	err = root.Walk(func(p string, n *tree.Node) error {
		if !n.Mode.IsRegular() || !fs.ValidPath(p[1:]) || strings.HasPrefix(p, "/many/") && !strings.HasSuffix(p, "77") {
			return nil
		}
		r, err := fsys.OpenFile(p[1:], os.O_RDONLY)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		want, err := root.Read(p)
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%s differs", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestRandomTrees compares what unsquashfs unpacks of random trees.
func TestRandomTrees(t *testing.T) {
	asRoot(t)
	rapid.Check(t, func(r *rapid.T) {
		root := tree.New()
		var dirs, files []string
		dirs = append(dirs, "/")
		sizes := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(4000, 4200), rapid.IntRange(0, 50000))
		for range rapid.IntRange(0, 60).Draw(r, "entries") {
			p := path.Join(rapid.SampledFrom(dirs).Draw(r, "in"), rapid.StringMatching(`[a-zA-Z0-9+._ -]{0,20}[a-z]`).Draw(r, "name"))
			if root.Lookup(p) != nil {
				continue
			}
			n := &tree.Node{Mode: fs.FileMode(rapid.IntRange(0, 0o777).Draw(r, "mode")), UID: rapid.IntRange(0, 5).Draw(r, "uid"), GID: rapid.IntRange(0, 1<<31).Draw(r, "gid")}
			switch rapid.IntRange(0, 8).Draw(r, "kind") {
			case 0, 1:
				n.Mode |= fs.ModeDir
				dirs = append(dirs, p)
			case 2:
				n.Mode, n.Target = fs.ModeSymlink|0o777, rapid.StringN(1, 60, 200).Filter(func(s string) bool { return !strings.Contains(s, "\x00") }).Draw(r, "target")
			case 3:
				n.Mode |= fs.ModeDevice | rapid.SampledFrom([]fs.FileMode{0, fs.ModeCharDevice}).Draw(r, "char")
				n.Major, n.Minor = uint32(rapid.IntRange(1, 4095).Draw(r, "major")), uint32(rapid.IntRange(0, 1<<20-1).Draw(r, "minor"))
			case 4:
				if len(files) > 0 {
					to := rapid.SampledFrom(files).Draw(r, "to")
					if old := root.Lookup(to); len(old.Data.(tree.Bytes)) > 0 {
						c := *old
						n = &c
						n.LinkTo = to
					}
				}
				fallthrough
			default:
				if n.Data == nil {
					make := rapid.SampledFrom([]func(uint64, int) tree.Bytes{text, noise, func(_ uint64, n int) tree.Bytes { return make(tree.Bytes, n) }}).Draw(r, "content")
					n.Data = make(rapid.Uint64Range(0, 3).Draw(r, "seed"), sizes.Draw(r, "size"))
					files = append(files, p)
				}
			}
			if n.LinkTo == "" && rapid.IntRange(0, 4).Draw(r, "marked") == 0 {
				n.Xattrs = map[string]string{"trusted.x": rapid.StringN(0, 20, 50).Draw(r, "value")}
			}
			if err := root.Set(p, n); err != nil {
				r.Fatal(err)
			}
		}
		o := Options{BlockSize: rapid.SampledFrom([]int{4096, 8192, DefaultBlockSize}).Draw(r, "block"), Level: 3, Export: rapid.Bool().Draw(r, "export"), Workers: rapid.IntRange(1, 4).Draw(r, "workers")}
		img, _ := write(t, root, o)
		defer os.Remove(img)
		if diff := cmp.Diff(lines(t, root), lines(t, unsquash(t, img))); diff != "" {
			r.Fatal(diff)
		}
	})
}
