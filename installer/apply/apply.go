// Package apply carries out a plan. It is the only writer of an installation:
// every step is named, can be repeated from the start after a failure, and
// touches the chosen disks and nothing else. Boot sector, boot partition and
// firmware entry come last, so that an installation that was interrupted does
// not start, and a mark in the partition table says from the first write to the
// last that it is not finished.
package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"joist/api/node"
	"joist/installer/plan"
	"joist/internal/finding"
	"joist/internal/host"
	"joist/internal/progress"
)

// Places of an installation that is going on. All are on the tmpfs /run.
const (
	JournalFile = node.RunDir + "/install.json"
	NextFile    = node.RunDir + "/next"           // what PID 1 does next: "reboot" or "poweroff"
	DoneFile    = node.RunDir + "/installed.json" // Installed
	targetDir   = node.RunDir + "/target"
)

// Step is one line of the journal.
type Step struct {
	Name  string         `json:"name"`
	State progress.State `json:"state"`
	Begun time.Time      `json:"begun"`
	Ended time.Time      `json:"ended,omitzero"`
	Error string         `json:"error,omitempty"`
}

// Journal is JournalFile.
type Journal struct {
	InstallationID string `json:"installation_id"`
	Disk           string `json:"disk"`
	Steps          []Step `json:"steps"`
}

// Installed is what only the node's own files know: where an installation's
// data was kept, they are the older ones.
type Installed struct {
	MachineID string            `json:"machine_id"`
	HostKeys  map[string]string `json:"host_keys"` // public lines of the SSH host keys, by their kind
}

// ReadDone reads DoneFile.
func ReadDone(h *host.Host) (Installed, error) {
	var done Installed
	b, err := os.ReadFile(h.Path(DoneFile))
	if err == nil {
		err = json.Unmarshal(b, &done)
	}
	if err != nil {
		return done, fmt.Errorf("read what was installed: %w", err)
	}
	return done, nil
}

// applier is one installation.
type applier struct {
	h         *host.Host
	p         plan.Plan
	sink      progress.Sink
	drives    []*drive
	parts     parts  // of the medium
	storageID string // the volume group's UUID or the pool's GUID
	group     bool   // volumes of the group are active
	array     bool   // the mirror runs
	pool      bool   // the pool is open
	mounted   []string

	mu      sync.Mutex // steps run beside each other
	journal Journal
}

// Apply carries out p. The medium must be mounted at probe.MediumDir. When it
// fails, everything that it mounted and activated is let go of again.
func Apply(ctx context.Context, h *host.Host, p plan.Plan, s progress.Sink) error {
	if p.Result != plan.Install || len(p.Actions) == 0 {
		return fmt.Errorf("apply plan: its result is %q, not an installation", p.Result)
	}
	if fs := Check(p); fs.Stops() {
		return fmt.Errorf("apply plan: %w", fs.Err())
	}
	a := &applier{h: h, p: p, journal: Journal{InstallationID: p.InstallationID, Disk: p.Disk.Name}}
	a.sink = func(e progress.Event) { // one at a time: steps run beside each other
		a.mu.Lock()
		defer a.mu.Unlock()
		s(e)
	}
	for _, d := range []string{node.RunDir, targetDir, lvmDir} {
		if err := os.MkdirAll(h.Path(d), 0o755); err != nil {
			return fmt.Errorf("prepare %s: %w", d, err)
		}
	}
	if err := os.WriteFile(h.Path(lvmDir, "lvm.conf"), []byte(lvmConf(p)), 0o644); err != nil {
		return fmt.Errorf("prepare LVM: %w", err)
	}
	if err := a.open(); err != nil {
		return err
	}
	defer func() { a.parts.release() }() // those that there are then
	for _, s := range stages(p.Actions) {
		if err := a.stage(ctx, s); err != nil {
			return errors.Join(err, a.cleanUp(), a.close())
		}
	}
	if err := a.close(); err != nil {
		return fmt.Errorf("close disk: %w", err)
	}
	next := "reboot"
	if p.Answer.Global.RebootMode == "power-off" {
		next = "poweroff"
	}
	return node.WriteFile(h.Path(NextFile), 0o644, []byte(next+"\n"))
}

// step runs one action with its entries in journal and progress.
func (a *applier) step(ctx context.Context, act plan.Action) error {
	n, err := a.begun(act.Step())
	if err != nil {
		return err
	}
	a.h.Log.Info("install step", "step", act.Step())
	err = a.sink.Do(act.Step(), func(advance func(n, of int64)) error { return a.how(act)(ctx, advance) })
	if err != nil {
		a.h.Log.Error("install step failed", "step", act.Step(), "error", err)
	}
	jerr := a.ended(n, err)
	if _, optional := act.(plan.BootEntry); optional {
		// Some firmware refuses to store variables. The disk still starts by
		// the path that firmware falls back to, /EFI/BOOT/BOOTX64.EFI.
		err = nil
	}
	return errors.Join(err, jerr)
}

// begun enters a step in the journal and returns its place there.
func (a *applier) begun(step string) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.journal.Steps = append(a.journal.Steps, Step{Name: step, State: progress.Started, Begun: a.h.Now().UTC()})
	return len(a.journal.Steps) - 1, a.writeJournal()
}

func (a *applier) ended(n int, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &a.journal.Steps[n]
	s.Ended, s.State = a.h.Now().UTC(), progress.Finished
	if err != nil {
		s.State, s.Error = progress.Failed, err.Error()
	}
	return a.writeJournal()
}

