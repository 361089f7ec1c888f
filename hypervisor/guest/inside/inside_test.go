package inside

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
	"joist/internal/run"
)

func TestInterfaces(t *testing.T) {
	me, err := guest.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Interfaces(me)
	if errors.Is(err, unix.EPERM) {
		t.Skip("entering a network namespace takes root")
	}
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(got, func(i Interface) bool { return i.Name == "lo" })
	if i < 0 {
		t.Errorf("no loopback in %+v", got)
	}
	me.Start++
	if _, err := Interfaces(me); !errors.Is(err, guest.ErrNotRunning) {
		t.Errorf("another process with that number: %v", err)
	}
}

func TestGrowCommands(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var null unix.Stat_t
	if err := unix.Stat("/dev/null", &null); err != nil {
		t.Fatal(err)
	}
	mounts := filepath.Join(dir, "mountinfo")
	number := fmt.Sprintf("%d:%d", unix.Major(uint64(null.Rdev)), unix.Minor(uint64(null.Rdev)))
	if err := os.WriteFile(mounts, []byte("30 1 0:5 / / rw - ext4 /dev/x rw\n31 1 "+number+" / /run/x rw - ext4 /dev/null rw\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		volume string
		exit   int
		want   string
		bad    bool
	}{
		{"/dev/null", 0, "resize2fs /dev/null", false},
		{"/dev/zero", 0, "e2fsck -f -p /dev/zero; resize2fs /dev/zero", false},
		{file, 1, "e2fsck -f -p " + file + "; resize2fs " + file, false},
		{file, 4, "e2fsck -f -p " + file, true},
		{file + "x", 0, "", true},
	} {
		s := &run.Script{Answer: func(x run.Cmd) ([]byte, error) {
			if x.Path == "e2fsck" && c.exit != 0 {
				return nil, &run.Error{Cmd: x, Exit: c.exit, Err: errors.New("exit status")}
			}
			return nil, nil
		}}
		err := Grower{Run: s, Mount: mounts, Block: dir}.Grow(t.Context(), c.volume)
		if got := strings.Join(s.Calls(), "; "); got != c.want || (err != nil) != c.bad {
			t.Errorf("%s: %q %v, want %q", c.volume, got, err, c.want)
		}
	}
}

// TestGrow grows a real file system in a file.
func TestGrow(t *testing.T) {
	if _, err := exec.LookPath("/usr/sbin/resize2fs"); err != nil {
		if _, err := exec.LookPath("/sbin/resize2fs"); err != nil {
			t.Skip("no e2fsprogs")
		}
	}
	file := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(16 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := (run.OS{}).Run(t.Context(), run.Cmd{Path: "mkfs.ext4", Args: []string{"-q", "-F", file}}); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	if err := NewGrower(run.OS{}).Grow(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	out, err := (run.OS{}).Run(t.Context(), run.Cmd{Path: "dumpe2fs", Args: []string{"-h", file}})
	if err != nil {
		t.Fatal(err)
	}
	var blocks, size int64
	for line := range strings.Lines(string(out)) {
		fmt.Sscanf(line, "Block count: %d", &blocks)
		fmt.Sscanf(line, "Block size: %d", &size)
	}
	if blocks*size != 64<<20 {
		t.Errorf("%d blocks of %d bytes", blocks, size)
	}
}
