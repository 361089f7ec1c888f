package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
func (a *applier) unused(d *drive) error {
	f, err := os.OpenFile(a.h.Path(d.Device()), os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("open the disk for ourselves: %w", err)
	}
	return f.Close()
}

// mark is the first write. The kernel keeps the old partitions until those of
// the new table are free of what was there.
func (a *applier) mark(d *drive, act plan.Mark) error {
	if err := a.unused(d); err != nil {
		return err
	}
	if err := disk.WriteTable(d, act.Layout); err != nil {
		return err
	}
	return d.flush()
}

// unmark is the last write.
func (a *applier) unmark(d *drive, act plan.Unmark) error {
	if err := disk.UpdateTable(d, act.Layout); err != nil {
		return err
	}
	return d.flush()
}

// wipe zeroes the ranges of old signatures.
func (a *applier) wipe(d *drive, w plan.Wipe) error {
	if err := a.unused(d); err != nil {
		return err
	}
	if err := clearRanges(d, w.Ranges); err != nil {
		return err
	}
	return d.flush()
}

func clearRanges(w io.WriterAt, ranges []plan.Range) error {
	b := make([]byte, 1<<20)
	for _, r := range ranges {
		for off := r.Start; off < r.Start+r.Bytes; off += int64(len(b)) {
			n := min(int64(len(b)), r.Start+r.Bytes-off)
			if _, err := w.WriteAt(b[:n], off); err != nil {
				return fmt.Errorf("write zeros at %d: %w", off, err)
			}
		}
	}
	return nil
}

// partition writes the table and waits for the kernel's partitions. The read
// is repeated while something (a probe of the old content) holds one of them.
func (a *applier) partition(ctx context.Context, d *drive, act plan.Partition) error {
	if err := disk.WriteTable(d, act.Layout); err != nil {
		return err
	}
	if err := d.flush(); err != nil {
		return err
	}
	st, err := d.Stat()
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeDevice != 0 {
		if err := retry(ctx, 10*time.Second, func() error {
			_, err := unix.IoctlRetInt(int(d.Fd()), unix.BLKRRPART)
			return err
		}); err != nil {
			return fmt.Errorf("have the kernel read the partitions: %w", err)
		}
	}
	for _, x := range act.Layout.Partitions {
		name := "/dev/" + probe.PartitionName(d.Disk.Name, x.Number)
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
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
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
	bufferCount = 4 // one at each place of the chain, one between
)

// writeSlot copies the system image. Reading, hashing and writing run beside
// each other; the slowest decides, not their sum.
func (a *applier) writeSlot(ctx context.Context, act plan.WriteSlot, advance func(n, of int64)) error {
	d, err := a.drive(act.Device)
	if err != nil {
		return err
	}
	f, err := os.Open(a.buildFile(boot.FileSystem))
	if err != nil {
		return err
	}
	defer f.Close()
	sum, n, err := pump(ctx, f, d.at(act.Partition), func(n int64) { advance(n, act.Bytes) })
	if err != nil {
		return err
	}
	if n != act.Bytes || sum != act.SHA256 {
		return fmt.Errorf("the medium is damaged: %s has %d bytes with SHA-256 %s, its manifest says %d and %s",
			filepath.Base(f.Name()), n, sum, act.Bytes, act.SHA256)
	}
	return d.flush()
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
