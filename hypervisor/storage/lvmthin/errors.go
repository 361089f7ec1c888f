package lvmthin

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

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

// idle are lines that lvm adds to what is wrong, mostly behind it.
var idle = regexp.MustCompile("^(?:Run `.*--help' for more information\\.|WARNING: .*|Cannot process volume group .*|Aborting\\.?)$")

// telling is the line of stderr that says what is wrong: the last one that is
// not idle, or the last one of all.
func telling(stderr []byte) string {
	lines := strings.Split(strings.TrimSpace(string(stderr)), "\n")
	for _, l := range slices.Backward(lines) {
		if l = strings.TrimSpace(l); l != "" && !idle.MatchString(l) {
			return l
		}
	}
	return strings.TrimSpace(lines[len(lines)-1])
}

// failure is a run.Error whose text is the telling line.
type failure struct {
	cause *run.Error
	text  string
}

func (f *failure) Error() string { return "lvm: " + f.text }
func (f *failure) Unwrap() error { return f.cause }

// classify adds the sentinel that stderr stands for.
func classify(err error) error {
	var e *run.Error
	if !errors.As(err, &e) {
		return err
	}
	if text := telling(e.Stderr); text != "" {
		err = &failure{e, text}
	}
	for _, r := range rules() {
		if r.text.Match(e.Stderr) {
			return fmt.Errorf("%w: %w", r.is, err)
		}
	}
	return err
}
