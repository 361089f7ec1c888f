package bootdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"joist/image/disk"
	"joist/system/block"
)

// dataHead is what is cleared at the start of the data partition: a mirror's
// content begins at 16 MiB (installer/plan), and must not show what was there.
const dataHead = 17 * disk.MiB

// Prepare writes d.Table onto a disk that nobody uses, marked as not finished,
// and clears what old content is known by.
func Prepare(d Disk) error {
	f, err := os.OpenFile(d.Path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("open disk %s for ourselves: %w", d.Name, err)
	}
	err = disk.WriteTable(f, d.Table.Marked(disk.Unfinished))
	start, end := d.Table.Usable()
	ranges := [][2]int64{{start, disk.MiB}, {max(end-disk.MiB, start), end}}
	for _, p := range d.Table.Partitions {
		head := disk.MiB
		if p.Name == disk.NameData {
			head = dataHead
		}
		ranges = append(ranges, [2]int64{p.Start, min(p.Start+head, p.End())}, [2]int64{max(p.End()-disk.MiB, p.Start), p.End()})
	}
	for _, r := range ranges {
		if err == nil {
			err = zero(f, r[0], r[1])
		}
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("partition disk %s: %w", d.Name, err)
	}
	return nil
}

func zero(w io.WriterAt, from, to int64) error {
	b := make([]byte, disk.MiB)
	for ; from < to; from += int64(len(b)) {
		if _, err := w.WriteAt(b[:min(int64(len(b)), to-from)], from); err != nil {
			return err
		}
	}
	return nil
}

// Reread has the kernel read the partition table of a disk and waits for its
// partitions. It tries again while somebody looks at one of the old ones.
func Reread(ctx context.Context, d Disk) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	f, err := d.disk(false)
	if err != nil {
		return err
	}
	defer f.Close()
	for read := false; ; {
		if !read {
			_, err = unix.IoctlRetInt(int(f.Fd()), unix.BLKRRPART)
			read = err == nil
		}
		if read {
			var devs []block.Device
			if devs, err = block.List("/sys"); err == nil && len(Of(devs, block.Device{Name: d.Name}, d.Table).Parts) == len(d.Table.Partitions) {
				return nil
			}
			err = errors.Join(err, errors.New("its partitions do not appear"))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("have the kernel read the partitions of %s: %w", d.Name, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Erase takes a disk out of its system: nothing starts from it, and neither
// table nor data partition say that it belongs to one. Nothing is written unless
// it is that disk still and nobody uses any of it.
func Erase(d Disk) error {
	f, err := d.disk(true)
	if err != nil {
		return err
	}
	defer f.Close()
	t, err := disk.ReadTable(f, d.Table.Size, d.Table.SectorSize)
	if err == nil && !strings.EqualFold(t.DiskGUID, d.Table.DiskGUID) {
		err = fmt.Errorf("%s has the GUID %s now", d.Name, t.DiskGUID)
	}
	if err != nil {
		return fmt.Errorf("find disk %s again: %w", d.Table.DiskGUID, err)
	}
	parts := map[string]*part{} // to the end: nobody can take the disk until then
	for _, x := range t.Partitions {
		p, err := d.open(x.Name, true)
		if err != nil {
			return err
		}
		defer p.Close()
		parts[x.Name] = p
		for _, o := range d.Paths { // who uses the disk by that is not seen by this
			q, err := o.open(x.Name, true)
			if err != nil {
				return err
			}
			defer q.Close()
		}
	}
	var errs []error
	for _, name := range []string{disk.NameData, disk.NameESP, disk.NameBIOS} {
		p, ok := parts[name]
		if !ok {
			continue
		}
		head := min(p.size, disk.MiB)
		if name == disk.NameData {
			head = min(p.size, dataHead)
		}
		errs = append(errs, zero(p, 0, head), zero(p, p.size-min(p.size, disk.MiB), p.size), p.Sync())
	}
	start, end := t.Usable()
	return errors.Join(append(errs, zero(f, 0, start), zero(f, end, t.Size), f.Sync())...)
}
