package block

import (
	"bytes"
	"io"
	"os"
)

// Sniff names the file system type that mount(2) wants for the device, as far
// as a medium of ours can be on it: "iso9660", "vfat", "exfat", "ntfs3" or "".
func (d Device) Sniff() (string, error) {
	f, err := os.Open(d.Path())
	if err != nil {
		return "", err
	}
	defer f.Close()
	return Sniff(f)
}

// Sniff reads the magic numbers of ISO 9660 (ECMA-119, 8.1: "CD001" in sector
// 16), FAT (the type strings of the BIOS parameter block), exFAT and NTFS (the
// names in its place). Devices too small for one of them do not have it.
func Sniff(r io.ReaderAt) (string, error) {
	b := make([]byte, 6)
	if _, err := r.ReadAt(b, 16*2048); err != nil && err != io.EOF {
		return "", err
	} else if err == nil && string(b[1:]) == "CD001" {
		return "iso9660", nil
	}
	s := make([]byte, 512)
	if _, err := r.ReadAt(s, 0); err != nil {
		if err == io.EOF {
			return "", nil
		}
		return "", err
	}
	switch string(s[3:11]) {
	case "EXFAT   ":
		return "exfat", nil
	case "NTFS    ":
		return "ntfs3", nil
	}
	if s[510] == 0x55 && s[511] == 0xaa &&
		(bytes.HasPrefix(s[54:], []byte("FAT1")) || bytes.HasPrefix(s[82:], []byte("FAT32"))) {
		return "vfat", nil
	}
	return "", nil
}

// FileSystem names what mount(2) calls the file system on a volume of the
// node: "ext4", "xfs" or "".
func FileSystem(r io.ReaderAt) (string, error) {
	b := make([]byte, 1024+0x3a)
	if _, err := r.ReadAt(b, 0); err != nil {
		return "", err
	}
	switch {
	case bytes.HasPrefix(b, []byte("XFSB")):
		return "xfs", nil
	case bytes.HasSuffix(b, []byte("\x53\xef")):
		return "ext4", nil
	}
	return "", nil
}
