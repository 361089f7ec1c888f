package apply

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

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
