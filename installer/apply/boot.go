package apply

import (
	"os"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/plan"
)

// formatESP writes the boot partition in one go, without mounting anything.
func (a *applier) formatESP(d *drive, act plan.FormatESP) error {
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
