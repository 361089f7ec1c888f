package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"testing"
	"time"

	"joist/rootfs/tree"
)

// TestOpen: what Write wrote, Open reads, whole and one by one.
func TestOpen(t *testing.T) {
	root := everything(t)
	at := time.Unix(1700000000, 0)
	for _, o := range []Options{{}, {BlockSize: 4 << 10}, {PackBelow: -1}, {Export: true}} {
		o.Time = at
		img, err := Open(bytes.NewReader(writeBytes(t, root, o)))
		if err != nil {
			t.Fatal(err)
		}
		if !img.Time.Equal(at) || img.Size <= 0 {
			t.Errorf("image of %v with %d bytes", img.Time, img.Size)
		}
		if err := equal(root, img.Root); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
		if err := equal(img.Root, root); err != nil {
			t.Errorf("%+v: the other way round: %v", o, err)
		}
	}
}

// equal compares everything but time and names of hard links.
func equal(a, b *tree.Node) error {
	return a.Walk(func(p string, x *tree.Node) error {
		y := b.Lookup(p)
		if y == nil {
			return fmt.Errorf("%s is missing", p)
		}
		if x.Mode != y.Mode || x.UID != y.UID || x.GID != y.GID || x.Target != y.Target || !maps.Equal(x.Xattrs, y.Xattrs) || x.Mode.Type()&0o7777 == 0 && (x.Major != y.Major || x.Minor != y.Minor) {
			return fmt.Errorf("%s: %+v became %+v", p, x, y)
		}
		if !x.Mode.IsRegular() {
			return nil
		}
		c, err := a.Read(p)
		d, err2 := b.Read(p)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if !bytes.Equal(c, d) {
			return fmt.Errorf("%s: its %d bytes became %d others", p, len(c), len(d))
		}
		return nil
	})
}

// TestOpenDamaged: an image with a flipped byte is read, or refused, in bounded
// time and memory; it never ends the program.
func TestOpenDamaged(t *testing.T) {
	root := tree.New()
	for i := range 30 {
		if err := root.AddFile(fmt.Sprintf("/d/%d", i), 0o644, tree.Bytes(text(uint64(i), 3000))); err != nil {
			t.Fatal(err)
		}
	}
	good := writeBytes(t, root, Options{BlockSize: 4 << 10})
	refused := 0
	for i := 0; i < len(good); i++ {
		if i > superSize && i%37 != 0 { // the superblock whole, the rest in samples
			continue
		}
		bad := bytes.Clone(good)
		bad[i] ^= 0x41
		if readAll(bad) != nil {
			refused++
		}
	}
	img, err := Open(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(0); n < img.Size; n += 512 {
		if readAll(good[:n]) == nil {
			t.Errorf("the first %d of %d bytes were taken for an image", n, img.Size)
		}
	}
	if refused < 50 {
		t.Errorf("only %d damages were noticed", refused)
	}
}

func readAll(b []byte) error {
	img, err := Open(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return img.Root.Walk(func(p string, n *tree.Node) error {
		if n.Data == nil {
			return nil
		}
		r, err := n.Data.Open()
		if err != nil {
			return err
		}
		_, err = io.CopyN(io.Discard, r, 1<<20)
		if err == io.EOF {
			return nil
		}
		return err
	})
}

func FuzzOpen(f *testing.F) {
	root := tree.New()
	if err := root.AddFile("/a/b", 0o644, tree.Bytes("text")); err != nil {
		f.Fatal(err)
	}
	if err := root.Set("/dev", &tree.Node{Mode: 0o755, Data: tree.Bytes("text"), Xattrs: map[string]string{"user.x": "y"}}); err != nil {
		f.Fatal(err)
	}
	f.Add(writeBytes(f, root, Options{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := readAll(b); err == nil && len(b) < superSize {
			t.Error("nothing was taken for an image")
		}
	})
}
