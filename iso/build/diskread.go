package build

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"joist/image/disk"
	"joist/image/verity"
	"joist/iso/diskimage"
	"joist/rootfs/tree"
)

// rawDisk is the content of a disk image of either format. A compressed one is
// unpacked into a file that nobody else sees and that is gone when it is closed.
func (a *artefact) rawDisk() (io.ReaderAt, int64, error) {
	q, err := diskimage.OpenQcow2(a.f)
	if err == nil {
		return q, q.Size, nil
	}
	if !errors.Is(err, diskimage.ErrNoImage) || !diskimage.IsZstd(a.f) {
		return nil, 0, err
	}
	size, err := a.unpack()
	return a.raw, size, err
}

// openDisk opens a disk image.
func (a *artefact) openDisk() error {
	r, size, err := a.rawDisk()
	if err != nil {
		return err
	}
	l, err := disk.ReadTable(r, size, 0)
	if err != nil {
		return err
	}
	a.layout, a.parts = &l, tree.New()
	esp, err := l.Find(disk.NameESP)
	if err != nil {
		return err
	}
	files, err := disk.ReadFAT(io.NewSectionReader(r, esp.Start, esp.Size))
	if err != nil {
		return fmt.Errorf("read the boot partition: %w", err)
	}
	for _, f := range files {
		if err := a.parts.AddFile(f.Path, 0o444, f.Data); err != nil {
			return fmt.Errorf("read the boot partition: %w", err)
		}
	}
	slot, err := l.Find(disk.NameSlotA)
	if err != nil {
		return err
	}
	a.image, a.size = io.NewSectionReader(r, slot.Start, slot.Size), slot.Size
	if _, at, err := verity.Locate(a.image); err == nil { // one that is damaged is the caller's to say
		a.size = at + verity.TreeSize(at)
	}
	return nil
}

// unpack unpacks a compressed image.
func (a *artefact) unpack() (size int64, err error) {
	if a.raw, err = os.CreateTemp("", "joist-disk-*"); err != nil {
		return 0, err
	}
	if err := os.Remove(a.raw.Name()); err != nil {
		return 0, err
	}
	return diskimage.Unpack(io.NewSectionReader(a.f, 0, sizeOf(a.f)), a.raw, func(head []byte) bool {
		const gpt = "EFI PART"
		return bytes.HasPrefix(head[512:], []byte(gpt)) || bytes.HasPrefix(head[4096:], []byte(gpt))
	})
}

// systemSource is the system image without what follows it in its slot.
func (a artefact) systemSource() tree.Source {
	return section{io.NewSectionReader(a.image, 0, a.size)}
}