func (a *applier) writeJournal() error {
	if err := node.WriteJSON(a.h.Path(JournalFile), 0o644, a.journal); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// work carries out one action; advance tells how far it is.
type work func(ctx context.Context, advance func(n, of int64)) error

// how is the one place that knows what carries out which action, nil for those
// that nothing does.
func (a *applier) how(act plan.Action) work {
	switch act := act.(type) {
	case plan.CheckMedium:
		return func(ctx context.Context, advance func(n, of int64)) error { return a.checkMedium(ctx, advance) }
	case plan.Release:
		return func(ctx context.Context, _ func(n, of int64)) error { return a.release(ctx, act) }
	case plan.Mark:
		return a.on(act.Device, func(_ context.Context, d *drive) error { return a.mark(d, act) })
	case plan.Wipe:
		return a.on(act.Device, func(_ context.Context, d *drive) error { return a.wipe(d, act) })
	case plan.Partition:
		return a.on(act.Device, func(ctx context.Context, d *drive) error { return a.partition(ctx, d, act) })
	case plan.CreateLVM:
		return func(ctx context.Context, advance func(n, of int64)) error { return a.createLVM(ctx, act, advance) }
	case plan.Mkfs:
		return func(ctx context.Context, _ func(n, of int64)) error { return a.commands(ctx, act) }
	case plan.Seed:
		return func(ctx context.Context, _ func(n, of int64)) error { return a.seed(act) }
	case plan.WriteSlot:
		return func(ctx context.Context, advance func(n, of int64)) error { return a.writeSlot(ctx, act, advance) }
	case plan.FormatESP:
		return a.on(act.Device, func(_ context.Context, d *drive) error { return a.formatESP(d, act) })
	case plan.InstallBIOSBoot:
		return a.on(act.Device, func(_ context.Context, d *drive) error { return a.biosBoot(d, act) })
	case plan.BootEntry:
		return a.on(act.Device, func(_ context.Context, d *drive) error { return a.bootEntry(d, act) })
	case plan.KeepLog:
		return func(ctx context.Context, _ func(n, of int64)) error { return a.keepLog(act) }
	case plan.CheckBoot:
		return a.on(act.Device, func(ctx context.Context, d *drive) error { return a.checkBoot(ctx, d, act) })
	case plan.Grow:
		return a.on(act.Device, func(ctx context.Context, d *drive) error { return a.grow(ctx, d, act) })
	case plan.WriteBoot:
		return a.on(act.Device, func(_ context.Context, d *drive) error { return a.writeBoot(d, act) })
	case plan.EraseAnswer:
		return a.on(act.Device, func(_ context.Context, d *drive) error { return a.eraseAnswer(d, act) })
	case plan.Finish:
		return func(ctx context.Context, _ func(n, of int64)) error { return a.finish(ctx, act) }
	case plan.Unmark:
		return a.on(act.Device, func(_ context.Context, d *drive) error { return a.unmark(d, act) })
	default:
		return a.howStorage(act)
	}
}

// on is work on one disk.
func (a *applier) on(device string, f func(ctx context.Context, d *drive) error) work {
	return func(ctx context.Context, _ func(n, of int64)) error {
		d, err := a.drive(device)
		if err != nil {
			return err
		}
		return f(ctx, d)
	}
}

// Check says which of the plan's actions nothing here can carry out. Apply
// asks it before the first step: a disk is not erased for an installation that
// cannot come to its end.
func Check(p plan.Plan) finding.List {
	var fs finding.List
	a := &applier{}
	for _, act := range p.Actions {
		if a.how(act) == nil {
			fs.Add(plan.NotPossible(act))
		}
	}
	return fs
}

// release undoes what an earlier try in the same boot left behind.
func (a *applier) release(ctx context.Context, act plan.Release) error {
	if err := a.commands(ctx, act); err != nil {
		return fmt.Errorf("load the ZFS module: %w", err)
	}
	for _, v := range []string{"local", "state"} {
		// an error only says that nothing is mounted there
		_ = a.h.Sys.Unmount(a.target(v))
	}
	if a.active() {
		if err := a.commands(ctx, plan.Finish{VG: plan.VGName}); err != nil {
			a.h.Log.Info("no volume group to deactivate", "answer", err.Error())
		}
	}
	if err := a.releaseArray(ctx); err != nil {
		return err
	}
	return a.releasePool(ctx)
}

func (a *applier) target(volume string) string { return filepath.Join(targetDir, volume) }

// cleanUp lets go of the disk after a failure, so that a retry finds it free.
func (a *applier) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := a.unmountAll()
	if a.group {
		err = errors.Join(err, a.commands(ctx, plan.Finish{VG: plan.VGName}))
	}
	if a.array {
		err = errors.Join(err, a.stopArray(ctx, plan.StopArray{File: plan.ArrayFile}))
	}
	if a.pool {
		err = errors.Join(err, a.exportPool(ctx))
	}
	return err
}

func (a *applier) unmountAll() error {
	var errs []error
	for i := len(a.mounted) - 1; i >= 0; i-- {
		if err := a.h.Sys.Unmount(a.mounted[i]); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", a.mounted[i], err))
		}
	}
	a.mounted = nil
	return errors.Join(errs...)
}

// finish lets go of everything and waits until the disks have it.
func (a *applier) finish(ctx context.Context, act plan.Finish) error {
	if err := a.unmountAll(); err != nil {
		return err
	}
	if err := a.commands(ctx, act); err != nil {
		return fmt.Errorf("deactivate volume group %q: %w", act.VG, err)
	}
	var errs []error
	for _, d := range a.drives {
		errs = append(errs, d.flush())
	}
	return errors.Join(errs...)
}
