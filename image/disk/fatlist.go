package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	maxFATFiles = 4096
	maxFATDepth = 16
)

// ReadFAT lists the files of a FAT volume, whoever wrote it. What they hold is
// read from r when it is asked for, so that a volume can be made from another
// one's files.
func ReadFAT(r io.ReaderAt) ([]File, error) {
	f, err := openFAT(r)
	if err != nil {
		return nil, fmt.Errorf("read FAT volume: %w", err)
	}
	root, err := f.rootDir()
	if err != nil {
		return nil, fmt.Errorf("read FAT volume: %w", err)
	}
	l := lister{f: f, seen: map[int64]bool{f.rootAt: f.bits == 32}}
	if err := l.list(root, "", 0); err != nil {
		return nil, fmt.Errorf("read FAT volume: %w", err)
	}
	return l.files, nil
}

// lister goes through the folders of a volume, each once: one that is reached
// a second time, from below itself or from beside, would multiply without end.
type lister struct {
	f     *fatReader
	seen  map[int64]bool // clusters of folders
	count int            // of files and folders
	files []File
}

func (l *lister) list(dir []byte, path string, depth int) error {
	if depth > maxFATDepth {
		return errors.New("its folders are too deep")
	}
	for _, e := range dirents(dir) {
		name := path + "/" + e.name
		if e.short == "." || e.short == ".." {
			continue
		}
		if e.name == "" || strings.Contains(e.name, "/") {
			return fmt.Errorf("%q is no name", name)
		}
		if l.count++; l.count > maxFATFiles {
			return errors.New("it holds too many files")
		}
		if !e.dir {
			l.files = append(l.files, File{Path: name, Data: fatFile{l.f, e}})
			continue
		}
		below, err := l.folder(e)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := l.list(below, name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// folder reads one that was not read before.
func (l *lister) folder(e dirent) ([]byte, error) {
	chain, err := l.f.chain(e.cluster, 0, false)
	if err != nil {
		return nil, err
	}
	for _, c := range chain {
		if l.seen[c] {
			return nil, errors.New("the folder shares its clusters with another one")
		}
		l.seen[c] = true
	}
	return l.f.read(chain)
}

// fatFile is the content of a file on a volume.
type fatFile struct {
	f *fatReader
	e dirent
}

func (x fatFile) Size() int64 { return x.e.size }

// Open gives the clusters one after the other.
func (x fatFile) Open() (io.ReadCloser, error) {
	n := ceil(x.e.size, x.f.cluster)
	if n > x.f.clusters {
		return nil, fmt.Errorf("read FAT file: it is larger than its volume")
	}
	chain, err := x.f.chain(x.e.cluster, n, true)
	if err != nil {
		return nil, fmt.Errorf("read FAT file: %w", err)
	}
	return io.NopCloser(io.LimitReader(&clusters{f: x.f, chain: chain}, x.e.size)), nil
}

// clusters reads a chain, those that lie together in one piece.
type clusters struct {
	f     *fatReader
	chain []int64
	buf   bytes.Reader
}

const maxRun = 1 << 20

func (c *clusters) Read(b []byte) (int, error) {
	if c.buf.Len() == 0 {
		if len(c.chain) == 0 {
			return 0, io.EOF
		}
		n := 1
		for n < len(c.chain) && c.chain[n] == c.chain[0]+int64(n) && int64(n+1)*c.f.cluster <= maxRun {
			n++
		}
		piece := make([]byte, int64(n)*c.f.cluster)
		if _, err := c.f.r.ReadAt(piece, c.f.offset(c.chain[0])); err != nil {
			return 0, err
		}
		c.buf.Reset(piece)
		c.chain = c.chain[n:]
	}
	return c.buf.Read(b)
}
