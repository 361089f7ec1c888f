package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Starting under a BIOS: sector 0 of the disk loads the first sector of GRUB's
// core image, which loads the rest from a list of sectors inside itself. The
// offsets are GRUB's (include/grub/i386/pc/boot.h, grub-core/boot/i386/pc/
// boot.S and diskboot.S, 2.12).
const (
	sector = 512

	mbrKernelSector = 0x5c  // 64 bits: where the core image begins
	mbrDriveCheck   = 0x66  // a jump over "set the drive to 0x80"
	mbrTable        = 0x1b8 // disk signature and partition table, to 0x1fe
	jump, noOp      = 0xeb, 0x90

	coreList    = 0x1f4 // the one entry of the list: start 64, count 16, segment 16 bits
	coreSegment = 0x820 // where the second sector goes: right behind the first at 0x8000

	// The core is loaded from 0x8000 on and must end below the memory that
	// GRUB's decompressor and the BIOS use.
	maxCore = 0x70000
)

// MBR is sector 0: the boot code of boot.img, or that of another disk's sector
// 0, over a sector that holds the protective partition table, set to load the
// core image from coreLBA.
func MBR(bootImg, sector0 []byte, coreLBA int64) ([]byte, error) {
	if len(bootImg) != sector || bootImg[510] != 0x55 || bootImg[511] != 0xaa || bootImg[mbrDriveCheck] != jump && bootImg[mbrDriveCheck] != noOp {
		return nil, errors.New("write boot sector: this is not GRUB's boot.img")
	}
	if len(sector0) < sector || sector0[510] != 0x55 || sector0[511] != 0xaa {
		return nil, errors.New("write boot sector: the disk has no protective partition table")
	}
	if coreLBA <= 0 {
		return nil, fmt.Errorf("write boot sector: sector %d is no place for the core image", coreLBA)
	}
	b := bytes.Clone(bootImg)
	copy(b[mbrTable:510], sector0[mbrTable:510])
	binary.LittleEndian.PutUint64(b[mbrKernelSector:], uint64(coreLBA))
	// Some BIOSes pass a wrong drive number; two no-ops let GRUB correct it,
	// as its own installer does on hard disks.
	b[mbrDriveCheck], b[mbrDriveCheck+1] = noOp, noOp
	return b, nil
}

// Core is the core image as it is written to sector startLBA, the first of a
// partition of size bytes.
func Core(core []byte, startLBA, size int64) ([]byte, error) {
	if len(core) < 2*sector || len(core) > maxCore {
		return nil, fmt.Errorf("write GRUB core: %d bytes are not possible", len(core))
	}
	le := binary.LittleEndian
	rest := (len(core)+sector-1)/sector - 1
	if got := int(le.Uint16(core[coreList+8:])); got != rest || le.Uint16(core[coreList+10:]) != coreSegment {
		return nil, fmt.Errorf("write GRUB core: it lists %d sectors, not %d: this is no image of grub-mkimage for i386-pc", got, rest)
	}
	if startLBA <= 0 || int64(rest+1)*sector > size {
		return nil, fmt.Errorf("write GRUB core: %d bytes do not fit into a partition of %d at sector %d", len(core), size, startLBA)
	}
	b := make([]byte, (rest+1)*sector)
	copy(b, core)
	le.PutUint64(b[coreList:], uint64(startLBA+1))
	return b, nil
}

// ReadCore reads the core image out of the partition that Core's result was
// written to: as long as its own list says, and valid for Core.
func ReadCore(r io.ReaderAt, size int64) ([]byte, error) {
	first := make([]byte, sector)
	if _, err := r.ReadAt(first, 0); err != nil {
		return nil, fmt.Errorf("read GRUB core: %w", err)
	}
	le := binary.LittleEndian
	n := (int64(le.Uint16(first[coreList+8:])) + 1) * sector
	if le.Uint16(first[coreList+10:]) != coreSegment || n < 2*sector || n > maxCore || n > size {
		return nil, errors.New("read GRUB core: there is none")
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read GRUB core: %w", err)
	}
	return b, nil
}

// Device is a disk that boot code is written to.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// WriteBIOS writes the core image into its partition part, which begins at
// byte start of the disk, then the boot sector that points to it.
func WriteBIOS(d, part Device, start, size int64, bootImg, core []byte) error {
	lba := start / sector
	core, err := Core(core, lba, size)
	if err != nil {
		return err
	}
	zero := make([]byte, sector)
	if _, err := d.ReadAt(zero, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read boot sector: %w", err)
	}
	mbr, err := MBR(bootImg, zero, lba)
	if err != nil {
		return err
	}
	if _, err := part.WriteAt(core, 0); err != nil {
		return fmt.Errorf("write core image: %w", err)
	}
	if err := part.Sync(); err != nil {
		return fmt.Errorf("write core image: %w", err)
	}
	if _, err := d.WriteAt(mbr, 0); err != nil {
		return fmt.Errorf("write boot sector: %w", err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write boot sector: %w", err)
	}
	return nil
}
