package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"joist/internal/run"
)

// Inspect reads the header of an image of the declared format.
func Inspect(f *os.File, format string) (Info, error) {
	switch format {
	case "raw":
		size, err := f.Seek(0, io.SeekEnd) // also right for block devices
		if err != nil {
			return Info{}, fmt.Errorf("find size of image: %w", err)
		}
		return Info{Format: "raw", Size: size}, nil
	case "qcow2":
		return readQcow2(f)
	case "vmdk":
		return readVMDK(f)
	default:
		return Info{}, fmt.Errorf("%w: format %q", ErrFeature, format)
	}
}

// Size returns the bytes that a guest sees of the image at path, after the
// checks of Inspect: how large a volume for it must be.
func Size(path, format string) (int64, error) {
	f, err := open(path, os.O_RDONLY)
	if err != nil {
		return 0, fmt.Errorf("inspect image: %w", err)
	}
	defer f.Close()
	info, err := Inspect(f, format)
	if err != nil {
		return 0, fmt.Errorf("inspect image %s: %w", path, err)
	}
	return info.Size, nil
}

// Conversions and, above them, resizings run as ids of their own, one for each
// that runs at a time; they lie above those of guests and below those of
// containers.
const (
	firstID = 210000
	idCount = 1000
)

// Importer fills volumes with images.
type Importer struct {
	Run  run.Runner
	next atomic.Uint32
}

// Import writes the image src of the declared format into dst, a new raw
// volume that reads as zeros and is at least as large as the image: a block
// device or a file.
func (i *Importer) Import(ctx context.Context, dst, src, srcFormat string) error {
	if err := i.doImport(ctx, dst, src, srcFormat); err != nil {
		return fmt.Errorf("import %s image %s: %w", srcFormat, src, err)
	}
	return nil
}

func (i *Importer) doImport(ctx context.Context, dst, src, srcFormat string) error {
	in, err := open(src, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := Inspect(in, srcFormat)
	if err != nil {
		return err
	}
	out, err := open(dst, os.O_RDWR)
	if err != nil {
		return err
	}
	defer out.Close()
	room, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("find size of volume: %w", err)
	}
	if room < info.Size {
		return fmt.Errorf("image needs %d bytes, volume has %d", info.Size, room)
	}
	if srcFormat == "raw" {
		err = copySparse(ctx, out, in, info.Size)
	} else {
		err = i.convert(ctx, out, in, srcFormat)
	}
	if err != nil {
		return err
	}
	return out.Sync()
}

// open opens what must be a plain file or a block device, whatever the last
// part of its name is a link to: devices are links below /dev.
func open(path string, flag int) (*os.File, error) {
	// O_NONBLOCK keeps a named pipe from hanging us; it means nothing to files.
	f, err := os.OpenFile(path, flag|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() && st.Mode().Type() != os.ModeDevice {
		err = fmt.Errorf("%s is neither a file nor a block device", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// convert runs qemu-img without privileges. It reopens both descriptors by
// /dev/fd, which asks for permission on the inode alone: for the time of the
// conversion the volume, and an image that others may not read, belong to the
// id that it runs as.
func (i *Importer) convert(ctx context.Context, out, in *os.File, format string) (err error) {
	id := int(firstID + i.next.Add(1)%idCount)
	for _, f := range []*os.File{out, in} {
		back, err2 := lend(f, id, f == out)
		if err2 != nil {
			return err2
		}
		defer func() { err = errors.Join(err, back()) }()
	}
	_, err = i.Run.Run(ctx, run.Cmd{Path: "setpriv", Args: arguments(id, format), Files: []*os.File{in, out}})
	return err
}

// arguments are those of setpriv(1) with qemu-img(1) behind it. -n: the volume
// is there; --target-is-zero: only what is not zero is written.
func arguments(id int, format string) []string {
	return append(unprivileged(id), "qemu-img", "convert", "-f", format, "-O", "raw", "-n", "--target-is-zero", "/dev/fd/3", "/dev/fd/4")
}

// unprivileged are the arguments of setpriv(1) up to the program's name.
func unprivileged(id int) []string {
	n := strconv.Itoa(id)
	return []string{"--reuid", n, "--regid", n, "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"}
}

// Grow makes a qcow2 image larger. Its header may be a guest's work: an image
// that refers to another file is refused, and qemu-img reads it unprivileged.
// Nobody may have it open.
func (i *Importer) Grow(ctx context.Context, f *os.File, size int64) (err error) {
	info, err := Inspect(f, "qcow2")
	if err != nil {
		return err
	}
	if size < info.Size || size > MaxSize {
		return fmt.Errorf("%d bytes are not possible for an image of %d", size, info.Size)
	}
	if size == info.Size {
		return nil
	}
	c := run.Cmd{Path: "qemu-img", Files: []*os.File{f}, Args: []string{"resize", "-q", "-f", "qcow2", "/dev/fd/3", strconv.FormatInt(size, 10)}}
	if os.Geteuid() == 0 { // nobody else has privileges to give up
		id := int(firstID + idCount + i.next.Add(1)%idCount)
		back, err2 := lend(f, id, true)
		if err2 != nil {
			return err2
		}
		defer func() { err = errors.Join(err, back()) }()
		c.Path, c.Args = "setpriv", append(unprivileged(id), append([]string{c.Path}, c.Args...)...)
	}
	_, err = i.Run.Run(ctx, c)
	return err
}

// lend gives a file to id, if it cannot use it already, and returns what takes
// it back.
func lend(f *os.File, id int, write bool) (back func() error, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("read owner of %s: %w", f.Name(), err)
	}
	if !write && st.Mode&0o004 != 0 {
		return func() error { return nil }, nil
	}
	if err := f.Chown(id, id); err != nil {
		return nil, fmt.Errorf("lend %s: %w", f.Name(), err)
	}
	return func() error { return f.Chown(int(st.Uid), int(st.Gid)) }, nil
}

// chunk is what copySparse looks at as a whole: pages of zeros smaller than
// this are written, which costs less than seeking over them.
const chunk = 64 << 10

// copySparse copies size bytes and leaves out chunks of zeros; holes of the
// source are skipped unread.
func copySparse(ctx context.Context, out io.WriterAt, in *os.File, size int64) error {
	buf := make([]byte, 1<<20)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		// A file system without SEEK_DATA answers EINVAL: then all is data.
		switch data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA); {
		case errors.Is(err, unix.ENXIO):
			return nil
		case err == nil && data > at:
			at = data
			continue
		}
		b := buf[:min(int64(len(buf)), size-at)]
		n, err := in.ReadAt(b, at)
		if err != nil && (n == 0 || !errors.Is(err, io.EOF)) {
			return fmt.Errorf("read image at %d: %w", at, err)
		}
		if err := writeChunks(out, b[:n], at); err != nil {
			return fmt.Errorf("write volume at %d: %w", at, err)
		}
		at += int64(n)
	}
	return nil
}

func writeChunks(out io.WriterAt, b []byte, at int64) error {
	for len(b) > 0 {
		n := min(chunk, len(b))
		if !zero(b[:n]) {
			if _, err := out.WriteAt(b[:n], at); err != nil {
				return err
			}
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
