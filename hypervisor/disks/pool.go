package disks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"joist/api/node"
	"joist/hypervisor/alert"
	"joist/internal/run"
	"joist/system/pool"
)

// Pool is the ZFS pool that the system's data are in.
type Pool struct {
	Name string
	Proc string // "/proc"
	Run  run.Runner
	// Size is the least that a data partition of the system has.
	Size func() (int64, error)
}

// vdev is one in the tree of zpool-status(8), as -j writes it.
type vdev struct {
	Name  string          `json:"name"`
	Type  string          `json:"vdev_type"`
	GUID  json.Number     `json:"guid"`
	Path  string          `json:"path"`
	State string          `json:"state"`
	Below map[string]vdev `json:"vdevs"`
}

// leaf is a device of the pool.
type leaf struct {
	vdev
	replacing string // GUID of the vdev in which one takes another's place, "" outside
}

// gone says that the device is not there; its path may be another one's now.
func (l leaf) gone() bool { return l.State == "UNAVAIL" || l.State == "REMOVED" }

// device is where it is, "" for one that is gone.
func (l leaf) device() string {
	if l.gone() {
		return ""
	}
	return l.Path
}

// partner is the other one of two that change places.
func (l leaf) partner(leaves []leaf) leaf {
	for _, o := range leaves {
		if o.replacing == l.replacing && o.GUID != l.GUID {
			return o
		}
	}
	return leaf{}
}

// poolStatus is what is read of `zpool status -j`.
type poolStatus struct {
	Pools map[string]struct {
		Vdevs map[string]vdev `json:"vdevs"`
		Scan  struct {
			Examined   int64 `json:"examined"`
			ToExamine  int64 `json:"to_examine"`
			ScanIssued int64 `json:"issued"`
		} `json:"scan_stats"`
	} `json:"pools"`
}

func (p Pool) status(ctx context.Context) (leaves []leaf, done, of int64, err error) {
	out, err := p.Run.Run(ctx, run.Cmd{Path: "zpool", Args: []string{"status", "-j", "--json-int", "-P", "-L", p.Name}})
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read pool %q: %w", p.Name, err)
	}
	var s poolStatus
	if err := json.Unmarshal(out, &s); err != nil {
		return nil, 0, 0, fmt.Errorf("read pool %q: %w", p.Name, err)
	}
	var walk func(v vdev, replacing string)
	walk = func(v vdev, replacing string) {
		if v.State == "CANT_OPEN" { // what the text of zpool-status(8) calls so
			v.State = "UNAVAIL"
		}
		if len(v.Below) == 0 && (v.Type == "disk" || v.Type == "file") {
			leaves = append(leaves, leaf{v, replacing})
		}
		for _, c := range v.Below {
			walk(c, map[bool]string{true: cmp.Or(v.GUID.String(), v.Name)}[v.Type == "replacing"])
		}
	}
	found, ok := s.Pools[p.Name]
	if !ok {
		return nil, 0, 0, fmt.Errorf("read pool %q: it is not open", p.Name)
	}
	for _, v := range found.Vdevs {
		walk(v, "")
	}
	slices.SortFunc(leaves, func(a, b leaf) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.GUID, b.GUID)) })
	return leaves, max(found.Scan.ScanIssued, found.Scan.Examined), found.Scan.ToExamine, nil
}

// Members implements Redundancy.
func (p Pool) Members(ctx context.Context) ([]Member, error) {
	leaves, _, _, err := p.status(ctx)
	var out []Member
	for _, l := range leaves {
		m := Member{Device: l.device(), Whole: l.State == "ONLINE" && l.replacing == "", State: strings.ToLower(l.State)}
		if l.replacing != "" {
			m.Replaces, m.Partner = true, l.partner(leaves).device()
			m.State += ", being replaced"
		}
		out = append(out, m)
	}
	return out, err
}

// Need implements Redundancy.
func (p Pool) Need(context.Context) (int64, error) { return p.Size() }

// Degraded implements Redundancy.
func (p Pool) Degraded(context.Context) (*node.Alert, error) {
	text := pool.Problem(p.Proc, p.Name)
	if text == "" {
		return nil, nil
	}
	return &node.Alert{Code: codeDegraded, Level: alert.Error, Path: p.Name, Text: text,
		Cure: "look which disk is missing (joist node disk list), put a new one in and run: joist node disk replace missing NEW"}, nil
}

// Replace implements Redundancy.
func (p Pool) Replace(ctx context.Context, old, fresh string, advance func(n, of int64)) error {
	leaves, _, _, err := p.status(ctx)
	if err != nil {
		return err
	}
	if l, there := onDevice(leaves, fresh); there {
		if err := p.inPlaceOf(leaves, l, old); err != nil {
			return err
		}
	} else {
		l, ok := onDevice(leaves, old)
		if old == "" {
			i := slices.IndexFunc(leaves, leaf.gone)
			if ok = i >= 0; ok {
				l = leaves[i]
			}
		}
		if !ok {
			return fmt.Errorf("pool %q has no device %s to replace", p.Name, cmp.Or(old, "that is missing"))
		}
		if _, err := p.Run.Run(ctx, run.Cmd{Path: "zpool", Args: []string{"replace", p.Name, l.GUID.String(), fresh}}); err != nil {
			return fmt.Errorf("replace a device of pool %q: %w", p.Name, err)
		}
	}
	for {
		leaves, done, of, err := p.status(ctx)
		if err != nil {
			return err
		}
		switch l, there := onDevice(leaves, fresh); {
		case !there:
			return fmt.Errorf("%s has left pool %q; look at zpool status", fresh, p.Name)
		case l.State == "ONLINE" && l.replacing == "":
			return p.inPlaceOf(leaves, l, old)
		case l.State != "ONLINE":
			return errors.New(fresh + " is " + l.State + " in pool " + p.Name + "; look at zpool status")
		}
		advance(done, of)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

// inPlaceOf wants fresh to take, or to have taken, the place of old, "" for one
// that is gone.
func (p Pool) inPlaceOf(leaves []leaf, fresh leaf, old string) error {
	if fresh.replacing != "" {
		o := fresh.partner(leaves)
		if o.Path == "" || filepath.Base(o.device()) != filepath.Base(old) {
			return fmt.Errorf("%s takes the place of %s in pool %q, not that of %s; wait until that is done", fresh.Path, cmp.Or(o.Path, "another device"), p.Name,
				cmp.Or(old, "one that is missing"))
		}
		return nil
	}
	_, there := onDevice(leaves, old)
	if there || old == "" && slices.ContainsFunc(leaves, leaf.gone) {
		return fmt.Errorf("%s is in pool %q and has not taken the place of %s; look at zpool status", fresh.Path, p.Name, cmp.Or(old, "the device that is missing"))
	}
	return nil
}

func onDevice(leaves []leaf, device string) (leaf, bool) {
	for _, l := range leaves {
		if device != "" && !l.gone() && filepath.Base(l.Path) == filepath.Base(device) {
			return l, true
		}
	}
	return leaf{}, false
}
