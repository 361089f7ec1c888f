// Package verity writes, reads and checks dm-verity hash trees in the format
// of veritysetup (version 1, SHA-256, blocks of 4096 bytes, salt and superblock
// stored behind the data of the same device). Kernel:
// Documentation/admin-guide/device-mapper/verity.rst; on disk:
// https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity.
//
// It protects a system image against damage. Against an attacker it protects
// only where the root hash comes from a place that he cannot write.
package verity

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// Block is the size of data and hash blocks.
	Block = 4096

	digestSize = 32
	perBlock   = Block / digestSize
	maxSalt    = 256
	superSize  = 512
	magic      = "verity\x00\x00"
	maxBlocks  = 1 << 40 // 4 PiB: no image is larger, and all sums below stay small
)

// Superblock describes one tree.
type Superblock struct {
	UUID   [16]byte
	Blocks int64  // of data
	Salt   []byte // up to 256 bytes
}

// encode makes the block that lies between data and tree.
func (s Superblock) encode() []byte {
	b := make([]byte, Block)
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], 1)  // version
	le.PutUint32(b[12:], 1) // hash type: salt before the data
	copy(b[16:], s.UUID[:])
	copy(b[32:], "sha256")
	le.PutUint32(b[64:], Block)
	le.PutUint32(b[68:], Block)
	le.PutUint64(b[72:], uint64(s.Blocks))
	le.PutUint16(b[80:], uint16(len(s.Salt)))
	copy(b[88:], s.Salt)
	return b
}

// ErrNoSuperblock says that there is no tree where one was looked for.
var ErrNoSuperblock = errors.New("no dm-verity superblock")

// ParseSuperblock reads a superblock of the one kind that Append writes.
func ParseSuperblock(b []byte) (Superblock, error) {
	var s Superblock
	if len(b) < superSize || string(b[:8]) != magic {
		return s, fmt.Errorf("parse verity superblock: %w", ErrNoSuperblock)
	}
	le := binary.LittleEndian
	algorithm, _, _ := bytes.Cut(b[32:64], []byte{0})
	blocks, salt := le.Uint64(b[72:]), int(le.Uint16(b[80:]))
	switch {
	case le.Uint32(b[8:]) != 1 || le.Uint32(b[12:]) != 1:
		return s, errors.New("parse verity superblock: the version is not 1")
	case string(algorithm) != "sha256":
		return s, fmt.Errorf("parse verity superblock: the algorithm is %q, not sha256", algorithm)
	case le.Uint32(b[64:]) != Block || le.Uint32(b[68:]) != Block:
		return s, errors.New("parse verity superblock: blocks are not of 4096 bytes")
	case blocks == 0 || blocks > maxBlocks || salt > maxSalt:
		return s, errors.New("parse verity superblock: sizes are out of range")
	}
	copy(s.UUID[:], b[16:32])
	s.Blocks = int64(blocks)
	s.Salt = bytes.Clone(b[88 : 88+salt])
	return s, nil
}

// Locate finds the tree behind a squashfs image: its superblock lies at the
// image's length rounded up to a block.
func Locate(r io.ReaderAt) (Superblock, int64, error) {
	var s Superblock
	b := make([]byte, superSize)
	if _, err := r.ReadAt(b[:96], 0); err != nil {
		return s, 0, fmt.Errorf("read squashfs superblock: %w", err)
	}
	used := binary.LittleEndian.Uint64(b[40:])
	if string(b[:4]) != "hsqs" || used > maxBlocks*Block {
		return s, 0, errors.New("read squashfs superblock: this is no squashfs image")
	}
	at := int64(used+Block-1) / Block * Block
	if _, err := r.ReadAt(b, at); err != nil {
		return s, 0, fmt.Errorf("read verity superblock: %w", err)
	}
	s, err := ParseSuperblock(b)
	if err == nil && s.Blocks*Block != at {
		err = fmt.Errorf("the verity tree covers %d bytes, the image has %d", s.Blocks*Block, at)
	}
	return s, at, err
}

// levels returns how many hash blocks each level has, the lowest first. One
// data block needs no tree: its digest is the root.
func levels(blocks int64) []int64 {
	var l []int64
	for blocks > 1 {
		blocks = (blocks + perBlock - 1) / perBlock
		l = append(l, blocks)
	}
	return l
}

// TreeSize is what a tree with its superblock adds to an image of size bytes.
func TreeSize(size int64) int64 {
	n := int64(Block)
	for _, c := range levels((size + Block - 1) / Block) {
		n += c * Block
	}
	return n
}

// Target is one line of a device-mapper table.
type Target struct {
	Sectors int64  // length, in units of 512 bytes; it starts at 0
	Type    string // "verity"
	Params  string
}

// String is the line as `dmsetup table` prints it.
func (t Target) String() string { return fmt.Sprintf("0 %d %s %s", t.Sectors, t.Type, t.Params) }

// Table is what the kernel needs to open the image on dev ("/dev/sda3" or
// "8:3"), data and tree on the same device. options are the target's optional
// words, "panic_on_corruption" for one.
func Table(s Superblock, dev, root string, options ...string) (Target, error) {
	if _, err := parseRoot(root); err != nil {
		return Target{}, err
	}
	if dev == "" || strings.ContainsAny(dev, " \t\n\\") {
		return Target{}, fmt.Errorf("make verity table: %q is not a device", dev)
	}
	salt := "-"
	if len(s.Salt) > 0 {
		salt = hex.EncodeToString(s.Salt)
	}
	p := fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s %s", dev, dev, Block, Block, s.Blocks, s.Blocks+1, root, salt)
	if len(options) > 0 {
		p += fmt.Sprintf(" %d %s", len(options), strings.Join(options, " "))
	}
	return Target{Sectors: s.Blocks * (Block / 512), Type: "verity", Params: p}, nil
}

func parseRoot(root string) ([]byte, error) {
	b, err := hex.DecodeString(root)
	if err != nil || len(b) != digestSize || root != strings.ToLower(root) {
		return nil, fmt.Errorf("%q is not a root hash: 64 lower-case hexadecimal digits", root)
	}
	return b, nil
}
