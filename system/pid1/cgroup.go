package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"joist/system/service"
)

const cgroups = "/sys/fs/cgroup"

// The top of the cgroup tree. PID 1 itself stays in the root: liblxc takes
// PID 1's group as the base of its own.
var groups = []string{"system", "guests", "tasks"}

// setUpCgroups hands all controllers down to the groups.
func setUpCgroups() error {
	b, err := os.ReadFile(cgroups + "/cgroup.controllers")
	if err != nil {
		return err
	}
	var enable []string
	for _, c := range strings.Fields(string(b)) {
		enable = append(enable, "+"+c)
	}
	all := strings.Join(enable, " ")
	for _, g := range append([]string{""}, groups...) {
		d := filepath.Join(cgroups, g)
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(d+"/cgroup.subtree_control", []byte(all), 0); err != nil {
			return fmt.Errorf("enable controllers %s in %s: %w", all, d, err)
		}
	}
	// Services get CPU time before guests when both want it.
	return os.WriteFile(cgroups+"/system/cpu.weight", []byte("1000"), 0)
}

func groupOf(name string) string { return filepath.Join(cgroups, "system", name) }

// openGroup makes the service's cgroup and opens it for clone3(2).
func openGroup(s service.Spec) (*os.File, error) {
	d := groupOf(s.Name)
	// Always a fresh one: kernel 6.12 compares the "kill sequence" of a group
	// started into by clone3(2) with that of the parent's group, so that every
	// process started into a group that has ever been killed dies at once
	// (kernel/cgroup/cgroup.c, cgroup_css_set_fork and cgroup_post_fork).
	removeGroup(d)
	if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	var errs []error
	set := func(file string, n int64) {
		if n > 0 {
			errs = append(errs, os.WriteFile(filepath.Join(d, file), strconv.AppendInt(nil, n, 10), 0))
		}
	}
	set("memory.min", s.MemoryMin)
	set("cpu.weight", int64(s.CPUWeight))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return os.Open(d)
}

// reserve makes the parent's protection as large as its children's: memory.min
// of a child counts only within what its parent has.
func reserve(specs []service.Spec) error {
	var sum int64
	for _, s := range specs {
		sum += s.MemoryMin
	}
	return os.WriteFile(cgroups+"/system/memory.min", strconv.AppendInt(nil, sum, 10), 0)
}

// removeGroup removes an empty cgroup and the empty ones in it.
func removeGroup(dir string) {
	sub, _ := os.ReadDir(dir)
	for _, e := range sub {
		if e.IsDir() {
			removeGroup(filepath.Join(dir, e.Name()))
		}
	}
	os.Remove(dir)
}

// killGroup ends everything in the cgroup and waits a moment until it is
// empty; zombies are gone once the reaper has seen them.
func killGroup(dir string) {
	if os.WriteFile(dir+"/cgroup.kill", []byte("1"), 0) != nil {
		return // no such group: nothing runs in it
	}
	for range 50 {
		b, err := os.ReadFile(dir + "/cgroup.events")
		if err != nil || strings.Contains(string(b), "populated 0") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
