// Package sandbox runs programs of an unpacked Debian tree without any
// privilege: in user, mount, PID and IPC namespaces of their own
// (namespaces(7)), where only uid 0 exists and stands for the person who
// builds. The tree is read-only there and all of the machine that is seen;
// what goes in and out are folders bound below /host.
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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"joist/internal/run"
)

// arg0 is how Main knows that this process is to become a sandbox.
const arg0 = "joist-sandbox"

// Exit statuses of a process that did not become the program it should have.
const (
	exitNoRights = 125 // the first mount was refused: the namespaces give no rights
	exitFailed   = 126
)

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
	"let root allow them (sysctl kernel.unprivileged_userns_clone=1 on older Debian, kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu, " +
	"user.max_user_namespaces=10000 where it is 0; in a container, its security profile decides), or build elsewhere")

// With returns a sandbox that also has the given binds.
func (s Sandbox) With(b ...Bind) Sandbox {
	s.Binds = append(slices.Clone(s.Binds), b...)
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
	for _, b := range s.Binds {
		if err := CheckInside(b); err != nil {
			return nil, err
		}
	}
	msg, err := json.Marshal(s.order(&c))
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()

	x := exec.CommandContext(ctx, "/proc/self/exe")
	// The order comes behind the caller's files, which begin at descriptor 3.
	x.ExtraFiles = append(slices.Clone(c.Files), r)
	x.Args = []string{arg0, strconv.Itoa(2 + len(x.ExtraFiles))}
	x.Stdin = c.Stdin
	x.WaitDelay = 5 * time.Second
	x.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		// The first process of a PID namespace takes all others with it.
		Pdeathsig: syscall.SIGKILL,
	}
	out := run.Capture(c, x)
	err = x.Start()
	r.Close() // so that writing to a process that died ends
	if err == nil {
		_, werr := w.Write(msg)
		w.Close()
		if err = x.Wait(); err == nil {
			err = werr
		}
	}
	return out.Finish(ctx, x.ProcessState, explain(err, x.ProcessState))
}

// order completes c.Path and says what the process is to do.
func (s Sandbox) order(c *run.Cmd) order {
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
	return o
}

// explain recognises a machine without user namespaces: clone(2) fails, or,
// under AppArmor's restriction, succeeds and gives no rights.
func explain(err error, st *os.ProcessState) error {
	if err == nil {
		return nil
	}
	if st == nil {
		for _, e := range []error{unix.EPERM, unix.EACCES, unix.ENOSPC, unix.EUSERS, unix.EINVAL, unix.ENOSYS} {
			if errors.Is(err, e) {
				return fmt.Errorf("%w (%v)", ErrNoNamespaces, err)
			}
		}
	} else if st.ExitCode() == exitNoRights {
		return ErrNoNamespaces
	}
	return err
}

// CheckInside returns an error if a bind does not lie below /host, or is not
// absolute on the machine.
func CheckInside(b Bind) error {
	if clean := filepath.Clean(b.Inside); clean != b.Inside || !strings.HasPrefix(clean, "/host/") {
		return fmt.Errorf("bind %s: %q is not a clean path below /host", b.Host, b.Inside)
	}
	if !filepath.IsAbs(b.Host) {
		return fmt.Errorf("bind %s: it is not an absolute path", b.Host)
	}
	return nil
}

// Check finds out whether this machine lets people make user namespaces, before
// anything long is begun. dir is an empty folder.
func Check(ctx context.Context, dir string) error {
	if err := Prepare(dir); err != nil {
		return err
	}
	// It enters an empty tree, where there is no program to start.
	_, err := Sandbox{Root: dir}.Run(ctx, run.Cmd{Path: "/nothing"})
	if run.ExitCode(err) == exitFailed {
		return ctx.Err()
	}
	return err
}

// Prepare makes the folders in an unpacked tree that Run mounts over.
func Prepare(root string) error {
	for _, d := range []string{"proc", "dev", "tmp", "run", "var/tmp", "host", "sys"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return fmt.Errorf("prepare the sandbox: %w", err)
		}
	}
	return nil
}
