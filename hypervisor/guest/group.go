package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Groups is the cgroup v2 folder that holds one group per guest,
// /sys/fs/cgroup/guests. What the files mean is in the kernel's
// Documentation/admin-guide/cgroup-v2.rst.
type Groups struct{ Dir string }

// Limits of a guest. Zero values mean no limit.
type Limits struct {
	Memory int64   // bytes, memory.max
	Swap   int64   // bytes, memory.swap.max; -1 forbids swap
	CPUs   float64 // CPUs' worth of time, cpu.max
	Weight int     // cpu.weight, 1 … 10000
	PIDs   int     // pids.max
}

// Group is the cgroup of one guest.
type Group struct{ Dir string }

// Group names the group of a guest, there or not.
func (g Groups) Group(vmid int) Group { return Group{filepath.Join(g.Dir, strconv.Itoa(vmid))} }

// List returns the VMIDs that have a group.
func (g Groups) List() ([]int, error) {
	entries, err := os.ReadDir(g.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil && e.IsDir() {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Create makes the group of a guest and sets its limits. Limits whose
// controller the kernel does not offer are returned by file name; whether to
// go on without them is the caller's decision.
func (g Groups) Create(vmid int, l Limits) (grp Group, missing []string, err error) {
	if err := os.MkdirAll(g.Dir, 0o755); err != nil {
		return Group{}, nil, fmt.Errorf("create cgroup of guests: %w", err)
	}
	if onCgroup2(g.Dir) {
		g.enable()
	}
	grp = g.Group(vmid)
	if err := os.Mkdir(grp.Dir, 0o755); err != nil {
		return Group{}, nil, fmt.Errorf("create cgroup of guest %d: %w", vmid, err)
	}
	missing, err = grp.Limit(l)
	if err != nil {
		grp.Remove()
		return Group{}, nil, fmt.Errorf("limit guest %d: %w", vmid, err)
	}
	return grp, missing, nil
}

// enable switches controllers on for the guests' groups; PID 1 does it for the
// levels above. Those that are on already are not written: the kernel would
// first wait until all of groups that were just removed is gone
// (cgroup_lock_and_drain_offline). The others go one at a time, so that one
// which is not there does not keep the rest away.
func (g Groups) enable() {
	file := filepath.Join(g.Dir, "cgroup.subtree_control")
	b, _ := os.ReadFile(file)
	have := strings.Fields(string(b))
	for _, c := range []string{"cpu", "memory", "pids", "io"} {
		if !slices.Contains(have, c) {
			os.WriteFile(file, []byte("+"+c), 0)
		}
	}
}

// Limit sets the limits and returns the files that the kernel does not have.
func (g Group) Limit(l Limits) (missing []string, err error) {
	files := [][2]string{}
	put := func(name, value string, on bool) {
		if on {
			files = append(files, [2]string{name, value})
		}
	}
	put("memory.max", strconv.FormatInt(l.Memory, 10), l.Memory > 0)
	put("memory.swap.max", strconv.FormatInt(max(l.Swap, 0), 10), l.Swap != 0)
	put("cpu.max", strconv.FormatInt(int64(l.CPUs*100000), 10)+" 100000", l.CPUs > 0)
	put("cpu.weight", strconv.Itoa(min(max(l.Weight, 1), 10000)), l.Weight > 0)
	put("pids.max", strconv.Itoa(l.PIDs), l.PIDs > 0)
	for _, f := range files {
		name := filepath.Join(g.Dir, f[0])
		if _, err := os.Stat(name); err != nil && onCgroup2(g.Dir) {
			missing = append(missing, f[0])
			continue
		}
		if err := os.WriteFile(name, []byte(f[1]), 0o644); err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// onCgroup2 reports whether dir is on a cgroup v2 file system; tests use plain
// folders.
func onCgroup2(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// Open returns a descriptor for clone3(2)'s CLONE_INTO_CGROUP, nil in a plain
// folder; then Add puts the process in.
func (g Group) Open() (*os.File, error) {
	if !onCgroup2(g.Dir) {
		return nil, nil
	}
	return os.Open(g.Dir)
}

// Add moves a process into the group.
func (g Group) Add(pid int) error {
	return os.WriteFile(filepath.Join(g.Dir, "cgroup.procs"), []byte(strconv.Itoa(pid)+"\n"), 0o644)
}

// Exists reports whether the group is there.
func (g Group) Exists() bool {
	_, err := os.Stat(g.Dir)
	return err == nil
}

// PIDs returns the processes of the group and of all groups below it.
func (g Group) PIDs() []int {
	var out []int
	filepath.WalkDir(g.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil
		}
		b, _ := os.ReadFile(path)
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				out = append(out, pid)
			}
		}
		return nil
	})
	return out
}

// Populated reports whether any process is left in the group or below it.
func (g Group) Populated() bool {
	if !onCgroup2(g.Dir) {
		return slices.ContainsFunc(g.PIDs(), func(pid int) bool {
			_, err := FindProcess(pid)
			return err == nil
		})
	}
	n, _ := g.keyed("cgroup.events", "populated")
	return n == 1
}

// killAgain is how long Kill waits before it looks for processes that were
// moved into the group after the last signal.
const killAgain = 100 * time.Millisecond

// Kill ends every process of the group and of those below it, and waits until
// they are gone.
func (g Group) Kill(patience time.Duration) error {
	for end := time.Now().Add(patience); g.Populated(); g.await(killAgain) {
		if onCgroup2(g.Dir) {
			if err := os.WriteFile(filepath.Join(g.Dir, "cgroup.kill"), []byte("1"), 0); err != nil {
				return fmt.Errorf("kill processes of %s: %w", g.Dir, err)
			}
		} else {
			for _, pid := range g.PIDs() {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("kill processes of %s: some are still there after %s", g.Dir, patience)
		}
	}
	return nil
}

// await returns as soon as the group is empty, or after a while. The kernel
// tells of changes of cgroup.events since they were last read by POLLPRI.
func (g Group) await(limit time.Duration) {
	f, err := os.Open(filepath.Join(g.Dir, "cgroup.events"))
	if err != nil { // a plain folder
		time.Sleep(min(limit, 10*time.Millisecond))
		return
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if n, ok := keyed(b, "populated"); err != nil || !ok || n == 0 {
		return
	}
	unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}, int(limit.Milliseconds()))
}

// Remove deletes the empty group with the groups below it. A group that is not
// there is fine.
func (g Group) Remove() error {
	if !onCgroup2(g.Dir) {
		return os.RemoveAll(g.Dir)
	}
	var dirs []string
	filepath.WalkDir(g.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, d := range slices.Backward(dirs) { // children first; files vanish with their group
		// EBUSY for a moment after the last process was reaped.
		var err error
		for range 100 {
			if err = unix.Rmdir(d); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
	}
	return nil
}

// Usage is what a group has taken.
type Usage struct {
	CPU    time.Duration // since the group was made
	Memory int64         // bytes now, page cache included
	Cache  int64         // of it: file pages that can be dropped
	Swap   int64
}

// Usage reads the group's counters; those without a controller are zero.
func (g Group) Usage() Usage {
	var u Usage
	if n, err := g.keyed("cpu.stat", "usage_usec"); err == nil {
		u.CPU = time.Duration(n) * time.Microsecond
	}
	u.Memory, _ = g.number("memory.current")
	u.Swap, _ = g.number("memory.swap.current")
	u.Cache, _ = g.keyed("memory.stat", "inactive_file")
	return u
}

func (g Group) number(file string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(g.Dir, file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// keyed reads one line of a "flat keyed" file.
func (g Group) keyed(file, key string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(g.Dir, file))
	if err != nil {
		return 0, err
	}
	n, ok := keyed(b, key)
	if !ok {
		return 0, fmt.Errorf("%s has no %s", file, key)
	}
	return n, nil
}

func keyed(b []byte, key string) (int64, bool) {
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, err := strconv.ParseInt(v, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
