package apply

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"joist/installer/plan"
	"joist/internal/run"
)

// howPool is how for ZFS.
func (a *applier) howPool(act plan.Action) work {
	var f func(ctx context.Context) error
	switch act := act.(type) {
	case plan.CreatePool:
		f = func(ctx context.Context) error { return a.createPool(ctx, act) }
	case plan.ImportPool:
		f = func(ctx context.Context) error { return a.importPool(ctx, act) }
	case plan.SettlePool:
		f = func(ctx context.Context) error { return a.commands(ctx, act) }
	case plan.ClosePool:
		f = func(ctx context.Context) error { return a.closePool(ctx, act) }
	default:
		return nil
	}
	return func(ctx context.Context, _ func(n, of int64)) error { return f(ctx) }
}

var poolGUID = regexp.MustCompile(`^[0-9]{1,20}$`)

func (a *applier) createPool(ctx context.Context, act plan.CreatePool) error {
	a.pool = true // even if a command fails half-way
	out, err := a.lastAnswer(ctx, act)
	if err != nil {
		return err
	}
	if a.storageID = strings.TrimSpace(string(out)); !poolGUID.MatchString(a.storageID) {
		return fmt.Errorf("zpool did not tell the pool's GUID, but %q", a.storageID)
	}
	return nil
}

func (a *applier) importPool(ctx context.Context, act plan.ImportPool) error {
	a.pool, a.storageID = true, act.GUID
	return a.commands(ctx, act)
}

func (a *applier) closePool(ctx context.Context, act plan.ClosePool) error {
	if err := a.commands(ctx, act); err != nil {
		return err
	}
	a.pool = false
	return nil
}

// imported says whether the kernel has a pool of our name open.
func (a *applier) imported() bool {
	_, err := os.Stat(a.h.Path("/proc/spl/kstat/zfs", plan.PoolName))
	return err == nil
}

// exportPool lets go of the pool.
func (a *applier) exportPool(ctx context.Context) error {
	if !a.imported() {
		return nil
	}
	return a.commands(ctx, plan.ClosePool{Name: plan.PoolName})
}

// releasePool lets go of the pool that an earlier try has opened. One of that
// name that lies on other disks is somebody else's: it is in the way of ours,
// and of nothing else.
func (a *applier) releasePool(ctx context.Context) error {
	if !a.imported() {
		return nil
	}
	out, err := a.h.Run.Run(ctx, run.Cmd{Path: "zpool", Args: []string{"list", "-v", "-H", "-P", "-o", "name", plan.PoolName}})
	if err != nil {
		return err
	}
	foreign, ours := "", 0
	for _, w := range strings.Fields(string(out)) {
		switch {
		case !strings.HasPrefix(w, "/dev/"):
		case a.ours(filepath.Base(w)):
			ours++
		default:
			foreign = w
		}
	}
	switch {
	case foreign == "":
		return a.exportPool(ctx)
	case ours == 0 && !a.p.ZFS():
		return nil
	}
	return fmt.Errorf("a pool %q on %s is in use: export it (zpool export %s) and install again", plan.PoolName, foreign, plan.PoolName)
}
