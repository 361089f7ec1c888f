package control

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"joist/hypervisor/guest"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// DestroyRequest asks for the end of a guest and its disks.
type DestroyRequest struct {
	Kind     guest.Kind
	VMID     int
	User     string
	SkipLock bool
	Force    bool // end it first if it runs
	Stray    bool // also disks of its VMID that its configuration does not name
}

// Destroy begins to remove a guest. What is wrong with its state is, as
// clients expect it, the task's error; only its absence is one of the request.
func (c *Controller) Destroy(r DestroyRequest) (task.UPID, error) {
	e, err := c.entry(r.Kind, r.VMID)
	if err != nil {
		return task.UPID{}, err
	}
	if e.Config["protection"] == "1" {
		return task.UPID{}, fmt.Errorf("can't remove %s %d - protection mode enabled", word(r.Kind), r.VMID)
	}
	return c.start(OpDestroy, r.Kind, r.VMID, r.User, func(ctx context.Context, log task.Log) error { return c.destroy(ctx, r, log) })
}

// destroy marks the guest first: from then on it can only be destroyed, by
// this task, by another one, or by the next daemon.
func (c *Controller) destroy(ctx context.Context, r DestroyRequest, log task.Log) error {
	if r.Force {
		if err := c.stopGuest(ctx, PowerRequest{Kind: r.Kind, VMID: r.VMID}, guest.Kill); err != nil {
			return err
		}
	}
	unlock, err := c.locks.lock(ctx, r.Kind, r.VMID)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := c.allowed(OpDestroy, r.Kind, r.VMID, r.SkipLock)
	if err != nil {
		return err
	}
	rec := e.clone()
	if r.Stray { // in the configuration, whoever finishes this finds them
		c.nameStrays(ctx, &rec, log)
	}
	if rec.Lock = lockDestroyed; e.Lock != lockDestroyed || len(rec.Config) != len(e.Config) {
		if e, err = c.table.write(ctx, rec, e.rev); err != nil {
			return err
		}
	}
	if err := c.freeAll(ctx, e.Record, log); err != nil {
		return err
	}
	if err := c.table.remove(ctx, r.VMID, e.rev); err != nil {
		return err
	}
	c.forgetRunning(r.VMID)
	c.live.forget(r.VMID)
	return nil
}

// nameStrays enters disks of the guest that its configuration does not name.
func (c *Controller) nameStrays(ctx context.Context, r *Record, log task.Log) {
	n := 0
	for _, id := range c.strays(ctx, r.VMID, log) {
		if named(*r, id) {
			continue
		}
		for r.Config[fmt.Sprintf("unused%d", n)] != "" {
			n++
		}
		r.Config[fmt.Sprintf("unused%d", n)] = id
	}
}

// freeAll removes the guest's disks. One whose storage is no longer defined
// can only be reported: nobody knows any more where it was.
func (c *Controller) freeAll(ctx context.Context, r Record, log task.Log) error {
	var ids []string
	for _, id := range volumesOf(r.Kind, r.Config) {
		if owned(r.VMID, id) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		err := c.free(ctx, r.VMID, id)
		if errors.Is(err, storage.ErrNoStorage) {
			log.Warnf("volume '%s' is left alone: %v", id, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("remove volume '%s': %w", id, err)
		}
		log.Printf("removed volume '%s'", id)
	}
	return nil
}

// strays finds disks of a VMID on all storages.
func (c *Controller) strays(ctx context.Context, vmid int, log task.Log) []string {
	var out []string
	for _, cfg := range c.o.Storages.Configs() {
		if cfg.Disable || !cfg.Holds(storage.Images) && !cfg.Holds(storage.RootDir) {
			continue
		}
		pool, err := c.o.Storages.Pool(cfg.ID)
		if err != nil {
			log.Warnf("storage '%s' is not searched: %v", cfg.ID, err)
			continue
		}
		list, err := pool.List(ctx)
		if err != nil {
			log.Warnf("storage '%s' is not searched: %v", cfg.ID, err)
			continue
		}
		for _, v := range list {
			if owned(vmid, v.ID) {
				out = append(out, v.ID)
			}
		}
	}
	return out
}
