package pid1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/internal/run"
	"joist/system/array"
	"joist/system/bootdisk"
	"joist/system/pool"
)

// errIsNode keeps what is for another system's disks from a node's own.
var errIsNode = errors.New("this is the installed system itself; start the medium's rescue entry")

const repairDir = node.RunDir + "/repair"

// RescueWrite mounts the state volume of the installed system for writing, runs
// f on it and lets go of it again. What RescueMount shows is away meanwhile.
func RescueWrite(ctx context.Context, r run.Runner, say func(string), f func(state string) error) (err error) {
	if isNode() {
		return errIsNode
	}
	one, err := theInstalled()
	if err == nil {
		err = one.readable()
	}
	if err != nil {
		return err
	}
	say(one.String())
	shown, _ := mounted() // fails only without /proc
	if err := one.letGo(ctx, r, shown); err != nil {
		return err
	}
	defer func() {
		now, _ := mounted()
		err = errors.Join(err, one.letGo(ctx, r, now))
		for _, at := range shown {
			if at == rescueDir+"/state" {
				err = errors.Join(err, RescueMount(ctx, r, say))
			}
		}
	}()
	source, fs, err := one.state(ctx, r, say)
	if err != nil {
		return err
	}
	if err := mountOn(source, repairDir, fs, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	return f(repairDir)
}

// isNode says whether a node runs here, not the rescue system or an installer.
func isNode() bool {
	_, err := os.Stat(node.ConfigFile)
	return err == nil
}

// state makes the state volume available for writing, checked as the node would
// do it.
func (f found) state(ctx context.Context, r run.Runner, say func(string)) (source, fs string, err error) {
	if f.pool != "" {
		ms, apart, err := agreeing(f.poolMembers)
		if err != nil {
			return "", "", err
		}
		if err := pool.Load(ctx, r, pool.NoVolumes); err != nil {
			return "", "", err
		}
		return ms[0].Name + "/state", "zfs", pool.Repair(ctx, r, f.pool, ms, apart, rescueDir)
	}
	dev := f.data.Path()
	if f.array != "" {
		if err := array.Load(ctx, r); err != nil {
			return "", "", err
		}
		if err := array.Start(ctx, r, f.array, f.members, false); err != nil {
			return "", "", err
		}
		dev = array.File
	}
	out, err := r.Run(ctx, run.Cmd{Path: "lvm", Args: lvmArgs("vgs", dev, "--noheadings", "-o", "vg_uuid")})
	if err != nil {
		return "", "", fmt.Errorf("read volume group on %s: %w", dev, err)
	}
	uuid := strings.TrimSpace(string(out))
	if err := activate(ctx, r, dev, uuid, "state"); err != nil {
		return "", "", err
	}
	if source, err = volume("/sys", uuid, "state"); err != nil {
		return "", "", err
	}
	if fs, err = fileSystem(source); err != nil {
		return "", "", err
	}
	return source, fs, check(ctx, r, fs, source, say)
}

// letGo unmounts the volumes and ends what they are on. What is not active is
// left out.
func (f found) letGo(ctx context.Context, r run.Runner, mounts []string) error {
	for _, at := range mounts {
		if at != repairDir && at != rescueDir+"/state" && at != rescueDir+"/local" {
			continue
		}
		if err := unix.Unmount(at, 0); err != nil {
			return fmt.Errorf("unmount %s: %w; leave that folder first", at, err)
		}
	}
	if f.pool != "" {
		if len(f.poolMembers) == 0 {
			return nil // what cannot be read now was not opened
		}
		name := f.poolMembers[0].Name
		if _, err := os.Stat("/proc/spl/kstat/zfs/" + name); err != nil {
			return nil
		}
		return pool.Export(ctx, r, name)
	}
	dev := f.data.Path()
	if f.array != "" {
		if _, err := os.Stat(array.File); err != nil {
			return nil
		}
		dev = array.File
	}
	if _, err := r.Run(ctx, run.Cmd{Path: "lvm", Args: lvmArgs("vgchange", dev, "-an")}); err != nil {
		return fmt.Errorf("deactivate volumes on %s: %w", dev, err)
	}
	if f.array == "" {
		return nil
	}
	if _, err := r.Run(ctx, run.Cmd{Path: "mdadm", Args: []string{"--stop", array.File}}); err != nil {
		return fmt.Errorf("stop mirror: %w", err)
	}
	return nil
}

// RescueBoot is the installed system's boot parts, on all its disks, with the
// copy that counts. Nothing of it runs.
func RescueBoot(ctx context.Context) (bootdisk.System, bootdisk.Copy, error) {
	if isNode() {
		return bootdisk.System{}, bootdisk.Copy{}, errIsNode
	}
	one, err := theInstalled()
	if err != nil {
		return bootdisk.System{}, bootdisk.Copy{}, err
	}
	s := bootdisk.Running(one.guid, "")
	copies, err := s.Inspect(ctx, false)
	if err != nil {
		return s, bootdisk.Copy{}, err
	}
	ref, ok := s.Reference(copies)
	if !ok {
		var lacks []string
		for _, c := range copies {
			lacks = append(lacks, c.Disk.Name+": "+strings.Join(c.Faults(), ", "))
		}
		return s, ref, fmt.Errorf("no disk has all boot parts (%s); \"joist-install run\" with joist.disk.adopt makes them anew and keeps the data", strings.Join(lacks, "; "))
	}
	return bootdisk.Running(ref.Disk.Table.DiskGUID, ""), ref, nil
}
