// Package apply carries out a plan. It is the only writer of an installation:
// every step is named, can be repeated from the start after a failure, and
// touches the chosen disk and nothing else. Boot sector, boot partition and
// firmware entry come last, so that an installation that was interrupted does
// not start.
package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/installer/plan"
	"joist/internal/host"
	"joist/internal/progress"
)

// Places of an installation that is going on. All are on the tmpfs /run.
const (
	JournalFile = node.RunDir + "/install.json"
	NextFile    = node.RunDir + "/next" // what PID 1 does next: "reboot" or "poweroff"
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

// applier is one installation.
type applier struct {
	h       *host.Host
	p       plan.Plan
	sink    progress.Sink
	disk    *os.File
	journal Journal
	vgUUID  string
	mounted []string
}

// Apply carries out p. The medium must be mounted at probe.MediumDir. When it
// fails, everything that it mounted and activated is let go of again.
func Apply(ctx context.Context, h *host.Host, p plan.Plan, s progress.Sink) error {
	if p.Result != plan.Install || len(p.Actions) == 0 {
		return fmt.Errorf("apply plan: its result is %q, not an installation", p.Result)
	}
	a := &applier{h: h, p: p, sink: s, journal: Journal{InstallationID: p.InstallationID, Disk: p.Disk.Name}}
	for _, d := range []string{node.RunDir, targetDir} {
		if err := os.MkdirAll(h.Path(d), 0o755); err != nil {
			return fmt.Errorf("prepare %s: %w", d, err)
		}
	}
	if err := a.open(); err != nil {
		return err
	}
	defer a.disk.Close()
	for _, act := range p.Actions {
		if err := ctx.Err(); err != nil {
			return errors.Join(fmt.Errorf("install: %w", err), a.cleanUp())
		}
		if err := a.step(ctx, act); err != nil {
			return errors.Join(err, a.cleanUp())
		}
	}
	next := "reboot"
	if p.Answer.Global.RebootMode == "power-off" {
		next = "poweroff"
	}
	return node.WriteFile(h.Path(NextFile), 0o644, []byte(next+"\n"))
}

// open opens the disk for the time of the installation, with the lock that
// keeps udevd from touching it meanwhile (systemd's "Locking Block Device
// Access").
func (a *applier) open() error {
	name := a.h.Path("/dev", a.p.Disk.Name)
	var err error
	if a.disk, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	size, err := a.disk.Seek(0, 2)
	if err == nil && size < a.p.Layout.Size {
		err = fmt.Errorf("it has %d bytes, the plan was made for %d", size, a.p.Layout.Size)
	}
	if err == nil {
		err = unix.Flock(int(a.disk.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		a.disk.Close()
		return fmt.Errorf("lock disk %s: %w", a.p.Disk.Name, err)
	}
	return nil
}

// step runs one action with its entries in journal and progress.
func (a *applier) step(ctx context.Context, act plan.Action) error {
	a.journal.Steps = append(a.journal.Steps, Step{Name: act.Step(), State: progress.Started, Begun: a.h.Now().UTC()})
	s := &a.journal.Steps[len(a.journal.Steps)-1]
	if err := a.writeJournal(); err != nil {
		return err
	}
	a.h.Log.Info("install step", "step", act.Step())
	err := a.sink.Do(act.Step(), func(advance func(n, of int64)) error { return a.do(ctx, act, advance) })
	s.Ended, s.State = a.h.Now().UTC(), progress.Finished
	if err != nil {
		s.State, s.Error = progress.Failed, err.Error()
		a.h.Log.Error("install step failed", "step", act.Step(), "error", err)
	}
	if _, optional := act.(plan.BootEntry); optional && err != nil {
		// Some firmware refuses to store variables. The disk still starts by
		// the path that firmware falls back to, /EFI/BOOT/BOOTX64.EFI.
		err = nil
	}
	return errors.Join(err, a.writeJournal())
}

func (a *applier) writeJournal() error {
	if err := node.WriteJSON(a.h.Path(JournalFile), 0o644, a.journal); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// do is the one place that knows which function carries out which action.
func (a *applier) do(ctx context.Context, act plan.Action, advance func(n, of int64)) error {
	switch act := act.(type) {
	case plan.Release:
		return a.release(ctx)
	case plan.Wipe:
		return a.wipe(act)
	case plan.Partition:
		return a.partition(ctx, act)
	case plan.CreateLVM:
		return a.createLVM(ctx, act, advance)
	case plan.Mkfs:
		return a.mkfs(ctx, act)
	case plan.Seed:
		return a.seed(act)
	case plan.WriteSlot:
		return a.writeSlot(ctx, act, advance)
	case plan.FormatESP:
		return a.formatESP(act)
	case plan.InstallBIOSBoot:
		return a.biosBoot(act)
	case plan.BootEntry:
		return a.bootEntry(act)
	case plan.Finish:
		return a.finish(ctx)
	default:
		return fmt.Errorf("carry out %T: unknown action", act)
	}
}

// release undoes what an earlier try in the same boot left behind.
func (a *applier) release(ctx context.Context) error {
	for _, v := range a.p.Volumes {
		// an error only says that nothing is mounted there
		_ = a.h.Sys.Unmount(a.target(v.Name))
	}
	if _, err := a.lvm(ctx, "vgchange", "-an", plan.VGName); err != nil {
		a.h.Log.Info("no volume group to deactivate", "answer", err.Error())
	}
	return nil
}

func (a *applier) target(volume string) string { return filepath.Join(targetDir, volume) }

// cleanUp lets go of the disk after a failure, so that a retry finds it free.
func (a *applier) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := a.unmountAll()
	if a.vgUUID != "" {
		_, lvmErr := a.lvm(ctx, "vgchange", "-an", plan.VGName)
		err = errors.Join(err, lvmErr)
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

// finish lets go of everything and waits until the disk has it.
func (a *applier) finish(ctx context.Context) error {
	if err := a.unmountAll(); err != nil {
		return err
	}
	if _, err := a.lvm(ctx, "vgchange", "-an", plan.VGName); err != nil {
		return fmt.Errorf("deactivate volume group %q: %w", plan.VGName, err)
	}
	if err := a.disk.Sync(); err != nil {
		return fmt.Errorf("sync disk: %w", err)
	}
	return nil
}
