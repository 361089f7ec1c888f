package pid1

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/internal/run"
	"joist/system/array"
	"joist/system/cmdline"
)

// Members that took part are waited for, up to the limit; one that is known to
// be gone is not.
func TestMembers(t *testing.T) {
	whole, alone := array.Member{Path: "a", Disks: 2, Active: 2, Events: 1}, array.Member{Path: "b", Disks: 2, Active: 1, Events: 2}
	later := func(n int, then []array.Member, before ...array.Member) func() ([]array.Member, error) {
		return func() ([]array.Member, error) {
			if n--; n >= 0 {
				return before, nil
			}
			return then, nil
		}
	}
	for name, c := range map[string]struct {
		find  func() ([]array.Member, error)
		limit time.Duration
		want  int
	}{
		"both at once":   {later(0, []array.Member{whole, whole}), time.Hour, 2},
		"one comes late": {later(2, []array.Member{whole, whole}, whole), time.Hour, 2},
		"one is gone":    {later(0, []array.Member{alone}), time.Hour, 1},
		"one is missing": {later(0, []array.Member{whole}), time.Millisecond, 1},
		"none at first":  {later(2, []array.Member{alone}), time.Hour, 1},
	} {
		if ms, err := members(t.Context(), c.find, c.limit); err != nil || len(ms) != c.want {
			t.Errorf("%s: %v %v", name, ms, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := members(ctx, later(0, nil), time.Hour); err == nil || !strings.Contains(err.Error(), "no partition joist-data") {
		t.Error(err)
	}
	broken := errors.New("no sysfs")
	if _, err := members(t.Context(), func() ([]array.Member, error) { return nil, broken }, 0); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestMirrorIsTendedWhereThereIsOne(t *testing.T) {
	for uuid, want := range map[string]bool{"": false, "u": true} {
		s := &system{opt: cmdline.Options{Mode: cmdline.Node, Array: uuid}}
		found := false
		for _, p := range s.phases() {
			found = found || p.Name == phaseMirror
		}
		if found != want {
			t.Errorf("%q: %v", uuid, found)
		}
	}
}

func TestFileSystemDecidesOnTheCheck(t *testing.T) {
	dev := filepath.Join(t.TempDir(), "dm-1")
	for magic, want := range map[string]struct {
		fs    string
		calls int
	}{"XFSB": {"xfs", 0}, strings.Repeat("\x00", 1024+0x38) + "\x53\xef": {"ext4", 1}, "": {"", 0}} {
		b := make([]byte, 4096)
		copy(b, magic)
		if err := os.WriteFile(dev, b, 0o600); err != nil {
			t.Fatal(err)
		}
		fs, err := fileSystem(dev)
		if fs != want.fs || (err == nil) != (want.fs != "") {
			t.Errorf("%q: %q %v", magic, fs, err)
		}
		r := &run.Script{}
		if err := check(t.Context(), r, fs, dev, nil); err != nil || len(r.Calls()) != want.calls {
			t.Errorf("%q: ran %v (%v)", magic, r.Calls(), err)
		}
	}
}
