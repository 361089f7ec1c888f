// Package diskimage makes the image of a system disk that has no data yet: the
// boot parts of an installation as a file, sparse, as a compressed raw image
// and as qcow2. The system in it makes the data partition when it first
// starts.
package diskimage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"joist/image/boot"
	"joist/image/disk"
	"joist/rootfs/tree"
)

// Spec is the content of an image.
type Spec struct {
	Layout  disk.Layout
	ESP     disk.FAT
	System  tree.Source // of slot A
	BootImg []byte      // GRUB's boot sector and core image, where the layout has a place for them
	Core    []byte
}

// Extent is a piece of an image that holds something.
type Extent struct{ Offset, Size int64 }

// unit is what extents are multiples of: a cluster of qcow2.
const unit = 64 << 10

// Image is an image in a sparse file.
type Image struct {
	io.ReaderAt
	Size    int64
	Extents []Extent // in order; all else reads as zeros
}

// Write writes an image into an empty file.
func Write(f *os.File, s Spec) (Image, error) {
	if err := f.Truncate(s.Layout.Size); err != nil {
		return Image{}, fmt.Errorf("write disk image: %w", err)
	}
	w := &recorder{File: f, size: s.Layout.Size}
	for _, step := range []func(*recorder) error{s.table, s.bios, s.esp, s.system} {
		if err := step(w); err != nil {
			return Image{}, fmt.Errorf("write disk image: %w", err)
		}
	}
	return Image{ReaderAt: f, Size: s.Layout.Size, Extents: w.extents()}, nil
}

func (s Spec) table(w *recorder) error { return disk.WriteTable(w, s.Layout) }

func (s Spec) bios(w *recorder) error {
	if !s.Layout.BootsBIOS() {
		return nil
	}
	p, err := s.Layout.Find(disk.NameBIOS)
	if err != nil {
		return err
	}
	return boot.WriteBIOS(w, w.at(p), p.Start, p.Size, s.BootImg, s.Core)
}

func (s Spec) esp(w *recorder) error {
	p, err := s.Layout.Find(disk.NameESP)
	if err != nil {
		return err
	}
	v, err := disk.PlanFAT(s.ESP)
	if err != nil {
		return err
	}
	return v.Write(w.at(p))
}

func (s Spec) system(w *recorder) error {
	p, err := s.Layout.Find(disk.NameSlotA)
	if err != nil {
		return err
	}
	if s.System.Size() > p.Size {
		return fmt.Errorf("the system image has %d bytes, a slot %d", s.System.Size(), p.Size)
	}
	r, err := s.System.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(struct{ io.Writer }{io.NewOffsetWriter(w.at(p), 0)}, r)
	if err == nil && n != s.System.Size() {
		err = fmt.Errorf("the system image has %d bytes, not %d", n, s.System.Size())
	}
	return err
}

// recorder remembers where was written: what a file system makes of holes
// differs, an image must not.
type recorder struct {
	*os.File
	size  int64
	units []bool // that hold something
}

var errOutside = errors.New("write past the end")

func (r *recorder) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || int64(len(b)) > r.size-off {
		return 0, errOutside
	}
	if r.units == nil {
		r.units = make([]bool, (r.size+unit-1)/unit)
	}
	for done := 0; done < len(b); {
		at := off + int64(done)
		n := min(int(unit-at%unit), len(b)-done)
		// Zeros are what is there already, unless something was written before.
		if piece := b[done : done+n]; r.units[at/unit] || !zero(piece) {
			r.units[at/unit] = true
			if _, err := r.File.WriteAt(piece, at); err != nil {
				return done, err
			}
		}
		done += n
	}
	return len(b), nil
}

// Sync has nothing to wait for: the file is read by who wrote it.
func (r *recorder) Sync() error { return nil }

// zero says whether b, which is not empty, holds zeros alone: the first byte is
// one, and each is as the one before.
func zero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[:len(b)-1], b[1:]) }

func (r *recorder) extents() []Extent {
	var out []Extent
	for i, used := range r.units {
		off := int64(i) * unit
		switch {
		case !used:
		case len(out) > 0 && out[len(out)-1].Offset+out[len(out)-1].Size == off:
			out[len(out)-1].Size += unit
		default:
			out = append(out, Extent{off, unit})
		}
	}
	if n := len(out); n > 0 {
		out[n-1].Size = min(out[n-1].Size, r.size-out[n-1].Offset)
	}
	return slices.Clip(out)
}

// at is the part of the image that a partition is.
func (r *recorder) at(p disk.Partition) *section { return &section{r, p.Start, p.Size} }

type section struct {
	r          *recorder
	base, size int64
}

func (s *section) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(s.r.File, s.base, s.size).ReadAt(b, off)
}

func (s *section) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || int64(len(b)) > s.size-off {
		return 0, errOutside
	}
	return s.r.WriteAt(b, s.base+off)
}

func (s *section) Sync() error { return nil }
