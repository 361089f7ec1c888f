package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"joist/system/block"
	"joist/system/module"
)

// Kernel is System by system calls.
type Kernel struct {
	// EndBy asks somebody else to end the machine: a running system's PID 1.
	// nil does it at once.
	EndBy func(off bool) error
}

// Mount is mount(2).
func (Kernel) Mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

// Unmount is umount2(2).
func (Kernel) Unmount(target string, flags int) error { return unix.Unmount(target, flags) }

// Insert is finit_module(2).
func (Kernel) Insert(file, params string) error { return module.Insert(file, params) }

// KernelLog reads the kernel's ring buffer; it stays full (syslog(2)).
func (Kernel) KernelLog() ([]byte, error) {
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return nil, fmt.Errorf("read kernel log: %w", err)
	}
	b := make([]byte, n)
	if n, err = unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b); err != nil {
		return nil, fmt.Errorf("read kernel log: %w", err)
	}
	return b[:n], nil
}

// End restarts the machine or switches it off.
func (k Kernel) End(off bool) error {
	if k.EndBy != nil {
		return k.EndBy(off)
	}
	unix.Sync()
	if off {
		return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func (b Box) end(off bool) func(context.Context, *command, []string) error {
	return func(context.Context, *command, []string) error { return b.System.End(off) }
}

// dmesg prints the kernel's messages without their priority.
func (b Box) dmesg(_ context.Context, c *command, _ []string) error {
	text, err := b.System.KernelLog()
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "<"); ok {
			if _, after, ok := strings.Cut(rest, ">"); ok {
				line = after
			}
		}
		if _, err := io.WriteString(c.Stdout, line); err != nil {
			return err
		}
	}
	return nil
}

func (b Box) insmod(_ context.Context, c *command, args []string) error {
	if len(args) == 0 {
		return c.misused()
	}
	file := c.ResolvePath(args[0])
	if err := b.System.Insert(file, strings.Join(args[1:], " ")); err != nil {
		return fmt.Errorf("load %s: %w", file, err)
	}
	return nil
}

func (b Box) modprobe(_ context.Context, c *command, args []string) error {
	if len(args) == 0 {
		return c.misused()
	}
	return b.load(args...)
}

// load loads modules of the running kernel with what they need.
func (b Box) load(names ...string) error {
	release, err := module.Release()
	if err != nil {
		return err
	}
	x, err := module.Open(filepath.Join(b.Root, "lib/modules", release))
	if err != nil {
		return err
	}
	l := &module.Loader{Index: x, Insert: b.System.Insert}
	return l.Load(names...)
}

// lsblk lists disks and partitions with what the first look at them shows.
func (b Box) lsblk(_ context.Context, c *command, _ []string) error {
	devs, err := block.List(filepath.Join(b.Root, "sys"))
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Stdout, "%-16s %10s  %-8s %s\n", "NAME", "SIZE", "CONTENT", "PARTITION")
	for _, d := range devs {
		kind, name := "", ""
		if d.Bytes > 0 {
			kind, _ = d.Sniff() // unreadable is shown as empty
		}
		if d.Partition != 0 {
			name = partition(devs, d)
		}
		if _, err := fmt.Fprintln(c.Stdout, strings.TrimRight(fmt.Sprintf("%-16s %10s  %-8s %s", d.Name, size(d.Bytes), kind, name), " ")); err != nil {
			return err
		}
	}
	return nil
}

// partition is the name in the GPT of d's disk.
func partition(devs []block.Device, d block.Device) string {
	for _, disk := range devs {
		if disk.Name != d.Disk || disk.Partition != 0 {
			continue
		}
		t, err := disk.Table()
		if err != nil {
			return ""
		}
		for _, p := range t.Partitions {
			if p.Number == d.Partition {
				return p.Name
			}
		}
	}
	return ""
}

// size is in binary units, as lsblk(8) does it.
func size(n int64) string {
	units := "BKMGTP"
	v := float64(n)
	for v >= 1024 && len(units) > 1 {
		v, units = v/1024, units[1:]
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + units[:1]
}

// mountFlags are mount(8)'s options that are no data for the file system.
var mountFlags = map[string]struct {
	flag  uintptr
	clear bool
}{
	"ro": {unix.MS_RDONLY, false}, "rw": {unix.MS_RDONLY, true}, "bind": {unix.MS_BIND, false}, "rbind": {unix.MS_BIND | unix.MS_REC, false},
	"remount": {unix.MS_REMOUNT, false}, "move": {unix.MS_MOVE, false}, "nosuid": {unix.MS_NOSUID, false}, "nodev": {unix.MS_NODEV, false},
	"noexec": {unix.MS_NOEXEC, false}, "noatime": {unix.MS_NOATIME, false}, "sync": {unix.MS_SYNCHRONOUS, false}, "defaults": {0, false},
}

// mountOptions reads "ro,noatime,noload".
func mountOptions(list string) (flags uintptr, data string) {
	var rest []string
	for o := range strings.SplitSeq(list, ",") {
		f, ok := mountFlags[o]
		switch {
		case o == "":
		case !ok:
			rest = append(rest, o)
		case f.clear:
			flags &^= f.flag
		default:
			flags |= f.flag
		}
	}
	return flags, strings.Join(rest, ",")
}

// guesses are the types tried when none is given.
var guesses = []string{"ext4", "xfs", "squashfs", "iso9660", "vfat"}

// moduleOf names the module of a file system where it is called otherwise.
var moduleOf = map[string]string{"iso9660": "isofs"}

// mount is mount(8) with -t and -o; alone it lists what is mounted. Without a
// type those are tried that a system disk or medium of ours can have.
func (b Box) mount(_ context.Context, c *command, args []string) error {
	kind, options := "", ""
	var rest []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case (a == "-t" || a == "-o") && i+1 < len(args):
			i++
			if a == "-t" {
				kind = args[i]
			} else {
				options += "," + args[i]
			}
		case a == "-r":
			options += ",ro"
		case strings.HasPrefix(a, "-"):
			return c.misused()
		default:
			rest = append(rest, a)
		}
	}
	if len(args) == 0 {
		text, err := os.ReadFile(filepath.Join(b.Root, "proc/mounts"))
		if err == nil {
			_, err = c.Stdout.Write(text)
		}
		return err
	}
	if len(rest) != 2 {
		return c.misused()
	}
	source, target := rest[0], c.ResolvePath(rest[1])
	flags, data := mountOptions(options)
	kinds := []string{kind}
	if kind == "" && flags&(unix.MS_BIND|unix.MS_REMOUNT|unix.MS_MOVE) == 0 {
		kinds = guesses
	}
	var errs []error
	for _, k := range kinds {
		if k != "" {
			name := k
			if moduleOf[k] != "" {
				name = moduleOf[k]
			}
			b.load(name) // built in, or mount says that there is none
		}
		err := b.System.Mount(source, target, k, flags, data)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("mount %s on %s as %q: %w", source, target, k, err))
	}
	return errors.Join(errs...)
}

func (b Box) umount(_ context.Context, c *command, args []string) error {
	flags := unix.UMOUNT_NOFOLLOW
	if len(args) > 0 && args[0] == "-l" {
		flags |= unix.MNT_DETACH
		args = args[1:]
	}
	if len(args) == 0 {
		return c.misused()
	}
	var errs []error
	for _, a := range args {
		if err := b.System.Unmount(c.ResolvePath(a), flags); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}
