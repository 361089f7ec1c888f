package e2e

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

// Places of the exFAT volume that exfatStick makes, in sectors of 512 bytes
// ("exFAT file system specification", Microsoft).
const (
	exSector  = 512
	exFAT     = 2048    // begin of the allocation table
	exFATLen  = 256     // its length
	exHeap    = 4096    // begin of the clusters, which count from 2
	exTotal   = 1 << 20 // 512 MiB
	exShift   = 6       // clusters of 32 KiB
	exCluster = exSector << exShift
	exCount   = (exTotal - exHeap) >> exShift
)

// exfatStick makes a stick with one exFAT volume that holds one file at its top
// in one piece: there is no program that does so without mounting it.
func exfatStick(t *testing.T, name, from string) string {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "exfat.img")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const bitmap, upcase, root, first = 2, 3, 4, 5
	clusters := int(st.Size()+exCluster-1) / exCluster
	used := make([]byte, (exCount+7)/8)
	for i := range clusters + first - 2 {
		used[i/8] |= 1 << (i % 8)
	}
	le := binary.LittleEndian
	table := []byte{0xf8} // a medium, and a chain of one cluster each
	table = append(table, bytes.Repeat([]byte{0xff}, 4*first-1)...)
	letters := exLetters()
	dir := make([]byte, 64)
	dir[0], dir[32] = 0x81, 0x82
	le.PutUint32(dir[20:], bitmap)
	le.PutUint64(dir[24:], uint64(len(used)))
	le.PutUint32(dir[36:], exSum(letters))
	le.PutUint32(dir[52:], upcase)
	le.PutUint64(dir[56:], uint64(len(letters)))
	boot := exBoot(root)
	place := func(cluster int) int64 { return exHeap*exSector + int64(cluster-2)*exCluster }
	for at, b := range map[int64][]byte{
		0: boot, 12 * exSector: boot, exFAT * exSector: table, place(bitmap): used, place(upcase): letters, place(root): append(dir, exFile(name, first, st.Size())...),
	} {
		if _, err := w.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.Copy(io.NewOffsetWriter(w, place(first)), in); err != nil {
		t.Fatal(err)
	}
	if err := w.Truncate(exTotal * exSector); err != nil {
		t.Fatal(err)
	}
	return path
}

// exBoot is the boot region: twelve sectors, the last of which is the sum of the
// others.
func exBoot(root uint32) []byte {
	le := binary.LittleEndian
	b := make([]byte, 12*exSector)
	copy(b, "\xeb\x76\x90EXFAT   ")
	le.PutUint64(b[72:], exTotal)
	le.PutUint32(b[80:], exFAT)
	le.PutUint32(b[84:], exFATLen)
	le.PutUint32(b[88:], exHeap)
	le.PutUint32(b[92:], exCount)
	le.PutUint32(b[96:], root)
	le.PutUint32(b[100:], 7)      // serial number
	le.PutUint16(b[104:], 0x0100) // revision
	b[108], b[109], b[110] = 9, exShift, 1
	b[111], b[112] = 0x80, 0xff
	for s := range 9 {
		b[(s+1)*exSector-2], b[(s+1)*exSector-1] = 0x55, 0xaa
	}
	sum := exSum(b[:11*exSector], 106, 107, 112)
	for i := 11 * exSector; i < len(b); i += 4 {
		le.PutUint32(b[i:], sum)
	}
	return b
}

// exSum is the sum of bytes without those at some places.
func exSum(b []byte, without ...int) (sum uint32) {
	for i, c := range b {
		if !slices.Contains(without, i) {
			sum = sum<<31 | sum>>1
			sum += uint32(c)
		}
	}
	return sum
}

// exLetters is the table of capital letters: ASCII, all others as they are.
func exLetters() (b []byte) {
	for c := range uint16(128) {
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return append(b, 0xff, 0xff, 0x80, 0xff) // 0xff80 more
}

// exFile are the directory's entries of a file.
func exFile(name string, cluster uint32, size int64) []byte {
	le := binary.LittleEndian
	chars := utf16.Encode([]rune(name))
	names := (len(chars) + 14) / 15
	b := make([]byte, 32*(2+names))
	b[0], b[1] = 0x85, byte(1+names)
	le.PutUint16(b[4:], 0x20)
	for _, at := range []int{8, 12, 16} {
		le.PutUint32(b[at:], 1<<21|1<<16) // 1 January 1980
	}
	s := b[32:]
	s[0], s[1], s[3] = 0xc0, 3, byte(len(chars)) // in one piece
	var hash uint16
	for _, c := range utf16.Encode([]rune(strings.ToUpper(name))) {
		for _, x := range []byte{byte(c), byte(c >> 8)} {
			hash = hash<<15 | hash>>1
			hash += uint16(x)
		}
	}
	le.PutUint16(s[4:], hash)
	le.PutUint64(s[8:], uint64(size))
	le.PutUint32(s[20:], cluster)
	le.PutUint64(s[24:], uint64(size))
	for i, c := range chars {
		n := b[64+32*(i/15):]
		n[0] = 0xc1
		le.PutUint16(n[2+2*(i%15):], c)
	}
	var sum uint16
	for i, c := range b {
		if i != 2 && i != 3 {
			sum = sum<<15 | sum>>1
			sum += uint16(c)
		}
	}
	le.PutUint16(b[2:], sum)
	return b
}
