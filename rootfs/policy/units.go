package policy

import (
	"path"
	"strings"
)

// Service says why units that a package brings for systemd, init or cron need
// nothing on a node, or what does their work.
type Service struct {
	Package string
	Units   []string // as UnitOf names them; patterns when they end in *
	Why     string
}

const (
	noNetwork  = "joistd network makes links, bridges and addresses"
	scrubs     = "checks file systems in the background, from snapshots or with a program that stays out (xfs_scrub); joist-init checks the state volumes when it mounts them"
	noArrays   = "no array is assembled by itself; joist-init assembles the node's own by UUID, and the dashboard watches it"
	noFabrics  = "connects to NVMe targets over a network; storage is connected by joistd"
	byInit     = "joist-init starts the daemon as its service "
	activation = "systemd opens the daemon's socket; without it the daemon opens its own"
)

// units are all that the image's packages would have started.
var units = []Service{
	{"apparmor", []string{"apparmor.service", "init.d/apparmor"}, "loads every profile of /etc/apparmor.d, most of them for desktop programs; joist-init and liblxc load those of containers"},
	{"ceph-common", []string{"ceph.target"}, "joins the units of Ceph's servers; the extension has clients only"},
	{"ceph-common", []string{"rbdmap.service"}, "maps the images of /etc/ceph/rbdmap; a node maps those of its storages"},
	{"chrony", []string{"chrony.service", "init.d/chrony"}, byInit + "chrony"},
	{"chrony", []string{"chronyd-restricted.service"}, "the same daemon for a host that serves no time and controls nothing; one is enough"},
	{"chrony", []string{"chrony-wait.service"}, "holds back units that need the right time; no service of a node waits for it"},
	{"chrony", []string{"chrony-dnssrv@.service", "chrony-dnssrv@.timer"}, "looks for time servers in DNS SRV records; they are node configuration"},
	{"chrony", []string{"ntp-units.d/50-chrony.list"}, "names the unit that timedatectl(1) switches; there is none"},
	{"dmeventd", []string{"dm-event.service", "dm-event.socket"}, "watches thin pools and mirrors; lvmlocal.conf turns monitoring off, and lvm would start dmeventd by itself"},
	{"e2fsprogs", []string{"e2scrub*", "cron.d/e2scrub_all"}, scrubs},
	{"libpam-modules-bin", []string{"pam_namespace.service"}, "makes directories for pam_namespace(8), which no PAM stack of the image uses"},
	{"lvm2", []string{"blk-availability.service"}, "unmounts and deactivates volumes at shutdown; joist-init unmounts, and nothing is left open that deactivation would protect"},
	{"lvm2", []string{"lvm2-lvmpolld.service", "lvm2-lvmpolld.socket"}, "watches pvmove, merges of snapshots and mirrors; a process of the command does so where no lvmpolld answers"},
	{"lvm2", []string{"lvm2-monitor.service"}, "has dmeventd watch volumes; lvmlocal.conf turns monitoring off"},
	{"lxc", []string{"lxc.service", "lxc@.service", "init.d/lxc"}, "starts containers at boot; joistd does"},
	{"lxc", []string{"lxc-net.service", "init.d/lxc-net"}, noNetwork},
	{"lxc", []string{"lxc-monitord.service"}, "passes changes of state of containers on to lxc-monitor(1), which nobody runs"},
	{"lxcfs", []string{"lxcfs.service", "init.d/lxcfs"}, byInit + "lxcfs"},
	{"mdadm", []string{"mdadm-*", "mdcheck_*", "mdmon@.service", "mdmonitor*", "system-shutdown/mdadm.shutdown"}, noArrays},
	{"nftables", []string{"nftables.service"}, "loads /etc/nftables.conf, which holds no rules; a node filters nothing that joistd was not told to"},
	{"nvme-cli", []string{"nvme*", "nvmf-*"}, noFabrics},
	{"openssh-client", []string{"user/ssh-agent.*"}, "agent of a desktop session"},
	{"openssh-server", []string{"ssh.service", "ssh.socket", "sshd@.service", "init.d/ssh"}, byInit + "sshd"},
	{"openssh-server", []string{"sshd-keygen.service"}, "joist-init makes the host key at the first boot"},
	{"openssh-server", []string{"rescue-ssh.target"}, "rescue mode of systemd; that of Joist is a boot of its own"},
	{"openvswitch-switch", []string{"openvswitch-switch.service", "ovsdb-server.service", "ovs-vswitchd.service", "init.d/openvswitch-switch"}, byInit + "ovsdb, and ovs-vswitchd"},
	{"openvswitch-switch", []string{"ovs-record-hostname.service"}, "writes the host's name into the database, for who manages many from elsewhere"},
	{"procps", []string{"init.d/procps"}, "applies sysctl.d(5); joist-init has a table of kernel parameters of its own"},
	{"qemu-system-common", []string{"qemu-vmsr-helper.*"}, "reads power meters of the processor for guests; no guest gets any"},
	{"smartmontools", []string{"smartmontools.service", "init.d/smartmontools"}, "warns of failing disks by mail; smartctl is there to be asked"},
	{"udev", []string{"systemd-udevd.service", "udev.service"}, byInit + "udevd"},
	{"udev", []string{"systemd-udevd-control.socket", "systemd-udevd-kernel.socket"}, activation},
	{"udev", []string{"systemd-udev-trigger.service", "systemd-udev-settle.service"}, "joist-init runs udevadm trigger and udevadm settle"},
	{"udev", []string{"systemd-hwdb-update.service"}, "the database of names of devices stays out"},
	{"udev", []string{"systemd-udev-load-credentials.service"}, "udev rules and settings in credentials of systemd; there are none"},
	{"util-linux", []string{"fstrim.*"}, "tells disks of free blocks once a week; guests discard those of their volumes, the node does not those of its own"},
	{"uuid-runtime", []string{"uuidd.service", "uuidd.socket", "init.d/uuidd"}, "numbers for time-based UUIDs; libuuid makes them itself where there is no uuidd"},
	{"xfsprogs", []string{"xfs_scrub*", "system-xfs_scrub.slice"}, scrubs},
	{"zfsutils-linux", []string{"zfs-import*", "zfs-load-key.service", "zfs-load-module.service", "init.d/zfs-import", "init.d/zfs-load-key"},
		"imports every pool it finds; joist-init imports the node's own, by GUID"},
	{"zfsutils-linux", []string{"zfs-mount.service", "zfs-mount@.service", "zfs-volume-wait.service", "zfs-volumes.target", "zfs.target", "init.d/zfs-mount", "system-generators/zfs-mount-generator"},
		"mounts datasets where they say; joist-init mounts those of the node, joistd those of guests"},
	{"zfsutils-linux", []string{"zfs-share.service", "init.d/zfs-share"}, "exports datasets over NFS and SMB, which a node does not serve"},
	{"zfsutils-linux", []string{"zfs-scrub*", "zfs-trim*", "cron.d/zfsutils-linux"}, "scrubs and trims every pool by the calendar; on a node zpool scrub and zpool trim run when somebody asks for it"},
}

