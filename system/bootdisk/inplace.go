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
)

// ErrMirror says that a system lies on several disks, and its installer in
// place knows one.
var ErrMirror = errors.New("the system lies on several disks; install from the ISO, with [joist.disk] adopt = true to keep the data")

// ErrAnswerTooLarge says that an answer does not fit its place.
var ErrAnswerTooLarge = errors.New("the answer does not fit its place on the boot partition")

// StartInstaller has the next start of the system make its own disk a node's
// again: the table is marked, answer, which may be empty, is put where the
// installer finds it, and the last write is one sector of the slot's
// configuration. Cut off before that, the node starts as ever, erases the
// answer and takes the mark away.
func (s System) StartInstaller(ctx context.Context, answer []byte, keep bool) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	ds, err := s.Disks()
	if err != nil {
		return err
	}
	if len(ds) != 1 || !strings.EqualFold(ds[0].Table.DiskGUID, s.GUID) {
		return ErrMirror
	}
	d := ds[0]
	p, err := d.open(disk.NameESP, true)
	if err != nil {
		return err
	}
	defer p.Close()
	conf, confAt, err := p.file(boot.PathSlotConfig(s.Slot))
	if err != nil {
		return err
	}
	next, err := boot.OwnInstaller(conf, s.Slot)
	if err != nil {
		return err
	}
	if _, _, err := p.file(boot.PathManifest(s.Slot)); err != nil {
		return fmt.Errorf("%w: %w", boot.ErrNotInPlace, err)
	}
	place, answerAt, err := p.file(boot.PathAnswer)
	if err != nil {
		return fmt.Errorf("%w: %w", boot.ErrNotInPlace, err)
	}
	text := boot.AnswerPlace(answer)
	if len(text) != len(place) {
		return fmt.Errorf("%w: %d bytes, it has %d", ErrAnswerTooLarge, len(answer), len(place))
	}
	write := func(b []byte, at int64) error {
		_, err := p.WriteAt(b, at)
		return errors.Join(err, p.Sync())
	}
	marks := disk.Unfinished | disk.InPlace
	if keep {
		marks |= disk.KeepsData
	}
	if err := Mark(d, marks); err != nil {
		return err
	}
	if err := write(text, answerAt); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	if err := write(next, confAt); err != nil {
		return fmt.Errorf("write configuration of slot %s: %w", s.Slot, err)
	}
	return p.forget()
}

// Files are small files of the boot partition of the system's one disk, those
// that are there.
func (s System) Files(ctx context.Context, paths ...string) (Disk, map[string][]byte, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return Disk{}, nil, err
	}
	defer unlock()
	ds, err := s.Disks()
	if err != nil {
		return Disk{}, nil, err
	}
	if len(ds) != 1 || !strings.EqualFold(ds[0].Table.DiskGUID, s.GUID) {
		return Disk{}, nil, ErrMirror
	}
	p, err := ds[0].open(disk.NameESP, false)
	if err != nil {
		return Disk{}, nil, err
	}
	defer p.Close()
	found := map[string][]byte{}
	for _, path := range paths {
		b, _, err := p.file(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return Disk{}, nil, fmt.Errorf("read %s of disk %s: %w", path, ds[0].Name, err)
		}
		found[path] = b
	}
	return ds[0], found, nil
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
