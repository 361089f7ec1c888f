package deb

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
)

// ErrKept means that a kept copy could not be read. It is removed, so that
// the next Walk takes the package itself; entries that were already given to
// the caller are to be forgotten.
var ErrKept = errors.New("the kept copy of the package is damaged and was removed")

// Keep makes Walk keep the package's data in a file that is quick to unpack
// (zstd's fastest level, where Debian has xz), and read it from there once it
// exists. The name must stand for this package's content alone, as its hash
// does. The copy is as trustworthy as its folder; its checksum finds damage.
// Not being able to write it is no error.
func (p *Package) Keep(name string) { p.keep = name }

// eachKept goes through the kept copy. done is false where there is none.
func (p *Package) eachKept(f func(h *tar.Header, r io.Reader) error) (done bool, err error) {
	if p.keep == "" {
		return false, nil
	}
	file, err := os.Open(p.keep)
	if err != nil {
		return false, nil
	}
	defer file.Close()
	// The time of last use, for PruneKept. Where it cannot be set the copy is
	// made again some day.
	now := time.Now()
	_ = os.Chtimes(p.keep, now, now)
	// Nothing at all unpacks to nothing, without an error.
	if st, err := file.Stat(); err != nil || st.Size() == 0 {
		return true, p.dropKept(errors.Join(err, io.ErrUnexpectedEOF))
	}
	z, closeZ, err := decompress(file, ".zst")
	if err != nil {
		return true, p.dropKept(err)
	}
	defer closeZ()
	seen := &witness{r: z}
	var mine error // of f
	err = entries(seen, maxData, func(h *tar.Header, r io.Reader) error {
		mine = f(h, r)
		return mine
	})
	if err != nil && (mine == nil || seen.err != nil) {
		return true, p.dropKept(err)
	}
	return true, err
}

func (p *Package) dropKept(err error) error {
	return errors.Join(fmt.Errorf("%w: %v", ErrKept, err), os.Remove(p.keep))
}

// witness remembers that reading failed, whatever became of the error in the
// hands of those who read.
type witness struct {
	r   io.Reader
	err error
}

func (w *witness) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// kept is a copy on its way. A nil one takes everything and keeps nothing.
type kept struct {
	f    *os.File
	z    *zstd.Encoder
	name string
	err  error
}

func beginKept(name string) *kept {
	if name == "" || os.MkdirAll(filepath.Dir(name), 0o755) != nil {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), newKept)
	if err != nil {
		return nil
	}
	k := &kept{f: f, name: name}
	k.z, k.err = zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	return k
}

// newKept is the pattern of unfinished copies.
const newKept = ".new-*"

// Write never fails: a full disk costs the copy, not the build.
func (k *kept) Write(b []byte) (int, error) {
	if k != nil && k.err == nil {
		_, k.err = k.z.Write(b)
	}
	return len(b), nil
}

func (k *kept) commit() {
	if k == nil || k.err != nil {
		return
	}
	if k.err = k.z.Close(); k.err == nil {
		k.err = os.Rename(k.f.Name(), k.name)
	}
}

// discard ends the work on the copy and removes what was not committed.
func (k *kept) discard() {
	if k == nil {
		return
	}
	k.f.Close()
	os.Remove(k.f.Name()) // after a commit there is none of that name
}

// PruneKept removes the kept copies in a folder that were not used since the
// given time, unfinished ones of killed builds included.
func PruneKept(dir string, since time.Time) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("prune kept packages: %w", err)
	}
	for _, e := range list {
		st, err := e.Info()
		if err != nil || !st.Mode().IsRegular() || st.ModTime().After(since) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("prune kept packages: %w", err)
		}
	}
	return nil
}
