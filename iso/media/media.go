// Package media makes the hybrid image of an installation medium: one file
// that starts as CD and as USB disk, under a BIOS and under UEFI.
//
// How it does: an El Torito record for either firmware (CD), GRUB's
// boot_hybrid.img in sector 0 that knows where the BIOS image lies (USB under
// a BIOS), and a GUID partition table whose one EFI partition is the EFI image
// inside the ISO file system (USB under UEFI).
package media

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"joist/internal/run"
)

// Spec is an image to be. The same Spec over the same files gives the same
// bytes.
type Spec struct {
	Files     map[string]string // path in the image ("/boot/vmlinuz") → local file
	VolumeID  string            // up to 32 of A-Z 0-9 _
	BIOS      string            // path in the image of GRUB's El Torito core (boot.MediumCore)
	EFI       string            // path in the image of the FAT image with the loaders (boot.MediumImage)
	HybridMBR string            // local file: GRUB's boot_hybrid.img
	Date      time.Time         // of the volume and of every file
	DiskGUID  string            // of the partition table
}

var (
	rePath   = regexp.MustCompile(`^(/[A-Za-z0-9._+-]+)+$`)
	reVolume = regexp.MustCompile(`^[A-Z0-9_]{1,32}$`)
	reGUID   = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
)

// Validate checks what reaches the argument vector.
func (s Spec) Validate() error {
	switch {
	case !reVolume.MatchString(s.VolumeID):
		return fmt.Errorf("check medium: %q is not a volume id", s.VolumeID)
	case !reGUID.MatchString(s.DiskGUID):
		return fmt.Errorf("check medium: %q is not a GUID", s.DiskGUID)
	case s.Date.Year() < 1970 || s.Date.Year() > 2099:
		return fmt.Errorf("check medium: %v is no date for it", s.Date)
	case s.HybridMBR == "":
		return errors.New("check medium: the boot sector is missing")
	}
	for _, p := range []string{s.BIOS, s.EFI} {
		if s.Files[p] == "" {
			return fmt.Errorf("check medium: the boot image %q is not among its files", p)
		}
	}
	for p, local := range s.Files {
		if !rePath.MatchString(p) || path.Clean(p) != p || strings.Count(p, "/") > 7 {
			return fmt.Errorf("check medium: %q is not a path for it", p)
		}
		if local == "" || strings.ContainsAny(local, "=\\\n") {
			return fmt.Errorf("check medium: %q cannot be passed as a local file", local)
		}
	}
	return nil
}

// Args is the call of xorriso that makes the image out. Paths and identifiers
// are fixed or checked; nothing of the building machine gets into the image.
func (s Spec) Args(out string) ([]string, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	date := s.Date.UTC().Format("20060102150405") + "00"
	args := []string{
		"-no_rc", // nobody's start-up file
		"-as", "mkisofs",
		"-quiet",
		"-o", out,
		"-V", s.VolumeID,
		"-A", "JOIST", "-publisher", "JOIST", "-preparer", "JOIST", // the default names xorriso's version
		"-iso-level", "3",
		"-r", "-dir-mode", "0555", "-file-mode", "0444",
		"--modification-date=" + date,
		"--set_all_file_dates", date,
		"--gpt_disk_guid", strings.ToLower(s.DiskGUID),
		"-pad", // drives read ahead of the last file
		"-c", "/boot/boot.cat", "--boot-catalog-hide",
		"-b", s.BIOS, "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info",
		"--grub2-mbr", s.HybridMBR,
		"--efi-boot", s.EFI, "-efi-boot-part", "--efi-boot-image",
		"--protective-msdos-label",
		"-graft-points",
	}
	for _, p := range slices.Sorted(maps.Keys(s.Files)) {
		args = append(args, p+"="+s.Files[p])
	}
	return args, nil
}

// Write makes the image out with r, which may run inside the build sandbox;
// all local paths are then those of the sandbox.
func Write(ctx context.Context, r run.Runner, s Spec, out string) error {
	args, err := s.Args(out)
	if err != nil {
		return err
	}
	_, err = r.Run(ctx, run.Cmd{Path: "xorriso", Args: args, Env: []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=/nonexistent",
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(s.Date.Unix(), 10),
	}})
	if err != nil {
		return fmt.Errorf("write medium %q: %w", out, err)
	}
	return nil
}
