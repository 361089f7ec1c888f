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
	"joist/system/bootdisk"
	"joist/system/cmdline"
)

// healthEvery is how long the gate waits between two looks.
const healthEvery = 5 * time.Second

// markGood ends the trial of the slot this node runs from, once the node is
// healthy: the API answers (the caller has seen to that) and every storage is
// active. Until then the boot menu counts the slot's tries down and falls
// back by itself.
func markGood(ctx context.Context, log *slog.Logger, system *bootdisk.System, storages clusterapi.StorageLister) {
	if system == nil {
		return
	}
	said := ""
	for {
		err := healthy(ctx, storages)
		if err == nil {
			err = endTrial(ctx, log, system)
		}
		if err == nil {
			log.Info("slot is good", "slot", system.Slot)
			return
		}
		if err.Error() != said {
			said = err.Error()
			log.Warn("slot is not yet good", "slot", system.Slot, "why", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(healthEvery):
		}
	}
}

// trialPatience is how long one try waits for who writes boot parts, and for
// the disks.
const trialPatience = time.Minute

func endTrial(ctx context.Context, log *slog.Logger, system *bootdisk.System) error {
	ctx, cancel := context.WithTimeout(ctx, trialPatience)
	defer cancel()
	return system.MarkGood(ctx, func(f string, a ...any) { log.Warn(fmt.Sprintf(f, a...)) })
}

// booted is the system that this node runs, nil where there is none: a test, or
// a daemon started by hand.
func booted(proc string) *bootdisk.System {
	b, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return nil
	}
	o, err := cmdline.Parse(string(b))
	if err != nil || o.Slot == "" {
		return nil
	}
	x, err := boot.ParseSlot(o.Slot)
	if err != nil {
		return nil
	}
	s := bootdisk.Running(o.Disk, x)
	return &s
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
