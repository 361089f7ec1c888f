package pid1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"joist/internal/run"
	"joist/system/array"
	"joist/system/block"
	"joist/system/bootdisk"
	"joist/system/pool"
)

const rescueDir = "/mnt"

// found is one installed system as its partition table shows it.
type found struct {
	disk    block.Device
	data    block.Device // without a name where the kernel shows no partitions
	guid    string
	array   string         // UUID of the mirror that the data is on, "" without one
	members []array.Member // of that

	pool        string        // GUID of the pool that the data is in, "" without one
	poolMembers []pool.Member // that are there
}

func (f found) String() string {
	if f.data.Name == "" {
		return fmt.Sprintf("Joist on /dev/%s (disk %s), %v", f.disk.Name, f.guid, errNoParts)
	}
	return fmt.Sprintf("Joist on /dev/%s (disk %s), data on %s", f.disk.Name, f.guid, f.data.Path())
}

// errNoParts is what a damaged primary partition table or MBR comes to: the
// kernel goes by these alone.
var errNoParts = errors.New("of which the kernel shows no partition " + dataPartition)

// readable says whether the data can be reached.
func (f found) readable() error {
	if f.data.Name != "" {
		return nil
	}
	return fmt.Errorf("find the data of the installed system on /dev/%s, %w: mend its partition table with \"joist-install boot\"", f.disk.Name, errNoParts)
}

// Installed lists the installed systems. It only reads partition tables.
func Installed(sys string) (out []string) {
	for _, f := range installed(sys) {
		out = append(out, f.String())
	}
	return out
}

func installed(sys string) (out []found) {
	devs, err := bootdisk.Devices(sys)
	if err != nil {
		return nil
	}
	for _, d := range devs {
		if d.Partition != 0 || d.Bytes == 0 {
			continue
		}
		t, err := d.Table()
		if err != nil {
			continue
		}
		_, slotErr := t.Find("joist-a")
		_, dataErr := t.Find(dataPartition)
		if slotErr != nil || dataErr != nil {
			continue
		}
		f := found{disk: d, guid: strings.ToLower(t.DiskGUID)}
		if data, ok := block.Find(devs, t.DiskGUID, dataPartition); ok {
			f.data, f.array, f.pool = data, array.UUID(data.Path()), pool.GUID(data.Path())
		}
		if i := slices.IndexFunc(out, f.sameAs); i >= 0 { // another disk of it
			if out[i].data.Name != "" || f.data.Name == "" {
				continue
			}
			out = slices.Delete(out, i, i+1)
		}
		if f.array != "" {
			f.members = array.Find(devs, f.array)
		}
		if f.pool != "" {
			f.poolMembers = pool.Find(devs, f.pool)
		}
		out = append(out, f)
	}
	return out
}

// sameAs says whether both are disks of one system. Two of one GUID are copies.
func (f found) sameAs(o found) bool {
	return bootdisk.Family(f.guid, o.guid) && f.guid != o.guid || f.array != "" && f.array == o.array || f.pool != "" && f.pool == o.pool
}

// storage returns the device of the physical volume. A mirror is started for
// reading only.
func (f found) storage(ctx context.Context, r run.Runner) (string, error) {
	if f.array == "" {
		return f.data.Path(), nil
	}
	if err := array.Load(ctx, r); err != nil {
		return "", err
	}
	return array.File, array.Start(ctx, r, f.array, f.members, true)
}

// RescueMount finds the installed system and mounts its volumes read-only
// below /mnt. It is the only thing in rescue mode that activates anything,
// and only read-only: the volumes' tables are made so that not even a journal
// can be replayed.
func RescueMount(ctx context.Context, r run.Runner, say func(string)) error {
	one, err := theInstalled()
	if err == nil {
		err = one.readable()
	}
	if err != nil {
		return err
	}
	say(one.String())
	volumes, err := one.volumes(ctx, r)
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", rescueDir, "tmpfs", quiet, "mode=0755"); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s: %w", rescueDir, err)
	}
	for _, v := range volumes {
		at := rescueDir + "/" + v.name
		if err := mountOn(v.source, at, v.fs, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, v.data); err != nil {
			return err
		}
		say("mounted " + v.name + " read-only on " + at)
	}
	return nil
}

// theInstalled is the one system that is installed on this machine's disks.
func theInstalled() (found, error) {
	all := installed("/sys")
	devs, err := block.List("/sys")
	if err != nil {
		return found{}, err
	}
	for _, f := range all {
		if err := bootdisk.Alone(devs, "/sys", f.guid); err != nil {
			return found{}, fmt.Errorf("find installed system: %w; %s", err, bootdisk.CopiesCure)
		}
	}
	switch len(all) {
	case 0:
		return found{}, errors.New("find installed system: no disk has partitions joist-a and " + dataPartition)
	case 1:
		return all[0], nil
	}
	return found{}, fmt.Errorf("find installed system: there are %d; disconnect all disks but one system's", len(all))
}

// rescued is a volume as it is to be mounted.
type rescued struct{ name, source, fs, data string }

// volumes makes state and local available, for reading only.
func (f found) volumes(ctx context.Context, r run.Runner) ([]rescued, error) {
	if f.pool != "" {
		return f.datasets(ctx, r)
	}
	dev, err := f.storage(ctx, r)
	if err != nil {
		return nil, err
	}
	out, err := r.Run(ctx, run.Cmd{Path: "lvm", Args: lvmArgs("vgs", dev, "--noheadings", "-o", "vg_name,vg_uuid")})
	if err != nil {
		return nil, fmt.Errorf("read volume group on %s: %w", dev, err)
	}
	group := strings.Fields(string(out))
	if len(group) != 2 {
		return nil, fmt.Errorf("read volume group on %s: there is none", dev)
	}
	if err := activateReadOnly(ctx, r, dev, group[0], group[1]); err != nil {
		return nil, err
	}
	var vs []rescued
	for _, name := range []string{"state", "local"} {
		node, err := volume("/sys", group[1], name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		fs, err := fileSystem(node)
		if err != nil {
			return nil, err
		}
		// A journal or log that needs replaying stays as it is (ext4(5), xfs(5)).
		data := map[string]string{"ext4": "noload", "xfs": "norecovery"}[fs]
		vs = append(vs, rescued{name, node, fs, data})
	}
	return vs, nil
}

// datasets opens the pool. Guests' volumes get no devices (zfs(4)).
func (f found) datasets(ctx context.Context, r run.Runner) ([]rescued, error) {
	ms, apart, err := agreeing(f.poolMembers)
	if err != nil {
		return nil, err
	}
	if err := pool.Load(ctx, r, pool.NoVolumes); err != nil {
		return nil, err
	}
	if err := pool.Look(ctx, r, f.pool, ms, apart, rescueDir); err != nil {
		return nil, err
	}
	name := ms[0].Name
	return []rescued{{"state", name + "/state", "zfs", ""}, {"local", name + "/local", "zfs", ""}}, nil
}

func activateReadOnly(ctx context.Context, r run.Runner, dev, name, uuid string) error {
	args := []string{"lvchange", "--devices", dev, "--config",
		fmt.Sprintf("backup{backup=0 archive=0} activation{monitoring=0 read_only_volume_list=[%q]}", name),
		"-ay", "--select", fmt.Sprintf("vg_uuid=%s && (lv_name=state || lv_name=local)", uuid)}
	if _, err := r.Run(ctx, run.Cmd{Path: "lvm", Args: args}); err != nil {
		return fmt.Errorf("activate volumes of %s read-only: %w", name, err)
	}
	return nil
}
