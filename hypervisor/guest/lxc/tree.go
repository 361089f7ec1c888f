package lxc

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tree is a folder whose contents are not trusted, a container's root. Every
// name is resolved by openat2(2) with RESOLVE_IN_ROOT: links, absolute ones
// too, and ".." stay inside, as they would for a process in a chroot(2), also
// while somebody changes them.
type tree struct {
	fd   int
	base int // host id of the tree's root user
}

const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

func openTree(dir string, base int) (*tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &tree{fd: fd, base: base}, nil
}

func (t *tree) close() { unix.Close(t.fd) }

func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: "/" + name, Err: err}
}

func (t *tree) open(name string, flags uint64, mode uint64) (int, error) {
	if name == "" {
		name = "."
	}
	fd, err := unix.Openat2(t.fd, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Mode: mode, Resolve: inRoot})
	return fd, fail("open", name, err)
}

// parent opens the folder that holds name and returns the last element. With
// create, folders that are missing are made for the tree's root.
func (t *tree) parent(name string, create bool) (fd int, last string, err error) {
	dir, last := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	fd, err = t.open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if create && errors.Is(err, fs.ErrNotExist) && dir != "" {
		if err := t.mkdir(dir, 0o755); err != nil {
			return -1, "", err
		}
		fd, err = t.open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	return fd, last, err
}

// at calls do with the folder of name and its last element.
func (t *tree) at(op, name string, create bool, do func(dir int, last string) error) error {
	dir, last, err := t.parent(name, create)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return fail(op, name, do(dir, last))
}

// mkdir makes a folder, and those above it, for the tree's root. One that is
// there stays as it is.
func (t *tree) mkdir(name string, mode uint32) error {
	return t.at("mkdir", name, true, func(dir int, last string) error {
		err := unix.Mkdirat(dir, last, mode)
		if errors.Is(err, unix.EEXIST) {
			var st unix.Stat_t
			if err := unix.Fstatat(dir, last, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return unix.ENOTDIR
			}
			return nil
		}
		if err != nil {
			return err
		}
		if err := unix.Fchownat(dir, last, t.base, t.base, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		return unix.Fchmodat(dir, last, mode, 0) // the umask took from the first
	})
}

// remove deletes a file or link; one that is not there is fine.
func (t *tree) remove(name string) error {
	err := t.at("remove", name, false, func(dir int, last string) error { return unix.Unlinkat(dir, last, 0) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// lstat looks at name itself, not at what it links to.
func (t *tree) lstat(name string) (st unix.Stat_t, err error) {
	err = t.at("stat", name, false, func(dir int, last string) error {
		return unix.Fstatat(dir, last, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

// has reports whether name leads to anything.
func (t *tree) has(name string) bool {
	fd, err := t.open(name, unix.O_PATH, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

func (t *tree) isLink(name string) bool {
	st, err := t.lstat(name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// list returns the names in a folder, none when it cannot be read.
func (t *tree) list(name string) []string {
	fd, err := t.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	return names
}

// maxRead bounds the files of a container that we look into.
const maxRead = 1 << 20

// read returns a file's contents. Devices, pipes and the like, which could
// keep a reader waiting, are refused.
func (t *tree) read(name string) ([]byte, error) {
	fd, err := t.open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read /%s: it is no regular file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if len(b) > maxRead {
		return nil, fmt.Errorf("read /%s: it is larger than %d bytes", name, maxRead)
	}
	return b, err
}

// write replaces a file as a whole, for the tree's root. A link of that name
// is replaced, not followed.
func (t *tree) write(name string, mode uint32, data []byte) error {
	return t.replace(name, mode, t.base, t.base, data)
}

// rewrite replaces a file that is there already and keeps owner and mode.
func (t *tree) rewrite(name string, data []byte) error {
	st, err := t.lstat(name)
	if err != nil {
		return err
	}
	return t.replace(name, st.Mode&0o7777, int(st.Uid), int(st.Gid), data)
}

func (t *tree) replace(name string, mode uint32, uid, gid int, data []byte) error {
	return t.at("write", name, true, func(dir int, last string) error {
		tmp := ".joist-new." + last
		unix.Unlinkat(dir, tmp, 0)
		fd, err := unix.Openat(dir, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), name)
		_, err = f.Write(data)
		if err == nil {
			err = unix.Fchown(fd, uid, gid)
		}
		if err == nil {
			err = unix.Fchmod(fd, mode)
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = unix.Renameat(dir, tmp, dir, last)
		}
		if err != nil {
			unix.Unlinkat(dir, tmp, 0)
		}
		return err
	})
}

// symlink makes or replaces a link.
func (t *tree) symlink(target, name string, uid, gid int) error {
	return t.at("symlink", name, true, func(dir int, last string) error {
		if err := unix.Unlinkat(dir, last, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := unix.Symlinkat(target, dir, last); err != nil {
			return err
		}
		return unix.Fchownat(dir, last, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// touch sets the time of name itself.
func (t *tree) touch(name string, when time.Time) error {
	return t.at("set time of", name, false, func(dir int, last string) error {
		if last == "" {
			last = "."
		}
		ts := unix.NsecToTimespec(when.UnixNano())
		return unix.UtimesNanoAt(dir, last, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
}
