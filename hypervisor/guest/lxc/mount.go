package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mounter mounts volumes on the host.
type Mounter interface {
	Mount(source, target string, readOnly, unprivileged bool) error
	// UnmountBelow unmounts whatever is mounted in folder.
	UnmountBelow(ctx context.Context, folder string) error
}

// Mounts is the Mounter that calls the kernel.
type Mounts struct{}

// Mount mounts a block device, or a file through a loop device that goes with
// the mount. Device nodes count only for privileged containers: others cannot
// make any, and one that is there all the same has no business.
func (Mounts) Mount(source, target string, readOnly, unprivileged bool) error {
	st, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("mount volume: %w", err)
	}
	if st.Mode().IsRegular() {
		loop, err := attach(source, readOnly)
		if err != nil {
			return fmt.Errorf("mount volume %s: %w", source, err)
		}
		defer loop.Close() // the mount holds it from here on
		source = loop.Name()
	} else if st.Mode().Type() != os.ModeDevice {
		return fmt.Errorf("mount volume %s: it is no block device", source)
	}
	flags, data := uintptr(unix.MS_NOATIME), "errors=remount-ro"
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if unprivileged {
		flags |= unix.MS_NODEV
	}
	if err := unix.Mount(source, target, "ext4", flags, data); err != nil {
		return fmt.Errorf("mount volume %s: %w", source, err)
	}
	return nil
}

// attach connects a file to a free loop device that disappears with its last
// user, loop(4).
func attach(file string, readOnly bool) (*os.File, error) {
	mode, flags := os.O_RDWR, uint32(unix.LO_FLAGS_AUTOCLEAR)
	if readOnly {
		mode, flags = os.O_RDONLY, flags|unix.LO_FLAGS_READ_ONLY
	}
	back, err := os.OpenFile(file, mode, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 100 { // somebody else may take the free one first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), mode, 0)
		if err != nil {
			return nil, err
		}
		c := unix.LoopConfig{Fd: uint32(back.Fd()), Info: unix.LoopInfo64{Flags: flags}}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &c); err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configure loop device: %w", err)
		}
	}
	return nil, fmt.Errorf("find free loop device: all are taken at once")
}

// unmountPatience is for a mount that a process on its way out still uses.
const unmountPatience = 5 * time.Second

// UnmountBelow unmounts, the latest first. A mount that stays busy is
// detached, and that is an error: its device is still in use.
func (Mounts) UnmountBelow(ctx context.Context, folder string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for _, target := range slices.Backward(mountsBelow(string(b), folder)) {
		if err := unmount(ctx, target); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func unmount(ctx context.Context, target string) error {
	var err error
	for end := time.Now().Add(unmountPatience); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err == nil || errors.Is(err, unix.EINVAL) {
			return nil // EINVAL: no mount any more
		}
	}
	unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	return fmt.Errorf("unmount %s: %w", target, err)
}

// mountedDevice reports whether a block device is mounted, by the device
// number in the third field of proc_pid_mountinfo(5).
func mountedDevice(device string) bool {
	var st unix.Stat_t
	if unix.Stat(device, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return false
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == number {
			return true
		}
	}
	return false
}

// mountsBelow reads the mount points below folder, in the order they were
// made, from proc_pid_mountinfo(5).
func mountsBelow(mountinfo, folder string) (out []string) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 {
			if t := unescape.Replace(f[4]); strings.HasPrefix(t, folder+"/") {
				out = append(out, t)
			}
		}
	}
	return out
}
