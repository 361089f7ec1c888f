package apply

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/plan"
	"joist/installer/probe"
)

// checkBoot makes sure that the disk will start, and that the files that change
// have the room that they had in the image. The system itself is checked by
// dm-verity whenever it is read.
func (a *applier) checkBoot(ctx context.Context, d *drive, act plan.CheckBoot) error {
	esp := d.at(act.Partition)
	for _, name := range []string{boot.FileKernel, boot.FileInitrd} {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		path := boot.PathSlotFile(act.Slot, name)
		x, err := disk.LocateFAT(esp, path)
		if err != nil {
			return err
		}
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(esp, x.Offset, x.Size)); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if got, want := (boot.File{Size: x.Size, SHA256: hex.EncodeToString(h.Sum(nil))}), a.p.Image.Files[name]; got != want {
			return fmt.Errorf("the boot partition of disk %s is damaged: %s has %d bytes with SHA-256 %s, its manifest says %d and %s; write the image to the disk again",
				d.Disk.Name, path, got.Size, got.SHA256, want.Size, want.SHA256)
		}
	}
	files, err := a.p.BootFiles(d.n, longestStorage(a.p))
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := place(esp, f); err != nil {
			return err
		}
	}
	return nil
}

// longestStorage stands for an id that is not known yet.
func longestStorage(p plan.Plan) string {
	if p.ZFS() {
		return "99999999999999999999"
	}
	return "xxxxxx-xxxx-xxxx-xxxx-xxxx-xxxx-xxxxxx"
}

// place is where a file lies that is as long as the new content.
func place(esp *section, f plan.SeedFile) (disk.Extent, error) {
	x, err := disk.LocateFAT(esp, f.Path)
	if err == nil && x.Size != int64(len(f.Data)) {
		err = fmt.Errorf("change %s: it has %d bytes, not %d", f.Path, x.Size, len(f.Data))
	}
	return x, err
}

// grow writes the table and has the kernel know the data partition.
func (a *applier) grow(ctx context.Context, d *drive, act plan.Grow) error {
	data, err := act.Layout.Find(disk.NameData)
	if err != nil {
		return err
	}
	if err := disk.UpdateTable(d, act.Layout); err != nil {
		return err
	}
	if err := protect(d, act.Layout); err != nil {
		return err
	}
	if err := clearRanges(d, act.Clear); err != nil {
		return err
	}
	if err := d.flush(); err != nil {
		return err
	}
	st, err := d.Stat()
	if err != nil || st.Mode()&os.ModeDevice == 0 {
		return err
	}
	name := probe.PartitionName(d.Disk.Name, data.Number)
	if err := retry(ctx, 10*time.Second, func() error { return announce(d.File, data) }); err != nil {
		return fmt.Errorf("have the kernel know %s: %w", name, err)
	}
	return retry(ctx, 10*time.Second, func() error { _, err := os.Stat(a.h.Path("/dev", name)); return err })
}

// protect has the protective partition table cover the disk as it is now. Boot
// code beside it, in the same sector, stays.
func protect(d *drive, l disk.Layout) error {
	const table, end = 446, 512
	b := make([]byte, l.SectorSize)
	if _, err := d.ReadAt(b, 0); err != nil {
		return fmt.Errorf("read sector 0: %w", err)
	}
	fresh := disk.ProtectiveMBR(l)
	if bytes.Equal(b[table:end], fresh[table:end]) {
		return nil
	}
	copy(b[table:end], fresh[table:end])
	if _, err := d.WriteAt(b, 0); err != nil {
		return fmt.Errorf("write sector 0: %w", err)
	}
	return nil
}

// writeBoot changes files where they lie. Each is on the disk before the next.
func (a *applier) writeBoot(d *drive, act plan.WriteBoot) error {
	files, err := a.p.BootFiles(d.n, a.storageID)
	if err != nil {
		return err
	}
	esp := d.at(act.Partition)
	for _, f := range files {
		x, err := place(esp, f)
		if err != nil {
			return err
		}
		if _, err := esp.WriteAt(f.Data, x.Offset); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
		if err := d.flush(); err != nil {
			return err
		}
	}
	return nil
}

// eraseAnswer leaves a comment of the same length.
func (a *applier) eraseAnswer(d *drive, act plan.EraseAnswer) error {
	esp := d.at(act.Partition)
	for _, path := range []string{boot.PathAnswer, boot.PathAnswerSource} {
		x, err := disk.LocateFAT(esp, path)
		if errors.Is(err, os.ErrNotExist) || err == nil && x.Size == 0 {
			continue
		}
		if err == nil {
			_, err = esp.WriteAt(bytes.Repeat([]byte("#"), int(x.Size)), x.Offset)
		}
		if err != nil {
			return fmt.Errorf("erase %s: %w", path, err)
		}
	}
	return d.flush()
}

// announce adds a partition to those that the kernel has of a disk (BLKPG), as
// partx(8) does: reading the whole table again is refused while one is in use.
// One of this number that is there already is replaced.
func announce(f *os.File, p disk.Partition) error {
	if err := blkpg(f, unix.BLKPG_DEL_PARTITION, p); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("take partition %d away: %w", p.Number, err)
	}
	if err := blkpg(f, unix.BLKPG_ADD_PARTITION, p); err != nil {
		return fmt.Errorf("add partition %d: %w", p.Number, err)
	}
	return nil
}

// blkpg is the ioctl of <linux/blkpg.h>.
func blkpg(f *os.File, op int32, p disk.Partition) error {
	part := struct {
		start, length int64 // bytes
		number        int32
		names         [128]byte
		_             [4]byte
	}{start: p.Start, length: p.Size, number: int32(p.Number)}
	arg := unix.BlkpgIoctlArg{Op: op, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg)))
	runtime.KeepAlive(&part)
	if errno != 0 {
		return errno
	}
	return nil
}
