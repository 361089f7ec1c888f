// Package media makes the hybrid image of an installation medium: one file
// that starts as CD and as USB disk, under a BIOS and under UEFI, with Secure
// Boot or without.
//
// How it does: an El Torito record for either firmware (CD), GRUB's
// boot_hybrid.img in sector 0 that knows where the BIOS image lies (USB under
// a BIOS), and a GUID partition table whose EFI partition is the EFI image
// inside the ISO file system (USB under UEFI).
//
// Its files may also be copied to a FAT, exFAT or NTFS volume: Check sees to
// names and sizes.
package media

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"joist/image/disk"
	"joist/iso/media/iso9660"
	"joist/rootfs/tree"
)

// Spec is an image to be. The same Spec over the same content gives the same
// bytes.
type Spec struct {
	Files       map[string]tree.Source // path in the image ("/boot/vmlinuz") → content
	VolumeID    string                 // up to 32 of A-Z 0-9 _
	Application string                 // what made it, with the build: capitals, up to 128
	BIOS        string                 // path in the image of GRUB's El Torito core (boot.MediumCore)
	EFI         string                 // path in the image of the FAT image with the loaders (boot.MediumImage)
	HybridMBR   tree.Source            // GRUB's boot_hybrid.img
	Date        time.Time              // of the volume and of every file
	DiskGUID    string                 // of the partition table
}

// Image is a planned medium.
type Image struct {
	Volume *iso9660.Layout
	Table  disk.Layout
	BIOS   iso9660.Chunk // GRUB's core, to be patched with its place
}

const (
	lba = 512 // the sectors of partition tables and of a BIOS

	// Drives read ahead of the last file, and some report an error there; the
	// backup table lies at the end of this room.
	padding = 150 * iso9660.Sector
	tail    = 33 * lba // the backup of the partition table
)

// Plan lays the medium out. It is pure and reads no content.
func (s Spec) Plan() (Image, error) {
	if err := s.Check().Err(); err != nil {
		return Image{}, err
	}
	root := tree.New()
	root.Mode = fs.ModeDir | 0o555
	for _, p := range slices.Sorted(maps.Keys(s.Files)) {
		if err := root.AddFile(p, 0o444, s.Files[p]); err != nil {
			return Image{}, fmt.Errorf("plan medium: %w", err)
		}
	}
	err := root.Walk(func(_ string, n *tree.Node) error {
		n.Mode &^= 0o222 // a medium is read-only
		return nil
	})
	if err != nil {
		return Image{}, err
	}
	layout, err := iso9660.Volume{
		ID: s.VolumeID, Publisher: "JOIST", Application: s.Application, Time: s.Date, Root: root, Pad: padding,
		Boot: []iso9660.BootImage{{Path: s.BIOS, Load: 4}, {Path: s.EFI, EFI: true}},
	}.Plan()
	if err != nil {
		return Image{}, fmt.Errorf("plan medium: %w", err)
	}
	bios, _ := layout.Find(s.BIOS) // both are entered in the catalogue, so they exist
	efi, _ := layout.Find(s.EFI)
	table, err := partitions(s.DiskGUID, layout.Size, efi.At, sectorsUp(efi.Data.Size()))
	return Image{layout, table, bios.Chunk}, err
}

func sectorsUp(n int64) int64 { return (n + iso9660.Sector - 1) / iso9660.Sector * iso9660.Sector }

// Attributes of a partition: the firmware's "required" (UEFI 2.10, table 5.8)
// and "read-only", which Linux, too, takes from Microsoft.
const fixed = 1 | 1<<60

// partitions is the table of the medium as a disk: the EFI image, and the rest
// of the ISO file system before and behind it. Otherwise a tool that adds a
// partition, for an answer file say, would take that room for free.
func partitions(diskGUID string, size, efi, efiSize int64) (disk.Layout, error) {
	l := disk.Layout{DiskGUID: diskGUID, SectorSize: lba, Size: size}
	for i, p := range []disk.Partition{
		{Name: "Joist medium, head", Type: disk.TypeLinux, Start: iso9660.SystemArea, Size: efi - iso9660.SystemArea},
		{Name: "EFI boot partition", Type: disk.TypeESP, Start: efi, Size: efiSize},
		{Name: "Joist medium", Type: disk.TypeLinux, Start: efi + efiSize, Size: size - tail - efi - efiSize},
	} {
		guid, err := disk.NewGUID(stream(diskGUID, p.Name))
		if err != nil {
			return l, fmt.Errorf("plan medium: %w", err)
		}
		p.Number, p.GUID, p.Attributes = i+1, guid, fixed
		l.Partitions = append(l.Partitions, p)
	}
	return l, nil
}

// stream is what a GUID is made of that must be the same in every build.
func stream(parts ...string) *digest {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return (*digest)(&sum)
}

type digest [sha256.Size]byte

func (d *digest) Read(b []byte) (int, error) { return copy(b, d[:]), nil }
