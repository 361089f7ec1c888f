package policy

// Names of scripts, for the table below.
var (
	pre     = []string{"preinst"}
	post    = []string{"postinst"}
	both    = []string{"preinst", "postinst"}
	all     = []string{"preinst", "postinst", "config"}
	postcfg = []string{"postinst", "config"}
)

const (
	upgrades  = "handles upgrades and removed configuration files of earlier versions only"
	initrd    = "asks for a new initrd; the builder makes it"
	services  = "enables or restarts services; they are joist-init's"
	usersWhy  = "makes a system user or group; it is in the table of users"
	questions = "asks debconf; the image's defaults are the answer"
)

// merged is why the diversions of the time before the merged /usr need
// nothing: they kept dpkg from removing files that had moved.
const merged = "protects files while a system is upgraded to the merged /usr; the image is made with it"

func cover(kind Kind, subject, why string) Cover { return Cover{Call{kind, subject}, why} }

var scripts = []Rule{
	{Package: "adduser", Scripts: both, Why: upgrades},
	{Package: "amd64-microcode", Scripts: post, Why: initrd},
	{Package: "intel-microcode", Scripts: post, Why: initrd},
	{Package: "apparmor", Scripts: all, Why: "home directories of desktop users; of the profiles joist-init loads the few that containers need", Do: []Action{
		{Op: Write, Path: "/etc/apparmor.d/tunables/home.d/site.local", Arg: "", Perm: 0o644},
		{Op: Write, Path: "/etc/apparmor.d/tunables/xdg-user-dirs.d/site.local", Arg: "", Perm: 0o644},
	}},
	{Package: "base-files", Scripts: both, Why: "makes the directories that do not come in the archive; /var's are made by joist-init from tmpfiles rules", Do: []Action{
		{Op: Copy, Path: "/etc/nsswitch.conf", Arg: "/usr/share/libc-bin/nsswitch.conf", Perm: 0o644},
		{Op: Copy, Path: "/etc/profile", Arg: "/usr/share/base-files/profile", Perm: 0o644},
		{Op: Copy, Path: "/root/.profile", Arg: "/usr/share/base-files/dot.profile", Perm: 0o644},
		{Op: Copy, Path: "/root/.bashrc", Arg: "/usr/share/base-files/dot.bashrc", Perm: 0o644},
		{Op: Dir, Path: "/root", Perm: 0o700},
		{Op: Dir, Path: "/mnt", Perm: 0o755},
		{Op: Dir, Path: "/opt", Perm: 0o755},
	}, Covers: []Cover{cover(Diversion, "/$d", merged)}},
	{Package: "bash", Scripts: post, Why: "alternative of a manual page", Do: []Action{{Op: Link, Path: "/usr/bin/sh", Arg: "bash"}}},
	{Package: "bridge-utils", Scripts: post, Why: upgrades},
	{Package: "ca-certificates", Scripts: postcfg, Why: "joins the certificates; the builder writes /etc/ssl/certs/ca-certificates.crt"},
	{Package: "ceph-common", Scripts: both, Why: "makes the user that Ceph's servers run as; clients run as root", Covers: []Cover{
		cover(Account, "$SERVER_USER", "of servers, which the extension has not"), cover(Account, "$SERVER_GROUP", "of servers, which the extension has not")}},
	{Package: "chrony", Scripts: both, Why: usersWhy, Do: []Action{
		{Op: Dir, Path: "/var/lib/chrony", Perm: 0o750, UID: 991, GID: 991},
		{Op: Dir, Path: "/var/log/chrony", Perm: 0o750, UID: 991, GID: 991},
		{Op: Write, Path: "/etc/chrony/chrony.keys", Perm: 0o640, GID: 991},
		{Op: Write, Path: "/etc/apparmor.d/local/usr.sbin.chronyd", Perm: 0o644}, // the profile does not compile without it
	}, Covers: []Cover{cover(Statoverride, "$d", "the files and folders it stands for are made above, with these owners")}},
	{Package: "console-data", Scripts: postcfg, Why: "asks for a keyboard and loads its map; joist-init loads that of the node's configuration"},
	{Package: "debianutils", Scripts: post, Why: "alternative of which, and the list of shells", Do: []Action{
		{Op: Link, Path: "/usr/bin/which", Arg: "which.debianutils"},
		{Op: Write, Path: "/etc/shells", Arg: "/bin/sh\n/bin/bash\n/usr/bin/bash\n", Perm: 0o644},
	}},
	{Package: "dmeventd", Scripts: post, Why: services},
	{Package: "e2fsprogs", Scripts: both, Why: initrd},
	{Package: "firmware-*", Scripts: both, Why: initrd, Covers: []Cover{cover(Diversion, "/lib/firmware/$f", merged)}},
	{Package: "fuse3", Scripts: both, Why: "diversion for unmerged /usr; fusermount3 keeps no setuid bit: only root mounts on the node", Covers: []Cover{cover(Diversion, "$f", merged)}},
	{Package: "gawk", Scripts: post, Why: "alternative", Do: []Action{{Op: Link, Path: "/usr/bin/awk", Arg: "gawk"}, {Op: Link, Path: "/usr/bin/nawk", Arg: "gawk"}}},
	{Package: "glusterfs-common", Scripts: post, Why: "makes the user of the server, and a folder for logs", Do: []Action{{Op: Dir, Path: "/var/log/glusterfs", Perm: 0o755}},
		Covers: []Cover{cover(Account, "gluster", "of the server, which the extension has not")}},
	{Package: "gzip", Scripts: both, Why: "diversion of another package (zutils)", Covers: []Cover{cover(Diversion, "/usr/bin/$tool", "moves a diversion of zutils, which is not in the image")}},
	{Package: "init-system-helpers", Scripts: post, Why: services},
	{Package: "iproute2", Scripts: all, Why: questions, Covers: []Cover{cover(Capability, "/bin/ip", "only if debconf's answer is yes, which is not the default; only root configures the network")}},
	{Package: "kmod", Scripts: both, Why: "makes an empty /etc/modules"},
	{Package: "less", Scripts: both, Why: "alternative", Do: []Action{{Op: Link, Path: "/usr/bin/pager", Arg: "less"}}},
	{Package: "libc6", Scripts: both, Why: "guards upgrades of a running system", Covers: []Cover{cover(Diversion, "$rtlddir", merged), cover(Diversion, "/lib64/ld-linux-x86-64.so.2", merged)}},
	{Package: "libc-bin", Scripts: post, Why: "runs ldconfig; see the trigger of that name"},
	{Package: "libglib2.0-0t64", Scripts: both, Why: upgrades},
	{Package: "libext2fs2t64", Scripts: pre, Why: upgrades, Covers: []Cover{cover(Diversion, "/lib/x86_64-linux-gnu/lib$lib", merged)}},
	{Package: "libgssapi-krb5-2", Scripts: post, Why: "configuration of Kerberos mechanisms, unused", Do: []Action{{Op: Dir, Path: "/etc/gss/mech.d", Perm: 0o755}}},
	{Package: "libibverbs1", Scripts: post, Why: usersWhy},
	{Package: "liblxc-common", Scripts: post, Why: "local additions to AppArmor profiles", Do: []Action{
		{Op: Write, Path: "/etc/apparmor.d/local/usr.bin.lxc-copy", Perm: 0o644},
		{Op: Write, Path: "/etc/apparmor.d/local/usr.bin.lxc-start", Perm: 0o644},
		{Op: Write, Path: "/etc/apparmor.d/local/lxc-containers", Perm: 0o644},
	}},
	{Package: "libpam-modules", Scripts: all, Why: upgrades},
	{Package: "libpam-modules-bin", Scripts: post, Why: upgrades},
	{Package: "libpam-runtime", Scripts: postcfg, Why: "generates /etc/pam.d/common-*; the image brings its own"},
	{Package: "libpam0g", Scripts: postcfg, Why: "restarts services after an upgrade"},
	{Package: "libreadline8t64", Scripts: pre, Why: upgrades, Covers: []Cover{cover(Diversion, "/lib/x86_64-linux-gnu/$lib", merged)}},
	{Package: "libselinux1", Scripts: post, Why: upgrades},
	{Package: "libtirpc3t64", Scripts: both, Why: "diversion for unmerged /usr", Covers: []Cover{cover(Diversion, "/lib/x86_64-linux-gnu/$file", merged)}},
	{Package: "libwrap0", Scripts: post, Why: "makes hosts.allow and hosts.deny; empty means the same"},
	{Package: "libwtmpdb0", Scripts: post, Why: "moves an old database"},
	{Package: "libzfs6linux", Scripts: pre, Why: "diversion for unmerged /usr", Covers: []Cover{cover(Diversion, "/lib/x86_64-linux-gnu/lib$lib", merged)}},
	{Package: "linux-image-*", Scripts: both, Why: "links /vmlinuz and calls depmod and the initrd's hooks; the builder does both"},
	{Package: "login", Scripts: both, Why: upgrades},
	{Package: "login.defs", Scripts: post, Why: upgrades},
	{Package: "lvm2", Scripts: both, Why: services},
	{Package: "lxc", Scripts: all, Why: services},
	{Package: "lxcfs", Scripts: both, Why: services},
	{Package: "mdadm", Scripts: all, Why: "writes mdadm.conf from the arrays of the installing machine; arrays are named by joist-init"},
	{Package: "nano", Scripts: post, Why: "alternative", Do: []Action{{Op: Link, Path: "/usr/bin/editor", Arg: "nano"}}, Covers: []Cover{cover(Alternative, "/usr/bin/pico", "nobody types pico")}},
	{Package: "netbase", Scripts: post, Why: upgrades},
	{Package: "nftables", Scripts: post, Why: services},
	{Package: "nvme-cli", Scripts: post, Why: "makes host ids; joist-init writes them from the machine id"},
	{Package: "openssh-client", Scripts: both, Why: usersWhy, Do: []Action{{Op: Perm, Path: "/usr/bin/ssh-agent", Perm: 0o755}}},
	{Package: "openssh-server", Scripts: all, Why: "host keys are made at the first boot; configuration is the image's own", Covers: []Cover{cover(Diversion, "/usr/sbin/sshd", "only while a running daemon of an earlier version is upgraded")}},
	{Package: "openvswitch-common", Scripts: post, Why: upgrades},
	{Package: "openvswitch-switch", Scripts: both, Why: "alternative of the switch; the program that joist-init starts makes the database", Do: []Action{
		{Op: Link, Path: "/usr/sbin/ovs-vswitchd", Arg: "/usr/lib/openvswitch-switch/ovs-vswitchd"},
		{Op: Dir, Path: "/var/lib/openvswitch", Perm: 0o755},
	}},
	{Package: "openssl", Scripts: post, Why: "repairs links of earlier versions"},
	{Package: "passwd", Scripts: both, Why: usersWhy},
	{Package: "pciutils", Scripts: both, Why: upgrades},
	{Package: "procps", Scripts: both, Why: services},
	{Package: "qemu-system-x86", Scripts: both, Why: upgrades},
	{Package: "qemu-guest-agent", Scripts: both, Why: services},
	{Package: "readline-common", Scripts: post, Why: "makes /etc/inputrc; the default is compiled in"},
	{Package: "smartmontools", Scripts: both, Why: "copies the drive database", Do: []Action{
		{Op: Link, Path: "/var/lib/smartmontools/drivedb/drivedb.h", Arg: "/usr/share/smartmontools/drivedb.h"},
	}},
	{Package: "swtpm*", Scripts: both, Why: usersWhy},
	{Package: "tar", Scripts: post, Why: "alternative of rmt", Do: []Action{{Op: Link, Path: "/usr/sbin/rmt", Arg: "rmt-tar"}}},
	{Package: "tzdata", Scripts: postcfg, Why: "asks for the time zone; joist-init links /etc/localtime", Do: []Action{
		{Op: Link, Path: "/etc/localtime", Arg: "/usr/share/zoneinfo/Etc/UTC"},
	}},
	{Package: "udev", Scripts: both, Why: usersWhy},
	{Package: "usbutils", Scripts: both, Why: upgrades},
	{Package: "util-linux", Scripts: post, Why: "alternative of pager, less is better", Covers: []Cover{cover(Alternative, "/usr/bin/pager", "less is the better pager and has the link")}},
	{Package: "uuid-runtime", Scripts: both, Why: usersWhy},
	{Package: "virtiofsd", Scripts: post, Why: "registers a vhost-user description that only libvirt reads"},
	{Package: "xfsprogs", Scripts: post, Why: initrd},
	{Package: "zfsutils-linux", Scripts: both, Why: "makes a host id, which is node configuration, loads the module and starts services, which are joist-init's"},
	{Package: "xz-utils", Scripts: post, Why: "alternatives of lzma's old names", Covers: []Cover{cover(Alternative, "/usr/bin/lzma", "lzma's old names; xz does its work"), cover(Alternative, "$(…)", "lzma's old names, as slaves of the above")}},
}
