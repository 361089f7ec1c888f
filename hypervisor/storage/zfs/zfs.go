// Package zfs is the storage type "zfspool": guests' disks as thin volumes in
// one dataset of a pool, those of containers too. The pool is found by its GUID,
// whatever it is called and whatever else is on the machine; one change of it
// runs at a time, over all processes; of its other datasets (the node's own
// state among them) none can be named. A volume that nobody uses has no device,
// and the kernel looks for no partitions on one that has (zfsprops(7), volmode).
// What was never written reads as zeros.
package zfs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"joist/hypervisor/storage"
	"joist/hypervisor/storage/alone"
	"joist/internal/run"
)

// blockSize is the unit of a volume (zfsprops(7), volblocksize); its size is a
// multiple of it.
const blockSize = 16 << 10

var (
	guidRE    = regexp.MustCompile(`^[0-9]{1,20}$`)
	nameRE    = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.:-]{0,100}$`) // of a pool, zpool-create(8)
	datasetRE = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.:-]{0,100}(/[a-zA-Z0-9][a-zA-Z0-9_.:-]{0,100}){0,4}$`)
	diskRE    = regexp.MustCompile(`^(?:vm|base|subvol)-[1-9][0-9]{2,8}-[a-zA-Z0-9_.-]{1,64}$`)
)

// Pool is the dataset.
type Pool struct {
	cfg  storage.Config
	run  run.Runner
	dev  string                            // "/dev/zvol"
	name func(file string) (string, error) // of the volume behind a device
	lock *alone.Lock                       // one change at a time
	wait time.Duration                     // for a device to appear
	busy time.Duration                     // for udevd, which looks at new devices, to let go of one
}

// Open takes the definition; nothing is run. Locks lie in lockDir, a folder on
// a tmpfs.
func Open(cfg storage.Config, r run.Runner, lockDir string) (*Pool, error) {
	if !guidRE.MatchString(cfg.PoolGUID) {
		return nil, fmt.Errorf("open pool: %q is not the GUID of a pool", cfg.PoolGUID)
	}
	if !datasetRE.MatchString(cfg.Pool) || strings.Contains(cfg.Pool, "..") {
		return nil, fmt.Errorf("open pool: %q cannot name a dataset", cfg.Pool)
	}
	return &Pool{cfg: cfg, run: r, dev: "/dev/zvol", name: volumeName, lock: alone.New(filepath.Join(lockDir, "zfs-"+cfg.PoolGUID+".lock")),
		wait: 10 * time.Second, busy: 3 * time.Second}, nil
}

// ID is the storage's id.
func (p *Pool) ID() string { return p.cfg.ID }

func (p *Pool) zfs(ctx context.Context, args ...string) ([]byte, error) {
	out, err := p.run.Run(ctx, run.Cmd{Path: "zfs", Args: args})
	return out, classify(err)
}

// dataset finds the pool by GUID, and with it the name of the dataset: two open
// pools never have one name.
func (p *Pool) dataset(ctx context.Context) (string, error) {
	out, err := p.run.Run(ctx, run.Cmd{Path: "zpool", Args: []string{"list", "-H", "-o", "guid,name"}})
	if err != nil {
		return "", classify(err)
	}
	for line := range strings.Lines(string(out)) {
		guid, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if guid != p.cfg.PoolGUID {
			continue
		}
		if !nameRE.MatchString(name) {
			return "", fmt.Errorf("pool has the unusable name %q", name)
		}
		_, below, _ := strings.Cut(p.cfg.Pool, "/")
		return strings.TrimSuffix(name+"/"+below, "/"), nil
	}
	return "", fmt.Errorf("%w: no open pool has the GUID %s", ErrNoPool, p.cfg.PoolGUID)
}

// volumes lists the volumes in the dataset.
func (p *Pool) volumes(ctx context.Context, dataset string) ([]row, error) {
	out, err := p.zfs(ctx, "list", "-H", "-p", "-r", "-d", "1", "-t", "volume", "-o", "name,volsize,used,creation,volmode", dataset)
	if err != nil {
		return nil, err
	}
	return parse(out, dataset)
}

