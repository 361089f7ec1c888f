package lxc

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
	"golang.org/x/sys/unix"
)

// unpacked counts what an archive held.
type unpacked struct {
	Entries int
	Bytes   int64
	Skipped map[string]int // what was left out, by kind
}

// unpack writes an archive into a tree that nobody uses yet. Ids are shifted
// by the tree's base; progress is told after each tenth of the file.
func unpack(ctx context.Context, file string, t *tree, progress func(done, total int64)) (unpacked, error) {
	f, err := os.Open(file)
	if err != nil {
		return unpacked{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return unpacked{}, err
	}
	in := &counter{r: f, ctx: ctx, total: st.Size(), tell: progress}
	r, err := decompress(in)
	if err != nil {
		return unpacked{}, err
	}
	defer r.Close()
	u := &unpacker{tree: t, buf: make([]byte, 256<<10), unpacked: unpacked{Skipped: map[string]int{}}}
	err = u.all(tar.NewReader(r))
	return u.unpacked, err
}

// counter reads a file, tells how far it has come and ends with its context.
type counter struct {
	r           io.Reader
	ctx         context.Context
	done, total int64
	told        int64
	tell        func(done, total int64)
}

func (c *counter) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.done += int64(n)
	if tenth := c.done * 10 / max(c.total, 1); tenth > c.told && c.tell != nil {
		c.told = tenth
		c.tell(c.done, c.total)
	}
	return n, err
}

// decompress tells the format from the first bytes, not from the name.
func decompress(in io.Reader) (io.ReadCloser, error) {
	r := bufio.NewReaderSize(in, 1<<20)
	head, err := r.Peek(6)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}): // RFC 1952
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		return z, nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		z, err := xz.NewReader(r, 128<<20)
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		return io.NopCloser(z), nil
	}
	return io.NopCloser(r), nil
}

type unpacker struct {
	*tree
	unpacked
	buf   []byte
	times []folder // of folders, set at the end: what is put into one changes it
}

type folder struct {
	name string
	when time.Time
}

func (u *unpacker) all(tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
		u.Entries++
	}
	if u.Entries == 0 {
		return fmt.Errorf("read archive: it is empty")
	}
	for _, f := range slices.Backward(u.times) {
		// A later entry may have replaced the folder.
		if err := u.touch(f.name, f.when); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
	return nil
}

// clean makes a name of an archive relative to the tree's root. An absolute
// one means the same; one with ".." is no accident.
func clean(name string) (string, error) {
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", fmt.Errorf("the archive is not to be trusted: its name contains '..'")
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	uid, err := u.shift(h.Uid)
	if err != nil {
		return err
	}
	gid, err := u.shift(h.Gid)
	if err != nil {
		return err
	}
	mode := uint32(h.Mode) & 0o7777
	switch h.Typeflag {
	case tar.TypeDir:
		return u.dir(h, name, uid, gid, mode)
	case tar.TypeReg:
		return u.file(h, name, uid, gid, mode, r)
	case tar.TypeSymlink:
		if err := u.symlink(h.Linkname, name, uid, gid); err != nil {
			return err
		}
		return u.touch(name, h.ModTime)
	case tar.TypeLink:
		return u.link(h.Linkname, name)
	case tar.TypeFifo:
		return u.node(name, unix.S_IFIFO, 0, uid, gid, mode)
	case tar.TypeChar, tar.TypeBlock:
		if u.base != 0 { // the kernel would not let the container use it
			u.Skipped["device nodes"]++
			return nil
		}
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		return u.node(name, kind, unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)), uid, gid, mode)
	case tar.TypeXGlobalHeader:
		return nil
	}
	u.Skipped[fmt.Sprintf("entries of type %q", h.Typeflag)]++
	return nil
}

// shift turns an id of the archive into one of the host.
func (u *unpacker) shift(id int) (int, error) {
	if id < 0 || u.base != 0 && id >= IDs || int64(id) >= 1<<32-1 {
		return 0, fmt.Errorf("its owner %d is outside the container's ids (0 to %d)", id, IDs-1)
	}
	return u.base + id, nil
}

