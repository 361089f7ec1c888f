package squashfs

import (
	"context"
	"math/bits"
)

// image is an image being written.
type image struct {
	Options
	*layout
	out   *output
	stats Stats
	frags []fragment

	inodeTable, dirTable *meta
}

// superSize is the length of the superblock.
const superSize = 96

// padding is what an image is filled up to: the page of Linux, which a loop
// device cannot be smaller than (mksquashfs pads the same).
const padding = 4096

// The flags of the superblock.
const (
	flagNoFragments = 1 << 4
	flagDuplicates  = 1 << 6
	flagExport      = 1 << 7
	flagNoXattrs    = 1 << 9
	flagOptions     = 1 << 10
)

const (
	magic    = 0x73717368 // "hsqs"
	codeZstd = 6
)

// zstdDefault is the level that needs no options behind the superblock.
const zstdDefault = 15

// super is what the superblock says beyond the options.
type super struct {
	root                                           uint64
	used, ids, xattrs, inodes, dirs, frags, export uint64
	flags                                          uint16
}

func (img *image) write(ctx context.Context) error {
	var s super
	img.out.pos = superSize
	if err := img.writeOptions(&s); err != nil {
		return err
	}
	if err := img.writeData(ctx); err != nil {
		return err
	}
	if err := img.writeTables(&s); err != nil {
		return err
	}
	s.used = img.out.pos
	pad := (padding - s.used%padding) % padding
	if err := img.out.append(make([]byte, pad)); err != nil {
		return err
	}
	if err := img.out.flush(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	img.stats.Size = int64(img.out.pos)
	img.stats.Inodes = len(img.inodes)
	_, err := img.out.w.WriteAt(img.super(s), 0)
	return err
}

// writeOptions writes the level. Linux does not read it, unsquashfs -s does.
func (img *image) writeOptions(s *super) error {
	if img.Codec.Level == 0 || img.Codec.Level == zstdDefault {
		return nil
	}
	s.flags |= flagOptions
	return img.out.append(fields(nil).u16(4 | metaRaw).u32(uint32(img.Codec.Level)))
}

// writeTables writes what follows the data, in the order that the checks of
// Linux ask for: each table ends where the next begins.
func (img *image) writeTables(s *super) (err error) {
	img.inodeTable, img.dirTable = newMeta(img.Codec), newMeta(img.Codec)
	if err := img.writeDir(img.root, uint32(len(img.inodes)+1)); err != nil {
		return err
	}
	s.root = img.root.ref
	s.inodes = img.out.pos
	if err := img.inodeTable.writeTo(img.out); err != nil {
		return err
	}
	s.dirs = img.out.pos
	if err := img.dirTable.writeTo(img.out); err != nil {
		return err
	}
	if s.frags, err = img.writeFragments(); err != nil {
		return err
	}
	if s.export, err = img.writeExport(s); err != nil {
		return err
	}
	var ids fields
	for _, id := range img.ids {
		ids = ids.u32(id)
	}
	if s.ids, err = writeTable(img.out, img.Codec, ids); err != nil {
		return err
	}
	if s.xattrs, err = img.xattrs.write(img.out, img.Codec); err != nil {
		return err
	}
	if s.xattrs == absent {
		s.flags |= flagNoXattrs
	}
	if img.PackBelow < 0 {
		s.flags |= flagNoFragments
	}
	s.flags |= flagDuplicates
	return nil
}

// writeDir writes everything below a directory and then itself, because a
// listing names the places of the inodes in it.
func (img *image) writeDir(in *inode, parent uint32) error {
	for _, n := range in.names {
		if n.written {
			continue
		}
		if n.node.Mode.IsDir() {
			if err := img.writeDir(n.inode, in.number); err != nil {
				return err
			}
			continue
		}
		if n.content != nil {
			img.stats.Files++
		}
		if err := img.addInode(n.inode, img.encodeInode(n.inode)); err != nil {
			return err
		}
	}
	d, err := writeListing(img.dirTable, in.names)
	if err != nil {
		return err
	}
	return img.addInode(in, img.encodeDir(in, d, parent))
}

func (img *image) addInode(in *inode, b []byte) error {
	in.ref, in.written = img.inodeTable.ref(), true
	return img.inodeTable.append(b)
}

func (img *image) writeFragments() (uint64, error) {
	if len(img.frags) == 0 {
		return absent, nil
	}
	var f fields
	for _, x := range img.frags {
		f = f.u64(x.start).u32(x.size).u32(0)
	}
	return writeTable(img.out, img.Codec, f)
}

// writeExport writes the places of all inodes by number.
func (img *image) writeExport(s *super) (uint64, error) {
	if !img.Export {
		return absent, nil
	}
	s.flags |= flagExport
	var f fields
	for _, in := range img.inodes {
		f = f.u64(in.ref)
	}
	return writeTable(img.out, img.Codec, f)
}

func (img *image) super(s super) []byte {
	f := fields(nil).u32(magic).u32(uint32(len(img.inodes))).u32(uint32(img.Time.Unix())).u32(uint32(img.BlockSize)).u32(uint32(len(img.frags)))
	f = f.u16(codeZstd).u16(uint16(bits.TrailingZeros(uint(img.BlockSize)))).u16(s.flags).u16(uint16(len(img.ids))).u16(4).u16(0)
	return f.u64(s.root).u64(s.used).u64(s.ids).u64(s.xattrs).u64(s.inodes).u64(s.dirs).u64(s.frags).u64(s.export)
}
