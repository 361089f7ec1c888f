package lvmthin

import (
	"errors"
	"fmt"
	"regexp"

	"joist/hypervisor/storage"
	"joist/internal/run"
)

// ErrNoGroup says that the volume group is not there: its disk is missing.
var ErrNoGroup = errors.New("volume group is missing")

// rule maps a message of lvm to what it means to us. Its exit status is 5 for
// nearly everything (lvm(8)), so the text has to tell.
type rule struct {
	text *regexp.Regexp
	is   error
}

// rules are tried in order; the messages are those of LVM 2.03 in the C locale
// (lib/metadata, lib/activate, tools/). Each has an example in testdata.
func rules() []rule {
	return []rule{
		{regexp.MustCompile(`(?i)already exists in volume group`), storage.ErrExists},
		{regexp.MustCompile(`(?i)failed to find logical volume|logical volume .* not found|one or more specified logical volume\(s\) not found`), storage.ErrNotFound},
		{regexp.MustCompile(`(?i)contains a filesystem in use|is used by another device|logical volume .* in use|device or resource busy|unable to deactivate open`), storage.ErrInUse},
		{regexp.MustCompile(`(?i)insufficient (free space|suitable)|free space in thin pool .* reached threshold|not enough free space|out of (data|metadata) space`), storage.ErrNoSpace},
		{regexp.MustCompile(`(?i)volume group "?[^"]*"? not found|cannot process volume group`), ErrNoGroup},
	}
}

// classify adds the sentinel that stderr stands for.
func classify(err error) error {
	var e *run.Error
	if !errors.As(err, &e) {
		return err
	}
	for _, r := range rules() {
		if r.text.Match(e.Stderr) {
			return fmt.Errorf("%w: %w", r.is, err)
		}
	}
	return err
}
