package bootdisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"joist/image/boot"
	"joist/image/disk"
	"joist/system/block"
)

// LockFile is held by whoever writes boot parts: PID 1 at the boot, the daemon
// afterwards.
const LockFile = "/run/joist/boot.lock"

// System is the installed system that runs.
type System struct {
	GUID string    // of the disk that it was started from
	Slot boot.Slot // and the slot
	Lock string
	// Disks lists the disks of the system, that one first.
	Disks func() ([]Disk, error)
	// EFI is the folder of the firmware's variables, "" after a start by BIOS.
	EFI string
}

// Running is the system on this machine.
func Running(guid string, slot boot.Slot) System {
	s := System{GUID: guid, Slot: slot, Lock: LockFile, Disks: func() ([]Disk, error) {
		devs, err := block.List("/sys")
		return Find(devs, "/sys", guid), err
	}}
	s.EFI = firmware()
	return s
}

// lockEvery is how often it is looked whether the lock is free.
const lockEvery = 50 * time.Millisecond

// lock waits for its turn as long as ctx lets it: whoever has it may wait for a
// disk that does not answer. The returned function ends it.
func (s System) lock(ctx context.Context) (func(), error) {
	f, err := os.OpenFile(s.Lock, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock boot parts: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock boot parts: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock boot parts: somebody else writes them still: %w", context.Cause(ctx))
		case <-time.After(lockEvery):
		}
	}
}

// Exclusive runs f while nobody else writes boot parts.
func (s System) Exclusive(ctx context.Context, f func() error) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return f()
}

// Inspect looks at all disks of the system. It waits for nobody: what is being
// written may look as if it were missing.
func (s System) Inspect(ctx context.Context, deep bool) ([]Copy, error) {
	ds, err := s.Disks()
	if err != nil {
		return nil, err
	}
	var out []Copy
	for i, d := range ds {
		for _, e := range ds[:i] {
			if strings.EqualFold(d.Table.DiskGUID, e.Table.DiskGUID) {
				return nil, fmt.Errorf("disks %s and %s have the same GUID %s: one is a copy of the other; disconnect it", e.Name, d.Name, d.Table.DiskGUID)
			}
		}
		out = append(out, Inspect(ctx, d, deep))
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("look at boot parts: %w", context.Cause(ctx))
	}
	return out, nil
}

// Reference is the copy that counts: of those that start the system the one of
// the highest generation, among equals the one that this start came from, whose
// tries GRUB has counted.
func (s System) Reference(copies []Copy) (Copy, bool) {
	var ref Copy
	found := false
	for _, c := range copies {
		if len(c.Lacks) > 0 {
			continue
		}
		if !found || c.State.Generation > ref.State.Generation ||
			c.State.Generation == ref.State.Generation && strings.EqualFold(c.Disk.Table.DiskGUID, s.GUID) {
			ref, found = c, true
		}
	}
	return ref, found
}

// ErrBehind says that the disk that runs is older than another one and cannot
// be brought up to date while it runs.
var ErrBehind = errors.New("start from the other disk (the firmware's boot menu): this one is then brought up to date")

// Reconcile brings the boot parts of all disks to the state of the one that
// counts, one disk after the other: it is only read, so that there is always
// one that starts. Damaged partition tables come first, and each disk's are
// mended from its own. say tells what is done.
func (s System) Reconcile(ctx context.Context, say func(format string, args ...any)) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	copies, err := s.Inspect(ctx, false)
	if err != nil {
		return err
	}
	copies, err = s.mend(ctx, copies, say)
	errs := []error{err}
	ref, ok := s.Reference(copies)
	if !ok {
		return errors.Join(err, fmt.Errorf("compare boot parts: no disk has all of them; %s", describe(copies)))
	}
	for _, c := range copies {
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		if c.Tables.Refused != nil {
			continue
		}
		d := Compare(ref, c)
		if c.Disk.Table.DiskGUID != ref.Disk.Table.DiskGUID && d.Any() {
			say("disk %s: %s; it is brought up to date from %s", c.Disk.Name, strings.Join(d.Text, "; "), ref.Disk.Name)
			if err := s.refresh(ctx, ref, c, d); err != nil {
				errs = append(errs, err)
				continue
			}
			c = Inspect(ctx, c.Disk, true)
			if ctx.Err() != nil { // it was not read to its end
				errs = append(errs, context.Cause(ctx))
				break
			}
			if d := Compare(Inspect(ctx, ref.Disk, true), c); d.Any() {
				errs = append(errs, fmt.Errorf("disk %s still differs: %s", c.Disk.Name, strings.Join(d.Text, "; ")))
				continue
			}
		}
		if c.Disk.Table.Marks() != 0 && len(c.Lacks) == 0 {
			say("disk %s was marked as not finished by its installer; it is finished now", c.Disk.Name)
			errs = append(errs, Mark(c.Disk, 0))
		}
	}
	return errors.Join(append(errs, s.entries(copies, say))...)
}

