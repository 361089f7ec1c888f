package policy

// Packages of the image, without what they depend on.
var wanted = []string{
	"linux-image-amd64", "amd64-microcode", "intel-microcode",
	"base-files", "bash", "libc-bin", "coreutils", "util-linux", "bsdutils", "debianutils", "mount", "udev", "kmod", "login", "passwd",
	"findutils", "grep", "sed", "gawk", "tar", "gzip", "xz-utils", "zstd", "less", "nano", "procps", "hostname",
	"ncurses-base", "ncurses-bin", "netbase", "ca-certificates", "tzdata", "kbd", "console-data", "pciutils", "usbutils",
	"lvm2", "thin-provisioning-tools", "dmeventd", "mdadm", "e2fsprogs", "xfsprogs", "dosfstools",
	"smartmontools", "nvme-cli",
	"qemu-system-x86", "qemu-utils", "ovmf", "swtpm", "virtiofsd",
	"lxc", "lxcfs", "apparmor",
	"iproute2", "iputils-ping", "nftables", "chrony", "openssh-server", "libpam-modules", "libpam-runtime",
}

// Wanted returns the packages the image is made of; what they depend on is
// resolved.
func Wanted() []string { return append([]string(nil), wanted...) }

// Tools returns the packages of the sandbox in which the builder runs what
// needs C programs.
func Tools() []string {
	return []string{
		"base-files", "bash", "coreutils", "kmod",
		"grub-common", "grub-pc-bin", "grub-efi-amd64-signed", "shim-signed", "shim-helpers-amd64-signed",
		"gcc", "libc6-dev", "pkg-config", "lxc-dev", "liblxc1t64",
		"fakeroot", "libfakeroot",
	}
}

// ZFS returns the packages that OpenZFS takes in the image: the programs, the
// module is compiled by the builder.
func ZFS() []string { return []string{"zfsutils-linux"} }

// ZFSModule returns the packages of the sandbox in which OpenZFS's kernel
// module is compiled for a kernel: its source, the kernel's headers and what
// configure and Kbuild run.
func ZFSModule(kernel string) []string {
	return []string{
		"zfs-dkms", "linux-headers-" + kernel,
		"base-files", "bash", "dash", "coreutils", "diffutils", "findutils", "gawk", "grep", "sed", "make", "gcc", "libc6-dev", "binutils",
	}
}

// ZFSModuleExcluded are the dependencies the module is compiled without.
func ZFSModuleExcluded(kernel string) map[string]string {
	return map[string]string{
		"linux-image-" + kernel: "a module is compiled against the headers alone",
		"dkms":                  "the builder runs configure and make itself",
		"lsb-release":           "names the distribution to dkms",
		"libpython3-stdlib":     "Python's bindings are not built",
		"pahole":                "type information for tracing is not made of a module",
		"linux-base":            "maintains links to several installed kernels",
		"readline-common":       "default key bindings are compiled in",
		"debconf":               "packages are unpacked, never configured",
	}
}

// Template returns the packages of the container template, beside those that
// Debian calls essential. Nothing they depend on stays out: inside a container
// Debian is whole.
func Template() []string {
	return []string{
		"apt", "debian-archive-keyring", "ca-certificates", "systemd", "systemd-sysv", "dbus", "libpam-systemd",
		"passwd", "login", "netbase", "iproute2", "iputils-ping", "curl", "less", "nano", "procps", "tzdata", "whiptail", "libnss-myhostname",
	}
}

// TemplateOld returns those of the template of Debian 12, whose /usr is merged
// by whoever makes the tree.
func TemplateOld() []string { return append(Template(), "usr-is-merged") }

// TemplateTools returns the packages that run outside a template's tree while
// it is configured, but with its C library: they are of the same release.
func TemplateTools() []string { return []string{"fakeroot", "libfakeroot"} }

// TemplateToolsExcluded are what the template itself has.
func TemplateToolsExcluded() map[string]string {
	return map[string]string{"libc6": "the template's own"}
}

