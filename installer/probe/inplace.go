package probe

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"joist/image/boot"
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

// OwnDisks notes the other disks of the system that runs, and which disk starts a
// node: one whose slot has a node's configuration, marked or not. Each disk is
// there once by now.
func (m Machine) OwnDisks(f *Facts) {
	own := f.InPlace
	if own == nil {
		return
	}
	if i := slices.IndexFunc(f.Disks, func(d Disk) bool { return d.Name == own.Disk || slices.Contains(d.Paths, own.Disk) }); i >= 0 {
		own.Disk = f.Disks[i].Name
	}
	system := disk.SystemOf(own.Table.DiskGUID)
	if m.startsNode(own.Disk, own.Table, own.Slot) {
		own.Node = own.Disk
	}
	for _, d := range f.Disks {
		if d.Name == own.Disk || d.Installation == nil || d.Installation.Table == nil {
			continue
		}
		t := *d.Installation.Table
		waits := t.Marks()&disk.InPlace != 0
		// what is not marked is as new as the one that runs, or newer
		if other := disk.SystemOf(t.DiskGUID); other != system && other != disk.NextSystem(system) && (!waits || disk.NextSystem(other) != system) {
			continue
		}
		switch {
		case own.Node == "" && (!waits || m.startsNode(d.Name, t, own.Slot)):
			own.Node = d.Name
		case waits:
			own.Further = append(own.Further, OwnDisk{d.Name, t})
		}
	}
}

// startsNode says whether a disk starts a node from that slot.
func (m Machine) startsNode(name string, t disk.Layout, slot string) bool {
	p, err := t.Find(disk.NameESP)
	if err != nil {
		return false
	}
	f, err := os.Open(m.path("dev", name))
	if err != nil {
		return false
	}
	defer f.Close()
	r := io.NewSectionReader(f, p.Start, p.Size)
	x, err := disk.LocateFAT(r, boot.PathSlotConfig(boot.Slot(slot)))
	if err != nil || x.Size > 64<<10 {
		return false
	}
	conf := make([]byte, x.Size)
	if _, err := r.ReadAt(conf, x.Offset); err != nil {
		return false
	}
	args, err := boot.SlotArgs(conf, boot.Slot(slot))
	return err == nil && !slices.Contains(strings.Fields(args), "joist.in-place=1")
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
