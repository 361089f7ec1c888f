package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Main turns the process into a sandbox if that is what it was started for,
// and otherwise returns at once. Programs that use this package call it first
// in main (tests in TestMain).
func Main() {
	if len(os.Args) != 2 || os.Args[0] != arg0 {
		return
	}
	err := enter(os.Args[1])
	if errors.Is(err, errNoRights) {
		fmt.Fprintf(os.Stderr, "%v (%v)\n", ErrNoNamespaces, err)
		os.Exit(exitNoRights)
	}
	fmt.Fprintln(os.Stderr, "enter the sandbox:", err)
	os.Exit(exitFailed)
}

var errNoRights = errors.New("no right to mount")

// enter only returns when it failed.
func enter(fd string) error {
	n, err := strconv.Atoi(fd)
	if err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	f := os.NewFile(uintptr(n), "order")
	var o order
	if err := json.NewDecoder(f).Decode(&o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	// The caller's files lie before it; behind it are only descriptors that
	// the builder itself was started with.
	if err := unix.CloseRange(uint(n), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("close descriptors: %w", err)
	}
	// Programs in here make files as on any Debian, whatever umask the person
	// who builds has.
	unix.Umask(0o022)
	for i, m := range mounts(o) {
		err := m.do()
		if i == 0 && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) {
			return fmt.Errorf("%s: %v: %w", m, err, errNoRights)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	if err := change(o.Root); err != nil {
		return err
	}
	dir := o.Dir
	if dir == "" {
		dir = "/"
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("change to folder %s: %w", dir, err)
	}
	// Each thread has a parent-death signal of its own and the builder set that
	// of the first; execve(2) keeps that of the thread which calls it.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("end with the builder: %w", err)
	}
	return fmt.Errorf("start %s: %w", o.Path, unix.Exec(o.Path, o.Args, o.Env))
}

// change makes root the root directory and lets go of the machine's: with
// both on ".", pivot_root(2) stacks them and the unmount takes the upper one.
func change(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("change to folder %s: %w", root, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the machine's file systems: %w", err)
	}
	return nil
}

// mount is one step of building the sandbox's view.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	file                   bool   // the mount point is a file
	link                   string // no mount: a symbolic link to make
	readOnly               bool   // remount read-only afterwards
	orBind                 bool   // where the kernel refuses, bind the machine's own
}

func (m mount) String() string {
	if m.link != "" {
		return "link " + m.target
	}
	return fmt.Sprintf("mount %s on %s", m.source, m.target)
}

// mounts lists the steps in order.
func mounts(o order) []mount {
	in := func(p string) string { return filepath.Join(o.Root, p) }
	l := []mount{
		{source: "none", target: "/", flags: unix.MS_REC | unix.MS_PRIVATE},
		{source: o.Root, target: o.Root, flags: unix.MS_BIND | unix.MS_REC, readOnly: !o.Writable},
		// In a container whose /proc is masked, the kernel gives no new one
		// (mount_namespaces(7)); the container's own serves as well.
		{fstype: "proc", source: "proc", target: in("/proc"), flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, orBind: true},
		{fstype: "tmpfs", source: "tmpfs", target: in("/dev"), flags: unix.MS_NOSUID, data: "mode=0755,size=64k"},
	}
	for _, d := range []string{"null", "zero", "full", "random", "urandom"} {
		l = append(l, mount{source: "/dev/" + d, target: in("/dev/" + d), flags: unix.MS_BIND, file: true})
	}
	for _, k := range [][2]string{{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}} {
		l = append(l, mount{target: in("/dev/" + k[0]), link: k[1]})
	}
	// The modes are Debian's: an archive made in here has them.
	for _, t := range [][2]string{{"/tmp", "1777"}, {"/run", "0755"}, {"/var/tmp", "1777"}, {"/host", "0755"}} {
		l = append(l, mount{fstype: "tmpfs", source: "tmpfs", target: in(t[0]), flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=" + t[1]})
	}
	for _, b := range o.Binds {
		st, err := os.Stat(b.Host)
		l = append(l, mount{source: b.Host, target: in(b.Inside), flags: unix.MS_BIND | unix.MS_REC, file: err == nil && !st.IsDir(), readOnly: b.ReadOnly})
	}
	return l
}

func (m mount) do() error {
	if m.link != "" {
		return os.Symlink(m.link, m.target)
	}
	if err := m.point(); err != nil {
		return err
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if m.orBind && errors.Is(err, unix.EPERM) {
		err = unix.Mount("/"+m.source, m.target, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil || !m.readOnly {
		return err
	}
	return readOnly(m.target)
}

// readOnly remounts target and everything mounted below it. In a user
// namespace a remount must repeat the flags that the mount inherited and may
// not drop (mount_namespaces(7), "locked"); mount_setattr(2) does by itself.
func readOnly(target string) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &attr)
	if !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// Before Linux 5.12: the mount itself.
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return err
	}
	keep := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|keep, "")
}

// point makes the mount point. Points outside the tmpfs folders exist already:
// Prepare made them.
func (m mount) point() error {
	if _, err := os.Stat(m.target); err == nil {
		return nil
	}
	if !m.file {
		return os.MkdirAll(m.target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(m.target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(m.target, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	return f.Close()
}
