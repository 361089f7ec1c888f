// Package dm makes read-only dm-verity and linear devices through the device-mapper
// ioctls, without dmsetup or udev. It reads the verity superblock that
// veritysetup(8) puts between data and hash tree; the root hash comes from
// outside (the kernel command line).
package dm

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"joist/image/verity"
)

// Verity is a verity superblock, version 1, as described at
// https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity.
type Verity struct {
	HashType   uint32
	Algorithm  string
	DataBlock  uint32 // bytes
	HashBlock  uint32 // bytes
	DataBlocks uint64
	Salt       []byte
	HashStart  uint64 // first hash block, in hash blocks from the start of the device
}

// ErrNotImage means that the device holds no system image.
var ErrNotImage = errors.New("no squashfs with verity tree")

const block = 4096

// ReadVerity reads the superblock behind the squashfs at the start of r.
func ReadVerity(r io.ReaderAt) (Verity, error) {
	le := binary.LittleEndian
	s := make([]byte, 96)
	if _, err := r.ReadAt(s, 0); err != nil {
		return Verity{}, fmt.Errorf("read system image: %w", err)
	}
	// squashfs 4.0 superblock: magic at 0, version at 28, bytes_used at 40.
	if le.Uint32(s) != 0x73717368 || le.Uint16(s[28:]) != 4 {
		return Verity{}, fmt.Errorf("%w: it does not start with a squashfs", ErrNotImage)
	}
	used := le.Uint64(s[40:])
	if used == 0 || used > 1<<50 {
		return Verity{}, fmt.Errorf("%w: squashfs of %d bytes", ErrNotImage, used)
	}
	at := (used + block - 1) / block * block
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, int64(at)); err != nil {
		return Verity{}, fmt.Errorf("read verity superblock: %w", err)
	}
	if string(b[:8]) != "verity\x00\x00" || le.Uint32(b[8:]) != 1 {
		return Verity{}, fmt.Errorf("%w: no verity superblock at byte %d", ErrNotImage, at)
	}
	alg, _, _ := strings.Cut(string(b[32:64]), "\x00")
	v := Verity{HashType: le.Uint32(b[12:]), Algorithm: alg, DataBlock: le.Uint32(b[64:]), HashBlock: le.Uint32(b[68:]),
		DataBlocks: le.Uint64(b[72:]), HashStart: at/block + 1}
	n := le.Uint16(b[80:])
	if n > 256 || v.DataBlock != block || v.HashBlock != block || v.HashType != 1 || alg != "sha256" || v.DataBlocks != at/block {
		return Verity{}, fmt.Errorf("%w: superblock says %s, type %d, blocks of %d and %d, %d of them, salt of %d bytes",
			ErrNotImage, alg, v.HashType, v.DataBlock, v.HashBlock, v.DataBlocks, n)
	}
	v.Salt = b[88 : 88+n]
	return v, nil
}

// End is where the tree ends, in bytes from the start of the image.
func (v Verity) End() int64 {
	size := int64(v.DataBlocks) * block
	return size + verity.TreeSize(size)
}

// Linear is the line for a piece of device dev, which begins and ends at
// multiples of 512 bytes (Documentation/admin-guide/device-mapper/linear.rst).
func Linear(dev string, at, size int64) Target {
	return Target{Sectors: uint64(size / 512), Type: "linear", Params: fmt.Sprintf("%s %d", dev, at/512)}
}

// Target is one line of a device-mapper table.
type Target struct {
	Start, Sectors uint64 // of 512 bytes
	Type, Params   string
}

var rootHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Target is the table line for the tree on device dev ("/dev/sda3"); see
// Documentation/admin-guide/device-mapper/verity.rst.
func (v Verity) Target(dev, root string) (Target, error) {
	if !rootHash.MatchString(root) {
		return Target{}, fmt.Errorf("root hash %q is not 64 hex digits", root)
	}
	salt := "-"
	if len(v.Salt) > 0 {
		salt = hex.EncodeToString(v.Salt)
	}
	return Target{Sectors: v.DataBlocks * (block / 512), Type: "verity",
		Params: fmt.Sprintf("%d %s %s %d %d %d %d %s %s %s", v.HashType, dev, dev, v.DataBlock, v.HashBlock,
			v.DataBlocks, v.HashStart, v.Algorithm, root, salt)}, nil
}