// ToolsExcluded are the dependencies the sandbox does without.
func ToolsExcluded() map[string]string {
	return map[string]string{
		"debconf":             "packages are unpacked, never configured",
		"init-system-helpers": "no services run in the sandbox",
		"grub2-common":        "grub-install and update-grub are not used",
		"mokutil":             "key enrolment happens on the target",
	}
}

var excluded = []reason{
	{"systemd", "PID 1 is joist-init; udev's daemon is a package of its own"},
	{"systemd-standalone-sysusers", "users come from the table in this package"},
	{"systemd-sysusers", "users come from the table in this package"},
	{"dpkg", "nothing is installed at run time"},
	{"debconf", "no package is ever configured"},
	{"debconf-2.0", "no package is ever configured"},
	{"ucf", "configuration files come with the image"},
	{"adduser", "users come from the table in this package"},
	{"init-system-helpers", "services are joist-init's"},
	{"runit-helper", "services are joist-init's"},
	{"sysvinit-utils", "services are joist-init's"},
	{"lsb-base", "services are joist-init's"},
	{"sensible-utils", "helps packages that ask questions"},
	{"initramfs-tools", "the initrd is made by the builder"},
	{"linux-initramfs-tool", "the initrd is made by the builder"},
	{"dracut-install", "the initrd is made by the builder"},
	{"klibc-utils", "part of Debian's initrd only"},
	{"cpio", "part of Debian's initrd only"},
	{"linux-base", "maintains links to several installed kernels"},
	{"iucode-tool", "microcode is joined by the builder"},
	{"perl", "maintainer scripts only"},
	{"perl-base", "maintainer scripts only"},
	{"perl:any", "maintainer scripts only"},
	{"libtext-charwidth-perl", "maintainer scripts only"},
	{"libtext-wrapi18n-perl", "maintainer scripts only"},
	{"python3", "xfs_scrub_all, lsusb.py and OpenZFS's statistics only"},
	{"python3-dbus", "xfs_scrub_all only"},
	{"libicu76", "xfs_scrub only; it warns about look-alike file names"},
	{"media-types", "e-mail programs"},
	{"dnsmasq-base", "lxc-net; containers hang on the node's own bridge"},
	{"dbus", "nothing on the node speaks D-Bus"},
	{"gcc-14-base", "documentation only"},
	{"libasound2-data", "sound cards of the host"},
	{"base-passwd", "users come from the table in this package"},
	{"openssl-provider-legacy", "ciphers that nothing on the node uses"},
	{"readline-common", "default key bindings are compiled in"},
	{"ucspi-tcp", "not used"},
	{"usb.ids", "names for people; numbers are enough"},
	{"pci.ids", "names for people; numbers are enough"},
	{"gnutls-bin", "swtpm_localca only; endorsement keys are made without certificates"},
	{"libnss-systemd", "no users beyond the table"},
	{"libpam-systemd", "no sessions of logind"},
	{"default-mta", "mail is sent by the node itself"},
	{"mail-transport-agent", "mail is sent by the node itself"},
	{"krb5-locales", "locales stay out"},
}

