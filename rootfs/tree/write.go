package tree

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// WriteTar writes the tree as a pax archive in a fixed order, every time set
// to at: what mksquashfs's sqfstar and container runtimes read.
func (n *Node) WriteTar(w io.Writer, at time.Time) error {
	tw := tar.NewWriter(w)
	first := map[identity]string{} // name under which content that has hard links was written
	root := header("/", n, at)
	if err := tw.WriteHeader(root); err != nil {
		return fmt.Errorf("archive /: %w", err)
	}
	err := n.Walk(func(p string, c *Node) error {
		h := header(p, c, at)
		if h == nil {
			return fmt.Errorf("archive %s: type %v has no place in an archive", p, c.Mode.Type())
		}
		err := func() error {
			if h.Typeflag != tar.TypeReg {
				return tw.WriteHeader(h)
			}
			// An archive has the content before the links to it, whatever their
			// names are, and without it when its first name was removed.
			if id, ok := identify(c); ok {
				if name, ok := first[id]; ok && c.LinkTo != "" {
					h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, name, nil
					return tw.WriteHeader(h)
				} else if !ok {
					first[id] = h.Name
				}
			}
			return writeFile(tw, h, c)
		}()
		if err != nil {
			return fmt.Errorf("archive %s: %w", p, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

// header is nil for types an archive does not hold.
func header(p string, c *Node, at time.Time) *tar.Header {
	h := &tar.Header{Name: "." + p, Mode: int64(unixMode(c.Mode)), Uid: c.UID, Gid: c.GID, ModTime: at, Format: tar.FormatPAX}
	for k, v := range c.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+k] = v
	}
	switch {
	case c.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(h.Name, "/")+"/"
	case c.Mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, c.Target
	case c.Mode&fs.ModeCharDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(c.Major), int64(c.Minor)
	case c.Mode&fs.ModeDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(c.Major), int64(c.Minor)
	case c.Mode&fs.ModeNamedPipe != 0:
		h.Typeflag = tar.TypeFifo
	case c.Mode.IsRegular():
		h.Typeflag = tar.TypeReg
	default:
		return nil
	}
	return h
}

// identity tells files that are one inode: the same content, mode and owner.
type identity struct {
	data     any
	mode     fs.FileMode
	uid, gid int
}

// identify returns what c shares with its hard links. Empty files and content
// that is not in memory have none: they are written whole each time.
func identify(c *Node) (identity, bool) {
	b, ok := c.Data.(Bytes)
	if !ok || len(b) == 0 {
		return identity{}, false
	}
	return identity{data: &b[0], mode: c.Mode, uid: c.UID, gid: c.GID}, true
}

func writeFile(tw *tar.Writer, h *tar.Header, c *Node) error {
	if c.Data == nil {
		return tw.WriteHeader(h)
	}
	h.Size = c.Data.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	r, err := c.Data.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(tw, r)
	return err
}

// unixMode is the permission part of mode as the kernel has it.
func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		u |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		u |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		u |= 0o1000
	}
	return u
}

// WriteDir writes the tree below an empty folder of the building machine, with
// the tree's modes whatever the umask is. Owners, devices and attributes are
// left out, and with them what a mode gives for the owner's sake: the folder is
// for programs that run in the sandbox, not for an image. Its owner may always
// write to it.
func (n *Node) WriteDir(dir string) error {
	return n.Walk(func(p string, c *Node) error {
		at := filepath.Join(dir, p)
		switch {
		case c.Mode.IsDir():
			if err := os.Mkdir(at, 0o700); err != nil && !os.IsExist(err) {
				return err
			}
			return os.Chmod(at, c.Mode&(fs.ModePerm|fs.ModeSetgid|fs.ModeSticky)|0o700)
		case c.Mode&fs.ModeSymlink != 0:
			return os.Symlink(c.Target, at)
		case c.Mode.IsRegular():
			return writeOut(at, c)
		}
		return nil
	})
}

func writeOut(at string, c *Node) error {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Chmod(c.Mode.Perm() | 0o600); err != nil {
		f.Close()
		return err
	}
	if c.Data != nil {
		r, err := c.Data.Open()
		if err != nil {
			f.Close()
			return err
		}
		_, err = io.Copy(f, r)
		r.Close()
		if err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}
