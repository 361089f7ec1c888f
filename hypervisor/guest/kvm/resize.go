package kvm

import (
	"context"
	"fmt"
)

// ResizeDisk gives a disk of the running machine another size: of a block
// device QEMU learns that it has grown, an image file it grows itself. key is
// the one that the machine was started with.
func (m *Machine) ResizeDisk(ctx context.Context, key string, size int64) error {
	mon, err := m.Monitor(ctx)
	if err == nil {
		err = mon.Do(ctx, "block_resize", map[string]any{"node-name": "drive-" + key, "size": size}, nil)
	}
	if err != nil {
		return fmt.Errorf("resize disk %q of guest %d: %w", key, m.vmid, err)
	}
	return nil
}
