package probe

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"joist/image/disk"
)

// inPlace notes the disk that the running system is on. That this system holds
// a partition of it is no obstacle.
func (m Machine) inPlace(f *Facts, name, slot string) error {
	i := slices.IndexFunc(f.Disks, func(d Disk) bool { return d.Name == name })
	if i < 0 {
		return fmt.Errorf("find the disk that the system runs from: there is no %q", name)
	}
	d := f.Disks[i]
	r, err := os.Open(m.path("dev", name))
	if err != nil {
		return fmt.Errorf("read the disk that the system runs from: %w", err)
	}
	defer r.Close()
	t, err := disk.ReadTable(r, d.Size, d.Sector)
	if err != nil {
		return fmt.Errorf("read the disk that the system runs from: %w", err)
	}
	f.InPlace = &InPlace{Disk: name, Slot: slot, Table: t}
	holder := m.slotHolder(name, t, slot)
	f.Disks[i].InUse = slices.DeleteFunc(slices.Clone(d.InUse), func(s string) bool { return s == holder })
	return nil
}

// slotHolder is the device mapper's device on the slot that runs.
func (m Machine) slotHolder(name string, t disk.Layout, slot string) string {
	p, err := t.Find("joist-" + strings.ToLower(slot))
	if err != nil {
		return ""
	}
	holders, err := os.ReadDir(m.path("sys/block", name, PartitionName(name, p.Number), "holders"))
	if err != nil || len(holders) != 1 {
		return ""
	}
	return holders[0].Name()
}
