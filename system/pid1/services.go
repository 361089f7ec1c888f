package pid1

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"joist/api/node"
	"joist/system/cmdline"
	"joist/system/service"
)

const (
	joistd        = "/usr/sbin/joistd"
	sshKey        = node.NodeDir + "/ssh_host_ed25519_key"
	udevd         = "udevd"
	lxcDir        = "/var/lib/lxcfs"
	joistdReserve = 256 << 20 // bytes that guests never take from the API
)

// services is what runs in a mode; consoles are tty names.
func services(mode cmdline.Mode, consoles []string) []service.Spec {
	list := []service.Spec{
		// argv[0] decides what the udevadm binary is.
		{Name: udevd, Argv: []string{"/usr/lib/systemd/systemd-udevd"}, Notify: true, Within: 30 * time.Second, OOM: -1000},
	}
	if mode != cmdline.Node {
		return list
	}
	list = append(list,
		service.Spec{Name: "network", Argv: []string{joistd, "network"}, After: []string{udevd}, Notify: true, OOM: -900, CPUWeight: 1000,
			Within: time.Hour}, // a link that is plugged in later is no reason to start it again
		// Not after the network: the API answers as soon as there is an address.
		service.Spec{Name: "joistd", Argv: []string{joistd, "serve"}, After: []string{udevd}, Notify: true, Within: 2 * time.Minute,
			OOM: -900, MemoryMin: joistdReserve, CPUWeight: 1000, StopIn: 20 * time.Second},
		service.Spec{Name: "chrony", Argv: []string{"/usr/sbin/chronyd", "-d"}, After: []string{"network"}, Needs: []string{"/usr/sbin/chronyd"}},
		service.Spec{Name: "sshd", Argv: []string{"/usr/sbin/sshd", "-D", "-e"}, After: []string{"network"}, OOM: -500,
			Needs: []string{"/usr/sbin/sshd", node.KeysFile, sshKey}},
		service.Spec{Name: "lxcfs", Argv: []string{"/usr/bin/lxcfs", lxcDir}, After: []string{udevd}, OOM: -900,
			Needs: []string{"/usr/bin/lxcfs"}, Detach: []string{lxcDir}},
	)
	for _, c := range consoles {
		list = append(list, service.Spec{Name: "dashboard-" + strings.ReplaceAll(c, "/", "-"),
			Argv: []string{joistd, "dashboard", c}, After: []string{udevd}, TTY: c, StopIn: time.Second})
	}
	return list
}

// present leaves out services whose files are missing, and those that start
// after them lose that condition.
func present(root string, specs []service.Spec) (kept []service.Spec, left []string) {
	gone := map[string]bool{}
	for _, s := range specs {
		ok := true
		for _, f := range s.Needs {
			st, err := os.Stat(filepath.Join(root, f))
			ok = ok && err == nil && st.Size() > 0
		}
		if !ok {
			gone[s.Name] = true
			left = append(left, s.Name)
			continue
		}
		kept = append(kept, s)
	}
	for i := range kept {
		var after []string
		for _, a := range kept[i].After {
			if !gone[a] {
				after = append(after, a)
			}
		}
		kept[i].After = after
	}
	return kept, left
}

// wanted are the modules that no device asks for but guests need at any
// moment; a missing one is said and does not stop the boot.
var wanted = []string{"ext4", "dm_mod", "loop", "tun", "vhost_net", "vhost_vsock", "bridge", "dm_thin_pool", "dm_snapshot",
	"nf_tables", "overlay", "ext4", "veth", "button", "evdev"}
