package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	clusterapi "joist/hypervisor/server/cluster"
	"joist/image/boot"
	"joist/system/cmdline"
	"joist/system/slot"
)

// healthEvery is how long the gate waits between two looks.
const healthEvery = 5 * time.Second

// markGood ends the trial of the slot this node runs from, once the node is
// healthy: the API answers (the caller has seen to that) and every storage is
// active. Until then the boot menu counts the slot's tries down and falls
// back by itself.
func markGood(ctx context.Context, log *slog.Logger, proc string, storages clusterapi.StorageLister) {
	b, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return // no node: a test, or a daemon started by hand
	}
	o, err := cmdline.Parse(string(b))
	if err != nil || o.Slot == "" {
		return
	}
	x, err := boot.ParseSlot(o.Slot)
	if err != nil {
		return
	}
	said := ""
	for {
		err := healthy(ctx, storages)
		if err == nil {
			err = (slot.Disk{GUID: o.Disk}).MarkGood(x)
		}
		if err == nil {
			log.Info("slot is good", "slot", o.Slot)
			return
		}
		if err.Error() != said {
			said = err.Error()
			log.Warn("slot is not yet good", "slot", o.Slot, "why", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(healthEvery):
		}
	}
}

func healthy(ctx context.Context, storages clusterapi.StorageLister) error {
	rows, err := storages.Storages(ctx)
	if err != nil {
		return fmt.Errorf("list storages: %w", err)
	}
	for _, r := range rows {
		if !r.Active {
			return fmt.Errorf("storage %q is not active", r.ID)
		}
	}
	return nil
}
