package bootdisk

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"time"

	"joist/image/boot"
	"joist/image/disk"
	"joist/image/verity"
)

// Difference is what a disk has otherwise than the one that counts.
type Difference struct {
	Table bool        // partition tables are to be mended, from the disk's own
	Slots []boot.Slot // whose images are to be copied
	Boot  bool        // the boot partition is to be made anew
	State bool        // only the state of the slots is to be written
	BIOS  bool
	Text  []string
}

// Any says whether there is one.
func (d Difference) Any() bool { return d.Table || len(d.Slots) > 0 || d.Boot || d.State || d.BIOS }

// Compare says what is to be done to c so that it equals ref.
func Compare(ref, c Copy) Difference {
	d := Difference{Table: len(c.Tables.Faults) > 0, Text: c.Faults()}
	for _, s := range []boot.Slot{boot.A, boot.B} {
		if x, ok := ref.Slots[s]; ok && c.Slots[s] != x {
			d.Slots = append(d.Slots, s)
			if c.Slots[s].Root != "" {
				d.Text = append(d.Text, fmt.Sprintf("slot %s holds another system", s))
			}
		}
	}
	d.Boot = len(c.Files) != len(ref.Files)
	for name, sum := range ref.Files {
		if c.Files[name] != sum {
			d.Boot = true
			if c.Files[name] != "" {
				d.Text = append(d.Text, name+" differs")
			}
		}
	}
	for _, l := range c.Lacks {
		d.Boot = d.Boot || strings.HasPrefix(l, "boot partition")
	}
	d.State = c.State != ref.State && !d.Boot
	if d.State {
		d.Text = append(d.Text, "the state of its slots differs")
	}
	d.BIOS = c.Disk.Table.BootsBIOS() && ref.Core != "" && c.Core != ref.Core
	if d.BIOS && c.Core != "" {
		d.Text = append(d.Text, "the BIOS boot code differs")
	}
	return d
}

// Progress says how far a long step is.
type Progress func(n, of int64)

// Refresh brings what differs from one disk to another. What boot files point
// to comes first: a cut leaves a disk that does not start, or not with less
// than it needs. from is only read.
func Refresh(ctx context.Context, ref Copy, to Disk, d Difference, advance Progress) error {
	if ctx.Err() != nil { // what was looked at last may only seem to differ
		return context.Cause(ctx)
	}
	if d.Table {
		if err := Mend(to); err != nil {
			return err
		}
	}
	for _, s := range d.Slots {
		if err := copySlot(ctx, ref.Disk, to, s, ref.Slots[s], advance); err != nil {
			return fmt.Errorf("copy slot %s to disk %s: %w", s, to.Name, err)
		}
	}
	switch {
	case d.Boot:
		if err := copyBoot(ref.Disk, to); err != nil {
			return fmt.Errorf("write boot partition of disk %s: %w", to.Name, err)
		}
	case d.State:
		if err := writeState(to, ref.State); err != nil {
			return fmt.Errorf("write state of slots on disk %s: %w", to.Name, err)
		}
	}
	if d.BIOS {
		if err := copyBIOS(ref.Disk, to); err != nil {
			return fmt.Errorf("write BIOS boot code of disk %s: %w", to.Name, err)
		}
	}
	return nil
}

const bufferSize = 4 << 20

// image is one that lies in a slot: the system, or an extension behind it.
type image struct {
	at, data int64 // where it begins; bytes before its hash tree
	root     string
}

// imagesOf finds what a slot holds.
func imagesOf(slot io.ReaderAt, x Image) (out []image, err error) {
	at, roots := int64(0), []string{x.Root}
	if x.Ext != "" {
		roots = append(roots, strings.Split(x.Ext, ",")...)
	}
	for _, root := range roots {
		_, data, err := verity.Locate(io.NewSectionReader(slot, at, x.Bytes-at))
		if err != nil {
			return nil, err
		}
		out = append(out, image{at, data, root})
		at += data + verity.TreeSize(data)
	}
	return out, nil
}

