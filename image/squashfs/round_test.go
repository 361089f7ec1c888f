package squashfs

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/rootfs/tree"
)

// noise is bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) tree.Bytes {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

// text is bytes that do.
func text(seed uint64, n int) tree.Bytes {
	r := rand.New(rand.NewPCG(seed, 1))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%d the %x and %d\n", r.IntN(50), r.IntN(1<<12), r.IntN(5))
	}
	return tree.Bytes(b.String()[:n])
}

// everything is a tree with every kind of entry and every size that is on an
// edge of the format.
func everything(t testing.TB) *tree.Node {
	t.Helper()
	root := tree.New()
	set := func(p string, n *tree.Node) {
		t.Helper()
		if err := root.Set(p, n); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{0, 1, 4095, DefaultBlockSize - 1, DefaultBlockSize, DefaultBlockSize + 1, 3*DefaultBlockSize + 17} {
		set(fmt.Sprintf("/size/text-%d", n), &tree.Node{Mode: 0o644, Data: text(uint64(n), n)})
		set(fmt.Sprintf("/size/noise-%d", n), &tree.Node{Mode: 0o600, UID: 1000, GID: 70000, Data: noise(uint64(n), n)})
	}
	set("/size/nil", &tree.Node{Mode: 0o400})
	holes := append(append(make(tree.Bytes, DefaultBlockSize), noise(9, DefaultBlockSize)...), make([]byte, 2*DefaultBlockSize+5)...)
	set("/sparse/middle", &tree.Node{Mode: 0o644, Data: holes})
	set("/sparse/all", &tree.Node{Mode: 0o644, Data: make(tree.Bytes, 5*DefaultBlockSize)})
	set("/sparse/small", &tree.Node{Mode: 0o644, Data: make(tree.Bytes, 100)})
	big := text(77, 300<<10)
	set("/links/first", &tree.Node{Mode: 0o755, Data: big})
	set("/a-link", &tree.Node{Mode: 0o755, Data: big, LinkTo: "/links/first"})
	set("/links/third", &tree.Node{Mode: 0o755, Data: big, LinkTo: "/links/first"})
	set("/links/empty", &tree.Node{Mode: 0o644, Data: tree.Bytes{}})
	set("/links/empty-too", &tree.Node{Mode: 0o644, LinkTo: "/links/empty"})
	set("/copies/large", &tree.Node{Mode: 0o644, Data: append(tree.Bytes{}, big...)})
	set("/copies/shared", &tree.Node{Mode: 0o644, Data: text(5, 50), Origin: "x"})
	set("/copies/small", &tree.Node{Mode: 0o644, Data: text(5, 50)})
	set("/symlink", &tree.Node{Mode: fs.ModeSymlink | 0o777, Target: "nowhere/" + strings.Repeat("x", 200)})
	set("/dev/null", &tree.Node{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3})
	set("/dev/big", &tree.Node{Mode: fs.ModeDevice | 0o660, GID: 6, Major: 259, Minor: 70001})
	set("/run/pipe", &tree.Node{Mode: fs.ModeNamedPipe | 0o600})
	set("/run/socket", &tree.Node{Mode: fs.ModeSocket | 0o666, UID: 33})
	set("/bin/su", &tree.Node{Mode: fs.ModeSetuid | fs.ModeSetgid | 0o755, Data: text(3, 9)})
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	set("/bin/ping", &tree.Node{Mode: 0o755, Data: text(4, 9), Xattrs: map[string]string{"security.capability": capability}})
	set("/bin/ping6", &tree.Node{Mode: 0o755, Data: text(4, 9), Xattrs: map[string]string{"security.capability": capability}})
	set("/bin/marked", &tree.Node{Mode: 0o755, Data: text(8, 9), Xattrs: map[string]string{"user.a": "", "user.b": strings.Repeat("v", 3000), "trusted.c": "x\x00y"}})
	set("/tmp", &tree.Node{Mode: fs.ModeDir | fs.ModeSticky | 0o777, Xattrs: map[string]string{"user.dir": "1"}})
	set("/fifo-marked", &tree.Node{Mode: fs.ModeNamedPipe | 0o600, Xattrs: map[string]string{"trusted.p": "1"}})
	set("/link-marked", &tree.Node{Mode: fs.ModeSymlink | 0o777, Target: "x", Xattrs: map[string]string{"trusted.l": "1"}})
	set("/empty-dir", &tree.Node{Mode: fs.ModeDir | 0o700})
	set("/"+strings.Repeat("n", 255), &tree.Node{Mode: 0o644, Data: text(1, 7)})
	set("/\xff\xfe not utf-8", &tree.Node{Mode: 0o644, Data: text(1, 8)})
	for i := range 1200 {
		set(fmt.Sprintf("/many/%s-%04d", strings.Repeat("name", i%20), i), &tree.Node{Mode: 0o644, Data: tree.Bytes(fmt.Sprint(i))})
	}
	return root
}

func TestUnsquashfs(t *testing.T) {
	asRoot(t)
	root := everything(t)
	for _, o := range []Options{{}, {Export: true, BlockSize: 4096, Level: 1}, {BlockSize: 1 << 20, Level: 9}, {PackBelow: -1, Level: 3}, {PackBelow: 64, Level: 15}} {
		t.Run(fmt.Sprintf("block=%d,pack=%d,level=%d", o.BlockSize, o.PackBelow, o.Level), func(t *testing.T) {
			o.Time = time.Unix(1700000000, 0)
			img, _ := write(t, root, o)
			if diff := cmp.Diff(lines(t, root), lines(t, unsquash(t, img))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestKernel(t *testing.T) {
	root := everything(t)
	img, _ := write(t, root, Options{Time: time.Unix(1700000000, 0), Export: true})
	if diff := cmp.Diff(lines(t, root), lines(t, fromDir(t, mounted(t, img)))); diff != "" {
		t.Error(diff)
	}
}
