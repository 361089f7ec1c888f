package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"joist/image/boot"
	"joist/image/bundle"
	"joist/image/disk"
	"joist/image/squashfs"
	"joist/iso/diskimage"
	"joist/rootfs/tree"
)

// artefact is a finished file with a system in it that is looked into.
type artefact struct {
	f      *os.File
	medium *tree.Node     // of an ISO
	bundle *bundle.Reader // of an update, its head
	layout *disk.Layout   // of a disk image
	raw    *os.File       // a disk image that had to be unpacked
	parts  *tree.Node     // files around the system: of a medium, boot partition or bundle, nil for a bare system
	system *tree.Node
	image  io.ReaderAt // system.sqfs
	size   int64       // of image
}

// errNoArtefact tells what can be looked into.
var errNoArtefact = errors.New("it is no medium, disk image, update bundle, template or system.sqfs of Joist")

// close lets go of the files.
func (a artefact) close() {
	a.f.Close()
	if a.raw != nil {
		a.raw.Close()
	}
}

// openArtefact opens an ISO file, a disk image, an update bundle or a
// system.sqfs, whatever its name.
func openArtefact(name string) (a artefact, err error) {
	if a.f, err = os.Open(name); err != nil {
		return a, err
	}
	defer func() {
		if err != nil {
			a.close()
			err = fmt.Errorf("look into %s: %w", name, err)
		}
	}()
	st, err := a.f.Stat()
	if err != nil {
		return a, err
	}
	a.image, a.size = a.f, st.Size()
	img, err := squashfs.Open(a.f)
	if errors.Is(err, squashfs.ErrNoImage) {
		if err = a.openAround(); err != nil {
			return a, err
		}
		img, err = squashfs.Open(a.image)
	}
	if err != nil {
		return a, err
	}
	a.system = img.Root
	return a, nil
}

// openAround opens what wraps a system.
func (a *artefact) openAround() error {
	r, err := bundle.OpenUnchecked(io.NewSectionReader(a.f, 0, a.size))
	if errors.Is(err, bundle.ErrNoBundle) {
		if err = a.openDisk(); errors.Is(err, diskimage.ErrNoImage) {
			return a.openMedium()
		}
		return err
	}
	if err != nil {
		return err
	}
	a.bundle, a.parts = r, tree.New()
	for _, f := range r.Head.Files {
		at, _, _ := r.Offset(f.Name)
		a.parts.Put(&tree.Node{Name: f.Name, Mode: 0o444, Data: section{io.NewSectionReader(a.f, at, f.Size)}})
	}
	at, f, ok := r.Offset(boot.FileSystem)
	if !ok {
		return errNoArtefact
	}
	a.image, a.size = io.NewSectionReader(a.f, at, f.Size), f.Size
	return nil
}

func (a *artefact) openMedium() error {
	v, err := iso9660.Read(file.New(a.f, true), a.size, 0, isoSector)
	if err != nil {
		return fmt.Errorf("%w (%v)", errNoArtefact, err)
	}
	a.medium = tree.New()
	a.parts = a.medium
	if err := readMedium(a.f, v, ".", a.medium); err != nil {
		return err
	}
	for _, d := range children(a.medium, "/joist") {
		n := a.medium.Lookup("/joist/" + d + "/system.sqfs")
		if n == nil {
			continue
		}
		if s, ok := n.Data.(section); ok {
			a.image, a.size = s.SectionReader, s.Size()
			return nil
		}
	}
	return errNoArtefact
}

func children(root *tree.Node, dir string) []string {
	var out []string
	if d := root.Lookup(dir); d != nil {
		for _, c := range d.Children {
			out = append(out, c.Name)
		}
	}
	return out
}

const isoSector = 2048

// section is content that lies in one piece of a file.
type section struct{ *io.SectionReader }

func (s section) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(s.SectionReader, 0, s.Size())), nil
}

// readMedium puts a folder of the volume into n. Content stays where it is.
func readMedium(f io.ReaderAt, v *iso9660.FileSystem, dir string, n *tree.Node) error {
	list, err := v.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		at := path.Join(dir, e.Name())
		if !fs.ValidPath(at) {
			return fmt.Errorf("%q is no path of a medium", at)
		}
		c := &tree.Node{Name: e.Name(), Mode: 0o444}
		if e.IsDir() {
			c.Mode = fs.ModeDir | 0o555
			if err := readMedium(f, v, at, c); err != nil {
				return err
			}
		} else {
			in, err := v.OpenFile(at, os.O_RDONLY)
			if err != nil {
				return err
			}
			x, ok := in.(*iso9660.File)
			st, err := in.Stat()
			if err != nil || !ok {
				return fmt.Errorf("%s: where it lies cannot be told (%v)", at, err)
			}
			c.Data = section{io.NewSectionReader(f, int64(x.Location())*isoSector, st.Size())}
		}
		n.Put(c)
	}
	return nil
}
