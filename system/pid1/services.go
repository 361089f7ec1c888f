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
	sshKey        = node.HostKeyFile
	udevd         = "udevd"
	lxcDir        = "/var/lib/lxcfs"
	dmeventd      = "dmeventd"
	firstBoot     = "firstboot"
	ovsdb         = "/usr/lib/joist/openvswitch/ovsdb" // of the builder: rootfs/policy
	ovsSwitch     = "/usr/lib/joist/openvswitch/vswitchd"
	joistdReserve = 256 << 20 // bytes that guests never take from the API
)

// services is what runs in a mode; consoles are tty names, keys is the file
// without which nobody could log in by SSH.
func services(mode cmdline.Mode, consoles []string, keys string) []service.Spec {
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
		service.Spec{Name: firstBoot, Argv: []string{joistd, "firstboot"}, After: []string{udevd}, Once: true},
		service.Spec{Name: "chrony", Argv: []string{"/usr/sbin/chronyd", "-d"}, After: []string{"network"}, Needs: []string{"/usr/sbin/chronyd"}},
		service.Spec{Name: "sshd", Argv: []string{"/usr/sbin/sshd", "-D", "-e"}, After: []string{"network"}, OOM: -500,
			Needs: []string{"/usr/sbin/sshd", keys, sshKey}},
		service.Spec{Name: "lxcfs", Argv: []string{"/usr/bin/lxcfs", lxcDir}, After: []string{udevd}, OOM: -900,
			Needs: []string{"/usr/bin/lxcfs"}, Detach: []string{lxcDir}},
		// It ends at SIGTERM only when it monitors nothing: see endMonitoring.
		service.Spec{Name: dmeventd, Argv: []string{"/usr/sbin/dmeventd", "-f"}, OOM: -1000, StopIn: 5 * time.Second,
			Needs: []string{"/usr/sbin/dmeventd"}},
		// Only where the extension is: its files are what they need.
		service.Spec{Name: "ovsdb", Argv: []string{ovsdb}, After: []string{udevd}, Needs: []string{ovsdb}},
		service.Spec{Name: "ovs-vswitchd", Argv: []string{ovsSwitch}, After: []string{"ovsdb"}, Needs: []string{ovsSwitch}, OOM: -900},
	)
	return append(list, sessions(consoles)...)
}

// sessions are the dashboards, which become a log-in when a person asks for
// it, and where there are virtual terminals two more with a log-in at once.
func sessions(consoles []string) (list []service.Spec) {
	virtual := false
	for _, c := range consoles {
		virtual = virtual || term(c) == "linux"
		list = append(list, service.Spec{Name: "dashboard-" + strings.ReplaceAll(c, "/", "-"),
			Argv: []string{joistd, "dashboard", c}, TTY: c, Session: true, StopIn: time.Second})
	}
	if !virtual {
		return list
	}
	for _, c := range []string{"tty2", "tty3"} {
		// "-": the terminal is open already and in its session (agetty(8)).
		list = append(list, service.Spec{Name: "login-" + c, Argv: []string{"/usr/sbin/agetty", "--noreset", "--noclear", "-", term(c)},
			TTY: c, Session: true, StopIn: time.Second, Needs: []string{"/usr/sbin/agetty"}})
	}
	return list
}

// present reports whether the files that the service needs are there.
func present(root string, s service.Spec) bool {
	for _, f := range s.Needs {
		if st, err := os.Stat(filepath.Join(root, f)); err != nil || st.Size() == 0 {
			return false
		}
	}
	return true
}

// wanted are the modules that no device asks for; a missing one is said and
// does not stop the boot. A node's guests need theirs at any moment.
func wanted(mode cmdline.Mode) []string {
	list := []string{"dm_mod", "loop"}
	if mode != cmdline.Node {
		return list
	}
	return append(list, "bridge", "tun", "vhost_net", "vhost_vsock", "dm_thin_pool", "dm_snapshot", "nf_tables", "veth", "button", "evdev")
}
