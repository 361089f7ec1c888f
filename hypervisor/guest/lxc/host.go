package lxc

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Files of the packages liblxc-common and lxcfs.
const (
	seccompFile = "/usr/share/lxc/config/common.seccomp"
	lxcfsHook   = "/usr/share/lxcfs/lxc.mount.hook"
	lxcfsDir    = "/var/lib/lxcfs"
)

// Probe looks at the machine.
func Probe(cgroup string) Host {
	var h Host
	b, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	h.AppArmor = strings.HasPrefix(string(b), "Y") && there("/sys/kernel/security/apparmor")
	h.Parser = there("/usr/sbin/apparmor_parser")
	if there(seccompFile) {
		h.Seccomp = seccompFile
	}
	// A hook that finds an lxcfs that died would keep containers from
	// starting: the folder must be mounted and answer.
	var st unix.Statfs_t
	if there(lxcfsHook) && unix.Statfs(lxcfsDir, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC && there(lxcfsDir+"/proc") {
		h.LXCFS = lxcfsHook
	}
	if b, err := os.ReadFile(filepath.Join(cgroup, "guests", "cgroup.controllers")); err == nil {
		h.Controllers = strings.Fields(string(b))
	}
	return h
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
