package apply

import (
	"fmt"
	"os"

	"joist/image/boot"
	"joist/image/boot/efivar"
	"joist/installer/plan"
	"joist/internal/host"
)

// bootEntry writes the disk's entry and puts it first, behind those of the
// disks before it. An older entry of that name is replaced.
func (a *applier) bootEntry(d *drive, act plan.BootEntry) error {
	dir := a.h.Path(efivar.Dir)
	if names, err := os.ReadDir(dir); err == nil && len(names) == 0 {
		if err := a.h.Sys.Mount(host.Mount{Source: "efivarfs", Target: efivar.Dir, FSType: "efivarfs"}); err != nil {
			return fmt.Errorf("read firmware variables: %w", err)
		}
	}
	name := boot.EntryName(d.n)
	option, err := boot.LoadOption(name, act.Partition, int64(d.Layout.SectorSize), act.Loader)
	if err != nil {
		return err
	}
	return efivar.Set(dir, option, d.n, func(e efivar.Entry) bool { return e.Name == name })
}
