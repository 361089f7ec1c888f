package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Errors that say why an image is refused.
var (
	ErrFormat   = errors.New("image is not of the declared format")
	ErrExternal = errors.New("image refers to another file")
	ErrFeature  = errors.New("image uses a feature that is not supported")
)

// MaxSize bounds what a header may claim: 128 TiB, more than any volume here.
const MaxSize = 128 << 40

// Info is what a header says.
type Info struct {
	Format string
	Size   int64 // bytes the guest sees
}

// The qcow2 header, as docs/interop/qcow2.txt of QEMU defines it; big endian.
const (
	qcow2Magic      = 0x514649fb
	extEnd          = 0x00000000
	extBacking      = 0xe2792aca
	extDataFile     = 0x44415441
	featDirty       = 1 << 0
	featCorrupt     = 1 << 1
	featDataFile    = 1 << 2
	featCompression = 1 << 3
	featExtendedL2  = 1 << 4
)

// readQcow2 reads a qcow2 header and refuses what leads out of the file.
func readQcow2(r io.ReaderAt) (Info, error) {
	var h [104]byte
	n, err := r.ReadAt(h[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Info{}, fmt.Errorf("read qcow2 header: %w", err)
	}
	be := binary.BigEndian
	if n < 72 || be.Uint32(h[0:]) != qcow2Magic {
		return Info{}, fmt.Errorf("%w: no qcow2 header", ErrFormat)
	}
	version, bits, size := be.Uint32(h[4:]), be.Uint32(h[20:]), be.Uint64(h[24:])
	switch {
	case version != 2 && version != 3:
		return Info{}, fmt.Errorf("%w: qcow2 version %d", ErrFeature, version)
	case be.Uint64(h[8:]) != 0 || be.Uint32(h[16:]) != 0:
		return Info{}, fmt.Errorf("%w: it has a backing file", ErrExternal)
	case bits < 9 || bits > 21:
		return Info{}, fmt.Errorf("%w: clusters of 2^%d bytes", ErrFormat, bits)
	case size > MaxSize:
		return Info{}, fmt.Errorf("%w: size of %d bytes", ErrFeature, size)
	case be.Uint32(h[32:]) != 0:
		return Info{}, fmt.Errorf("%w: encryption", ErrFeature)
	}
	length := uint32(72)
	if version == 3 {
		if n < 104 {
			return Info{}, fmt.Errorf("%w: header is cut short", ErrFormat)
		}
		if err := checkFeatures(be.Uint64(h[72:])); err != nil {
			return Info{}, err
		}
		if length = be.Uint32(h[100:]); length < 104 || length > 1<<bits || length%8 != 0 {
			return Info{}, fmt.Errorf("%w: header of %d bytes", ErrFormat, length)
		}
	}
	if err := checkExtensions(r, int64(length), int64(1)<<bits); err != nil {
		return Info{}, err
	}
	return Info{Format: "qcow2", Size: int64(size)}, nil
}

func checkFeatures(f uint64) error {
	switch {
	case f&featDataFile != 0:
		return fmt.Errorf("%w: it has an external data file", ErrExternal)
	case f&featCorrupt != 0:
		return fmt.Errorf("%w: it is marked as corrupt", ErrFormat)
	case f&^(featDirty|featCompression|featExtendedL2) != 0:
		return fmt.Errorf("%w: incompatible features %#x", ErrFeature, f)
	}
	return nil
}

// checkExtensions walks the header extensions, which fill the first cluster
// up to an end mark.
func checkExtensions(r io.ReaderAt, at, cluster int64) error {
	for at+8 <= cluster {
		var e [8]byte
		if n, err := r.ReadAt(e[:], at); n < len(e) {
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("%w: header extensions are cut short", ErrFormat)
			}
			return fmt.Errorf("read qcow2 header: %w", err)
		}
		kind, length := binary.BigEndian.Uint32(e[0:]), int64(binary.BigEndian.Uint32(e[4:]))
		switch kind {
		case extEnd:
			return nil
		case extBacking:
			return fmt.Errorf("%w: it names a backing format", ErrExternal)
		case extDataFile:
			return fmt.Errorf("%w: it names an external data file", ErrExternal)
		}
		at += 8 + (length+7)&^7
	}
	if at > cluster {
		return fmt.Errorf("%w: a header extension leaves the first cluster", ErrFormat)
	}
	return nil
}