// copySlot copies images and hash trees, each tree after the data before it are
// safe: it is what says that the image is there. What was written is read back.
func copySlot(ctx context.Context, from, to Disk, s boot.Slot, x Image, advance Progress) error {
	src, err := from.open(slotName(s), false)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := to.open(slotName(s), true)
	if err != nil {
		return err
	}
	defer dst.Close()
	if x.Bytes > dst.size {
		return fmt.Errorf("the image has %d bytes, the partition %d", x.Bytes, dst.size)
	}
	images, err := imagesOf(src, x)
	if err != nil {
		return err
	}
	next := images
	buf := make([]byte, bufferSize)
	for off := int64(0); off < x.Bytes; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		end := x.Bytes
		if len(next) > 0 {
			end = next[0].at + next[0].data
		}
		n := min(int64(len(buf)), end-off)
		if _, err := src.ReadAt(buf[:n], off); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if _, err := dst.WriteAt(buf[:n], off); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		off += n
		advance(off, x.Bytes)
		if len(next) > 0 && off == end {
			if err := dst.Sync(); err != nil {
				return err
			}
			next = next[1:]
		}
	}
	if err := dst.forget(); err != nil {
		return err
	}
	for _, i := range images {
		if err := verity.Verify(io.NewSectionReader(dst, i.at, x.Bytes-i.at), i.data, i.root); err != nil {
			return err
		}
	}
	return nil
}

// copyBoot makes the boot partition anew from another disk's files. They
// differ in the disk's GUID alone.
func copyBoot(from, to Disk) error {
	src, err := from.open(disk.NameESP, false)
	if err != nil {
		return err
	}
	defer src.Close()
	files, err := disk.ReadFAT(src)
	if err != nil {
		return err
	}
	for i, f := range files {
		if f.Path != boot.PathSlotConfig(boot.A) && f.Path != boot.PathSlotConfig(boot.B) {
			continue
		}
		conf, err := readFile(f)
		if err == nil {
			conf, err = boot.OnDisk(conf, strings.ToUpper(to.Table.DiskGUID))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		files[i].Data = content(conf)
	}
	t, err := to.Table.Find(disk.NameESP)
	if err != nil {
		return err
	}
	v, err := disk.PlanFAT(disk.FAT{Size: t.Size, SectorSize: to.Table.SectorSize, Start: t.Start, Label: boot.ESPLabel,
		Serial: crc32.ChecksumIEEE([]byte(to.Table.DiskGUID)), Time: time.Now().UTC().Truncate(2 * time.Second), Files: files})
	if err != nil {
		return err
	}
	dst, err := to.open(disk.NameESP, true)
	if err != nil {
		return err
	}
	err = v.Write(dst)
	if err == nil {
		err = dst.forget()
	}
	return errors.Join(err, dst.Close())
}

// writeState changes the environment block in place and leaves its other
// variables alone.
func writeState(d Disk, s boot.State) error {
	p, err := d.open(disk.NameESP, true)
	if err != nil {
		return err
	}
	defer p.Close()
	b, at, err := readEnv(p)
	if err != nil {
		return err
	}
	e, err := boot.DecodeEnv(b)
	if err != nil {
		return err
	}
	if boot.DecodeState(e) == s {
		return nil
	}
	if err := s.Store(e); err != nil {
		return err
	}
	if b, err = e.Encode(); err != nil {
		return err
	}
	if _, err := p.WriteAt(b, at); err != nil {
		return err
	}
	return p.Sync()
}

func copyBIOS(from, to Disk) error {
	sector0, core, err := readBIOS(from)
	if err != nil {
		return fmt.Errorf("read it from disk %s: %w", from.Name, err)
	}
	t, err := to.Table.Find(disk.NameBIOS)
	if err != nil {
		return err
	}
	f, err := to.disk(true)
	if err != nil {
		return err
	}
	p, err := to.open(disk.NameBIOS, true)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(boot.WriteBIOS(f, p, t.Start, t.Size, sector0, core), p.Close(), f.Close())
}

func (d Disk) disk(write bool) (*os.File, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	return os.OpenFile(d.Path, flags, 0)
}
