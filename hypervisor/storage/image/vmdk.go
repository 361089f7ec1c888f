package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A VMDK is accepted in the two kinds that are one file with everything in it:
// monolithicSparse and streamOptimized ("Virtual Disk Format 5.0", VMware).
// The other kinds are lists of other files.
const (
	sector        = 512
	maxDescriptor = 1 << 20
)

func readVMDK(r io.ReaderAt) (Info, error) {
	var h [sector]byte
	if n, err := r.ReadAt(h[:], 0); n < len(h) {
		if errors.Is(err, io.EOF) {
			return Info{}, fmt.Errorf("%w: no VMDK header", ErrFormat)
		}
		return Info{}, fmt.Errorf("read VMDK header: %w", err)
	}
	if bytes.HasPrefix(h[:], []byte("# Disk DescriptorFile")) || bytes.HasPrefix(h[:], []byte("COWD")) {
		return Info{}, fmt.Errorf("%w: it is a list of extents", ErrExternal)
	}
	le := binary.LittleEndian
	if !bytes.HasPrefix(h[:], []byte("KDMV")) {
		return Info{}, fmt.Errorf("%w: no VMDK header", ErrFormat)
	}
	capacity, at, length := le.Uint64(h[12:]), le.Uint64(h[28:]), le.Uint64(h[36:])
	switch {
	case capacity == 0: // QEMU then reads the descriptor as a list of extents
		return Info{}, fmt.Errorf("%w: it is a list of extents", ErrExternal)
	case capacity > MaxSize/sector:
		return Info{}, fmt.Errorf("%w: size of %d sectors", ErrFeature, capacity)
	case at == 0 || at > MaxSize/sector || length == 0 || length > maxDescriptor/sector:
		return Info{}, fmt.Errorf("%w: no descriptor inside", ErrFormat)
	}
	d := make([]byte, length*sector)
	if n, err := r.ReadAt(d, int64(at*sector)); err != nil && !errors.Is(err, io.EOF) {
		return Info{}, fmt.Errorf("read VMDK descriptor: %w", err)
	} else {
		d = d[:n]
	}
	return Info{Format: "vmdk", Size: int64(capacity * sector)}, checkDescriptor(d)
}

// checkDescriptor refuses parents and any kind but the two of one file. Keys
// are compared without case and blanks, as loosely as any reader might.
func checkDescriptor(d []byte) error {
	text, _, _ := bytes.Cut(d, []byte{0})
	kind := ""
	for line := range strings.SplitSeq(strings.ReplaceAll(string(text), "\r", "\n"), "\n") {
		key, value, _ := strings.Cut(line, "=")
		value = strings.ToLower(strings.Trim(value, " \t\""))
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "parentcid":
			if value != "ffffffff" {
				return fmt.Errorf("%w: it has a parent", ErrExternal)
			}
		case "parentfilenamehint":
			return fmt.Errorf("%w: it names a parent", ErrExternal)
		case "createtype":
			kind = value
		}
	}
	if strings.Contains(strings.ToLower(string(text)), "parentfilenamehint") {
		return fmt.Errorf("%w: it names a parent", ErrExternal)
	}
	if kind != "monolithicsparse" && kind != "streamoptimized" {
		return fmt.Errorf("%w: VMDK of type %q", ErrFeature, kind)
	}
	return nil
}
