package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/test/vm"
)

// extended builds an ISO with extensions, beside the one under test.
func extended(t *testing.T) isoImage {
	t.Helper()
	img := medium(t)
	root, err := vm.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "joist.toml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "joist.toml")
	text = append([]byte("extensions = [\"ceph\", \"gluster\", \"openvswitch\"]\n"), text...)
	if err := os.WriteFile(config, text, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(within(t, 20*time.Minute), filepath.Join(root, "build", "bin", "joist"), "build", "iso", "--locked", "--config", config, "--out", dir)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the image: %v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "joist-*.iso"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return isoImage{path: found[0], accel: img.accel}
}

// TestExtensions: an image with extensions installs itself, and the node has
// their programs over the same system, each checked by a hash tree of its own.
func TestExtensions(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 1)
	l.img = extended(t)
	l.install(t)
	l.start(t, l.disks...)
	for what, c := range map[string]struct{ script, want string }{
		"programs of Open vSwitch": {"ovs-vsctl --version", "ovs-vsctl (Open vSwitch)"},
		"programs of Ceph":         {"rbd --version", "ceph version"},
		"Ceph's mount":             {"mount.ceph -h 2>&1 || true", "mount.ceph"},
		"GlusterFS's mount":        {"mount.glusterfs -V", "glusterfs"},
		"GlusterFS's client":       {"glusterfs --version", "glusterfs"},
		"kernel modules":           {"modprobe ceph && modprobe rbd && cat /sys/module/rbd/initstate /sys/module/ceph/initstate", "live\nlive"},
		"the root file system":     {"awk '$2 == \"/\" {print $3, $4}' /proc/mounts | tail -1", "overlay ro,"},
	} {
		if got := l.run(t, c.script); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q in it", what, got, c.want)
		}
	}
	l.want(t, "devices with hash trees", "ls /sys/block/*/dm/name | xargs cat | grep ^joist_ext_ | sort | tr '\\n' ' '",
		"joist_ext_ceph joist_ext_ceph_raw joist_ext_gluster joist_ext_gluster_raw joist_ext_openvswitch joist_ext_openvswitch_raw")
	l.want(t, "root hashes on the command line", "tr ' ' '\\n' </proc/cmdline | grep -c ^joist.ext=", "3")
	if out := l.run(t, "touch /usr/x 2>&1 || true"); !strings.Contains(out, "Read-only file system") {
		t.Errorf("the system can be written to: %q", out)
	}

	// A bridge of the switch is there, and still there after a restart.
	l.run(t, "until ovs-vsctl --timeout=10 show >/dev/null 2>&1; do sleep 1; done; ovs-vsctl --timeout=60 --may-exist add-br ovs0")
	l.want(t, "a bridge in the kernel", "cat /sys/class/net/ovs0/address >/dev/null && ovs-vsctl --timeout=20 list-br", "ovs0")
	l.off(t)
	l.start(t, l.disks...)
	l.run(t, "until ovs-vsctl --timeout=10 show >/dev/null 2>&1; do sleep 1; done")
	l.want(t, "the bridge after a restart", "ovs-vsctl --timeout=20 list-br", "ovs0")
	l.off(t)
}
