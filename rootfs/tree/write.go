package tree

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// WriteTar writes the tree as a pax archive in a fixed order, every time set
// to at: what mksquashfs's sqfstar and container runtimes read.
func (n *Node) WriteTar(w io.Writer, at time.Time) error {
	tw := tar.NewWriter(w)
	hdr := func(p string, c *Node) *tar.Header {
		h := &tar.Header{Name: "." + p, Mode: int64(unixMode(c.Mode)), Uid: c.UID, Gid: c.GID, ModTime: at, Format: tar.FormatPAX}
		for k, v := range c.Xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		return h
	}
	root := hdr("/", n)
	root.Typeflag = tar.TypeDir
	if err := tw.WriteHeader(root); err != nil {
		return err
	}
	err := n.Walk(func(p string, c *Node) error {
		h := hdr(p, c)
		switch {
		case c.Mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		case c.Mode&fs.ModeSymlink != 0:
			h.Typeflag, h.Linkname = tar.TypeSymlink, c.Target
		case c.Mode&fs.ModeCharDevice != 0:
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(c.Major), int64(c.Minor)
		case c.Mode&fs.ModeDevice != 0:
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(c.Major), int64(c.Minor)
		case c.Mode&fs.ModeNamedPipe != 0:
			h.Typeflag = tar.TypeFifo
		case c.LinkTo != "":
			h.Typeflag, h.Linkname = tar.TypeLink, "."+c.LinkTo
		case c.Mode.IsRegular():
			h.Typeflag = tar.TypeReg
			return writeFile(tw, h, c)
		default:
			return fmt.Errorf("archive %s: type %v has no place in an archive", p, c.Mode.Type())
		}
		return tw.WriteHeader(h)
	})
	if err != nil {
		return err
	}
	return tw.Close()
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

// WriteDir writes the tree below an existing folder of the building machine.
// Owners, devices and attributes are left out: the folder is for programs
// that run in the sandbox, not for an image.
func (n *Node) WriteDir(dir string) error {
	return n.Walk(func(p string, c *Node) error {
		at := filepath.Join(dir, p)
		switch {
		case c.Mode.IsDir():
			err := os.Mkdir(at, 0o755)
			if os.IsExist(err) {
				return nil
			}
			return err
		case c.Mode&fs.ModeSymlink != 0:
			return os.Symlink(c.Target, at)
		case c.Mode.IsRegular():
			return writeOut(at, c)
		}
		return nil
	})
}

func writeOut(at string, c *Node) error {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, c.Mode.Perm()|0o600)
	if err != nil {
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
