package bootdisk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"joist/image/boot"
	"joist/image/disk"
	"joist/system/block"
)

// ErrNotAlike says that the disks of a system differ: any of them may be the one
// that the firmware starts.
var ErrNotAlike = errors.New("the boot parts of the system's disks are not in step; bring them there first (joist node disk repair), or disconnect a disk that is no part of the system any more")

// ErrAnswerTooLarge says that an answer does not fit its place.
var ErrAnswerTooLarge = errors.New("the answer does not fit its place on the boot partition")

// StartInstaller has the next start of the system make its own disks a node's
// again, from whichever of them it comes: the tables are marked, answer, which
// may be empty, is put where the installer finds it, and then one sector of the
// slot's configuration is written on each. Cut off before that, the node starts
// as ever, erases the answers and takes the marks away; cut off in between, a
// disk starts it or an installer that leaves the way to that disk.
func (s System) StartInstaller(ctx context.Context, answer []byte, keep bool) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	ds, err := s.own()
	if err != nil {
		return err
	}
	var all []*starter
	done := true // by an earlier call
	for _, d := range ds {
		x, err := s.starter(d, answer)
		if err != nil {
			return ofMany(ds, d, err)
		}
		defer x.esp.Close()
		all = append(all, x)
		done = done && bytes.Equal(x.conf, x.next)
	}
	if len(ds) > 1 && !done {
		if err := s.alike(ctx); err != nil {
			return err
		}
	}
	marks := disk.Unfinished | disk.InPlace
	if keep {
		marks |= disk.KeepsData
	}
	for _, d := range ds {
		if err := Mark(d, marks); err != nil {
			return err
		}
	}
	for _, x := range all {
		if err := x.write(x.answer, x.answerAt); err != nil {
			return fmt.Errorf("write answer to disk %s: %w", x.disk.Name, err)
		}
	}
	for i, x := range all {
		if err := x.write(x.next, x.confAt); err != nil {
			for _, y := range all[:i+1] { // no disk is left that starts something else
				err = errors.Join(err, y.write(y.conf, y.confAt))
			}
			return fmt.Errorf("write configuration of slot %s to disk %s: %w", s.Slot, x.disk.Name, err)
		}
	}
	var errs []error
	for _, x := range all {
		errs = append(errs, x.esp.forget())
	}
	return errors.Join(errs...)
}

// own are the disks of the system, the one that it was started from first.
func (s System) own() ([]Disk, error) {
	ds, err := s.Disks()
	if err == nil && (len(ds) == 0 || !strings.EqualFold(ds[0].Table.DiskGUID, s.GUID)) {
		err = fmt.Errorf("find disk %s: %w", s.GUID, os.ErrNotExist)
	}
	return ds, err
}

// ofMany names the disk where there are several.
func ofMany(ds []Disk, d Disk, err error) error {
	if len(ds) > 1 {
		return fmt.Errorf("disk %s: %w", d.Name, err)
	}
	return err
}

// alike is an error unless each disk starts what the others start.
func (s System) alike(ctx context.Context) error {
	copies, err := s.Inspect(ctx, false)
	if err != nil {
		return err
	}
	for _, c := range copies {
		if d := Compare(copies[0], c); d.Any() || len(c.Lacks) > 0 {
			return fmt.Errorf("disk %s: %s: %w", c.Disk.Name, strings.Join(d.Text, "; "), ErrNotAlike)
		}
	}
	return nil
}

// starter is what is written to the boot partition of one disk.
type starter struct {
	disk             Disk
	esp              *part
	conf, next       []byte
	answer           []byte
	confAt, answerAt int64
}

func (s System) starter(d Disk, answer []byte) (*starter, error) {
	p, err := d.open(disk.NameESP, true)
	if err != nil {
		return nil, err
	}
	x := &starter{disk: d, esp: p, answer: boot.AnswerPlace(answer)}
	if err := x.read(s.Slot, len(answer)); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return x, nil
}

