// Package sandbox runs programs of an unpacked Debian tree without any
// privilege: in user, mount, PID and IPC namespaces of their own
// (namespaces(7)), where only uid 0 exists and stands for the person who
// builds. The tree is read-only there; what goes in and out are folders bound
// below /host.
//
// The network stays the machine's, because nothing in the sandbox uses it.
// Files cannot get another owner than 0 in there and devices cannot be made:
// owners and devices exist in package tree and in the image, never here.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"joist/internal/run"
)

// arg0 is how Main knows that this process is to become a sandbox.
const arg0 = "joist-sandbox"

// Bind makes a folder or file of the machine visible in the sandbox.
type Bind struct {
	Host     string // absolute path on the machine
	Inside   string // below /host
	ReadOnly bool
}

// Sandbox is an unpacked tree to run programs of. It is a run.Runner.
type Sandbox struct {
	Root     string // the tree on disk
	Binds    []Bind
	Writable bool // programs may change the tree
}

// ErrNoNamespaces: the machine does not let people make user namespaces.
var ErrNoNamespaces = errors.New("this machine forbids user namespaces, which the build needs instead of root rights; " +
	"allow them (sysctl kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces > 0) or build elsewhere")

// With returns a sandbox that also has the given binds.
func (s Sandbox) With(b ...Bind) Sandbox {
	s.Binds = append(append([]Bind(nil), s.Binds...), b...)
	return s
}

// order is what the parent tells the process that becomes the sandbox.
type order struct {
	Root     string
	Binds    []Bind
	Writable bool
	Path     string
	Args     []string
	Env      []string
	Dir      string
}

// Run implements run.Runner. c.Path is a path in the tree, or the name of a
// program in its /usr/bin or /usr/sbin.
func (s Sandbox) Run(ctx context.Context, c run.Cmd) ([]byte, error) {
	if !filepath.IsAbs(c.Path) {
		dir := "/usr/bin"
		if _, err := os.Lstat(filepath.Join(s.Root, dir, c.Path)); err != nil {
			dir = "/usr/sbin"
		}
		c.Path = filepath.Join(dir, c.Path)
	}
	o := order{Root: s.Root, Binds: s.Binds, Writable: s.Writable, Path: c.Path, Args: append([]string{c.Path}, c.Args...), Env: c.Env, Dir: c.Dir}
	if o.Env == nil {
		o.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/tmp", "TZ=UTC"}
	}
	msg, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()

	x := exec.CommandContext(ctx, "/proc/self/exe")
	x.Args = []string{arg0}
	x.Stdin = c.Stdin
	x.ExtraFiles = append([]*os.File{r}, c.Files...)
	x.WaitDelay = 5 * time.Second
	x.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out := run.Capture(c, x)
	err = x.Start()
	if err == nil {
		_, werr := w.Write(msg)
		w.Close()
		err = errors.Join(werr, x.Wait())
	} else {
		w.Close()
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w (%v)", ErrNoNamespaces, err)
		}
	}
	return out.Finish(ctx, x.ProcessState, err)
}

// Main turns the process into a sandbox if that is what it was started for,
// and otherwise returns at once. Programs that use this package call it first
// in main (tests in TestMain).
func Main() {
	if len(os.Args) == 0 || os.Args[0] != arg0 {
		return
	}
	err := enter()
	fmt.Fprintln(os.Stderr, "enter the sandbox:", err)
	os.Exit(126)
}

func enter() error {
	f := os.NewFile(3, "order")
	var o order
	if err := json.NewDecoder(f).Decode(&o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	f.Close()
	unix.CloseOnExec(3)
	for _, m := range mounts(o) {
		if err := m.do(); err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	if err := unix.Chroot(o.Root); err != nil {
		return fmt.Errorf("chroot to %s: %w", o.Root, err)
	}
	dir := o.Dir
	if dir == "" {
		dir = "/"
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("change to folder %s: %w", dir, err)
	}
	if err := unix.Exec(o.Path, o.Args, o.Env); err != nil {
		return fmt.Errorf("start %s: %w", o.Path, err)
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
}

func (m mount) String() string { return fmt.Sprintf("mount %s%s on %s", m.fstype, m.source, m.target) }

// mounts lists the steps in order.
func mounts(o order) []mount {
	in := func(p string) string { return filepath.Join(o.Root, p) }
	l := []mount{
		{target: "/", flags: unix.MS_REC | unix.MS_PRIVATE},
		{source: o.Root, target: o.Root, flags: unix.MS_BIND | unix.MS_REC, readOnly: !o.Writable},
		{fstype: "proc", source: "proc", target: in("/proc"), flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{fstype: "tmpfs", source: "tmpfs", target: in("/dev"), flags: unix.MS_NOSUID, data: "mode=0755,size=64k"},
	}
	for _, d := range []string{"null", "zero", "full", "random", "urandom"} {
		l = append(l, mount{source: "/dev/" + d, target: in("/dev/" + d), flags: unix.MS_BIND, file: true})
	}
	for _, k := range [][2]string{{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}} {
		l = append(l, mount{target: in("/dev/" + k[0]), link: k[1]})
	}
	for _, t := range []string{"/tmp", "/run", "/var/tmp", "/host"} {
		l = append(l, mount{fstype: "tmpfs", source: "tmpfs", target: in(t), flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=0777"})
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
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return err
	}
	if !m.readOnly {
		return nil
	}
	// A remount in a user namespace must repeat the flags the mount inherited
	// and may not drop (mount_namespaces(7), "locked").
	var st unix.Statfs_t
	if err := unix.Statfs(m.target, &st); err != nil {
		return err
	}
	keep := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	return unix.Mount("", m.target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|keep, "")
}

// point makes the mount point. Points outside the tmpfs folders exist already
// (Prepare made them); failing to make them again is not an error.
func (m mount) point() error {
	if m.file {
		if err := os.MkdirAll(filepath.Dir(m.target), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(m.target, os.O_CREATE|os.O_WRONLY, 0o666)
		if err != nil {
			return err
		}
		return f.Close()
	}
	if _, err := os.Stat(m.target); err == nil {
		return nil
	}
	return os.MkdirAll(m.target, 0o755)
}

// Prepare makes the folders in an unpacked tree that Run mounts over.
func Prepare(root string) error {
	for _, d := range []string{"proc", "dev", "tmp", "run", "var/tmp", "host", "sys"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// CheckInside returns an error if a bind does not lie below /host.
func CheckInside(b Bind) error {
	if !strings.HasPrefix(filepath.Clean(b.Inside), "/host/") {
		return fmt.Errorf("bind %s: %s is not below /host", b.Host, b.Inside)
	}
	return nil
}
