package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"joist/api/drive"
	"joist/api/guest/property"
	"joist/hypervisor/guest"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// efiVarsSize is the size of a volume for UEFI variables: OVMF's 4M build has
// 528 KiB of them, and thin volumes come in extents of 4 MiB.
const efiVarsSize = 4 << 20

// volumeKey reports whether a configuration key names a volume. Unused ones
// are such that no device shows.
func volumeKey(kind guest.Kind, key string) bool {
	if strings.HasPrefix(key, "unused") {
		return true
	}
	if kind == guest.LXC {
		return drive.IsMount(key)
	}
	_, _, ok := drive.ParseKey(key)
	return ok
}

// volumeOf returns the volume id in a configuration value, "" when there is
// none: an empty CD drive, the host's drive.
func volumeOf(kind guest.Kind, key, value string) string {
	if strings.HasPrefix(key, "unused") {
		return value
	}
	v := ""
	if kind == guest.LXC {
		if m, err := drive.ParseMount(key, value); err == nil {
			v = m.Volume
		}
	} else if d, err := drive.Parse(value); err == nil && !d.Empty() {
		v = d.Volume
	}
	if _, _, err := storage.SplitID(v); err != nil {
		return ""
	}
	return v
}

// volumesOf lists all volume ids of a configuration by key.
func volumesOf(kind guest.Kind, config map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range config {
		if volumeKey(kind, k) {
			if id := volumeOf(kind, k, v); id != "" {
				out[k] = id
			}
		}
	}
	return out
}

// owned reports whether a volume is the guest's own disk.
func owned(vmid int, volid string) bool {
	_, name, err := storage.SplitID(volid)
	return err == nil && storage.Owner(name) == vmid
}

// base is a disk's name without folder and suffix: what storage.Spec calls it.
func base(name string) string {
	b := path.Base(name)
	return strings.TrimSuffix(strings.TrimSuffix(b, ".raw"), ".qcow2")
}

// format is the declared format of a volume. It comes from its name, never
// from what is in it.
func format(name string) string {
	if strings.HasSuffix(name, ".qcow2") {
		return "qcow2"
	}
	return "raw"
}

// alloc is one volume to be made.
type alloc struct {
	Key     string
	Storage string
	Size    int64
	Format  string
	Import  string // volume id of an image to fill it with
}

// made is one that was made.
type made struct {
	ID   string
	Size int64
}

// Kinds of journal records. Payloads are volumeStep and recordStep.
const (
	stepVolume  = "guest-volume"
	stepForeign = "guest-volume-foreign"
	stepRecord  = "guest-record"
)

type volumeStep struct {
	VMID    int    `json:"vmid"`
	Storage string `json:"storage"`
	Base    string `json:"base"`
}

// content is what a storage must be for, and how the field says that it is
// not.
func content(kind guest.Kind) (want, text string) {
	if kind == guest.LXC {
		return storage.RootDir, "storage '%s' does not support container directories"
	}
	return storage.Images, "storage '%s' does not support vm images"
}

// checkStorage reports what is wrong with a storage for volumes of a kind.
func (c *Controller) checkStorage(kind guest.Kind, id string) error {
	cfg, ok := c.o.Storages.Config(id)
	if !ok {
		return fmt.Errorf("storage '%s' does not exist", id)
	}
	if cfg.Disable {
		return fmt.Errorf("storage '%s' is disabled", id)
	}
	if want, text := content(kind); !cfg.Holds(want) {
		return fmt.Errorf(text, id)
	}
	return nil
}

// allocate makes one volume. The journal knows its name before it is there;
// a name that somebody else took meanwhile is entered as not ours.
func (c *Controller) allocate(ctx context.Context, kind guest.Kind, vmid int, a alloc, log task.Log) (made, error) {
	if err := c.checkStorage(kind, a.Storage); err != nil {
		return made{}, err
	}
	pool, err := c.o.Storages.Pool(a.Storage)
	if err != nil {
		return made{}, err
	}
	src, err := c.source(ctx, a.Import)
	if err != nil {
		return made{}, err
	}
	size := max(a.Size, src.size)
	if a.Key == "efidisk0" {
		size = efiVarsSize
	}
	v, err := c.create(ctx, pool, vmid, storage.Spec{VMID: vmid, Size: size, Format: a.Format})
	if err != nil {
		return made{}, err
	}
	if a.Import != "" {
		log.Printf("%s: import %s into %s", a.Key, a.Import, v.ID)
		if err := c.fill(ctx, pool, v, src); err != nil {
			return made{}, err
		}
	}
	log.Printf("%s: created disk '%s,size=%s'", a.Key, v.ID, property.FormatSize(v.Size))
	return made{v.ID, v.Size}, nil
}

