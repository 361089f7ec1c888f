package build

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"joist/image/boot"
	"joist/rootfs/tree"
)

// compareFiles names the first place, as a person would look for it, in which a
// file differs from one that was made again: "" when it does not. That the
// former is too damaged to be looked into is a difference like any.
func compareFiles(old, again string) (string, error) {
	same, err := equalContent(fileSource(old), fileSource(again))
	if same || err != nil {
		return "", err
	}
	if strings.HasSuffix(old, templateSuffix) {
		return compareArchives(old, again)
	}
	mine, err := openArtefact(again)
	if errors.Is(err, errNoArtefact) {
		return path.Base(again), nil // one of the small files of a folder
	}
	if err != nil {
		return "", err
	}
	defer mine.close()
	theirs, err := openArtefact(old)
	if err != nil {
		return path.Base(old) + " (nothing in it can be read)", nil
	}
	defer theirs.close()
	at, err := firstDifference(theirs.system, mine.system)
	if err != nil || at != "" {
		return boot.FileSystem + ": " + at, err
	}
	if mine.parts == nil { // a bare system
		return boot.FileSystem + ": its hash tree", nil
	}
	if at, err = firstDifference(theirs.parts, mine.parts); at != "" || err != nil {
		return at, err
	}
	return "what surrounds the files (boot records, head, partition table)", nil
}

func fileSource(name string) tree.Source {
	f, err := tree.FromFile(name)
	if err != nil {
		return tree.File{Path: name} // opening it says why
	}
	return f
}

// errFound ends a walk.
var errFound = errors.New("found")

// firstDifference returns the first path, in the order of the tree, at which
// two trees differ: "" when they do not. What cannot be read of a differs.
func firstDifference(a, b *tree.Node) (string, error) {
	var first string
	note := func(p string) error {
		if first == "" || p < first {
			first = p
		}
		return errFound
	}
	err := a.Walk(func(p string, x *tree.Node) error {
		y := b.Lookup(p)
		if y == nil || x.Mode != y.Mode || x.UID != y.UID || x.GID != y.GID || x.Target != y.Target || x.Major != y.Major || x.Minor != y.Minor || !maps.Equal(x.Xattrs, y.Xattrs) {
			return note(p)
		}
		if x.Data == nil || y.Data == nil {
			return nil
		}
		if same, err := equalContent(x.Data, y.Data); err != nil || !same {
			return note(p)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return "", err
	}
	err = b.Walk(func(p string, _ *tree.Node) error {
		if a.Lookup(p) == nil {
			return note(p)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return "", err
	}
	return first, nil
}

// compareArchives names the first entry in which two templates differ.
func compareArchives(old, again string) (string, error) {
	x, closeX, err := openArchive(old)
	if err != nil {
		return "", err
	}
	defer closeX()
	y, closeY, err := openArchive(again)
	if err != nil {
		return "", err
	}
	defer closeY()
	for {
		g, err2 := y.Next()
		if err2 != nil && !errors.Is(err2, io.EOF) {
			return "", err2
		}
		h, err := x.Next()
		switch {
		case err2 != nil && errors.Is(err, io.EOF):
			return "what surrounds the files (compression)", nil
		case err2 != nil && err == nil:
			return h.Name, nil // not in the other
		case err2 != nil:
			return "the end of the archive", nil
		case err != nil || fmt.Sprintf("%+v", *h) != fmt.Sprintf("%+v", *g):
			return g.Name, nil
		}
		if same, err := equalStreams(x, y); err != nil || !same {
			return g.Name, nil
		}
	}
}

// openArchive opens a compressed tar file.
func openArchive(name string) (*tar.Reader, func(), error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	z, err := zstd.NewReader(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return tar.NewReader(z), func() { z.Close(); f.Close() }, nil
}

func equalContent(a, b tree.Source) (same bool, err error) {
	if a.Size() != b.Size() {
		return false, nil
	}
	x, err := a.Open()
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := b.Open()
	if err != nil {
		return false, err
	}
	defer y.Close()
	return equalStreams(x, y)
}

func equalStreams(x, y io.Reader) (bool, error) {
	const step = 128 << 10
	p, q := make([]byte, step), make([]byte, step)
	for {
		n, err := io.ReadFull(x, p)
		m, err2 := io.ReadFull(y, q)
		if !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		if ended(err) && ended(err2) {
			return true, nil
		}
		if err := errors.Join(err, err2); err != nil {
			return false, err
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
