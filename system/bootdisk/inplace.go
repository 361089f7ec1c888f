package bootdisk

import (
	"context"
	"errors"
	"fmt"
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
// again: answer, which may be empty, is put where the installer finds it, the
// table is marked, and the last write is one sector of the slot's
// configuration. Cut off before that, the node starts as ever, and takes the
// mark away.
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
	if err := write(text, answerAt); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	marks := disk.Unfinished | disk.InPlace
	if keep {
		marks |= disk.KeepsData
	}
	if err := Mark(d, marks); err != nil {
		return err
	}
	if err := write(next, confAt); err != nil {
		return fmt.Errorf("write configuration of slot %s: %w", s.Slot, err)
	}
	return p.forget()
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
