package array

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"joist/internal/run"
)

// Status is the running array as the kernel shows it
// (Documentation/admin-guide/md.rst).
type Status struct {
	Disks    int
	Degraded int
	Action   string // "idle", "recover", "resync" …
	Done, Of int64  // sectors of that action
	Size     int64  // bytes that each member holds of the array
	Offset   int64  // bytes before them, on the members that are there
	Members  map[string]string
}

// Read returns the state of the array below sys ("/sys"). Members are kernel
// names with their states: "in_sync", "spare", "faulty", with others behind a
// comma.
func Read(sys string) (Status, error) {
	s := Status{Members: map[string]string{}}
	dir := filepath.Join(sys, "block", name, "md")
	attr := func(file string) string {
		b, _ := os.ReadFile(filepath.Join(dir, file)) // empty where it does not apply
		return strings.TrimSpace(string(b))
	}
	number := func(file string) int64 {
		n, _ := strconv.ParseInt(attr(file), 10, 64)
		return n
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return s, fmt.Errorf("read mirror: %w", err)
	}
	for _, e := range entries {
		if dev, ok := strings.CutPrefix(e.Name(), "dev-"); ok {
			s.Members[strings.ReplaceAll(dev, "!", "/")] = attr(e.Name() + "/state")
			s.Offset = max(s.Offset, number(e.Name()+"/offset")*512)
		}
	}
	s.Disks, s.Degraded, s.Action = int(number("raid_disks")), int(number("degraded")), attr("sync_action")
	s.Size = number("component_size") << 10
	done, of, _ := strings.Cut(attr("sync_completed"), "/")
	s.Done, _ = strconv.ParseInt(strings.TrimSpace(done), 10, 64)
	s.Of, _ = strconv.ParseInt(strings.TrimSpace(of), 10, 64)
	return s, nil
}

// Holds says whether a member has all of the data.
func (s Status) Holds(device string) bool { return s.has(device, "in_sync") }

func (s Status) has(device, word string) bool {
	return slices.Contains(strings.Split(s.Members[filepath.Base(device)], ","), word)
}

// Exchange puts the partition fresh in the place of old, which may be gone
// (""). As long as old can be read its data stay in use until they are all on
// the other one (md(4), "hot replace"). It may be called again after a cut: the
// kernel goes on where it was.
func Exchange(ctx context.Context, r run.Runner, sys, old, fresh string, advance func(n, of int64)) error {
	mdadm := func(args ...string) error {
		_, err := r.Run(ctx, run.Cmd{Path: "mdadm", Args: append([]string{File}, args...)})
		return err
	}
	s, err := Read(sys)
	if err != nil {
		return err
	}
	if _, begun := s.Members[filepath.Base(fresh)]; s.Degraded > 0 && s.Holds(old) && !begun {
		return fmt.Errorf("copy %s to %s: the mirror lacks %d of %d disks, and a new one fills that place first", old, fresh, s.Degraded, s.Disks)
	}
	if s.Degraded > 0 {
		// what is left of a disk that is gone; an error says that there is nothing
		_ = mdadm("--remove", "detached")
	}
	if _, ok := s.Members[filepath.Base(fresh)]; !ok {
		// mdadm does not add what says of itself that it is a member; an error
		// says that it does not
		_ = Forget(ctx, r, fresh)
		if err := mdadm("--add", fresh); err != nil {
			return fmt.Errorf("add %s to the mirror: %w", fresh, err)
		}
	}
	if old != "" && s.Degraded == 0 && s.Holds(old) && !s.has(old, "want_replacement") && !s.Holds(fresh) {
		if err := mdadm("--replace", old, "--with", fresh); err != nil {
			return fmt.Errorf("copy %s to %s: %w", old, fresh, err)
		}
	}
	if err := await(ctx, sys, fresh, advance); err != nil {
		return err
	}
	if s, err = Read(sys); err != nil {
		return err
	}
	if _, ok := s.Members[filepath.Base(old)]; old == "" || !ok {
		return nil
	}
	if s.Holds(old) { // fresh has filled the place of another one
		return fmt.Errorf("take %s out of the mirror: it holds data that are in use, and %s has not taken its place", old, fresh)
	}
	if !s.has(old, "faulty") {
		if err := mdadm("--fail", old); err != nil {
			return fmt.Errorf("take %s out of the mirror: %w", old, err)
		}
	}
	if err := mdadm("--remove", old); err != nil {
		return fmt.Errorf("take %s out of the mirror: %w", old, err)
	}
	return nil
}

// await waits until a member has all of the data.
func await(ctx context.Context, sys, device string, advance func(n, of int64)) error {
	idle := 0
	for {
		s, err := Read(sys)
		if err != nil {
			return err
		}
		state, there := s.Members[filepath.Base(device)]
		switch {
		case s.Holds(device):
			return nil
		case !there || s.has(device, "faulty"):
			return fmt.Errorf("copy to %s: the kernel has put it out of the mirror; look at its messages (dmesg)", device)
		case s.Action == "idle" || s.Action == "frozen":
			// between one state and the next, or for good
			if idle++; idle > 240 {
				return fmt.Errorf("copy to %s: nothing happens, it is %q", device, state)
			}
		default:
			idle = 0
			advance(s.Done, s.Of)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// Forget removes a member's superblock, so that it is not taken for one again.
func Forget(ctx context.Context, r run.Runner, device string) error {
	if _, err := r.Run(ctx, run.Cmd{Path: "mdadm", Args: []string{"--zero-superblock", device}}); err != nil {
		return fmt.Errorf("clear %s: %w", device, err)
	}
	return nil
}
