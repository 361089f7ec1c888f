package verity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// data is a file of n random blocks with room in memory for comparison.
func data(t testing.TB, n int) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r := rand.NewChaCha8([32]byte{byte(n)})
	if _, err := io.CopyN(f, r, int64(n)*Block); err != nil {
		t.Fatal(err)
	}
	return f
}

func veritysetup(t *testing.T) string {
	for _, p := range []string{"/sbin/veritysetup", "/usr/sbin/veritysetup"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Skip("veritysetup is not installed")
	return ""
}

// Sizes at which the number of levels changes.
func sizes() []int { return []int{1, 2, 127, 128, 129, 128*128 - 1, 128 * 128, 128*128 + 1} }

func TestAppendAndVerify(t *testing.T) {
	for _, n := range sizes() {
		for _, salt := range [][]byte{nil, bytes.Repeat([]byte{7}, 32)} {
			f := data(t, n)
			root, total, err := Append(f, int64(n)*Block, salt)
			if err != nil {
				t.Fatal(err)
			}
			if want := int64(n)*Block + TreeSize(int64(n)*Block); total != want {
				t.Errorf("%d blocks: total %d, want %d", n, total, want)
			}
			if st, _ := f.Stat(); st.Size() != total {
				t.Errorf("%d blocks: file has %d bytes, want %d", n, st.Size(), total)
			}
			if err := Verify(f, int64(n)*Block, root); err != nil {
				t.Errorf("%d blocks: %v", n, err)
			}
		}
	}
}

func TestAcceptedByVeritysetup(t *testing.T) {
	tool := veritysetup(t)
	for _, n := range sizes() {
		f := data(t, n)
		root, _, err := Append(f, int64(n)*Block, []byte("salt of the test"))
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(tool, "verify", fmt.Sprintf("--hash-offset=%d", n*Block), f.Name(), f.Name(), root).CombinedOutput()
		if err != nil {
			t.Errorf("%d blocks: %v\n%s", n, err, out)
		}
	}
}

func TestSameRootAsVeritysetup(t *testing.T) {
	tool := veritysetup(t)
	f := data(t, 300)
	out, err := exec.Command(tool, "format", "--salt=0102", "--uuid=00000000-0000-0000-0000-000000000000", f.Name(), f.Name()+".tree").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	root, total, err := Append(f, 300*Block, []byte{1, 2})
	if err != nil || !strings.Contains(string(out), root) {
		t.Errorf("root %s (%v), veritysetup says\n%s", root, err, out)
	}
	ours := make([]byte, total-300*Block)
	if _, err := f.ReadAt(ours, 300*Block); err != nil {
		t.Fatal(err)
	}
	theirs, _ := os.ReadFile(f.Name() + ".tree")
	clear(ours[16:32])
	clear(theirs[16:32])
	if !bytes.Equal(ours, theirs) {
		t.Error("tree or superblock differ from veritysetup's")
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	const n = 300
	f := data(t, n)
	root, _, err := Append(f, n*Block, []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		block int64
		tree  bool
	}{{0, false}, {17, false}, {n - 1, false}, {n + 1, true}, {n + 2, true}, {n + 4, true}} {
		b := []byte{0}
		f.ReadAt(b, c.block*Block+100)
		f.WriteAt([]byte{b[0] ^ 1}, c.block*Block+100)
		var d *Damage
		if err := Verify(f, n*Block, root); !errors.As(err, &d) || d.Block != c.block || d.Tree != c.tree {
			t.Errorf("damage in block %d: %v", c.block, err)
		}
		f.WriteAt(b, c.block*Block+100)
	}
	if err := Verify(f, n*Block, strings.Repeat("0", 64)); err == nil {
		t.Error("a wrong root hash was accepted")
	}
	if err := Verify(f, n*Block, "xyz"); err == nil {
		t.Error("a root hash that is none was accepted")
	}
	if err := f.Truncate((n + 2) * Block); err != nil {
		t.Fatal(err)
	}
	if err := Verify(f, n*Block, root); err == nil {
		t.Error("a truncated tree was accepted")
	}
}

func TestLocate(t *testing.T) {
	f := data(t, 10)
	head := make([]byte, 96)
	copy(head, "hsqs")
	binary.LittleEndian.PutUint64(head[40:], 9*Block+5)
	f.WriteAt(head, 0)
	if _, _, err := Locate(f); err == nil {
		t.Error("an image without a tree was accepted")
	}
	if _, _, err := Append(f, 10*Block, []byte{9}); err != nil {
		t.Fatal(err)
	}
	s, at, err := Locate(f)
	if err != nil || at != 10*Block || s.Blocks != 10 || !bytes.Equal(s.Salt, []byte{9}) {
		t.Errorf("%+v at %d: %v", s, at, err)
	}
}

func TestTable(t *testing.T) {
	root := strings.Repeat("ab", 32)
	s := Superblock{Blocks: 10, Salt: []byte{0x0a, 0xff}}
	got, err := Table(s, "8:3", root, "panic_on_corruption")
	want := "0 80 verity 1 8:3 8:3 4096 4096 10 11 sha256 " + root + " 0aff 1 panic_on_corruption"
	if err != nil || got.String() != want {
		t.Errorf("%q %v, want %q", got, err, want)
	}
	s.Salt = nil
	if got, _ := Table(s, "/dev/sda3", root); !strings.HasSuffix(got.Params, root+" -") {
		t.Errorf("no salt: %q", got.Params)
	}
	for _, bad := range []string{"", "/dev/a b"} {
		if _, err := Table(s, bad, root); err == nil {
			t.Errorf("device %q was accepted", bad)
		}
	}
	if _, err := Table(s, "8:3", root[1:]); err == nil {
		t.Error("a short root hash was accepted")
	}
}

func FuzzParseSuperblock(f *testing.F) {
	f.Add(Superblock{Blocks: 3, Salt: []byte{1, 2}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSuperblock(b)
		if err == nil && (s.Blocks <= 0 || len(s.Salt) > maxSalt) {
			t.Fatalf("%+v", s)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	f := data(b, 64<<20/Block)
	b.SetBytes(64 << 20)
	for b.Loop() {
		if _, _, err := Append(f, 64<<20, []byte{1}); err != nil {
			b.Fatal(err)
		}
	}
}
