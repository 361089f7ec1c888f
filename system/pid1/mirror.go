package pid1

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"joist/image/boot"
	"joist/system/array"
	"joist/system/block"
	"joist/system/bootdisk"
)

// alone says whether every disk of the system is there once, as far as the
// kernel has seen them.
func (s *system) alone() error {
	devs, err := block.List("/sys")
	if err != nil {
		return err
	}
	return bootdisk.Alone(devs, "/sys", s.opt.Disk)
}

// distinct is alone for parts of a mirror or pool, which are found by what they
// hold, whatever table they lie in.
func distinct(pairs [][2]string) error {
	devs, err := block.List("/sys")
	if err == nil {
		err = bootdisk.Distinct(devs, "/sys", pairs)
	}
	if err != nil {
		return fmt.Errorf("%w; %s", err, bootdisk.CopiesCure)
	}
	return nil
}

// mirrorWait is how long a member is waited for that took part when the mirror
// ran last. One that is known to be gone is not waited for.
const mirrorWait = 15 * time.Second

// findStorage returns the device of the LVM physical volume: the data
// partition, or the mirror below it, which is started.
func (s *system) findStorage(ctx context.Context) (string, error) {
	if s.opt.Array == "" {
		return findData(ctx, s.opt.Disk)
	}
	if err := array.Load(ctx, s.run); err != nil {
		return "", err
	}
	ms, err := members(ctx, func() ([]array.Member, error) {
		devs, err := bootdisk.Devices("/sys")
		return array.Find(devs, s.opt.Array), err
	}, mirrorWait)
	if err != nil {
		return "", err
	}
	if err := distinct(array.Copies(ms)); err != nil {
		return "", err
	}
	if n := array.Missing(ms); n > 0 {
		s.log.Printf("          the mirror starts without %d of its disks, which did not appear in %v", n, mirrorWait)
	}
	return array.File, array.Start(ctx, s.run, s.opt.Array, ms, false)
}

// members waits for the mirror's members: for all that took part last, and
// from the first one on no longer than limit.
func members(ctx context.Context, find func() ([]array.Member, error), limit time.Duration) ([]array.Member, error) {
	return await(ctx, "mirror", find, func(ms []array.Member, since time.Duration) bool {
		return array.Missing(ms) == 0 || since >= limit
	})
}

// await looks for members of what until they are ready; since tells how long
// the first one has been there.
func await[M any](ctx context.Context, what string, find func() ([]M, error), ready func(ms []M, since time.Duration) bool) ([]M, error) {
	var first time.Time
	for {
		ms, err := find()
		if err != nil {
			return nil, err
		}
		if len(ms) > 0 && first.IsZero() {
			first = time.Now()
		}
		if len(ms) > 0 && ready(ms, time.Since(first)) {
			return ms, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("find the %s of the node: no partition %s belongs to it", what, dataPartition)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tendMirror takes disks back that were away and says what is wrong. The
// dashboard says it for as long as it is so.
func (s *system) tendMirror(ctx context.Context) error {
	if err := s.alone(); err != nil {
		return err
	}
	now, _ := array.Read("/sys") // one that does not run uses nothing
	devs, err := bootdisk.Devices("/sys", slices.Collect(maps.Keys(now.Members))...)
	if err != nil {
		return err
	}
	err = array.Return(ctx, s.run, "/sys", array.Find(devs, s.opt.Array))
	if p := array.Problem("/sys"); p != "" {
		s.log.Printf("          %s", p)
	}
	return err
}

// endInstallation clears the mark of an installation that lost power between
// its last steps: the system runs, so that it must not be taken for unfinished.
// An answer that the installer had no time to erase goes first.
func (s *system) endInstallation(ctx context.Context) error {
	if err := s.alone(); err != nil {
		return err
	}
	slot, err := boot.ParseSlot(s.opt.Slot)
	if err != nil {
		return err
	}
	if err := bootdisk.Running(s.opt.Disk, slot).ErasePlaces(ctx); err != nil {
		return err
	}
	devs, err := bootdisk.Devices("/sys")
	if err != nil {
		return err
	}
	done, err := block.Finish(devs, s.opt.Disk)
	if done && err == nil {
		s.log.Printf("          the disk was marked as not finished by its installer; it is finished now")
	}
	return err
}

// reconcile brings the boot parts of all disks of the system to the state of
// the one that counts, so that each of them starts the node alone.
func (s *system) reconcile(ctx context.Context) error {
	// a copy that came after the start would be written to
	if err := s.alone(); err != nil {
		return fmt.Errorf("%w; the node runs on the one that it started from: %s", err, bootdisk.CopiesCure)
	}
	slot, err := boot.ParseSlot(s.opt.Slot)
	if err != nil {
		return err
	}
	return bootdisk.Running(s.opt.Disk, slot).Reconcile(ctx, func(format string, args ...any) {
		s.log.Printf("          "+format, args...)
	})
}