// unitDirs are where packages keep what is started by someone else, and what
// stands before the name of such a unit in the table.
var unitDirs = []struct{ dir, prefix string }{
	{"/usr/lib/systemd/system/", ""},
	{"/lib/systemd/system/", ""},
	{"/etc/systemd/system/", ""},
	{"/usr/lib/systemd/user/", "user/"},
	{"/usr/lib/systemd/system-generators/", "system-generators/"},
	{"/usr/lib/systemd/system-shutdown/", "system-shutdown/"},
	{"/usr/lib/systemd/system-sleep/", "system-sleep/"},
	{"/usr/lib/systemd/ntp-units.d/", "ntp-units.d/"},
	{"/etc/init.d/", "init.d/"},
	{"/etc/cron.d/", "cron.d/"},
	{"/etc/cron.hourly/", "cron.hourly/"},
	{"/etc/cron.daily/", "cron.daily/"},
	{"/etc/cron.weekly/", "cron.weekly/"},
	{"/etc/cron.monthly/", "cron.monthly/"},
}

// UnitOf returns the unit that a file (no directory) of a package is or
// changes. A link in x.target.wants/ stands for the unit it leads to, a file
// in x.service.d/ for that service (systemd.unit(5)).
func UnitOf(file string) (unit string, ok bool) {
	for _, d := range unitDirs {
		rest, ok := strings.CutPrefix(file, d.dir)
		if !ok {
			continue
		}
		// cron and init leave files alone whose names begin with a dot.
		if rest == "" || strings.HasPrefix(path.Base(rest), ".") {
			return "", false
		}
		if dir, _, found := strings.Cut(rest, "/"); found {
			if of, dropin := strings.CutSuffix(dir, ".d"); dropin {
				return d.prefix + of, true
			}
		}
		return d.prefix + path.Base(rest), true
	}
	return "", false
}

// Unit returns what stands in for a unit of a package, or why nothing must.
func Unit(pkg, unit string) (why string, ok bool) {
	for _, s := range units {
		if s.Package != pkg {
			continue
		}
		for _, u := range s.Units {
			if matches(u, unit) {
				return s.Why, true
			}
		}
	}
	return "", false
}