func (x *starter) read(slot boot.Slot, answer int) (err error) {
	if x.conf, x.confAt, err = x.esp.file(boot.PathSlotConfig(slot)); err != nil {
		return err
	}
	if x.next, err = boot.OwnInstaller(x.conf, slot); err != nil {
		return err
	}
	if _, _, err := x.esp.file(boot.PathManifest(slot)); err != nil {
		return fmt.Errorf("%w: %w", boot.ErrNotInPlace, err)
	}
	place, at, err := x.esp.file(boot.PathAnswer)
	if err != nil {
		return fmt.Errorf("%w: %w", boot.ErrNotInPlace, err)
	}
	if x.answerAt = at; len(x.answer) != len(place) {
		return fmt.Errorf("%w: %d bytes, it has %d", ErrAnswerTooLarge, answer, len(place))
	}
	return nil
}

// write waits until the disk has it.
func (x *starter) write(b []byte, at int64) error {
	_, err := x.esp.WriteAt(b, at)
	return errors.Join(err, x.esp.Sync())
}

// Files are small files of the boot partition of the disk that the system was
// started from, those that are there, and all disks of the system, that one
// first.
func (s System) Files(ctx context.Context, paths ...string) ([]Disk, map[string][]byte, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	ds, err := s.own()
	if err != nil {
		return nil, nil, err
	}
	p, err := ds[0].open(disk.NameESP, false)
	if err != nil {
		return nil, nil, err
	}
	defer p.Close()
	found := map[string][]byte{}
	for _, path := range paths {
		b, _, err := p.file(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read %s of disk %s: %w", path, ds[0].Name, err)
		}
		found[path] = b
	}
	return ds, found, nil
}

// ErasePlaces leaves comments where an installer in place finds its answer,
// which may hold secrets. It is for a disk whose mark shows that the power went
// before the installer, or a reset, had done so.
func (s System) ErasePlaces(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	ds, err := s.Disks()
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range ds {
		if d.Table.Marks()&disk.InPlace != 0 {
			errs = append(errs, erasePlaces(d))
		}
	}
	return errors.Join(errs...)
}

func erasePlaces(d Disk) error {
	p, err := d.open(disk.NameESP, true)
	if err != nil {
		return err
	}
	defer p.Close()
	for _, path := range []string{boot.PathAnswer, boot.PathAnswerSource} {
		b, at, err := p.file(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = p.WriteAt(bytes.Repeat([]byte("#"), len(b)), at)
		}
		if err != nil {
			return fmt.Errorf("erase %s on disk %s: %w", path, d.Name, err)
		}
	}
	return errors.Join(p.Sync(), p.forget())
}

// maxPlace bounds what is changed in place.
const maxPlace = 4 << 20

// file reads a small file of the volume and says where it lies.
func (p *part) file(path string) ([]byte, int64, error) {
	x, err := disk.LocateFAT(p, path)
	if err == nil && x.Size > maxPlace {
		err = fmt.Errorf("%s has %d bytes", path, x.Size)
	}
	if err != nil {
		return nil, 0, err
	}
	b := make([]byte, x.Size)
	_, err = p.ReadAt(b, x.Offset)
	return b, x.Offset, err
}

// InPlace is the partition called name of a disk that the system in its slot
// makes a node of; several such disks are of one system, the first stands for
// them. Of which one the firmware has started the kernel does not know. Without
// any its name is "".
func InPlace(devs []block.Device, sys, name string) (block.Device, error) {
	found, tables := block.InPlace(Once(devs, sys), name)
	if len(found) == 0 {
		return block.Device{}, nil
	}
	var guids, names []string
	for i, t := range tables {
		guids, names = append(guids, t.DiskGUID), append(names, found[i].Name)
		if err := Alone(devs, sys, t.DiskGUID); err != nil {
			return block.Device{}, err
		}
	}
	if !disk.OneSystem(guids...) {
		return block.Device{}, fmt.Errorf("%s are of disks that wait for their first start, and not of one system", strings.Join(names, " "))
	}
	return found[0], nil
}