func (c *Controller) create(ctx context.Context, pool storage.Pool, vmid int, s storage.Spec) (storage.Volume, error) {
	j := task.JournalOf(ctx)
	if j == nil {
		return storage.Volume{}, errors.New("create volume: outside of a task")
	}
	// Thin volumes and sparse files are made on a full storage all the same,
	// and fail their guest later.
	if st, err := pool.Status(ctx); err == nil && st.Active && st.Avail <= 0 {
		return storage.Volume{}, fmt.Errorf("storage '%s' is full: %w", pool.ID(), storage.ErrNoSpace)
	}
	for {
		list, err := pool.List(ctx)
		if err != nil {
			return storage.Volume{}, err
		}
		s.Name = freeName(vmid, list)
		step := volumeStep{vmid, pool.ID(), s.Name}
		if err := j.Record(stepVolume, step); err != nil {
			return storage.Volume{}, err
		}
		v, err := pool.Create(ctx, s)
		if !errors.Is(err, storage.ErrExists) {
			c.step("volume " + s.Name)
			return v, err
		}
		if err := j.Record(stepForeign, step); err != nil {
			return storage.Volume{}, err
		}
	}
}

// freeName is the first of vm-<vmid>-disk-0, -1 … that no volume has.
func freeName(vmid int, list []storage.Volume) string {
	taken := map[string]bool{}
	for _, v := range list {
		_, name, _ := strings.Cut(v.ID, ":")
		taken[base(name)] = true
	}
	for n := 0; ; n++ {
		if name := fmt.Sprintf("vm-%d-disk-%d", vmid, n); !taken[name] {
			return name
		}
	}
}

// image is what a volume is filled with.
type image struct {
	path, format string
	size         int64
}

// source finds the image to import. Only files that people brought can be:
// disks of guests have their own operations.
func (c *Controller) source(ctx context.Context, volid string) (image, error) {
	if volid == "" {
		return image{}, nil
	}
	v, pool, name, err := c.lookup(ctx, volid)
	if err != nil {
		return image{}, err
	}
	src := image{format: v.Format}
	switch {
	case v.Content == storage.ISO:
		src.format = "raw"
	case v.Content != storage.Import:
		return src, fmt.Errorf("volume '%s' cannot be imported: it is no disk image", volid)
	case v.Format == "ova":
		return src, fmt.Errorf("volume '%s' cannot be imported: take the disk out of the archive first", volid)
	}
	if src.path, err = pool.Activate(ctx, name); err != nil {
		return src, err
	}
	if c.o.Import == nil || c.o.ImageSize == nil {
		return src, errors.New("this node cannot import disk images")
	}
	src.size, err = c.o.ImageSize(src.path, src.format)
	return src, err
}

// lookup finds a volume in its pool's list.
func (c *Controller) lookup(ctx context.Context, volid string) (storage.Volume, storage.Pool, string, error) {
	pool, name, err := c.o.Storages.Resolve(volid)
	if err != nil {
		return storage.Volume{}, nil, "", err
	}
	list, err := pool.List(ctx)
	if err != nil {
		return storage.Volume{}, nil, "", err
	}
	i := slices.IndexFunc(list, func(v storage.Volume) bool { return v.ID == volid })
	if i < 0 {
		return storage.Volume{}, nil, "", fmt.Errorf("volume '%s' does not exist", volid)
	}
	return list[i], pool, name, nil
}

func (c *Controller) fill(ctx context.Context, pool storage.Pool, v storage.Volume, src image) error {
	_, name, err := storage.SplitID(v.ID)
	if err != nil {
		return err
	}
	dst, err := pool.Activate(ctx, name)
	if err != nil {
		return err
	}
	err = c.o.Import.Import(ctx, dst, src.path, src.format)
	c.letGo(ctx, pool, name)
	return err
}