// Status is how full the dataset is, as ZFS counts it: what is reserved for
// others is not available here.
func (p *Pool) Status(ctx context.Context) (storage.Status, error) {
	dataset, err := p.dataset(ctx)
	var out []byte
	if err == nil {
		out, err = p.zfs(ctx, "list", "-H", "-p", "-o", "used,available", dataset)
	}
	var used, avail int64
	if err == nil {
		if n, _ := fmt.Sscanf(string(out), "%d\t%d\n", &used, &avail); n != 2 {
			err = fmt.Errorf("zfs told no numbers, but %q", out)
		}
	}
	if err != nil {
		return storage.Status{}, fmt.Errorf("read status of storage '%s': %w", p.cfg.ID, err)
	}
	return storage.Status{Active: true, Total: used + avail, Used: used, Avail: avail}, nil
}

// List lists guests' disks in the dataset.
func (p *Pool) List(ctx context.Context) ([]storage.Volume, error) {
	dataset, err := p.dataset(ctx)
	var rows []row
	if err == nil {
		rows, err = p.volumes(ctx, dataset)
	}
	if err != nil {
		return nil, fmt.Errorf("list volumes of storage '%s': %w", p.cfg.ID, err)
	}
	out := []storage.Volume{}
	for _, v := range rows {
		if diskRE.MatchString(v.name) {
			out = append(out, storage.Volume{ID: p.cfg.ID + ":" + v.name, Size: v.size, Used: v.used, Format: "raw",
				Content: p.cfg.DiskContent(), VMID: storage.Owner(v.name), CTime: v.created})
		}
	}
	slices.SortFunc(out, func(a, b storage.Volume) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Create makes a thin volume and leaves it active.
func (p *Pool) Create(ctx context.Context, s storage.Spec) (storage.Volume, error) {
	var v storage.Volume
	err := p.alone(ctx, func() (err error) {
		v, err = p.create(ctx, s)
		return err
	})
	if err != nil {
		return v, fmt.Errorf("create volume on storage '%s': %w", p.cfg.ID, err)
	}
	return v, nil
}

func (p *Pool) create(ctx context.Context, s storage.Spec) (storage.Volume, error) {
	if err := s.CheckBlock(); err != nil {
		return storage.Volume{}, err
	}
	dataset, err := p.dataset(ctx)
	if err != nil {
		return storage.Volume{}, err
	}
	name := s.Name
	if name == "" {
		rows, err := p.volumes(ctx, dataset)
		if err != nil {
			return storage.Volume{}, err
		}
		name = free(rows, s.VMID)
	}
	if !diskRE.MatchString(name) || storage.Owner(name) != s.VMID {
		return storage.Volume{}, fmt.Errorf("%q cannot name a disk of guest %d", name, s.VMID)
	}
	size := roundUp(s.Size)
	_, err = p.zfs(ctx, "create", "-s", "-V", strconv.FormatInt(size, 10), "-o", "volblocksize="+strconv.Itoa(blockSize), "-o", "volmode=dev", dataset+"/"+name)
	if err != nil {
		return storage.Volume{}, err
	}
	return storage.Volume{ID: p.cfg.ID + ":" + name, Size: size, Format: "raw", Content: p.cfg.DiskContent(), VMID: s.VMID, CTime: time.Now().Unix()}, nil
}

// free is the first vm-<id>-disk-<n> that no volume has.
func free(rows []row, vmid int) string {
	for n := 0; ; n++ {
		name := fmt.Sprintf("vm-%d-disk-%d", vmid, n)
		if !slices.ContainsFunc(rows, func(v row) bool { return v.name == name }) {
			return name
		}
	}
}

func roundUp(n int64) int64 { return (n + blockSize - 1) / blockSize * blockSize }

// absent is the sentence that clients know, and storage.ErrNotFound.
type absent string

func (a absent) Error() string { return fmt.Sprintf("volume '%s' does not exist", string(a)) }
func (absent) Unwrap() error   { return storage.ErrNotFound }

// find looks a disk up; only what List would show can be found.
func (p *Pool) find(ctx context.Context, name string) (dataset string, v row, err error) {
	if !diskRE.MatchString(name) {
		return "", v, fmt.Errorf("unable to parse zfs volume name '%s'", name)
	}
	dataset, err = p.dataset(ctx)
	if err != nil {
		return "", v, err
	}
	rows, err := p.volumes(ctx, dataset)
	if err != nil {
		return "", v, err
	}
	for _, v := range rows {
		if v.name == name {
			return dataset + "/" + name, v, nil
		}
	}
	return "", v, absent(p.cfg.ID + ":" + name)
}

// change runs f on a disk that is there, alone in its pool.
func (p *Pool) change(ctx context.Context, what, name string, f func(full string, v row) error) error {
	err := p.alone(ctx, func() error {
		full, v, err := p.find(ctx, name)
		if err != nil {
			return err
		}
		return f(full, v)
	})
	var none absent
	if err != nil && !errors.As(err, &none) {
		return fmt.Errorf("%s volume %s: %w", what, "'"+p.cfg.ID+":"+name+"'", err)
	}
	return err
}

// Resize makes a disk larger.
func (p *Pool) Resize(ctx context.Context, name string, size int64) error {
	return p.change(ctx, "resize", name, func(full string, v row) error {
		size = roundUp(size)
		switch {
		case size < v.size:
			return fmt.Errorf("%d bytes are less than the %d that it has", size, v.size)
		case size == v.size:
			return nil
		}
		_, err := p.zfs(ctx, "set", "volsize="+strconv.FormatInt(size, 10), full)
		return err
	})
}

// Delete removes a disk that nobody has open.
func (p *Pool) Delete(ctx context.Context, name string) error {
	return p.change(ctx, "delete", name, func(full string, _ row) error {
		for end := time.Now().Add(p.busy); ; {
			_, err := p.zfs(ctx, "destroy", full)
			if !errors.Is(err, storage.ErrInUse) || time.Now().After(end) {
				return err
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(p.busy / 20):
			}
		}
	})
}

// Rename gives a disk another name.
func (p *Pool) Rename(ctx context.Context, from, to string) error {
	if !diskRE.MatchString(to) {
		return fmt.Errorf("unable to parse zfs volume name '%s'", to)
	}
	err := p.change(ctx, "rename", from, func(full string, _ row) error {
		_, err := p.zfs(ctx, "rename", full, strings.TrimSuffix(full, from)+to)
		return err
	})
	var none absent
	if !errors.As(err, &none) {
		return err
	}
	// renamed already, by a try that was interrupted here; or neither is there
	if _, _, there := p.find(ctx, to); there == nil {
		return nil
	}
	return err
}

// Activate gives the disk a device and waits until it is there.
func (p *Pool) Activate(ctx context.Context, name string) (path string, err error) {
	err = p.change(ctx, "activate", name, func(full string, v row) error {
		if v.mode != "dev" {
			if _, err := p.zfs(ctx, "set", "volmode=dev", full); err != nil {
				return err
			}
		}
		path, err = p.device(ctx, full)
		return err
	})
	return path, err
}

// Deactivate takes the device away. The kernel leaves it to whoever has it
// open, and takes it away at the next start.
func (p *Pool) Deactivate(ctx context.Context, name string) error {
	return p.change(ctx, "deactivate", name, func(full string, v row) error {
		if v.mode == "none" {
			return nil
		}
		_, err := p.zfs(ctx, "set", "volmode=none", full)
		return err
	})
}

// Path is where the disk's device is once it is active.
func (p *Pool) Path(ctx context.Context, name string) (string, error) {
	full, _, err := p.find(ctx, name)
	if err != nil {
		return "", err
	}
	return filepath.Join(p.dev, full), nil
}

// alone runs f while nobody else of ours changes the pool.
func (p *Pool) alone(ctx context.Context, f func() error) error {
	return p.lock.Do(ctx, "the pool", f)
}

var (
	_ storage.Pool    = (*Pool)(nil)
	_ storage.Locator = (*Pool)(nil)
	_ storage.Renamer = (*Pool)(nil)
)
