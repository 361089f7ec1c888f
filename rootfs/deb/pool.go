package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"joist/rootfs/lock"
)

// PoolName is where an archive of packages has one: by its hash, so that equal
// packages lie there once and no name leads anywhere.
func PoolName(p lock.Package) string { return poolDir + p.SHA256 + ".deb" }

const poolDir = "deb/"

// TarPool is a tar archive as a Pool. What else lies in it can be had by name.
type TarPool struct {
	f     *os.File
	files map[string]*io.SectionReader
	names []string // in the order of the archive
}

// OpenPool reads the directory of an archive.
func OpenPool(name string) (*TarPool, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	p := &TarPool{f: f, files: map[string]*io.SectionReader{}}
	if err := p.index(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open pool %s: %w", name, err)
	}
	return p, nil
}

func (p *TarPool) index() error {
	st, err := p.f.Stat()
	if err != nil {
		return err
	}
	// Two blocks of zeros end an archive; the tar package does without.
	end := make([]byte, 1024)
	if _, err := p.f.ReadAt(end, max(0, st.Size()-int64(len(end)))); err != nil || !bytes.Equal(end, make([]byte, len(end))) {
		return errors.New("it is cut off, or no tar archive")
	}
	t := tar.NewReader(p.f)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n == maxEntries {
			return fmt.Errorf("more than %d files", maxEntries)
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || p.files[name] != nil {
			return fmt.Errorf("%q is no regular file, or there twice", name)
		}
		// The reader takes whole blocks and stands where the content begins.
		at, err := p.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		p.files[name] = io.NewSectionReader(p.f, at, h.Size)
		p.names = append(p.names, name)
	}
}

// Open implements Pool.
func (p *TarPool) Open(l lock.Package) (io.ReadCloser, error) { return p.File(PoolName(l)) }

// File opens a file of the archive.
func (p *TarPool) File(name string) (io.ReadCloser, error) {
	s := p.files[name]
	if s == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(s, 0, s.Size())), nil
}

// Names are the files below a folder, in the order of the archive.
func (p *TarPool) Names(dir string) []string {
	var out []string
	for _, n := range p.names {
		if strings.HasPrefix(n, dir+"/") {
			out = append(out, n)
		}
	}
	return out
}

// Close ends the use of the archive.
func (p *TarPool) Close() error { return p.f.Close() }
