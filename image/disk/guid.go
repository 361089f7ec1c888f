package disk

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// guid is a GUID as it lies on disk: the first three groups little-endian, the
// rest as written (UEFI specification 2.10, appendix A).
type guid [16]byte

func parseGUID(s string) (guid, error) {
	var g guid
	bad := fmt.Errorf("%q is not a GUID", s)
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, bad
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return g, bad
	}
	binary.LittleEndian.PutUint32(g[0:], binary.BigEndian.Uint32(b[0:]))
	binary.LittleEndian.PutUint16(g[4:], binary.BigEndian.Uint16(b[4:]))
	binary.LittleEndian.PutUint16(g[6:], binary.BigEndian.Uint16(b[6:]))
	copy(g[8:], b[8:])
	return g, nil
}

func (g guid) String() string {
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", binary.LittleEndian.Uint32(g[0:]), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:16])
}

// NewGUID makes a random (version 4) GUID from r, which is crypto/rand.Reader
// on a machine and a fixed stream in a test or a reproducible build.
func NewGUID(r io.Reader) (string, error) {
	var g guid
	if _, err := io.ReadFull(r, g[:]); err != nil {
		return "", fmt.Errorf("make GUID: %w", err)
	}
	g[7] = g[7]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g.String(), nil
}
