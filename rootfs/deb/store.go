package deb

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// store is a folder of files named by their SHA-256: ab/abcdef… for complete
// ones, partial/abcdef… for those on the way. A file is hashed each time it
// is handed out, which makes syncing it when it is written unnecessary.
type store struct{ dir string }

func (s store) path(sum string) string { return filepath.Join(s.dir, sum[:2], sum) }

// cached returns the file of a blob if it is there and whole. A damaged one
// is removed.
func (s store) cached(b blob) (string, bool) {
	path := s.path(b.sha256)
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err == nil && n == b.size && hex.EncodeToString(h.Sum(nil)) == b.sha256 {
		return path, true
	}
	os.Remove(path) // an error here shows up again when the new file is renamed to it
	return "", false
}

// part is a file on its way into the store. n and hash speak for what is in
// the file.
type part struct {
	s       store
	b       blob
	f       *os.File
	hash    hash.Hash
	n       int64
	advance func(int64)
	alone   bool // not the shared partial file: nobody can resume it
}

// begin opens the partial file of a blob and takes what an earlier, broken
// off fetch left in it. If another process is fetching the same blob, this
// one works on a file of its own.
func (s store) begin(b blob) (*part, error) {
	dir := filepath.Join(s.dir, "partial")
	for _, d := range []string{dir, filepath.Dir(s.path(b.sha256))} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	f, err := openLocked(filepath.Join(dir, b.sha256))
	alone := errors.Is(err, syscall.EWOULDBLOCK)
	if alone {
		f, err = os.CreateTemp(dir, b.sha256+".*")
	}
	if err != nil {
		return nil, err
	}
	p := &part{s: s, b: b, f: f, hash: sha256.New(), advance: func(int64) {}, alone: alone}
	if p.n, err = io.Copy(p.hash, f); err == nil && p.n > b.size {
		err = p.reset()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// openLocked opens a file that is this process's alone as long as it is open.
func openLocked(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, err
		}
		// Between open and lock its former owner may have renamed it into
		// the store: then it must not be touched.
		now, err1 := os.Stat(path)
		mine, err2 := f.Stat()
		if err1 == nil && err2 == nil && os.SameFile(now, mine) {
			return f, nil
		}
		f.Close()
		if err2 != nil {
			return nil, err2
		}
	}
}

// reset empties the file.
func (p *part) reset() error {
	p.advance(-p.n)
	p.n = 0
	p.hash.Reset()
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	_, err := p.f.Seek(0, io.SeekStart)
	return err
}

// Write appends to the file.
func (p *part) Write(b []byte) (int, error) {
	n, err := p.f.Write(b)
	p.hash.Write(b[:n])
	p.n += int64(n)
	p.advance(int64(n))
	return n, err
}

// fill copies a source that starts at offset (0 or p.n) into the file and
// checks the whole. Content with a wrong hash is thrown away at once.
func (p *part) fill(offset int64, open func() (io.ReadCloser, error)) error {
	if offset != p.n {
		if err := p.reset(); err != nil {
			return err
		}
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.Copy(p, io.LimitReader(r, p.b.size-p.n+1)); err != nil {
		return err
	}
	return p.complete()
}

// complete checks size and hash.
func (p *part) complete() error {
	if p.n < p.b.size {
		return fmt.Errorf("%d of %d bytes: %w", p.n, p.b.size, io.ErrUnexpectedEOF)
	}
	if p.n == p.b.size && hex.EncodeToString(p.hash.Sum(nil)) == p.b.sha256 {
		return nil
	}
	if err := p.reset(); err != nil {
		return err
	}
	return errDamaged
}

// commit gives the complete file its final name. Two processes that do this
// at once rename equal files.
func (p *part) commit() (string, error) {
	final := p.s.path(p.b.sha256)
	err := os.Rename(p.f.Name(), final)
	p.alone = p.alone && err != nil
	return final, err
}

// close ends the work on the file. What came so far stays for the next time,
// if that can find it.
func (p *part) close() {
	p.f.Close()
	if p.alone {
		p.discard()
	}
}

// discard removes the file.
func (p *part) discard() { os.Remove(p.f.Name()) }
