package boot

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrNotInPlace says that a slot's configuration cannot be changed where it
// lies: it was written by a version that left no room for that.
var ErrNotInPlace = errors.New("the boot partition was written without room for this")

// OwnInstaller is a node's configuration of a slot changed so that the system
// in it starts as the installer of its own disk. It has the same length, and
// what counts in its first sector.
func OwnInstaller(conf []byte, s Slot) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("change configuration of slot %s: %w", s, err) }
	args, err := SlotArgs(conf, s)
	if err != nil {
		return fail(err)
	}
	first, rest, _ := bytes.Cut(conf, []byte("\n"))
	if len(conf) != confSize || !bytes.HasPrefix(first, fmt.Appendf(nil, "set %s_args=", s)) {
		return fail(ErrNotInPlace)
	}
	words := slices.DeleteFunc(strings.Fields(args), func(w string) bool {
		key, _, _ := strings.Cut(w, "=")
		return slices.Contains([]string{"joist.disk", "joist.state", "joist.md", "joist.in-place", "spl.spl_hostid"}, key)
	})
	out := fmt.Appendf(nil, "set %s_args='%s'\n%s", s, strings.Join(append(words, "joist.in-place=1"), " "), bytes.TrimRight(rest, "#\n"))
	if len(out) > confSize-2 || bytes.IndexByte(out, '\n') >= sectorSize {
		return fail(ErrNotInPlace)
	}
	out = append(out, '\n')
	return append(append(out, bytes.Repeat([]byte("#"), confSize-1-len(out))...), '\n'), nil
}
