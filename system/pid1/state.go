package pid1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"joist/internal/run"
	"joist/system/block"
	"joist/system/bootdisk"
)

// dataPartition is the GPT name of the LVM physical volume.
const dataPartition = "joist-data"

// findData waits until the kernel shows the data partition of the system
// disk; stage 1 has seen the disk already.
func findData(ctx context.Context, diskGUID string) (string, error) {
	for {
		devs, err := bootdisk.Devices("/sys")
		if err != nil {
			return "", err
		}
		if d, ok := block.Find(devs, diskGUID, dataPartition); ok {
			return d.Path(), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("find partition %s on disk %s: not there", dataPartition, diskGUID)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// lvmArgs are the options that keep LVM to one device: with --devices it
// opens no other (lvmdevices(8)), so that volume groups inside guests'
// volumes or on foreign disks are never seen. Archives and backups of
// metadata would go to /etc, which is not written.
func lvmArgs(verb, device string, more ...string) []string {
	return append([]string{verb, "--devices", device, "--config",
		"backup{backup=0 archive=0} activation{monitoring=0}"}, more...)
}

// activate makes the named volumes of the volume group available. Guests'
// volumes are activated when their guest starts, not here.
func activate(ctx context.Context, r run.Runner, device, vg string, volumes ...string) error {
	var or []string
	for _, v := range volumes {
		or = append(or, "lv_name="+v)
	}
	sel := fmt.Sprintf("vg_uuid=%s && (%s)", vg, strings.Join(or, " || "))
	_, err := r.Run(ctx, run.Cmd{Path: "lvm", Args: lvmArgs("lvchange", device, "-ay", "--select", sel)})
	if err != nil {
		return fmt.Errorf("activate %s of volume group %s on %s: %w", strings.Join(volumes, ", "), vg, device, err)
	}
	return nil
}

// volume finds the node of an active volume by the UUID that LVM gave to
// device mapper ("LVM-", UUID of the group, UUID of the volume, no dashes):
// names alone could be those of another disk.
func volume(sys, vg, name string) (string, error) {
	dirs, _ := filepath.Glob(filepath.Join(sys, "block/dm-*"))
	prefix := "LVM-" + strings.ReplaceAll(vg, "-", "")
	for _, d := range dirs {
		uuid, _ := os.ReadFile(d + "/dm/uuid")
		dmName, _ := os.ReadFile(d + "/dm/name")
		// "-" within names is doubled, so a single one ends the group's.
		_, lv, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(string(dmName)), "--", "\x00"), "-")
		if strings.HasPrefix(string(uuid), prefix) && strings.ReplaceAll(lv, "\x00", "-") == name {
			return "/dev/" + filepath.Base(d), nil
		}
	}
	return "", fmt.Errorf("find volume %q of volume group %s: %w", name, vg, os.ErrNotExist)
}

// fileSystem names what a volume holds.
func fileSystem(device string) (string, error) {
	f, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fs, err := block.FileSystem(f)
	if err == nil && fs == "" {
		err = errors.New("it is neither ext4 nor XFS")
	}
	if err != nil {
		return "", fmt.Errorf("look at file system on %s: %w", device, err)
	}
	return fs, nil
}

// check repairs an ext4 as e2fsck(8) does without asking. Its exit status is
// a sum: 1 is "repaired", 2 "restart advised", which an unmounted file
// system does not need. XFS replays its log when it is mounted and knows no
// check before that (fsck.xfs(8)).
func check(ctx context.Context, r run.Runner, fs, device string, line func(string)) error {
	if fs != "ext4" {
		return nil
	}
	_, err := r.Run(ctx, run.Cmd{Path: "e2fsck", Args: []string{"-p", device}, Line: line})
	if err == nil {
		return nil
	}
	if code := run.ExitCode(err); code > 0 && code < 4 {
		return nil
	}
	return fmt.Errorf("check file system on %s: %w", device, err)
}

func mountOn(device, target, fs string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
		return err
	}
	if err := unix.Mount(device, target, fs, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", device, target, err)
	}
	return nil
}
