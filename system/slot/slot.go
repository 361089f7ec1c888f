// Package slot reads and writes what the boot menu knows about the two slots:
// the environment block on the EFI system partition. The partition is mounted
// only for as long as that takes. The block's file is written in place and
// never replaced, because GRUB itself rewrites its sectors.
package slot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"joist/image/boot"
	"joist/system/block"
)

// Partition is the GPT name of the EFI system partition.
const Partition = "joist-esp"

// Disk is the system disk, by the GUID of its partition table.
type Disk struct{ GUID string }

// Read returns the state of both slots.
func (d Disk) Read() (s boot.State, err error) {
	err = d.with(unix.MS_RDONLY, func(root string) (err error) {
		s, err = ReadFile(filepath.Join(root, boot.PathEnv))
		return err
	})
	return s, err
}

// Change applies f to the state and writes the result, synced. f may be one
// of package boot's transitions.
func (d Disk) Change(f func(boot.State) boot.State) error {
	return d.with(unix.MS_SYNCHRONOUS, func(root string) error {
		return ChangeFile(filepath.Join(root, boot.PathEnv), f)
	})
}

// MarkGood ends the trial of the slot that runs: the next starts of it are
// not counted any more.
func (d Disk) MarkGood(x boot.Slot) error {
	return d.Change(func(s boot.State) boot.State {
		if s.Of(x).OK {
			return s
		}
		return boot.MarkGood(s, x)
	})
}

// with mounts the partition at a place of its own and unmounts it after f.
func (d Disk) with(flags uintptr, f func(root string) error) (err error) {
	devs, err := block.List("/sys")
	if err != nil {
		return err
	}
	esp, ok := block.Find(devs, d.GUID, Partition)
	if !ok {
		return fmt.Errorf("find partition %s on disk %s: %w", Partition, d.GUID, os.ErrNotExist)
	}
	at, err := os.MkdirTemp("/run/joist", "esp-")
	if err != nil {
		return fmt.Errorf("mount %s: %w", esp.Path(), err)
	}
	defer os.Remove(at)
	flags |= unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(esp.Path(), at, "vfat", flags, "umask=077"); err != nil {
		return fmt.Errorf("mount %s: %w", esp.Path(), err)
	}
	defer func() {
		if uerr := unix.Unmount(at, 0); uerr != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", esp.Path(), uerr))
		}
	}()
	return f(at)
}

// ReadFile reads an environment block.
func ReadFile(name string) (boot.State, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return boot.State{}, fmt.Errorf("read slot state: %w", err)
	}
	e, err := boot.DecodeEnv(b)
	if err != nil {
		return boot.State{}, err
	}
	return boot.DecodeState(e), nil
}

// ChangeFile changes an environment block in place. A block that would stay
// the same is not written.
func ChangeFile(name string, f func(boot.State) boot.State) error {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("write slot state: %w", err)
	}
	defer file.Close()
	b := make([]byte, boot.EnvSize)
	if _, err := file.ReadAt(b, 0); err != nil {
		return fmt.Errorf("read slot state: %w", err)
	}
	e, err := boot.DecodeEnv(b)
	if err != nil {
		return err
	}
	was := boot.DecodeState(e)
	now := f(was)
	if now == was {
		return nil
	}
	if err := now.Store(e); err != nil {
		return err
	}
	if b, err = e.Encode(); err != nil {
		return err
	}
	if _, err := file.WriteAt(b, 0); err != nil {
		return fmt.Errorf("write slot state: %w", err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("write slot state: %w", err)
	}
	return nil
}
