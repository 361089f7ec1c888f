// Package lvmthin is the storage type "lvmthin": guests' disks as thin volumes
// of one thin pool. The volume group is found by its UUID, whatever it is
// called and whatever else is on the machine; one change of a group runs at a
// time, over all processes; of the group's other volumes (the node's own state
// among them) none can be named. A new thin volume reads as zeros: the pool
// zeroes a block when it is first written (lvmthin(7), "Zeroing").
package lvmthin

import (
	"context"
	"errors"
	"fmt"
	"os"
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

// settings keep LVM from looking into guests' disks (scan_lvs: lvm.conf(5))
// and give times as numbers.
const settings = `devices/scan_lvs=0 report/time_format="%s"`

var (
	uuidRE = regexp.MustCompile(`^[A-Za-z0-9]{6}(-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}$`)
	lvRE   = regexp.MustCompile(`^[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]{0,127}$`) // lvm(8), VALID NAMES
	diskRE = regexp.MustCompile(`^(?:vm|base|subvol)-[1-9][0-9]{2,8}-[a-zA-Z0-9+_.-]{1,64}$`)
)

// Pool is one thin pool.
type Pool struct {
	cfg  storage.Config
	run  run.Runner
	dev  string        // "/dev"
	lock *alone.Lock   // one change at a time
	wait time.Duration // for a device to appear
}

// Open takes the definition; nothing is run. Locks lie in lockDir, a folder on
// a tmpfs.
func Open(cfg storage.Config, r run.Runner, lockDir string) (*Pool, error) {
	if !uuidRE.MatchString(cfg.VGUUID) {
		return nil, fmt.Errorf("open thin pool: %q is not the UUID of a volume group", cfg.VGUUID)
	}
	if !lvRE.MatchString(cfg.Thin) {
		return nil, fmt.Errorf("open thin pool: %q cannot name a logical volume", cfg.Thin)
	}
	return &Pool{cfg: cfg, run: r, dev: "/dev", lock: alone.New(filepath.Join(lockDir, "lvm-"+cfg.VGUUID+".lock")), wait: 10 * time.Second}, nil
}

// ID is the storage's id.
func (p *Pool) ID() string { return p.cfg.ID }

func (p *Pool) lvm(ctx context.Context, verb string, args ...string) ([]byte, error) {
	out, err := p.run.Run(ctx, run.Cmd{Path: "lvm", Args: append([]string{verb, "--config", settings}, args...)})
	return out, classify(err)
}

// group finds the volume group by UUID, and makes sure that its name means no
// other: volumes are addressed by name, and LVM would take the first.
func (p *Pool) group(ctx context.Context) (vgRow, error) {
	out, err := p.lvm(ctx, "vgs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", "vg_name,vg_uuid,vg_extent_size")
	if err != nil {
		return vgRow{}, err
	}
	vgs, _, err := parseReport(out)
	if err != nil {
		return vgRow{}, err
	}
	i := slices.IndexFunc(vgs, func(v vgRow) bool { return v.UUID == p.cfg.VGUUID })
	if i < 0 {
		return vgRow{}, fmt.Errorf("%w: no group has the UUID %s", ErrNoGroup, p.cfg.VGUUID)
	}
	g := vgs[i]
	for j, v := range vgs {
		if j != i && v.Name == g.Name {
			return vgRow{}, fmt.Errorf("two volume groups are called %s; remove or rename the one with UUID %s", g.Name, v.UUID)
		}
	}
	if !lvRE.MatchString(g.Name) {
		return vgRow{}, fmt.Errorf("volume group has the unusable name %q", g.Name)
	}
	return g, nil
}

// volumes lists the logical volumes of the group.
func (p *Pool) volumes(ctx context.Context) ([]lvRow, error) {
	out, err := p.lvm(ctx, "lvs", "--reportformat", "json", "--units", "b", "--nosuffix",
		"-o", "lv_name,pool_lv,lv_size,data_percent,metadata_percent,lv_time,lv_attr", "--select", "vg_uuid="+p.cfg.VGUUID)
	if err != nil {
		return nil, err
	}
	_, lvs, err := parseReport(out)
	return lvs, err
}

// Status is how full the thin pool is: its data, or its metadata where that is
// fuller, because either one ends it.
func (p *Pool) Status(ctx context.Context) (storage.Status, error) {
	lvs, err := p.volumes(ctx)
	if err == nil {
		for _, v := range lvs {
			if v.Name == p.cfg.Thin {
				used := max(v.Data, v.Meta).of(v.Size)
				return storage.Status{Active: v.active(), Total: int64(v.Size), Used: used, Avail: max(0, int64(v.Size)-used)}, nil
			}
		}
		err = fmt.Errorf("%w: it has no thin pool %s", ErrNoGroup, p.cfg.Thin)
	}
	return storage.Status{}, fmt.Errorf("read status of storage '%s': %w", p.cfg.ID, err)
}

// List lists guests' disks in the pool.
func (p *Pool) List(ctx context.Context) ([]storage.Volume, error) {
	lvs, err := p.volumes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list volumes of storage '%s': %w", p.cfg.ID, err)
	}
	out := []storage.Volume{}
	for _, v := range lvs {
		if v.Pool == p.cfg.Thin && diskRE.MatchString(v.Name) {
			out = append(out, p.volume(v))
		}
	}
	slices.SortFunc(out, func(a, b storage.Volume) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

func (p *Pool) volume(v lvRow) storage.Volume {
	return storage.Volume{ID: p.cfg.ID + ":" + v.Name, Size: int64(v.Size), Used: v.Data.of(v.Size), Format: "raw",
		Content: p.cfg.DiskContent(), VMID: storage.Owner(v.Name), CTime: int64(v.Time)}
}

// Create makes a thin volume and leaves it active. It is not activated by
// itself at boot.
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
	g, err := p.group(ctx)
	if err != nil {
		return storage.Volume{}, err
	}
	lvs, err := p.volumes(ctx)
	if err != nil {
		return storage.Volume{}, err
	}
	name := s.Name
	if name == "" {
		name = free(lvs, s.VMID)
	}
	if !diskRE.MatchString(name) || storage.Owner(name) != s.VMID {
		return storage.Volume{}, fmt.Errorf("%q cannot name a disk of guest %d", name, s.VMID)
	}
	size := roundUp(s.Size, int64(g.Extent))
	_, err = p.lvm(ctx, "lvcreate", "-q", "-y", "-W", "y", "-V", strconv.FormatInt(size, 10)+"b", "-T", g.Name+"/"+p.cfg.Thin, "-n", name,
		"--setactivationskip", "n", "--addtag", guestTag(s.VMID))
	if err != nil {
		return storage.Volume{}, err
	}
	return storage.Volume{ID: p.cfg.ID + ":" + name, Size: size, Format: "raw", Content: p.cfg.DiskContent(), VMID: s.VMID, CTime: time.Now().Unix()}, nil
}

// free is the first vm-<id>-disk-<n> that no volume of the group has.
func free(lvs []lvRow, vmid int) string {
	for n := 0; ; n++ {
		name := fmt.Sprintf("vm-%d-disk-%d", vmid, n)
		if !slices.ContainsFunc(lvs, func(v lvRow) bool { return v.Name == name }) {
			return name
		}
	}
}

func roundUp(n, to int64) int64 {
	if to <= 0 {
		to = 4 << 20 // LVM's default extent
	}
	return (n + to - 1) / to * to
}

// find looks a disk up; only what List would show can be found.
func (p *Pool) find(ctx context.Context, name string) (vgRow, lvRow, error) {
	if !diskRE.MatchString(name) {
		return vgRow{}, lvRow{}, fmt.Errorf("unable to parse lvm volume name '%s'", name)
	}
	g, err := p.group(ctx)
	if err != nil {
		return g, lvRow{}, err
	}
	lvs, err := p.volumes(ctx)
	if err != nil {
		return g, lvRow{}, err
	}
	for _, v := range lvs {
		if v.Name == name && v.Pool == p.cfg.Thin {
			return g, v, nil
		}
	}
	return g, lvRow{}, absent(p.cfg.ID + ":" + name)
}

// absent is the sentence that clients know, and storage.ErrNotFound.
type absent string

func (a absent) Error() string { return fmt.Sprintf("volume '%s' does not exist", string(a)) }
func (absent) Unwrap() error   { return storage.ErrNotFound }

// change runs f on a disk that is there, alone in its group.
func (p *Pool) change(ctx context.Context, what, name string, f func(g vgRow, v lvRow) error) error {
	err := p.alone(ctx, func() error {
		g, v, err := p.find(ctx, name)
		if err != nil {
			return err
		}
		return f(g, v)
	})
	var none absent
	if err != nil && !errors.As(err, &none) {
		return fmt.Errorf("%s volume %s: %w", what, "'"+p.cfg.ID+":"+name+"'", err)
	}
	return err
}

// Resize makes a disk larger.
func (p *Pool) Resize(ctx context.Context, name string, size int64) error {
	return p.change(ctx, "resize", name, func(g vgRow, v lvRow) error {
		size = roundUp(size, int64(g.Extent))
		switch {
		case size < int64(v.Size):
			return fmt.Errorf("%d bytes are less than the %d that it has", size, v.Size)
		case size == int64(v.Size):
			return nil // lvextend calls this an error
		}
		_, err := p.lvm(ctx, "lvextend", "-q", "-L", strconv.FormatInt(size, 10)+"b", g.Name+"/"+name)
		return err
	})
}

// Delete removes a disk that nobody has open.
func (p *Pool) Delete(ctx context.Context, name string) error {
	return p.change(ctx, "delete", name, func(g vgRow, _ lvRow) error {
		_, err := p.lvm(ctx, "lvremove", "-q", "-f", g.Name+"/"+name)
		return err
	})
}

// Rename gives a disk another name, and its guest's tag with it.
func (p *Pool) Rename(ctx context.Context, from, to string) error {
	if !diskRE.MatchString(to) {
		return fmt.Errorf("unable to parse lvm volume name '%s'", to)
	}
	err := p.change(ctx, "rename", from, func(g vgRow, v lvRow) error {
		if v.active() { // deactivating is refused while somebody has it open
			if _, err := p.lvm(ctx, "lvchange", "-q", "-a", "n", g.Name+"/"+from); err != nil {
				return err
			}
		}
		_, err := p.lvm(ctx, "lvrename", "-q", g.Name, from, to)
		return err
	})
	var none absent
	if err != nil && !errors.As(err, &none) {
		return err
	}
	// Renamed, now or by a try that was interrupted here; or neither is there.
	tagged := p.change(ctx, "tag", to, func(g vgRow, _ lvRow) error {
		_, err := p.lvm(ctx, "lvchange", "-q", "--deltag", guestTag(storage.Owner(from)), "--addtag", guestTag(storage.Owner(to)), g.Name+"/"+to)
		return err
	})
	if errors.As(tagged, &none) {
		return err
	}
	return tagged
}

func guestTag(vmid int) string { return "joist-guest-" + strconv.Itoa(vmid) }

// Activate makes the block device and waits until it is there.
func (p *Pool) Activate(ctx context.Context, name string) (path string, err error) {
	err = p.change(ctx, "activate", name, func(g vgRow, v lvRow) error {
		if !v.active() {
			if _, err := p.lvm(ctx, "lvchange", "-q", "-a", "y", "-K", g.Name+"/"+name); err != nil {
				return err
			}
		}
		path, err = p.device(ctx, g.Name, name)
		return err
	})
	return path, err
}

// device waits for one of a volume's two names. The first is a link that udev
// makes, maybe after lvm came back; the second is device-mapper's own.
func (p *Pool) device(ctx context.Context, vg, lv string) (string, error) {
	names := []string{filepath.Join(p.dev, vg, lv), filepath.Join(p.dev, "mapper", mapperName(vg, lv))}
	for end := time.Now().Add(p.wait); ; {
		for _, n := range names {
			if _, err := os.Stat(n); err == nil {
				return n, nil
			}
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("no device %s after %s", names[0], p.wait)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// mapperName joins the two as device-mapper does: dashes inside are doubled
// (dm_build_dm_name).
func mapperName(vg, lv string) string {
	return strings.ReplaceAll(vg, "-", "--") + "-" + strings.ReplaceAll(lv, "-", "--")
}

// Deactivate takes the block device away; a disk that is open is ErrInUse.
func (p *Pool) Deactivate(ctx context.Context, name string) error {
	return p.change(ctx, "deactivate", name, func(g vgRow, v lvRow) error {
		if !v.active() {
			return nil
		}
		_, err := p.lvm(ctx, "lvchange", "-q", "-a", "n", g.Name+"/"+name)
		return err
	})
}

// Path is where the disk's device is once it is active.
func (p *Pool) Path(ctx context.Context, name string) (string, error) {
	g, _, err := p.find(ctx, name)
	if err != nil {
		return "", err
	}
	return filepath.Join("/dev", g.Name, name), nil
}

// alone runs f while nobody else of ours changes the group. LVM's own locks
// keep its metadata whole, but not "find a free name, then take it" together.
func (p *Pool) alone(ctx context.Context, f func() error) error {
	return p.lock.Do(ctx, "the volume group", f)
}

var (
	_ storage.Pool    = (*Pool)(nil)
	_ storage.Locator = (*Pool)(nil)
)
