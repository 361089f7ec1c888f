package media

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"joist/iso/media/iso9660"
)

// Write makes the image in f, an empty file. Content goes from file to file
// without passing through memory where the kernel can do that
// (copy_file_range(2)), and holes stay holes.
func Write(ctx context.Context, f *os.File, s Spec) error {
	m, err := s.Plan()
	if err != nil {
		return err
	}
	core, err := load(s.Files[s.BIOS])
	if err != nil {
		return fmt.Errorf("write medium: read %s: %w", s.BIOS, err)
	}
	hybrid, err := load(s.HybridMBR)
	if err != nil {
		return fmt.Errorf("write medium: read the boot sector: %w", err)
	}
	list, err := m.chunks(core, hybrid)
	if err != nil {
		return err
	}
	if err := f.Truncate(m.Volume.Size); err != nil {
		return fmt.Errorf("write medium: %w", err)
	}
	slices.SortFunc(list, func(a, b iso9660.Chunk) int { return cmp.Compare(a.At, b.At) })
	for _, c := range list {
		if err := put(ctx, f, c); err != nil {
			return fmt.Errorf("write medium: %w", err)
		}
	}
	return nil
}

func put(ctx context.Context, f *os.File, c iso9660.Chunk) error {
	r, err := c.Data.Open()
	if err != nil {
		return err
	}
	if src, ok := r.(*os.File); ok {
		err = copyFile(ctx, f, c.At, src, c.Data.Size())
	} else {
		err = copyStream(ctx, f, c.At, r, c.Data.Size())
	}
	return errors.Join(err, r.Close())
}

// step is how much is copied between two looks at the context.
const step = 64 << 20

// copyStream copies n bytes, which must be all there are.
func copyStream(ctx context.Context, f *os.File, at int64, r io.Reader, n int64) error {
	if err := copyPart(ctx, f, at, r, n); err != nil {
		return err
	}
	if m, err := r.Read(make([]byte, 1)); m > 0 || err != io.EOF {
		return fmt.Errorf("there is more than %d bytes (%w)", n, errChanged)
	}
	return nil
}

var errChanged = errors.New("the file changed while it was read")

// copyFile is copyStream for a file, of which only the data is copied.
func copyFile(ctx context.Context, f *os.File, at int64, src *os.File, n int64) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if st.Size() != n {
		return fmt.Errorf("%s: %d bytes instead of %d: %w", src.Name(), st.Size(), n, errChanged)
	}
	for pos := int64(0); pos < n; {
		from, to, err := data(src, pos, n)
		if err != nil {
			return fmt.Errorf("%s: %w", src.Name(), err)
		}
		if _, err := src.Seek(from, io.SeekStart); err != nil {
			return err
		}
		if err := copyPart(ctx, f, at+from, src, to-from); err != nil {
			return fmt.Errorf("%s: %w", src.Name(), err)
		}
		pos = to
	}
	return nil
}

// data finds the next run of data from pos on (lseek(2), SEEK_DATA); without
// one it is empty and lies at n. A file system that knows no holes says that
// all is data.
func data(src *os.File, pos, n int64) (from, to int64, err error) {
	from, err = unix.Seek(int(src.Fd()), pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return n, n, nil
	case errors.Is(err, unix.EINVAL):
		return pos, n, nil
	case err != nil:
		return 0, 0, err
	}
	to, err = unix.Seek(int(src.Fd()), from, unix.SEEK_HOLE)
	return min(from, n), min(to, n), err
}

func copyPart(ctx context.Context, f *os.File, at int64, r io.Reader, n int64) error {
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := io.CopyN(f, r, min(n, step))
		if errors.Is(err, io.EOF) {
			return errChanged
		}
		if err != nil {
			return err
		}
		n -= m
	}
	return nil
}
