package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// hotController carries the disks that come and go. SCSI needs no slot of the
// machine, and the guest is not asked whether a disk may go.
const hotController = "hot"

// Plug adds a disk to a running machine (Config.HotPlug). name is its own and
// the id of the device; Bus is not used. The guest sees it at once.
func (m *Machine) Plug(ctx context.Context, name string, d Disk) error {
	if !m.Config.HotPlug {
		return fmt.Errorf("plug disk %q: the machine has no place for it", name)
	}
	d = d.withDefaults(0)
	file := map[string]any{"driver": "file", "filename": d.Path, "discard": "unmap"}
	if d.NBD != "" {
		file = map[string]any{"driver": "nbd", "server": map[string]any{"type": "unix", "path": d.NBD}, "discard": "unmap"}
	}
	node := map[string]any{"driver": d.Format, "node-name": name + "-node", "discard": "unmap", "file": file}
	if err := m.QMP(ctx, "blockdev-add", node, nil); err != nil {
		return fmt.Errorf("plug disk %q: %w", name, err)
	}
	dev := map[string]any{"driver": "scsi-hd", "bus": hotController + ".0", "id": name, "drive": name + "-node", "serial": d.Serial}
	if d.SectorSize != 0 {
		dev["logical_block_size"], dev["physical_block_size"] = d.SectorSize, d.SectorSize
	}
	if err := m.QMP(ctx, "device_add", dev, nil); err != nil {
		return fmt.Errorf("plug disk %q: %w", name, err)
	}
	return nil
}

// Unplug takes a disk out that Plug has put in, and lets go of its image. What
// the guest had not flushed by then reaches the image all the same.
func (m *Machine) Unplug(ctx context.Context, name string) error {
	before := len(m.Events())
	if err := m.QMP(ctx, "device_del", map[string]any{"id": name}, nil); err != nil {
		return fmt.Errorf("unplug disk %q: %w", name, err)
	}
	for !m.deleted(name, before) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("unplug disk %q: %w", name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := m.QMP(ctx, "blockdev-del", map[string]any{"node-name": name + "-node"}, nil); err != nil {
		return fmt.Errorf("unplug disk %q: %w", name, err)
	}
	return nil
}

// deleted looks for QEMU's word that the device is gone.
func (m *Machine) deleted(name string, before int) bool {
	for _, e := range m.Events()[before:] {
		var data struct{ Device string }
		if e.Name == "DEVICE_DELETED" && json.Unmarshal(e.Data, &data) == nil && data.Device == name {
			return true
		}
	}
	return false
}
