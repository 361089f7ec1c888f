package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"joist/image/boot"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/rootfs/tree"
)

// medium is a file on what the machine was booted from.
func (a *applier) medium(elem ...string) string {
	return a.h.Path(append([]string{probe.MediumDir}, elem...)...)
}

// buildFile is a file of our build's folder on the medium.
func (a *applier) buildFile(elem ...string) string {
	return a.medium(append([]string{"joist", a.p.Image.BuildID}, elem...)...)
}

// part is where the medium has a file of the manifest.
func (a *applier) part(name string) string {
	if name == boot.FileKernel || name == boot.FileInitrd {
		return a.medium("boot", name)
	}
	return a.buildFile(filepath.FromSlash(name))
}

// parts are files of the medium that were compared with the manifest, as they
// were then: pages that stay in memory, so that they are read and hashed once
// and what is written is what was checked.
type parts map[string][]byte

// release lets the pages go.
func (p parts) release() {
	for _, b := range p {
		_ = unix.Munmap(b) // an error can only be about the address
	}
	clear(p)
}

// mayKeep says whether the machine has room for the pages.
func mayKeep(bytes int64) bool {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return false
	}
	return bytes <= int64(info.Totalram)*int64(info.Unit)/4
}

// checkMedium compares every part with the manifest, before a disk is touched,
// and says all that is wrong.
func (a *applier) checkMedium(ctx context.Context, advance func(n, of int64)) error {
	a.parts = parts{}
	var total, done int64
	for _, f := range a.p.Image.Files {
		total += f.Size
	}
	keep := mayKeep(total)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(a.p.Image.Files)) {
		want := a.p.Image.Files[name]
		got, err := a.checkPart(ctx, name, keep, func(n int64) { advance(done+n, total) })
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			errs = append(errs, fmt.Errorf("read %s of the medium: %w", name, err))
		case got != want:
			errs = append(errs, damaged(name, got, want))
		}
		done += want.Size
	}
	return errors.Join(errs...)
}

func damaged(name string, got, want boot.File) error {
	return fmt.Errorf("the medium is damaged: %s has %d bytes with SHA-256 %s, its manifest says %d and %s; write it again, or use another one",
		name, got.Size, got.SHA256, want.Size, want.SHA256)
}

// checkPart hashes one file and keeps it.
func (a *applier) checkPart(ctx context.Context, name string, keep bool, advance func(int64)) (boot.File, error) {
	f, err := os.Open(a.part(name))
	if err != nil {
		return boot.File{}, err
	}
	defer f.Close()
	if keep {
		b, sum, err := hold(ctx, f, advance)
		if err == nil {
			a.parts[name] = b
			return boot.File{Size: int64(len(b)), SHA256: sum}, nil
		}
		if ctx.Err() != nil {
			return boot.File{}, context.Cause(ctx)
		}
		a.h.Log.Warn("a part of the medium is not kept in memory", "part", name, "error", err)
	}
	sum, n, err := pump(ctx, f, nowhere{}, advance)
	return boot.File{Size: n, SHA256: sum}, err
}

// nowhere is for reading only.
type nowhere struct{}

func (nowhere) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

// hold maps a file and locks its pages, piece by piece, hashing each while the
// kernel reads ahead. mlock(2) reads the pages and says where it cannot, which a
// mapping alone would tell by a signal.
func hold(ctx context.Context, f *os.File, advance func(int64)) (b []byte, sum string, err error) {
	st, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return nil, "", errors.New("it is empty, or no file")
	}
	b, err = unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, "", fmt.Errorf("map: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Munmap(b))
		}
	}()
	h := sha256.New()
	for off := 0; off < len(b); {
		if ctx.Err() != nil {
			return nil, "", context.Cause(ctx)
		}
		end := min(off+bufferSize, len(b))
		_ = unix.Madvise(b[end:min(end+bufferSize, len(b))], unix.MADV_WILLNEED) // a hint
		if err := unix.Mlock(b[off:end]); err != nil {
			return nil, "", fmt.Errorf("lock in memory: %w", err)
		}
		h.Write(b[off:end])
		advance(int64(end))
		off = end
	}
	return b, hex.EncodeToString(h.Sum(nil)), nil
}

// source opens what goes onto the boot partition.
func (a *applier) source(name string) (tree.Source, error) {
	if name != boot.FileKernel && name != boot.FileInitrd {
		name = boot.LoaderFile(name)
	}
	if b, ok := a.parts[name]; ok {
		return tree.Bytes(b), nil
	}
	return tree.FromFile(a.part(name))
}

const (
	bufferSize  = 4 << 20
	bufferCount = 4 // one at each place of the chain, one between
)

// writeSlot copies the system image: the pages that were checked, or the file
// once more with its hash. Then reading, hashing and writing run beside each
// other; the slowest decides, not their sum.
func (a *applier) writeSlot(ctx context.Context, act plan.WriteSlot, advance func(n, of int64)) error {
	d, err := a.drive(act.Device)
	if err != nil {
		return err
	}
	to, step := d.at(act.Partition), func(n int64) { advance(n, act.Bytes) }
	if b, ok := a.parts[boot.FileSystem]; ok {
		if err := write(ctx, to, b, step); err != nil {
			return err
		}
		return d.flush()
	}
	f, err := os.Open(a.part(boot.FileSystem))
	if err != nil {
		return err
	}
	defer f.Close()
	sum, n, err := pump(ctx, f, to, step)
	if err != nil {
		return err
	}
	if got, want := (boot.File{Size: n, SHA256: sum}), (boot.File{Size: act.Bytes, SHA256: act.SHA256}); got != want {
		return damaged(boot.FileSystem, got, want)
	}
	return d.flush()
}

// write writes b from offset 0.
func write(ctx context.Context, w io.WriterAt, b []byte, advance func(int64)) error {
	for off := int64(0); off < int64(len(b)); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		end := min(off+bufferSize, int64(len(b)))
		if _, err := w.WriteAt(b[off:end], off); err != nil {
			return err
		}
		off = end
		advance(off)
	}
	return nil
}

// pump copies r to w from offset 0 and returns what it hashed. Buffers go from
// the reader to the hash to the writer and back; the channels have a place for
// each, so that only the reader ever waits for one.
func pump(ctx context.Context, r io.Reader, w io.WriterAt, advance func(int64)) (string, int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	free, read, hashed := make(chan []byte, bufferCount), make(chan []byte, bufferCount), make(chan []byte, bufferCount)
	for range bufferCount {
		free <- make([]byte, bufferSize)
	}
	readErr := make(chan error, 1)
	go func() {
		defer close(read)
		readErr <- fill(ctx, r, free, read)
	}()
	h := sha256.New()
	go func() {
		defer close(hashed)
		for b := range read {
			h.Write(b)
			hashed <- b
		}
	}()
	var off int64
	var writeErr error
	for b := range hashed {
		if writeErr == nil {
			if _, writeErr = w.WriteAt(b, off); writeErr != nil {
				cancel(writeErr)
			}
		}
		off += int64(len(b))
		advance(off)
		free <- b[:bufferSize]
	}
	err := <-readErr
	if writeErr != nil {
		err = writeErr
	}
	return hex.EncodeToString(h.Sum(nil)), off, err
}

// fill reads into free buffers to the end of r.
func fill(ctx context.Context, r io.Reader, free <-chan []byte, read chan<- []byte) error {
	for {
		var b []byte
		select {
		case b = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if ctx.Err() != nil { // both were ready
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(r, b)
		if n > 0 {
			read <- b[:n]
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
