package apply

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"joist/installer/answer"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/run"
)

// howStorage is how for the storages beside LVM on one disk.
func (a *applier) howStorage(act plan.Action) work {
	var f func(ctx context.Context) error
	switch act := act.(type) {
	case plan.CreateArray:
		f = func(ctx context.Context) error { return a.startArray(ctx, act) }
	case plan.AssembleArray:
		f = func(ctx context.Context) error { return a.startArray(ctx, act) }
	case plan.StopArray:
		f = func(ctx context.Context) error { return a.stopArray(ctx, act) }
	case plan.MkfsXFS:
		f = func(ctx context.Context) error { return a.commands(ctx, act) }
	case plan.ActivateGroup:
		f = func(ctx context.Context) error { return a.activateGroup(ctx, act) }
	default:
		return a.howPool(act)
	}
	return func(ctx context.Context, _ func(n, of int64)) error { return f(ctx) }
}

// commands runs what the plan has shown.
func (a *applier) commands(ctx context.Context, act plan.Commander) error {
	_, err := a.lastAnswer(ctx, act)
	return err
}

// lastAnswer is commands, with what the last of them said.
func (a *applier) lastAnswer(ctx context.Context, act plan.Commander) (out []byte, err error) {
	for _, argv := range act.Commands() {
		if out, err = a.command(ctx, argv); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (a *applier) command(ctx context.Context, argv []string) ([]byte, error) {
	c := run.Cmd{Path: argv[0], Args: argv[1:]}
	if c.Path == "lvm" {
		c = a.lvmCmd(argv[1:]...)
	}
	return a.h.Run.Run(ctx, c)
}

// startArray makes or starts the mirror.
func (a *applier) startArray(ctx context.Context, act plan.Commander) error {
	for _, argv := range act.Commands() {
		a.array = argv[0] == "mdadm" // even if it fails half-way
		if _, err := a.command(ctx, argv); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) stopArray(ctx context.Context, act plan.StopArray) error {
	if err := a.commands(ctx, act); err != nil {
		return err
	}
	a.array = false
	return nil
}

// releaseArray stops what an earlier try has started. An array of that name
// that lies on other disks is somebody else's.
func (a *applier) releaseArray(ctx context.Context) error {
	name := filepath.Base(plan.ArrayFile)
	members, err := os.ReadDir(a.h.Path("/sys/block", name, "slaves"))
	if err != nil || len(members) == 0 {
		return nil // the usual case: nothing runs
	}
	for _, m := range members {
		if !a.ours(m.Name()) {
			return fmt.Errorf("%s is in use by an array on %s: stop it (mdadm --stop %s) and install again", plan.ArrayFile, m.Name(), plan.ArrayFile)
		}
	}
	return a.stopArray(ctx, plan.StopArray{File: plan.ArrayFile})
}

// ours says whether a partition is on one of the chosen disks.
func (a *applier) ours(part string) bool {
	for _, m := range a.p.All() {
		if _, err := os.Stat(a.h.Path("/sys/block", m.Disk.Name, part)); err == nil && strings.HasPrefix(part, m.Disk.Name) {
			return true
		}
	}
	return false
}

// activateGroup opens the volumes that are kept. A file system that needs
// repair is repaired as the node would at its start; XFS does that when it is
// mounted (fsck.xfs(8)).
func (a *applier) activateGroup(ctx context.Context, act plan.ActivateGroup) error {
	a.storageID, a.group = act.UUID, true
	if err := a.commands(ctx, act); err != nil {
		return err
	}
	for _, v := range []string{"state", "local"} {
		device := "/dev/" + plan.VGName + "/" + v
		f, err := os.Open(a.h.Path(device))
		if err != nil {
			return fmt.Errorf("open the volume %q that is kept: %w", v, err)
		}
		fs := probe.FileSystem(f)
		f.Close()
		switch fs {
		case answer.XFS:
		case answer.Ext4:
			_, err := a.command(ctx, act.Repair(v))
			// e2fsck(8): 1 is "repaired", 2 "and restart", which an unmounted one does not need
			if code := run.ExitCode(err); err != nil && (code < 1 || code > 3) {
				return err
			}
		default:
			return fmt.Errorf("open the volume %q that is kept: it holds neither ext4 nor XFS", v)
		}
		a.p.Answer.Disk.Filesystem = fs // what is there counts
	}
	return nil
}

// fsType is what state and local are, as mount(2) calls it.
func (a *applier) fsType(act plan.Seed) string {
	switch {
	case a.p.Adopt != nil:
		return a.p.Answer.Disk.Filesystem
	case act.FSType != "":
		return act.FSType
	}
	return answer.Ext4
}