var drops = []reason{
	{"/usr/share/doc/", "documentation"},
	{"/usr/share/man/", "documentation"},
	{"/usr/share/info/", "documentation"},
	{"/usr/share/gtk-doc/", "documentation"},
	{"/usr/share/locale/", "locales"},
	{"/usr/share/i18n/", "locales"},
	{"/usr/share/lintian/", "packaging"},
	{"/usr/share/bug/", "packaging"},
	{"/usr/share/doc-base/", "packaging"},
	{"/usr/share/debconf/", "packaging"},
	{"/usr/share/initramfs-tools/", "Debian's initrd"},
	{"/usr/lib/systemd/system/", "services are joist-init's"},
	{"/usr/lib/systemd/user/", "services are joist-init's"},
	{"/usr/lib/systemd/system-generators/", "services are joist-init's"},
	{"/usr/lib/systemd/network/", "joistd network names and configures links"},
	{"/etc/init.d/", "services are joist-init's"},
	{"/etc/rc", "services are joist-init's"},
	{"/etc/cron", "no cron daemon"},
	{"/etc/logrotate.d/", "logs are bounded by joist-init"},
	{"/usr/lib/udev/rules.d/64-md-raid-assembly.rules", "assembles every array it sees; the node assembles only what is its own, by UUID"},
	{"/usr/lib/udev/rules.d/69-lvm.rules", "activates every volume group it sees; joist-init activates the node's own, by UUID"},
	{"/usr/lib/udev/rules.d/70-nvmf-autoconnect.rules", "connects to every NVMe target that is announced; storage is connected by joistd"},
	{"/usr/lib/udev/hwdb.d/", "names for people; compiled by systemd-hwdb, which stays out"},
	{"/usr/lib/udev/rules.d/69-vdev.rules", "names disks by /etc/zfs/vdev_id.conf, which a node has not, with a shell script for each disk"},
	{"/usr/lib/udev/vdev_id", "see the rules file 69-vdev.rules"},
	{"/usr/lib/udev/rules.d/90-zfs.rules", "loads OpenZFS for any disk of a pool and opens /dev/zfs to everyone; the node loads it for pools of its own, and /dev/zfs is root's"},
	{"/usr/sbin/arcstat", "in Python; /proc/spl/kstat/zfs has the figures"},
	{"/usr/sbin/arc_summary", "in Python; /proc/spl/kstat/zfs has the figures"},
	{"/usr/bin/arc_summary", "in Python; /proc/spl/kstat/zfs has the figures"},
	{"/usr/sbin/dbufstat", "in Python; /proc/spl/kstat/zfs has the figures"},
	{"/usr/sbin/zilstat", "in Python; /proc/spl/kstat/zfs has the figures"},
	{"/usr/bin/zilstat", "in Python; /proc/spl/kstat/zfs has the figures"},
	{"/usr/bin/zpool_influxdb", "for a database that a node has not"},
	{"/usr/lib/zfs-linux/zpool_influxdb", "for a database that a node has not"},
	{"/usr/lib/zfs-linux/scrub", "what its job of cron runs"},
	{"/usr/lib/zfs-linux/trim", "what its job of cron runs"},
	{"/usr/lib/zfs-linux/zpool.d/", "scripts for zpool status -c, of commands that mostly stay out"},
	{"/etc/zfs/zpool.d/", "scripts for zpool status -c, of commands that mostly stay out"},
	{"/etc/zfs/zfs-functions", "for scripts of init"},
	{"/etc/default/zfs", "settings of scripts of init"},
	{"/etc/sudoers.d/", "only root logs in to a node"},
	{"/usr/lib/os-probes/", "looks for other systems to start"},
	{"/usr/lib/systemd/system-preset/", "services are joist-init's"},
	{"/usr/share/applications/", "desktop"},
	{"/usr/share/icons/", "desktop"},
	{"/usr/share/pixmaps/", "desktop"},
	{"/usr/share/polkit-1/", "desktop"},
	{"/usr/share/metainfo/", "desktop"},
	{"/usr/share/keymaps/amiga/", "keyboards of other machines"},
	{"/usr/share/keymaps/atari/", "keyboards of other machines"},
	{"/usr/share/keymaps/mac/", "keyboards of other machines"},
	{"/usr/share/keymaps/sun/", "keyboards of other machines"},
	{"/usr/share/consolefonts/", "no font is loaded: what a node's console shows is ASCII, which the kernel's own font has"},
	{"/usr/share/consoletrans/", "maps for consoles that do not speak UTF-8"},
	{"/usr/share/console/", "lists for an installer's questions"},
	{"/usr/share/bash-completion/", "completion that needs a package of its own"},
	{"/usr/share/zsh/", "completion for a shell that is not in the image"},
	{"/usr/share/fish/", "completion for a shell that is not in the image"},
	{"/usr/share/gdb/", "debugger"},
	{"/usr/lib/debug/", "debugger"},
	{"/usr/lib/x86_64-linux-gnu/systemd/libsystemd-core-", "systemd stays out; udevd needs libsystemd-shared only"},
	{"/usr/lib/tmpfiles.d/ceph.conf", "folders of Ceph's servers"},
	{"/usr/bin/radosgw-admin", "manages servers of Ceph, and needs ICU, 37 MB"},
	{"/usr/lib/x86_64-linux-gnu/ceph/compressor/libceph_snappy.so", "a method of compression whose library ceph-common does not bring"},
	{"/usr/sbin/xfs_scrub", "needs ICU, 37 MB; xfs_repair is there"},
	{"/usr/share/qemu/edk2-a", "firmware of other machines (the x86 one is in ovmf)"},
	{"/usr/share/qemu/edk2-loongarch", "firmware of other machines"},
	{"/usr/share/qemu/edk2-riscv", "firmware of other machines"},
	{"/usr/share/qemu/opensbi", "firmware of other machines"},
	{"/usr/share/qemu/openbios", "firmware of other machines"},
	{"/usr/share/qemu/skiboot", "firmware of other machines"},
	{"/usr/share/qemu/slof", "firmware of other machines"},
	{"/usr/share/qemu/s390", "firmware of other machines"},
	{"/usr/share/qemu/u-boot", "firmware of other machines"},
	{"/usr/share/qemu/hppa", "firmware of other machines"},
	{"/usr/share/qemu/palcode", "firmware of other machines"},
	{"/usr/share/qemu/QEMU,", "firmware of other machines"},
	{"/usr/share/qemu/vof", "firmware of other machines"},
	{"/usr/share/qemu/pnv-pnor", "firmware of other machines"},
	{"/usr/share/qemu/npcm", "firmware of other machines"},
	{"/usr/share/qemu/ast", "firmware of other machines"},
	{"/usr/share/qemu/petalogix", "firmware of other machines"},
	{"/usr/share/qemu/canyonlands", "firmware of other machines"},
	{"/usr/share/qemu/bamboo", "firmware of other machines"},
}

