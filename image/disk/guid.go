package disk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
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

// systemSize is the part of a disk's GUID that all disks of a system share.
const systemSize = len("00000000-0000-0000")

// SystemOf is that part in upper case, "" of what is no GUID.
func SystemOf(guid string) string {
	if len(guid) != 36 {
		return ""
	}
	return strings.ToUpper(guid[:systemSize])
}

// NextSystem is what takes its place when all disks of a system become a new
// one in place. It follows from the old one: a power cut may leave some disks
// with the old one and some with the new, which are still to be known as disks
// of one system.
func NextSystem(system string) string {
	sum := sha256.Sum256([]byte("the system after " + strings.ToUpper(system)))
	s := strings.ToUpper(hex.EncodeToString(sum[:8]))
	return s[:8] + "-" + s[8:12] + "-4" + s[13:] // a version 4 UUID, as NewGUID's
}

// OneSystem says whether disks that become a new system in place are of one
// system, by their GUIDs.
func OneSystem(guids ...string) bool {
	return slices.ContainsFunc(guids, func(old string) bool {
		s := SystemOf(old)
		next := NextSystem(s)
		return s != "" && !slices.ContainsFunc(guids, func(g string) bool { return SystemOf(g) != s && SystemOf(g) != next })
	})
}
