package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// item is one thing that must exist before anything else runs. A list of
// values can be printed, tested and read at a glance.
type item interface {
	fmt.Stringer
	make() error
}

type dir struct {
	path string
	mode fs.FileMode
}

func (d dir) String() string { return fmt.Sprintf("dir %s %04o", d.path, d.mode.Perm()) }
func (d dir) make() error {
	if err := os.MkdirAll(d.path, d.mode.Perm()); err != nil {
		return err
	}
	return os.Chmod(d.path, d.mode)
}

type symlink struct{ path, to string }

func (l symlink) String() string { return "link " + l.path + " -> " + l.to }
func (l symlink) make() error {
	if err := os.Symlink(l.to, l.path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

type mount struct {
	fs, target string
	flags      uintptr
	data       string
	optional   bool // the kernel or the firmware may not have it
}

func (m mount) String() string { return fmt.Sprintf("mount %s %s %s", m.fs, m.target, m.data) }
func (m mount) make() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil && !m.optional {
		return err
	}
	err := unix.Mount(m.fs, m.target, m.fs, m.flags, m.data)
	if errors.Is(err, unix.EBUSY) || m.optional {
		return nil
	}
	return err
}

const (
	quiet  = unix.MS_NOSUID | unix.MS_NODEV
	strict = quiet | unix.MS_NOEXEC
)

// early is what every mode needs. Stage 1 has mounted /proc, /sys, /dev and
// /run already; they are in the list for a start without it.
func early() []item {
	return []item{
		mount{"proc", "/proc", strict, "", false},
		mount{"sysfs", "/sys", strict, "", false},
		mount{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755", false},
		mount{"tmpfs", "/run", quiet, "mode=0755", false},
		mount{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666", false},
		mount{"tmpfs", "/dev/shm", quiet, "mode=1777", false},
		mount{"mqueue", "/dev/mqueue", strict, "", true},
		mount{"hugetlbfs", "/dev/hugepages", quiet, "", true},
		symlink{"/dev/fd", "/proc/self/fd"},
		symlink{"/dev/stdin", "/proc/self/fd/0"},
		symlink{"/dev/stdout", "/proc/self/fd/1"},
		symlink{"/dev/stderr", "/proc/self/fd/2"},
		mount{"tmpfs", "/tmp", quiet, "mode=1777,size=25%", false},
		// liblxc needs version 2 alone; nsdelegate keeps a container from
		// writing its own limits (Documentation/admin-guide/cgroup-v2.rst).
		mount{"cgroup2", "/sys/fs/cgroup", strict, "nsdelegate,memory_recursiveprot", false},
		mount{"securityfs", "/sys/kernel/security", strict, "", true},
		mount{"efivarfs", "/sys/firmware/efi/efivars", strict, "", true},
		mount{"bpf", "/sys/fs/bpf", strict, "mode=0700", true},
		mount{"pstore", "/sys/fs/pstore", strict, "", true},
		mount{"configfs", "/sys/kernel/config", strict, "", true},
		mount{"fusectl", "/sys/fs/fuse/connections", strict, "", true},
		dir{"/run/lock", fs.ModeSticky | 0o777},
		dir{"/run/joist", 0o755},
		dir{"/run/joist/guests", 0o711},
		dir{"/run/joist/notify", 0o700},
		dir{"/run/lvm", 0o700},
	}
}

// makeAll makes every item; one failure does not stop the rest. What stage 1
// has mounted stays: mount(2) would put an empty one over it.
func makeAll(items []item) error {
	var errs []error
	there, _ := mounted() // fails only without /proc: then nothing is mounted
	for _, i := range items {
		if m, ok := i.(mount); ok && slices.Contains(there, m.target) {
			continue
		}
		if err := i.make(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// mounted lists the targets of all mounts, in the order they were made.
func mounted() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return targets(string(b)), nil
}

// targets reads the fifth field of proc_pid_mountinfo(5).
func targets(mountinfo string) (out []string) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 {
			out = append(out, unescape.Replace(f[4]))
		}
	}
	return out
}

// sysctls are the kernel settings of every node, each with its reason.
var sysctls = []struct{ name, value string }{
	{"kernel/panic", "10"}, // restart after a panic instead of hanging
	{"kernel/pid_max", "4194304"},
	{"kernel/dmesg_restrict", "1"},
	{"kernel/kptr_restrict", "1"},
	{"kernel/keys/maxkeys", "20000"}, // keyrings of containers count against the host
	{"kernel/keys/maxbytes", "2000000"},
	{"fs/protected_hardlinks", "1"}, // what systemd's 50-default.conf sets elsewhere
	{"fs/protected_symlinks", "1"},
	{"fs/protected_regular", "2"},
	{"fs/protected_fifos", "1"},
	{"fs/aio-max-nr", "1048576"},                  // a QEMU with native AIO takes 1024 per disk
	{"fs/inotify/max_user_instances", "8192"},     // containers share one uid range's limits
	{"fs/inotify/max_user_watches", "1048576"},    //
	{"vm/max_map_count", "262144"},                //
	{"net/ipv4/conf/all/rp_filter", "2"},          // loose: several links to one network are normal
	{"net/ipv4/neigh/default/gc_thresh3", "8192"}, // a bridge full of guests
	{"net/ipv6/neigh/default/gc_thresh3", "8192"},
}

func setSysctls() error {
	var errs []error
	for _, s := range sysctls {
		if err := os.WriteFile("/proc/sys/"+s.name, []byte(s.value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("set %s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}
