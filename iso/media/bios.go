package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"joist/image/disk"
	"joist/iso/media/iso9660"
	"joist/rootfs/tree"
)

// What GRUB's BIOS images are told about their place, GRUB 2.12: boot/i386/pc/
// cdboot.S, diskboot.S and boot.S with HYBRID_BOOT; util/grub-mkrescue.c asks
// xorriso for the same by --grub2-boot-info and --grub2-mbr.
const (
	infoTable    = 8    // of the core: boot information table, 56 bytes
	infoEnd      = 64   // its checksum begins here
	cdSectors    = 4    // cdboot.img takes one sector of a CD, diskboot.img follows
	coreList     = 2548 // of the core: where diskboot.img finds the sectors after itself
	coreListSize = 12   // a 64-bit start, a 16-bit count, a 16-bit segment
	coreSegment  = 0x820

	hybridKernel = 0x1b0 // of boot_hybrid.img: the sector of diskboot.img
	hybridCode   = 440   // the code's length; disk signature and partitions follow

	maxCore = 1 << 20 // more does not fit below a BIOS's 640 KiB anyway
)

// placeCore tells GRUB's El Torito core its place on the medium.
func placeCore(core []byte, at int64) ([]byte, error) {
	le := binary.LittleEndian
	if len(core) < coreList+coreListSize || len(core) > maxCore || le.Uint16(core[coreList+10:]) != coreSegment {
		return nil, errors.New("write GRUB core: this is no image of grub-mkimage for i386-pc-eltorito")
	}
	b := slices.Clone(core)
	le.PutUint64(b[coreList:], uint64(at/lba+cdSectors+1))
	info := b[infoTable:infoEnd]
	clear(info)
	le.PutUint32(info, iso9660.SystemArea/iso9660.Sector) // the primary descriptor
	le.PutUint32(info[4:], uint32(at/iso9660.Sector))
	le.PutUint32(info[8:], uint32(len(b)))
	le.PutUint32(info[12:], checksum(b[infoEnd:]))
	return b, nil
}

// checksum adds up 32-bit words, the last one filled with zeros.
func checksum(b []byte) (sum uint32) {
	for ; len(b) >= 4; b = b[4:] {
		sum += binary.LittleEndian.Uint32(b)
	}
	var last [4]byte
	copy(last[:], b)
	return sum + binary.LittleEndian.Uint32(last[:])
}

// bootSector is sector 0: boot_hybrid.img, told where the core lies, over the
// protective partition table. Some BIOSes start no disk without an active
// partition, but UEFI (2.10, table 5.4) wants the protective one not to be
// active: the flag is in the second entry, which is otherwise empty.
func bootSector(hybrid, protective []byte, core int64) ([]byte, error) {
	if len(hybrid) != lba || hybrid[510] != 0x55 || hybrid[511] != 0xaa {
		return nil, errors.New("write boot sector: this is not GRUB's boot_hybrid.img")
	}
	b := slices.Clone(protective)
	copy(b[:hybridCode], hybrid)
	binary.LittleEndian.PutUint64(b[hybridKernel:], uint64(core/lba+cdSectors))
	b[446+16] = 0x80
	binary.LittleEndian.PutUint32(b[446+16+12:], 1) // tools drop an entry without a length
	return b, nil
}

// chunks is everything that lies on the medium, in any order.
func (m Image) chunks(core, hybrid []byte) ([]iso9660.Chunk, error) {
	var table record
	if err := disk.WriteTable(&table, m.Table); err != nil {
		return nil, fmt.Errorf("write medium: %w", err)
	}
	for i, c := range table {
		if c.At != 0 {
			continue
		}
		sector, err := bootSector(hybrid, c.Data.(tree.Bytes), m.BIOS.At)
		if err != nil {
			return nil, err
		}
		table[i].Data = tree.Bytes(sector)
	}
	core, err := placeCore(core, m.BIOS.At)
	if err != nil {
		return nil, err
	}
	out := append(slices.Clone(m.Volume.Meta), table...)
	for _, f := range m.Volume.Files {
		if f.At == m.BIOS.At {
			f.Data = tree.Bytes(core)
		}
		out = append(out, f.Chunk)
	}
	return out, nil
}

// record keeps what is written to it.
type record []iso9660.Chunk

func (r *record) WriteAt(b []byte, at int64) (int, error) {
	*r = append(*r, iso9660.Chunk{At: at, Data: tree.Bytes(slices.Clone(b))})
	return len(b), nil
}

// load reads a small file whole.
func load(s tree.Source) ([]byte, error) {
	if s.Size() > maxCore {
		return nil, fmt.Errorf("%d bytes are not possible", s.Size())
	}
	r, err := s.Open()
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}
