package apply

import (
	"errors"
	"fmt"
	"io"
	"os"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/plan"
	"joist/rootfs/tree"
)

// source opens what goes onto the boot partition; kernel and initrd are
// compared with the manifest first.
func (a *applier) source(name string) (tree.Source, error) {
	path := a.buildFile("boot", name)
	if name == boot.FileKernel || name == boot.FileInitrd {
		path = a.medium("boot", name)
		if err := verify(path, a.p.Image.Files[name]); err != nil {
			return nil, err
		}
	}
	return tree.FromFile(path)
}

// formatESP writes the boot partition in one go, without mounting anything.
func (a *applier) formatESP(act plan.FormatESP) error {
	fat, err := a.p.ESP(a.vgUUID, a.source)
	if err != nil {
		return err
	}
	v, err := disk.PlanFAT(fat)
	if err != nil {
		return err
	}
	if err := v.Write(a.at(act.Partition)); err != nil {
		return err
	}
	if err := a.disk.Sync(); err != nil {
		return fmt.Errorf("sync disk: %w", err)
	}
	return nil
}

// biosBoot writes the core image into its partition, then the boot sector that
// points to it.
func (a *applier) biosBoot(act plan.InstallBIOSBoot) error {
	img, err := os.ReadFile(a.buildFile("boot", plan.LoaderBoot))
	if err != nil {
		return err
	}
	core, err := os.ReadFile(a.buildFile("boot", plan.LoaderCore))
	if err != nil {
		return err
	}
	lba := act.Partition.Start / int64(a.p.Layout.SectorSize)
	core, err = boot.Core(core, lba, act.Partition.Size)
	if err != nil {
		return err
	}
	zero := make([]byte, 512)
	if _, err := a.disk.ReadAt(zero, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read boot sector: %w", err)
	}
	mbr, err := boot.MBR(img, zero, lba)
	if err != nil {
		return err
	}
	if _, err := a.at(act.Partition).WriteAt(core, 0); err != nil {
		return fmt.Errorf("write core image: %w", err)
	}
	if err := a.disk.Sync(); err != nil {
		return fmt.Errorf("sync disk: %w", err)
	}
	if _, err := a.disk.WriteAt(mbr, 0); err != nil {
		return fmt.Errorf("write boot sector: %w", err)
	}
	return a.disk.Sync()
}
