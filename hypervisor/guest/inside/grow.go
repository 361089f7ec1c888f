package inside

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"joist/internal/run"
)

// Grower enlarges ext4 file systems to the size of their volumes.
type Grower struct {
	Run   run.Runner
	Mount string // mountinfo of the name space where volumes are mounted
	Block string // /sys/block
}

// NewGrower makes one for the node.
func NewGrower(r run.Runner) Grower {
	return Grower{Run: r, Mount: "/proc/self/mountinfo", Block: "/sys/block"}
}

// Grow enlarges the file system on a volume, a block device or a file, that has
// become larger, mounted or not.
func (g Grower) Grow(ctx context.Context, volume string) error {
	if err := g.grow(ctx, volume); err != nil {
		return fmt.Errorf("grow file system on %s: %w", filepath.Base(volume), err)
	}
	return nil
}

func (g Grower) grow(ctx context.Context, volume string) error {
	var st unix.Stat_t
	if err := unix.Stat(volume, &st); err != nil {
		return &os.PathError{Op: "stat", Path: volume, Err: err}
	}
	mounted := false
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		loop, err := g.loop(volume)
		if err != nil {
			return err
		}
		if loop != "" { // resize2fs must not write to a file under a mount of it
			volume, mounted = loop, true
		}
	} else {
		var err error
		if mounted, err = g.mounted(uint64(st.Rdev)); err != nil {
			return err
		}
	}
	if !mounted {
		// resize2fs(8) wants an unmounted file system checked. 0: clean, 1:
		// errors were corrected, e2fsck(8).
		_, err := g.Run.Run(ctx, run.Cmd{Path: "e2fsck", Args: []string{"-f", "-p", volume}})
		if err != nil && run.ExitCode(err) != 1 {
			return err
		}
	}
	_, err := g.Run.Run(ctx, run.Cmd{Path: "resize2fs", Args: []string{volume}})
	return err
}

// mounted looks for the device's number, proc_pid_mountinfo(5).
func (g Grower) mounted(dev uint64) (bool, error) {
	b, err := os.ReadFile(g.Mount)
	if err != nil {
		return false, err
	}
	number := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == number {
			return true, nil
		}
	}
	return false, nil
}

// loop finds the loop device of a file and lets it see the file's new size,
// loop(4); "" when there is none.
func (g Grower) loop(file string) (string, error) {
	names, err := filepath.Glob(filepath.Join(g.Block, "loop*", "loop", "backing_file"))
	if err != nil {
		return "", err
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil || strings.TrimSuffix(string(b), "\n") != file {
			continue // it may be let go of this moment
		}
		dev := filepath.Join("/dev", filepath.Base(filepath.Dir(filepath.Dir(n))))
		f, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
			return "", fmt.Errorf("tell %s its new size: %w", dev, err)
		}
		return dev, nil
	}
	return "", nil
}
