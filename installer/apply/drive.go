package apply

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"joist/image/disk"
	"joist/installer/plan"
)

// drive is one of the chosen disks, open and locked.
type drive struct {
	plan.Member
	*os.File
	n int // its place in the plan
}

// open opens every disk for the time of the installation, with the lock that
// keeps udevd from touching it meanwhile (systemd's "Locking Block Device
// Access").
func (a *applier) open() error {
	for n, m := range a.p.All() {
		d, err := a.openDrive(n, m)
		if err != nil {
			return errors.Join(fmt.Errorf("lock disk %s: %w", m.Disk.Name, err), a.close())
		}
		a.drives = append(a.drives, d)
	}
	return nil
}

func (a *applier) openDrive(n int, m plan.Member) (*drive, error) {
	f, err := os.OpenFile(a.h.Path(m.Device()), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, 2)
	if err == nil && size < m.Layout.Size {
		err = fmt.Errorf("it has %d bytes, the plan was made for %d", size, m.Layout.Size)
	}
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &drive{Member: m, File: f, n: n}, nil
}

func (a *applier) close() error {
	var errs []error
	for _, d := range a.drives {
		errs = append(errs, d.Close())
	}
	a.drives = nil
	return errors.Join(errs...)
}

// drive returns the disk that an action names, the first one for "".
func (a *applier) drive(device string) (*drive, error) {
	for _, d := range a.drives {
		if device == "" || d.Device() == device {
			return d, nil
		}
	}
	return nil, fmt.Errorf("the plan has no disk %q", device)
}

// flush waits until the disk has everything.
func (d *drive) flush() error {
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync disk %s: %w", d.Disk.Name, err)
	}
	return nil
}

// at writes to the disk from a partition's start, and not past its end: slot
// and boot partition need no device of their own.
func (d *drive) at(p disk.Partition) *section {
	return &section{disk: d.File, base: p.Start, size: p.Size}
}

// Sync waits until the disk has everything.
func (s *section) Sync() error { return s.disk.Sync() }

func (s *section) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(s.disk, s.base, s.size).ReadAt(b, off)
}

type section struct {
	disk       *os.File
	base, size int64
}

var errPastEnd = errors.New("write past the end of the partition")

func (s *section) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > s.size || int64(len(b)) > s.size-off {
		return 0, errPastEnd
	}
	n, err := s.disk.WriteAt(b, s.base+off)
	if err == nil {
		// The disk begins now, beside what reads the medium; by itself the
		// kernel would keep most of it until the sync. A hint only: whether
		// it is written, the sync says.
		_ = unix.SyncFileRange(int(s.disk.Fd()), s.base+off, int64(n), unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}