func (u *unpacker) dir(h *tar.Header, name string, uid, gid int, mode uint32) error {
	if name != "" {
		if err := u.mkdir(name, mode); err != nil {
			return err
		}
	}
	fd, err := u.open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	u.times = append(u.times, folder{name, h.ModTime})
	return u.finish(fd, h, name, uid, gid, mode)
}

func (u *unpacker) file(h *tar.Header, name string, uid, gid int, mode uint32, r io.Reader) error {
	var f *os.File
	err := u.at("create", name, true, func(dir int, last string) error {
		const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err := unix.Openat(dir, last, flags, 0o600)
		if errors.Is(err, unix.EEXIST) {
			if err = unix.Unlinkat(dir, last, 0); err == nil {
				fd, err = unix.Openat(dir, last, flags, 0o600)
			}
		}
		if err == nil {
			f = os.NewFile(uintptr(fd), name)
		}
		return err
	})
	if err != nil {
		return err
	}
	defer f.Close()
	// The plain Writer keeps CopyBuffer from making a buffer of its own.
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, r, u.buf)
	if err != nil {
		return err
	}
	u.Bytes += n
	if err := u.finish(int(f.Fd()), h, name, uid, gid, mode); err != nil {
		return err
	}
	ts := unix.NsecToTimeval(h.ModTime.UnixNano())
	return fail("set time of", name, unix.Futimes(int(f.Fd()), []unix.Timeval{ts, ts}))
}

// finish sets owner, mode and attributes, in this order: a change of owner
// clears setuid bits and capabilities, chown(2).
func (u *unpacker) finish(fd int, h *tar.Header, name string, uid, gid int, mode uint32) error {
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return fail("chown", name, err)
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return fail("chmod", name, err)
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		data := []byte(value)
		switch {
		case attr == "security.capability":
			if data, ok = capability(data, u.base); !ok {
				u.Skipped["capabilities in an unknown format"]++
				continue
			}
		case !strings.HasPrefix(attr, "user."):
			u.Skipped["attributes "+attr]++
			continue
		}
		if err := unix.Fsetxattr(fd, attr, data, 0); err != nil {
			return fail("set "+attr+" of", name, err)
		}
	}
	return nil
}

// Revisions of struct vfs_ns_cap_data, linux/capability.h.
const (
	capRevision2 = 0x02000000
	capRevision3 = 0x03000000
	capMask      = 0xff000000
)

// capability rewrites file capabilities for a user namespace whose root is id
// base on the host: revision 3 says for whom they count, capabilities(7).
func capability(v []byte, base int) ([]byte, bool) {
	if len(v) != 20 && len(v) != 24 {
		return nil, false
	}
	magic := binary.LittleEndian.Uint32(v)
	if rev := magic & capMask; rev == capRevision2 && len(v) != 20 || rev == capRevision3 && len(v) != 24 || rev != capRevision2 && rev != capRevision3 {
		return nil, false
	}
	out := slices.Clone(v[:20])
	if base == 0 {
		binary.LittleEndian.PutUint32(out, magic&^capMask|capRevision2)
		return out, true
	}
	binary.LittleEndian.PutUint32(out, magic&^capMask|capRevision3)
	return binary.LittleEndian.AppendUint32(out, uint32(base)), true
}

func (u *unpacker) link(target, name string) error {
	target, err := clean(target)
	if err != nil {
		return err
	}
	from, old, err := u.parent(target, false)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return u.at("link", name, true, func(dir int, last string) error {
		if err := unix.Unlinkat(dir, last, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return unix.Linkat(from, old, dir, last, 0)
	})
}

func (u *unpacker) node(name string, kind uint32, dev uint64, uid, gid int, mode uint32) error {
	return u.at("mknod", name, true, func(dir int, last string) error {
		if err := unix.Unlinkat(dir, last, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := unix.Mknodat(dir, last, kind|mode, int(dev)); err != nil {
			return err
		}
		if err := unix.Fchownat(dir, last, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		return unix.Fchmodat(dir, last, mode, 0)
	})
}
