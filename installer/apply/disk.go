package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/plan"
	"joist/installer/probe"
)

// unused makes sure that nobody holds the disk: the kernel refuses to open a
// block device exclusively while it or a partition is mounted or part of
// something (open(2), O_EXCL). It is not kept so: LVM could not open the
// partitions then.
func (a *applier) unused() error {
	f, err := os.OpenFile(a.h.Path("/dev", a.p.Disk.Name), os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("open the disk for ourselves: %w", err)
	}
	return f.Close()
}

// wipe zeroes the ranges of old signatures.
func (a *applier) wipe(w plan.Wipe) error {
	if err := a.unused(); err != nil {
		return err
	}
	zero := make([]byte, 1<<20)
	for _, r := range w.Ranges {
		for off := r.Start; off < r.Start+r.Bytes; off += int64(len(zero)) {
			n := min(int64(len(zero)), r.Start+r.Bytes-off)
			if _, err := a.disk.WriteAt(zero[:n], off); err != nil {
				return fmt.Errorf("write zeros at %d: %w", off, err)
			}
		}
	}
	return a.disk.Sync()
}

// partition writes the table and waits for the kernel's partitions. The read
// is repeated while something (a probe of the old content) holds one of them.
func (a *applier) partition(ctx context.Context, act plan.Partition) error {
	if err := disk.WriteTable(a.disk, act.Layout); err != nil {
		return err
	}
	if err := a.disk.Sync(); err != nil {
		return fmt.Errorf("sync disk: %w", err)
	}
	st, err := a.disk.Stat()
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeDevice != 0 {
		if err := retry(ctx, 10*time.Second, func() error {
			_, err := unix.IoctlRetInt(int(a.disk.Fd()), unix.BLKRRPART)
			return err
		}); err != nil {
			return fmt.Errorf("have the kernel read the partitions: %w", err)
		}
	}
	for _, x := range act.Layout.Partitions {
		name := "/dev/" + probe.PartitionName(a.p.Disk.Name, x.Number)
		if err := retry(ctx, 10*time.Second, func() error { _, err := os.Stat(a.h.Path(name)); return err }); err != nil {
			return fmt.Errorf("wait for %s: %w", name, err)
		}
	}
	return nil
}

// retry repeats f until it works or the time is over.
func retry(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// at writes to the disk from a partition's start, and not past its end: slot
// and boot partition need no device of their own.
func (a *applier) at(p disk.Partition) *section {
	return &section{w: a.disk, base: p.Start, size: p.Size}
}

type section struct {
	w          io.WriterAt
	base, size int64
}

var errPastEnd = errors.New("write past the end of the partition")

func (s *section) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > s.size || int64(len(b)) > s.size-off {
		return 0, errPastEnd
	}
	return s.w.WriteAt(b, s.base+off)
}

// medium is a file on what the machine was booted from.
func (a *applier) medium(elem ...string) string {
	return a.h.Path(append([]string{probe.MediumDir}, elem...)...)
}

// buildFile is a file of our build's folder on the medium.
func (a *applier) buildFile(elem ...string) string {
	return a.medium(append([]string{"joist", a.p.Image.BuildID}, elem...)...)
}

const (
	bufferSize  = 4 << 20
	bufferCount = 3
)

// writeSlot copies the system image. Reading and hashing run beside writing;
// the slow one of medium and disk decides, not their sum.
func (a *applier) writeSlot(ctx context.Context, act plan.WriteSlot, advance func(n, of int64)) error {
	f, err := os.Open(a.buildFile(boot.FileSystem))
	if err != nil {
		return err
	}
	defer f.Close()
	sum, n, err := pump(ctx, f, a.at(act.Partition), func(n int64) { advance(n, act.Bytes) })
	if err != nil {
		return err
	}
	if n != act.Bytes || sum != act.SHA256 {
		return fmt.Errorf("the medium is damaged: %s has %d bytes with SHA-256 %s, its manifest says %d and %s",
			filepath.Base(f.Name()), n, sum, act.Bytes, act.SHA256)
	}
	if err := a.disk.Sync(); err != nil {
		return fmt.Errorf("sync disk: %w", err)
	}
	return nil
}

// pump copies r to w from offset 0 and returns what it hashed.
func pump(ctx context.Context, r io.Reader, w io.WriterAt, advance func(int64)) (string, int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	free, full := make(chan []byte, bufferCount), make(chan []byte, bufferCount)
	for range bufferCount {
		free <- make([]byte, bufferSize)
	}
	h := sha256.New()
	readErr := make(chan error, 1)
	go func() {
		defer close(full)
		for {
			var b []byte
			select {
			case b = <-free:
			case <-ctx.Done():
				readErr <- ctx.Err()
				return
			}
			n, err := io.ReadFull(r, b[:bufferSize])
			h.Write(b[:n])
			if n > 0 {
				full <- b[:n] // never blocks: as many places as buffers
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				readErr <- nil
				return
			}
			if err != nil {
				readErr <- err
				return
			}
		}
	}()
	var off int64
	var writeErr error
	for b := range full {
		if writeErr == nil {
			if _, writeErr = w.WriteAt(b, off); writeErr != nil {
				cancel()
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

// verify compares a file with its manifest entry.
func verify(name string, want boot.File) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if sum := hex.EncodeToString(h.Sum(nil)); n != want.Size || sum != want.SHA256 {
		return fmt.Errorf("the medium is damaged: %s has SHA-256 %s, its manifest says %s", filepath.Base(name), sum, want.SHA256)
	}
	return nil
}