// A volume is busy for a moment after its last user: udev's workers open
// block devices that were written to (udev(7), "watch").
const (
	busyTries = 10
	busyPause = 200 * time.Millisecond
)

// retry repeats what fails because a volume is in use.
func retry(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if !errors.Is(err, storage.ErrInUse) || n == busyTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(busyPause):
		}
	}
}

// letGo deactivates a volume. One that stays active is no harm to anybody.
func (c *Controller) letGo(ctx context.Context, pool storage.Pool, name string) {
	ctx = context.WithoutCancel(ctx)
	if err := retry(ctx, func() error { return pool.Deactivate(ctx, name) }); err != nil && !errors.Is(err, storage.ErrNotFound) {
		c.o.Log.Warn("deactivate volume", "storage", pool.ID(), "volume", name, "err", err)
	}
}

// willFree enters volumes in the task's journal before the configuration
// forgets them: whoever replays it deletes those that no configuration names.
func (c *Controller) willFree(ctx context.Context, vmid int, volids []string) error {
	j := task.JournalOf(ctx)
	if j == nil {
		return nil
	}
	for _, id := range volids {
		pool, name, err := storage.SplitID(id)
		if err != nil {
			return err
		}
		if err := j.Record(stepVolume, volumeStep{vmid, pool, base(name)}); err != nil {
			return err
		}
	}
	return nil
}

// free deletes a guest's own volume. One that is gone already is fine.
func (c *Controller) free(ctx context.Context, vmid int, volid string) error {
	pool, name, err := c.o.Storages.Resolve(volid)
	if err != nil {
		return err
	}
	if storage.Owner(name) != vmid {
		return fmt.Errorf("volume '%s' does not belong to guest %d", volid, vmid)
	}
	err = retry(ctx, func() error { return pool.Deactivate(ctx, name) })
	if err == nil {
		err = retry(ctx, func() error { return pool.Delete(ctx, name) })
	}
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}

// Replayers undo what interrupted and failed tasks of guests left.
func (c *Controller) Replayers() map[string]task.Replayer {
	return map[string]task.Replayer{stepVolume: c.undoVolume, stepForeign: c.undoForeign, stepRecord: c.undoRecord}
}

// undoForeign runs before the undoVolume that it takes the object from:
// journals are replayed backwards.
func (c *Controller) undoForeign(_ context.Context, payload json.RawMessage) error {
	var s volumeStep
	if err := json.Unmarshal(payload, &s); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.foreign[s]++
	return nil
}

// undoVolume deletes a volume unless the store says that the task had come to
// its end: then a configuration names it.
func (c *Controller) undoVolume(ctx context.Context, payload json.RawMessage) error {
	var s volumeStep
	if err := json.Unmarshal(payload, &s); err != nil {
		return err
	}
	c.mu.Lock()
	foreign := c.foreign[s] > 0
	if foreign {
		c.foreign[s]--
	}
	c.mu.Unlock()
	if foreign {
		return nil
	}
	rec, _, err := c.fresh(ctx, s.VMID)
	if err != nil {
		return err
	}
	pool, err := c.o.Storages.Pool(s.Storage)
	if errors.Is(err, storage.ErrNoStorage) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := pool.List(ctx)
	if err != nil {
		return err
	}
	for _, v := range list {
		_, name, _ := strings.Cut(v.ID, ":")
		if base(name) != s.Base || storage.Owner(name) != s.VMID {
			continue
		}
		if named(rec, v.ID) {
			return nil
		}
		return c.free(ctx, s.VMID, v.ID)
	}
	return nil
}

func named(r Record, volid string) bool {
	for _, id := range volumesOf(r.Kind, r.Config) {
		if id == volid {
			return true
		}
	}
	return false
}

// InUse says why a volume may not be deleted by itself: a guest has it.
func (c *Controller) InUse(_ context.Context, volid string) error {
	for _, e := range c.table.all() {
		if named(e.Record, volid) {
			return fmt.Errorf("volume '%s' is in use by %s %d", volid, word(e.Kind), e.VMID)
		}
		if slices.Contains(c.live.volumes(e.VMID), volid) {
			return fmt.Errorf("volume '%s' is in use by %s %d, which runs", volid, word(e.Kind), e.VMID)
		}
	}
	return nil
}
