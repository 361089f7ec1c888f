package squashfs

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"joist/rootfs/tree"
)

// fromDir is the tree of a folder of this machine. Content is kept in memory,
// as the builder has it; names of one inode become hard links.
func fromDir(t testing.TB, dir string) *tree.Node {
	t.Helper()
	root := tree.New()
	first := map[uint64]*tree.Node{}
	where := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n, ino, err := fromFile(p)
		if err != nil {
			return err
		}
		rel := "/" + strings.TrimPrefix(strings.TrimPrefix(p, dir), "/")
		if rel == "/" {
			n.Children = root.Children
			*root = *n
			return nil
		}
		if f := first[ino]; f != nil && n.Mode.IsRegular() {
			n.Data, n.LinkTo = f.Data, where[ino]
		} else if n.Mode.IsRegular() {
			first[ino], where[ino] = n, rel
		}
		return root.Set(rel, n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func fromFile(p string) (*tree.Node, uint64, error) {
	st, err := os.Lstat(p)
	if err != nil {
		return nil, 0, err
	}
	sys := st.Sys().(*syscall.Stat_t)
	n := &tree.Node{Mode: st.Mode(), UID: int(sys.Uid), GID: int(sys.Gid)}
	switch {
	case st.Mode()&fs.ModeSymlink != 0:
		n.Target, err = os.Readlink(p)
	case st.Mode()&fs.ModeDevice != 0:
		n.Major, n.Minor = unix.Major(sys.Rdev), unix.Minor(sys.Rdev)
	case st.Mode().IsRegular():
		var b []byte
		b, err = os.ReadFile(p)
		n.Data = tree.Bytes(b)
	}
	if err == nil {
		n.Xattrs, err = xattrsOf(p)
	}
	return n, sys.Ino, err
}

func xattrsOf(p string) (map[string]string, error) {
	names := make([]byte, 64<<10)
	k, err := unix.Llistxattr(p, names)
	if err == unix.ENOTSUP || err == nil && k == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, name := range strings.Split(strings.TrimRight(string(names[:k]), "\x00"), "\x00") {
		v := make([]byte, maxXattrValue)
		n, err := unix.Lgetxattr(p, name, v)
		if err != nil {
			return nil, err
		}
		out[name] = string(v[:n])
	}
	return out, nil
}

// lines describes a tree, one line an entry: what a judge read must be what
// was given. Names of one inode have the same group.
func lines(t testing.TB, root *tree.Node) []string {
	t.Helper()
	var out []string
	group, linked := map[any]string{}, linkedContent(root)
	describe := func(p string, n *tree.Node) error {
		s := fmt.Sprintf("%s %v %d:%d", p, n.Mode, n.UID, n.GID)
		for _, k := range sortedKeys(n.Xattrs) {
			s += fmt.Sprintf(" %s=%x", k, n.Xattrs[k])
		}
		switch {
		case n.Mode&fs.ModeSymlink != 0:
			s += " -> " + n.Target
		case n.Mode&fs.ModeDevice != 0:
			s += fmt.Sprintf(" %d,%d", n.Major, n.Minor)
		case n.Mode.IsRegular():
			var b []byte
			if n.Data != nil {
				c := content{path: p, data: n.Data, size: n.Data.Size()}
				var err error
				if b, err = c.read(); err != nil {
					return err
				}
			}
			if len(b) > 64 {
				c := content{data: tree.Bytes(b)}
				sum, _ := c.hash()
				s += fmt.Sprintf(" %d bytes %x", len(b), sum[:8])
			} else {
				s += fmt.Sprintf(" %q", b)
			}
			if id := linkID(p, n); group[id] == "" {
				group[id] = p
			} else if linked[id] {
				s += " is " + group[id]
			}
		}
		out = append(out, s)
		return nil
	}
	if err := describe("/", root); err != nil {
		t.Fatal(err)
	}
	if err := root.Walk(describe); err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// write makes an image file of a tree.
func write(t testing.TB, root *tree.Node, o Options) (string, Stats) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.sqfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := Write(context.Background(), f, root, o)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := f.Stat(); err != nil || got.Size() != st.Size || st.Size%padding != 0 {
		t.Fatalf("the image has %d bytes, Write says %d (%v)", got.Size(), st.Size, err)
	}
	return f.Name(), st
}

func writeBytes(t testing.TB, root *tree.Node, o Options) []byte {
	t.Helper()
	name, _ := write(t, root, o)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unable skips the test, or fails it where everything must be there.
func unable(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("JOIST_NEED_TOOLS") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// tool finds a program of squashfs-tools.
func tool(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		unable(t, name+" is not installed (package squashfs-tools)")
	}
	return p
}

func asRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		unable(t, "owners, devices and mounts need root")
	}
}

// unsquash unpacks an image with the reference implementation.
func unsquash(t testing.TB, img string) *tree.Node {
	t.Helper()
	dir := path.Join(t.TempDir(), "root")
	out, err := exec.Command(tool(t, "unsquashfs"), "-strict-errors", "-no-progress", "-quiet", "-xattrs", "-dest", dir, img).CombinedOutput()
	if err != nil {
		t.Fatalf("unsquashfs: %v\n%s", err, out)
	}
	return fromDir(t, dir)
}

// mounted mounts an image with the kernel and returns the folder.
func mounted(t testing.TB, img string) string {
	t.Helper()
	asRoot(t)
	list, err := os.ReadFile("/proc/filesystems")
	if err != nil || !bytes.Contains(list, []byte("squashfs")) {
		unable(t, "this kernel has no squashfs")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "squashfs", "-o", "loop,ro", img, dir).CombinedOutput(); err != nil {
		unable(t, fmt.Sprintf("this machine cannot mount images: %v: %s", err, out))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}