// refresh brings one disk up to date, unless the running system lies in what
// would be written over.
func (s System) refresh(ctx context.Context, ref, c Copy, d Difference) error {
	if strings.EqualFold(c.Disk.Table.DiskGUID, s.GUID) && slices.Contains(d.Slots, s.Slot) {
		return fmt.Errorf("disk %s is older than %s and runs: %w", c.Disk.Name, ref.Disk.Name, ErrBehind)
	}
	return Refresh(ctx, ref, c.Disk, d, func(int64, int64) {})
}

func describe(copies []Copy) string {
	var out []string
	for _, c := range copies {
		out = append(out, c.Disk.Name+": "+strings.Join(c.Lacks, ", "))
	}
	return strings.Join(out, "; ")
}

// Mark sets the marks in the partition table of a disk.
func Mark(d Disk, marks uint64) error {
	f, err := d.disk(true)
	if err != nil {
		return fmt.Errorf("mark disk %s: %w", d.Name, err)
	}
	t, _ := disk.CheckTables(f, d.Bytes, d.Table.SectorSize) // without a whole one there is none to lose
	if err = t.Refused; err == nil {
		err = disk.UpdateTable(f, d.Table.Marked(marks))
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("mark disk %s: %w", d.Name, err)
	}
	return nil
}

// Change changes the state of the slots on all disks that are in step with the
// one that runs; the others are Reconcile's. It fails only where that disk
// could not be written, or is behind another one: its state must not become
// the newest then.
func (s System) Change(ctx context.Context, f func(boot.State) boot.State, say func(format string, args ...any)) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	ds, err := s.Disks()
	if err != nil {
		return err
	}
	if len(ds) == 0 || !strings.EqualFold(ds[0].Table.DiskGUID, s.GUID) {
		return fmt.Errorf("change state of slots: disk %s: %w", s.GUID, os.ErrNotExist)
	}
	states := make([]boot.State, len(ds))
	for i, d := range ds {
		if ctx.Err() != nil {
			return fmt.Errorf("read state of slots: %w", context.Cause(ctx))
		}
		if states[i], err = State(d); err != nil && i == 0 {
			return fmt.Errorf("read state of slots on disk %s: %w", d.Name, err)
		}
		if states[i].Generation > states[0].Generation && len(Inspect(ctx, d, false).Lacks) == 0 {
			return fmt.Errorf("disk %s is older than %s: %w", ds[0].Name, d.Name, ErrBehind)
		}
	}
	next := f(states[0])
	for i, d := range ds {
		if states[i].Generation != states[0].Generation {
			continue
		}
		if err := writeState(d, next); err != nil && i == 0 {
			return fmt.Errorf("write state of slots on disk %s: %w", d.Name, err)
		} else if err != nil {
			say("write state of slots on disk %s: %v", d.Name, err)
		}
	}
	return nil
}

// MarkGood ends the trial of the slot that runs: the next starts of it are not
// counted any more.
func (s System) MarkGood(ctx context.Context, say func(format string, args ...any)) error {
	return s.Change(ctx, func(x boot.State) boot.State {
		if x.Of(s.Slot).OK {
			return x
		}
		return boot.MarkGood(x, s.Slot)
	}, say)
}

// State reads the state of the slots from a disk.
func State(d Disk) (boot.State, error) {
	p, err := d.open(disk.NameESP, false)
	if err != nil {
		return boot.State{}, err
	}
	defer p.Close()
	return readState(p)
}