var triggers = []reason{
	{"ldconfig", "every library lies where the loader looks by itself; the check of ELF files proves it"},
	{"update-initramfs", "the initrd is made by the builder"},
	{"/usr/share/initramfs-tools*", "the initrd is made by the builder"},
	{"/etc/initramfs-tools*", "the initrd is made by the builder"},
	{"/usr/lib/systemd*", "systemd stays out"},
	{"/lib/systemd*", "systemd stays out"},
	{"/etc/systemd*", "systemd stays out"},
	{"/lib/udev/hwdb.d*", "hwdb stays out"},
	{"/usr/lib32", "no libraries of other architectures"},
	{"/usr/libo32", "no libraries of other architectures"},
	{"/usr/libx32", "no libraries of other architectures"},
	{"/usr/lib/udev/hwdb.d*", "hwdb stays out"},
	{"/usr/lib/udev/rules.d*", "udevd starts after the image is complete"},
	{"/etc/init.d*", "services are joist-init's"},
	{"/usr/lib/tmpfiles.d*", "joist-init applies them at each boot"},
	{"/usr/lib/sysusers.d*", "users come from the table in this package"},
	{"/usr/lib/sysctl.d*", "joist-init has a table of kernel parameters of its own"},
	{"/usr/lib/binfmt.d*", "no foreign binaries run on the node"},
	{"/usr/lib/modules-load.d*", "joist-init loads what it needs"},
	{"/usr/share/glib-2.0/schemas*", "no program of the image reads settings schemas"},
	{"/usr/lib/x86_64-linux-gnu/gio/modules*", "no program of the image loads gio modules"},
	{"/usr/lib/x86_64-linux-gnu/glib-2.0*", "no program of the image loads gio modules"},
	{"/usr/share/debianutils/shells.d*", "shells come with the image"},
	{"update-ca-certificates*", "the bundle is joined by the builder"},
	{"/usr/share/bug*", "packaging"},
	{"libc-upgrade", "no running process is upgraded"},
	{"update-grub", "the boot menu is the builder's"},
	{"/boot/grub*", "the boot menu is the builder's"},
	{"update-secureboot-policy", "enrolment is the installer's"},
	{"dbus*", "nothing speaks D-Bus"},
	{"/usr/share/dbus-1*", "nothing speaks D-Bus"},
	{"/etc/dbus-1*", "nothing speaks D-Bus"},
	{"shim-secureboot-policy", "enrolment is the installer's"},
	{"linux-update-6*", "one kernel, chosen by the builder"},
}
