package stage1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/system/block"
	"joist/system/bootdisk"
	"joist/system/loop"
)

// search loads modules for new devices and calls look until it answers true.
// Every second it says what is waited for and what is there.
func (b *boot) search(ctx context.Context, what string, look func([]block.Device) (bool, error)) ([]block.Device, error) {
	begun, said := time.Now(), time.Now()
	for {
		devs, err := block.List("/sys")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if ok, err := look(devs); ok || err != nil {
			return devs, err
		}
		if time.Since(begun) > findTime || ctx.Err() != nil {
			return devs, fmt.Errorf("find %s: not there after %d s (seen: %s)", what, int(findTime.Seconds()), names(devs))
		}
		if time.Since(said) >= time.Second {
			said = time.Now()
			b.log.Printf("waiting   %s: %d s of %d (seen: %s)", what, int(time.Since(begun).Seconds()), int(findTime.Seconds()), names(devs))
		}
		if b.coldplug() == 0 {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func names(devs []block.Device) string {
	var s []string
	for _, d := range devs {
		if d.Bytes > 0 {
			s = append(s, d.Name)
		}
	}
	if len(s) == 0 {
		return "no disk at all"
	}
	return strings.Join(s, " ")
}

// findSlot finds the partition by disk GUID and partition name. The GUID is
// read from the disk itself: it is what tells two installations apart when
// their disks are in one machine.
func (b *boot) findSlot(ctx context.Context) error {
	if b.opt.InPlace {
		return b.findOwn(ctx)
	}
	devs, err := b.search(ctx, "slot "+b.opt.Slot, func(devs []block.Device) (bool, error) {
		d, ok := block.Find(devs, b.opt.Disk, b.opt.Partition())
		b.image = d.Path()
		return ok, nil
	})
	if err != nil {
		return &problem{fmt.Errorf("%w, disk %s", err, b.opt.Disk), "check that the system disk is connected and shown by the firmware"}
	}
	if err := bootdisk.Alone(devs, "/sys", b.opt.Disk); err != nil {
		return &problem{fmt.Errorf("find slot %s: %w", b.opt.Slot, err), bootdisk.CopiesCure}
	}
	b.log.Printf("          slot %s is %s", b.opt.Slot, b.image)
	return nil
}

// findOwn finds the partition on the disk that waits to become a node's, or on
// one of them.
func (b *boot) findOwn(ctx context.Context) error {
	var found block.Device
	var wrong error
	_, err := b.search(ctx, "slot "+b.opt.Slot, func(devs []block.Device) (bool, error) {
		found, wrong = bootdisk.InPlace(devs, "/sys", b.opt.Partition())
		return wrong != nil || found.Name != "", nil
	})
	if err != nil {
		return &problem{fmt.Errorf("%w, a disk that was started from an image, or whose node is made anew", err), "check that the disk is connected and that the image was written to it completely"}
	}
	if wrong != nil {
		return &problem{fmt.Errorf("find slot %s: %w", b.opt.Slot, wrong), "disconnect all of these disks but one, or but those of one system"}
	}
	b.image = found.Path()
	b.log.Printf("          slot %s is %s", b.opt.Slot, b.image)
	b.noteMedium(found, b.opt.Slot)
	return nil
}

// findMedium mounts whatever can be a medium and looks for this build's
// image on it. Labels do not matter: two sticks may have the same one.
func (b *boot) findMedium(ctx context.Context) error {
	if err := os.MkdirAll(medium, 0o755); err != nil {
		return err
	}
	seen := map[string]bool{}
	_, err := b.search(ctx, "medium", func(devs []block.Device) (bool, error) {
		for _, d := range devs {
			if d.Bytes == 0 || seen[d.Key()] {
				continue
			}
			fs, err := d.Sniff()
			if err != nil {
				continue // no disc yet, or a drive that is still starting: look again
			}
			seen[d.Key()] = true
			if fs != "" && b.tryMedium(d, fs) {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return &problem{err, "put the medium in again, use another port or drive, and check that it was written completely"}
	}
	return nil
}

func (b *boot) imageFile() string {
	return filepath.Join(medium, "joist", b.opt.Build, "system.sqfs")
}

const readOnly = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// tryMedium mounts a volume and looks for this build's files, and for an image
// of the medium as a file.
func (b *boot) tryMedium(d block.Device, fs string) bool {
	if !slices.Contains(always(false), fs) && fs != "iso9660" {
		if err := b.mods.Load(fs); err != nil {
			b.log.Printf("          %s looks like %s: %v", d.Path(), fs, err)
			return false
		}
	}
	source := d.Path()
	if fs == "ntfs3" {
		// The driver may replay its journal also where it is to read only: it
		// gets a device that cannot be written to.
		dev, err := loop.Attach(source, 512)
		if err != nil {
			b.log.Printf("          %s looks like %s: %v", d.Path(), fs, err)
			return false
		}
		defer loop.Detach(dev) // goes with the mount, if there is one
		source = dev
	}
	if err := unix.Mount(source, medium, fs, readOnly, ""); err != nil {
		b.log.Printf("          %s looks like %s, but mounting it: %v", d.Path(), fs, err)
		return false
	}
	what := fs
	if _, err := os.Stat(b.imageFile()); err != nil {
		file := ""
		if fs != "iso9660" {
			file = findISO(medium, b.opt.Build)
		}
		if file == "" {
			b.log.Printf("          %s (%s) is not our medium", d.Path(), fs)
			unix.Unmount(medium, unix.MNT_DETACH)
			return false
		}
		if err := b.openISO(file); err != nil {
			b.log.Printf("          %s on %s: %v", strings.TrimPrefix(file, medium), d.Path(), err)
			unix.Unmount(medium, unix.MNT_DETACH)
			return false
		}
		what = strings.TrimPrefix(file, medium+"/") + " on " + fs
	}
	b.log.Printf("          medium is %s (%s)", d.Path(), what)
	b.noteMedium(d, "")
	return true
}

// openISO puts the image file of a volume that is mounted as the medium into
// the medium's place.
func (b *boot) openISO(file string) error {
	if err := os.MkdirAll(carrier, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(medium, carrier, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the volume aside: %w", err)
	}
	dev, err := loop.Attach(filepath.Join(carrier, strings.TrimPrefix(file, medium)), isoBlock)
	if err == nil {
		if err = unix.Mount(dev, medium, "iso9660", readOnly, ""); err != nil {
			err = fmt.Errorf("mount %s: %w", dev, err)
		} else {
			if _, err = os.Stat(b.imageFile()); err == nil {
				b.carrier = dev
				return nil
			}
			err = errors.Join(err, unix.Unmount(medium, unix.MNT_DETACH))
		}
		err = errors.Join(err, loop.Detach(dev))
	}
	return errors.Join(err, unix.Mount(carrier, medium, "", unix.MS_MOVE, "")) // back to where the caller had it
}

// noteMedium tells the installer which disk is the medium, or the disk itself
// that it installs on.
func (b *boot) noteMedium(d block.Device, slot string) {
	text, err := json.Marshal(node.Medium{Device: d.Name, Seq: d.Seq, Slot: slot})
	if err == nil {
		err = os.WriteFile(node.BootMedium, text, 0o644)
	}
	if err != nil {
		b.log.Printf("          note the medium: %v", err)
	}
}
