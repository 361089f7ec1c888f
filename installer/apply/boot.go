package apply

import (
	"os"
	"sync"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/plan"
	"joist/rootfs/tree"
)

// checkBootFiles begins to compare kernel and initrd with the manifest, beside
// the steps that come before they are needed; they stay in the page cache until
// then.
func (a *applier) checkBootFiles() {
	a.checked = sync.OnceValue(func() error {
		for _, name := range []string{boot.FileKernel, boot.FileInitrd} {
			if err := verify(a.medium("boot", name), a.p.Image.Files[name]); err != nil {
				return err
			}
		}
		return nil
	})
	go a.checked()
}

// source opens what goes onto the boot partition.
func (a *applier) source(name string) (tree.Source, error) {
	if name == boot.FileKernel || name == boot.FileInitrd {
		return tree.FromFile(a.medium("boot", name))
	}
	return tree.FromFile(a.buildFile("boot", name))
}

// formatESP writes the boot partition in one go, without mounting anything.
func (a *applier) formatESP(d *drive, act plan.FormatESP) error {
	if err := a.checked(); err != nil {
		return err
	}
	fat, err := a.p.MemberESP(d.n, a.storageID, a.source)
	if err != nil {
		return err
	}
	v, err := disk.PlanFAT(fat)
	if err != nil {
		return err
	}
	if err := v.Write(d.at(act.Partition)); err != nil {
		return err
	}
	return d.flush()
}

// biosBoot writes the core image into its partition, then the boot sector that
// points to it.
func (a *applier) biosBoot(d *drive, act plan.InstallBIOSBoot) error {
	img, err := os.ReadFile(a.buildFile("boot", plan.LoaderBoot))
	if err != nil {
		return err
	}
	core, err := os.ReadFile(a.buildFile("boot", plan.LoaderCore))
	if err != nil {
		return err
	}
	return boot.WriteBIOS(d, d.at(act.Partition), act.Partition.Start, act.Partition.Size, img, core)
}
