package storageapi

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"joist/hypervisor/server"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// bytesOf reads a size: KiB, or with a suffix MiB or GiB.
func bytesOf(s string) (int64, error) {
	unit := int64(1 << 10)
	switch {
	case strings.HasSuffix(s, "M"):
		unit = 1 << 20
	case strings.HasSuffix(s, "G"):
		unit = 1 << 30
	}
	n, err := strconv.ParseInt(strings.TrimRight(s, "MG"), 10, 64)
	if err != nil || n <= 0 || n > (1<<50)/unit {
		return 0, server.ParamErrorf("size", "'%s' is not a possible size", s)
	}
	return n * unit, nil
}

func (a *API) allocate(ctx context.Context, r *server.Request) (any, error) {
	_, p, err := a.pool(r)
	if err != nil {
		return nil, err
	}
	size, err := bytesOf(r.Params.String("size"))
	if err != nil {
		return nil, err
	}
	vmid := r.Params.Int("vmid", 0)
	file := r.Params.String("filename")
	format := r.Params.String("format")
	for _, f := range []string{"raw", "qcow2"} {
		if base, ok := strings.CutSuffix(file, "."+f); ok {
			if format != "" && format != f {
				return nil, server.ParamErrorf("format", "file name '%s' says another format", file)
			}
			file, format = base, f
		}
	}
	if file == "" || storage.Owner(file) != vmid {
		return nil, server.ParamErrorf("filename", "illegal name '%s' - should be 'vm-%d-*'", file, vmid)
	}
	v, err := p.Create(ctx, storage.Spec{VMID: vmid, Name: file, Size: size, Format: format})
	if err != nil {
		return nil, err
	}
	return v.ID, nil
}

// mayDelete: files people brought need the right to bring them; what belongs
// to a guest needs the right on the guest.
func mayDelete(r *server.Request, pool string, v storage.Volume) error {
	on := "/storage/" + pool
	if r.May(on, "Datastore.Allocate") {
		return nil
	}
	vm := fmt.Sprintf("/vms/%d", v.VMID)
	need := [][2]string{{on, "Datastore.AllocateTemplate"}}
	switch v.Content {
	case storage.Backup:
		need = [][2]string{{on, "Datastore.AllocateSpace"}, {vm, "VM.Backup"}}
	case storage.Images, storage.RootDir:
		need = [][2]string{{on, "Datastore.AllocateSpace"}, {vm, "VM.Config.Disk"}}
	}
	for _, n := range need {
		if !r.May(n[0], n[1]) {
			return server.Denied(n[0], n[1])
		}
	}
	return nil
}

func (a *API) remove(ctx context.Context, r *server.Request) (any, error) {
	c, p, err := a.pool(r)
	if err != nil {
		return nil, err
	}
	n, err := name(r, c.ID)
	if err != nil {
		return nil, err
	}
	if !sees(r, c.ID) && !r.May("/storage/"+c.ID, "Datastore.AllocateTemplate") {
		return nil, server.Denied("/storage/"+c.ID, "Datastore.AllocateSpace")
	}
	v, err := find(ctx, p, n)
	if err != nil {
		return nil, err
	}
	if err := mayDelete(r, c.ID, v); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	upid, err := a.start(r, "imgdel", taskID(v.ID), func(ctx context.Context, log task.Log) error {
		defer close(done)
		if a.InUse != nil && v.VMID != 0 {
			if err := a.InUse(ctx, v.ID); err != nil {
				return err
			}
		}
		if err := p.Delete(ctx, n); err != nil {
			return err
		}
		log.Printf("Removed volume '%s'", v.ID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if delay := r.Params.Int("delay", 0); delay > 0 {
		select {
		case <-done:
			return nil, nil
		case <-time.After(time.Duration(delay) * time.Second):
		case <-ctx.Done():
		}
	}
	return upid, nil
}

// taskID makes of a volume id what may stand in a UPID: no colon, no slash.
func taskID(volid string) string {
	pool, name, _ := strings.Cut(volid, ":")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
	}
	return pool + "@" + name
}
