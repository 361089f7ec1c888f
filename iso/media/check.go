package media

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"joist/internal/finding"
)

var (
	rePath   = regexp.MustCompile(`^(/[A-Za-z0-9._+-]+)+$`)
	reVolume = regexp.MustCompile(`^[A-Z0-9_]{1,32}$`)
	reApp    = regexp.MustCompile(`^[A-Z0-9_ .-]{0,128}$`)
	reGUID   = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	// Names that Windows keeps for devices, with any extension.
	reDevice = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)`)
)

const (
	maxDepth   = 8         // levels of directories, ECMA-119 6.8.2.1
	maxFATFile = 1<<32 - 1 // bytes
)

// Check reports all that is wrong with the medium. A file that a FAT volume
// cannot hold is a warning: the image itself boots with it.
func (s Spec) Check() finding.List {
	var fl finding.List
	if !reVolume.MatchString(s.VolumeID) {
		fl.Stopf("medium-volume", "", "use up to 32 capital letters, digits and _", "%q is not a volume id", s.VolumeID)
	}
	if !reApp.MatchString(s.Application) {
		fl.Stopf("medium-application", "", "use up to 128 capital letters, digits, blanks, dots, - and _", "%q does not fit the volume descriptor", s.Application)
	}
	if !reGUID.MatchString(s.DiskGUID) {
		fl.Stopf("medium-guid", "", "", "%q is not a GUID", s.DiskGUID)
	}
	if y := s.Date.UTC().Year(); y < 1970 || y > 2099 {
		fl.Stopf("medium-date", "", "set SOURCE_DATE_EPOCH to a date between 1970 and 2099", "%v cannot be written to a medium", s.Date)
	}
	if s.HybridMBR == nil {
		fl.Stopf("medium-boot", "", "", "the boot sector is missing")
	}
	for _, p := range []string{s.BIOS, s.EFI} {
		if f := s.Files[p]; f == nil || f.Size() == 0 {
			fl.Stopf("medium-boot", p, "", "the boot image is not among the medium's files")
		}
	}
	if s.BIOS == s.EFI {
		fl.Stopf("medium-boot", s.BIOS, "", "it cannot be the image for BIOS and UEFI at once")
	}
	return append(fl, s.checkFiles()...)
}

// checkFiles keeps to names that every file system takes and tells apart, so
// that the medium can also be made by copying its files to a FAT, exFAT or
// NTFS volume. There are no symbolic links by construction.
func (s Spec) checkFiles() finding.List {
	var fl finding.List
	spelt := map[string]string{} // in lower case → as first met
	for _, p := range slices.Sorted(maps.Keys(s.Files)) {
		f := s.Files[p]
		if f == nil {
			fl.Stopf("medium-content", p, "", "the file has no content")
			continue
		}
		if !portable(p) {
			fl.Stopf("medium-name", p, "use letters, digits and ._+- in names, at most 8 levels, no dot at the end and no device's name (con, nul, com1)", "the path cannot be on every file system")
			continue
		}
		if f.Size() > maxFATFile {
			fl.Warnf("medium-large", p, "write the image to the stick as it is, or copy its files to exFAT or NTFS", "%d bytes are more than a FAT volume can hold in a file", f.Size())
		}
		for at := p; at != "/"; at = path.Dir(at) {
			low := strings.ToLower(at)
			if other, ok := spelt[low]; ok && other != at {
				fl.Stopf("medium-clash", p, "rename one", "on a file system that ignores case, it is the same as %s", other)
				break
			}
			spelt[low] = at
		}
		for at := path.Dir(p); at != "/"; at = path.Dir(at) {
			if s.Files[at] != nil {
				fl.Stopf("medium-clash", p, "rename one", "%s is a file, not a directory", at)
			}
		}
	}
	return fl
}

func portable(p string) bool {
	if !rePath.MatchString(p) || path.Clean(p) != p || strings.Count(p, "/") > maxDepth || len(p) > 200 {
		return false
	}
	return !slices.ContainsFunc(strings.Split(p[1:], "/"), func(name string) bool {
		return len(name) > 64 || strings.HasSuffix(name, ".") || reDevice.MatchString(name)
	})
}
