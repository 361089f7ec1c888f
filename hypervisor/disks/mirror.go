package disks

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"joist/api/node"
	"joist/hypervisor/alert"
	"joist/internal/run"
	"joist/system/array"
)

// Mirror is the md array below the volume group.
type Mirror struct {
	Sys string // "/sys"
	Run run.Runner
}

// Members implements Redundancy.
func (m Mirror) Members(context.Context) ([]Member, error) {
	s, err := array.Read(m.Sys)
	var out []Member
	for _, name := range slices.Sorted(maps.Keys(s.Members)) {
		out = append(out, Member{Device: "/dev/" + name, Whole: s.Holds(name), State: s.Members[name]})
	}
	return out, err
}

// Need implements Redundancy.
func (m Mirror) Need(context.Context) (int64, error) {
	s, err := array.Read(m.Sys)
	if err == nil && s.Size == 0 {
		err = fmt.Errorf("read mirror: its size is not known")
	}
	return s.Offset + s.Size, err
}

// Degraded implements Redundancy.
func (m Mirror) Degraded(context.Context) (*node.Alert, error) {
	s, err := array.Read(m.Sys)
	a := &node.Alert{Code: codeDegraded, Level: alert.Error, Path: array.File}
	switch {
	case err != nil:
		return nil, err
	case s.Degraded == 0:
		return nil, nil
	case s.Action == "recover":
		a.Level, a.Text, a.Cure = alert.Warning, "the mirror is being rebuilt; until then the data are on fewer disks than they should be", "wait until it is done"
		if s.Of > 0 {
			a.Text += fmt.Sprintf(" (%d %%)", s.Done*100/s.Of)
		}
	default:
		a.Text = fmt.Sprintf("the mirror lacks %d of %d disks; the data are on the others only", s.Degraded, s.Disks)
		a.Cure = "put a new disk in and run: joist node disk replace missing NEW"
	}
	return a, nil
}

// Replace implements Redundancy.
func (m Mirror) Replace(ctx context.Context, old, fresh string, advance func(n, of int64)) error {
	return array.Exchange(ctx, m.Run, m.Sys, old, fresh, advance)
}
