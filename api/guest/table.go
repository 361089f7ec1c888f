package guest

import (
	"slices"

	"joist/api/schema"
)

// The tables follow the published API schema 9.2.3 of the field. An option
// with Plain is accepted and kept, and Unsupported tells when it was meant to
// do something.

const (
	str  = schema.String
	num  = schema.Number
	whl  = schema.Integer
	flag = schema.Boolean
)

var tables = map[Kind][]Option{
	QEMU: slices.Concat(qemuOptions, qemuFamilies, qemuMore),
	LXC:  slices.Concat(lxcOptions, lxcFamilies),
}

var qemuOptions = []Option{
	{Name: "acpi", Type: flag, Text: "ACPI (default 1)"},
	{Name: "agent", Type: str, check: props("enabled", agentKeys), Text: "QEMU guest agent: [enabled=]1[,type=virtio]"},
	{Name: "autostart", Type: flag, Plain: "0", Text: "restart after a crash"},
	{Name: "bios", Type: str, Enum: []string{"seabios", "ovmf"}, Text: "firmware"},
	{Name: "boot", Type: str, check: checkBoot, Text: "boot order: order=scsi0;ide2;net0"},
	{Name: "bootdisk", Type: str, Text: "disk to boot from when boot has no order"},
	{Name: "cores", Type: whl, Lo: 1, Hi: 256, Text: "cores per socket"},
	{Name: "cpu", Type: str, check: checkCPU, Text: "CPU model and flags: [cputype=]host[,flags=+aes;-pcid]"},
	{Name: "cpulimit", Type: num, Lo: 0, Hi: 128, Text: "CPUs' worth of time, 0 = no limit"},
	{Name: "cpuunits", Type: whl, Lo: 1, Hi: 262144, Text: "CPU weight against other guests (default 100)"},
	{Name: "description", Type: str, Text: "notes"},
	{Name: "freeze", Type: flag, Text: "do not start the CPUs"},
	{Name: "keyboard", Type: str, Plain: "en-us", Text: "keymap of VNC"},
	{Name: "kvm", Type: flag, Text: "hardware virtualisation (default 1)"},
	{Name: "localtime", Type: flag, Text: "the guest's clock holds local time"},
	{Name: "machine", Type: str, check: checkMachine, Text: "machine type: pc, q35"},
	{Name: "memory", Type: str, check: checkMemory, Text: "[current=]MiB"},
	{Name: "name", Type: str, check: checkName, Max: 253, Text: "name of the machine"},
	{Name: "onboot", Type: flag, Text: "start with the node"},
	{Name: "ostype", Type: str, Enum: []string{"other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11",
		"l24", "l26", "solaris"}, Text: "operating system of the guest"},
	{Name: "protection", Type: flag, Text: "refuse to remove the guest or its disks"},
	{Name: "reboot", Type: flag, Text: "allow reboots (default 1); 0 ends the machine instead"},
	{Name: "scsihw", Type: str, Enum: []string{"lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi"},
		Text: "SCSI controller (default lsi)"},
	{Name: "smbios1", Type: str, check: checkSMBIOS, Text: "SMBIOS type 1: uuid=…[,manufacturer=…]"},
	{Name: "sockets", Type: whl, Lo: 1, Hi: 64, Text: "CPU sockets"},
	{Name: "startdate", Type: str, check: checkStartdate, Text: "clock at start: now, 2026-11-21T10:00:00 or 2026-11-21"},
	{Name: "startup", Type: str, check: checkStartup, Text: "order=N,up=SECONDS,down=SECONDS"},
	{Name: "tablet", Type: flag, Text: "USB tablet as pointer (default 1)"},
	{Name: "tags", Type: str, check: checkTags, Text: "tags, separated by ;"},
	{Name: "template", Type: flag, Text: "the machine is a template"},
	{Name: "vcpus", Type: whl, Lo: 1, Hi: 4096, Text: "CPUs at start"},
	{Name: "vga", Type: str, check: checkVGA, Text: "display: [type=]std[,memory=MiB]"},
	{Name: "vmgenid", Type: str, check: checkGenID, Text: "generation id, 1 = make one, 0 = none"},
	{Name: "meta", Type: str, Server: true, Text: "creation time and version"},
	{Name: "digest", Type: str, Server: true},
	{Name: "lock", Type: str, Enum: []string{"backup", "clone", "create", "migrate", "rollback", "snapshot", "snapshot-delete",
		"suspending", "suspended"}, Text: "what the guest is locked for"},
}

var qemuFamilies = []Option{
	{Name: "ide", Count: 4, Type: str, check: checkDrive, Text: "IDE disk or CD drive"},
	{Name: "sata", Count: 6, Type: str, check: checkDrive, Text: "SATA disk or CD drive"},
	{Name: "scsi", Count: 31, Type: str, check: checkDrive, Text: "SCSI disk or CD drive"},
	{Name: "virtio", Count: 16, Type: str, check: checkDrive, Text: "virtio disk"},
	{Name: "efidisk0", Type: str, check: checkDrive, Text: "UEFI variables"},
	{Name: "cdrom", Type: str, check: checkDrive, Text: "another name of ide2"},
	{Name: "net", Count: 32, Type: str, check: checkNet, Text: "network card: virtio[=MAC],bridge=vmbr0"},
	{Name: "serial", Count: 4, Type: str, check: checkSerial, Text: "serial port: socket"},
	{Name: "unused", Count: 256, Type: str, Text: "volume that is not attached"},
}

// qemuMore are the keys that are kept but do nothing on this node yet.
var qemuMore = []Option{
	{Name: "affinity", Type: str, Plain: "-"},
	{Name: "allow-ksm", Type: flag, Plain: "1"},
	{Name: "amd-sev", Type: str, Plain: "-"},
	{Name: "arch", Type: str, Enum: []string{"x86_64", "aarch64"}, Plain: "x86_64"},
	{Name: "args", Type: str, Plain: "-"},
	{Name: "audio0", Type: str, Plain: "-"},
	{Name: "balloon", Type: whl, Hi: 1 << 30, Plain: "0"},
	{Name: "cicustom", Type: str, Plain: "-"},
	{Name: "cipassword", Type: str, Plain: "-"},
	{Name: "citype", Type: str, Enum: []string{"configdrive2", "nocloud", "opennebula"}, Plain: "-"},
	{Name: "ciupgrade", Type: flag, Plain: "*"},
	{Name: "ciuser", Type: str, Plain: "-"},
	{Name: "hookscript", Type: str, Plain: "-"},
	{Name: "hostpci", Count: 16, Type: str, Plain: "-"},
	{Name: "hotplug", Type: str, Plain: "*"},
	{Name: "hugepages", Type: str, Enum: []string{"any", "2", "1024"}, Plain: "-"},
	{Name: "intel-tdx", Type: str, Plain: "-"},
	{Name: "ipconfig", Count: 32, Type: str, Plain: "-"},
	{Name: "ivshmem", Type: str, Plain: "-"},
	{Name: "keephugepages", Type: flag, Plain: "0"},
	{Name: "migrate_downtime", Type: num, Plain: "*"},
	{Name: "migrate_speed", Type: whl, Plain: "*"},
	{Name: "nameserver", Type: str, Plain: "-"},
	{Name: "numa", Type: flag, Plain: "0"},
	{Name: "numa", Count: 8, Type: str, Plain: "-"},
	{Name: "parallel", Count: 3, Type: str, Plain: "-"},
	{Name: "rng0", Type: str, Plain: "-"},
	{Name: "searchdomain", Type: str, Plain: "-"},
	{Name: "shares", Type: whl, Hi: 50000, Plain: "*"},
	{Name: "smp", Type: whl, Plain: "*"},
	{Name: "spice_enhancements", Type: str, Plain: "*"},
	{Name: "sshkeys", Type: str, Max: 65536, Plain: "-"},
	{Name: "tdf", Type: flag, Plain: "0"},
	{Name: "tpmstate0", Type: str, Plain: "-"},
	{Name: "usb", Count: 14, Type: str, Plain: "-"},
	{Name: "virtiofs", Count: 10, Type: str, Plain: "-"},
	{Name: "vmstatestorage", Type: str, Plain: "*"},
	{Name: "watchdog", Type: str, Plain: "-"},
}

var lxcOptions = []Option{
	{Name: "arch", Type: str, Enum: []string{"amd64", "i386", "arm64", "armhf", "riscv32", "riscv64"}},
	{Name: "cmode", Type: str, Enum: []string{"shell", "console", "tty"}, Text: "what the console shows (default tty)"},
	{Name: "console", Type: flag, Text: "attach /dev/console (default 1)"},
	{Name: "cores", Type: whl, Lo: 1, Hi: 8192, Text: "CPUs the container sees"},
	{Name: "cpulimit", Type: num, Lo: 0, Hi: 8192, Text: "CPUs' worth of time, 0 = no limit"},
	{Name: "cpuunits", Type: whl, Lo: 0, Hi: 500000, Text: "CPU weight against other guests (default 100)"},
	{Name: "debug", Type: flag, Plain: "0"},
	{Name: "description", Type: str},
	{Name: "entrypoint", Type: str, Plain: "-"},
	{Name: "env", Type: str, Plain: "-"},
	{Name: "features", Type: str, check: props("", featureKeys), Text: "nesting=1,keyctl=1,fuse=1 …"},
	{Name: "hookscript", Type: str, Plain: "-"},
	{Name: "hostname", Type: str, Max: 255, check: checkName},
	{Name: "memory", Type: whl, Lo: 16, Hi: 1 << 26, Text: "MiB (default 512)"},
	{Name: "nameserver", Type: str},
	{Name: "onboot", Type: flag, Text: "start with the node"},
	{Name: "ostype", Type: str, Enum: []string{"debian", "devuan", "ubuntu", "centos", "fedora", "opensuse", "archlinux", "alpine",
		"gentoo", "nixos", "unmanaged"}},
	{Name: "protection", Type: flag},
	{Name: "rootfs", Type: str, check: checkMount("rootfs"), Text: "root volume"},
	{Name: "searchdomain", Type: str},
	{Name: "startup", Type: str, check: checkStartup, Text: "order=N,up=SECONDS,down=SECONDS"},
	{Name: "swap", Type: whl, Lo: 0, Hi: 1 << 26, Text: "MiB (default 512)"},
	{Name: "tags", Type: str, check: checkTags},
	{Name: "template", Type: flag},
	{Name: "timezone", Type: str},
	{Name: "tty", Type: whl, Lo: 0, Hi: 6, Text: "terminals (default 2)"},
	{Name: "unprivileged", Type: flag, Text: "run in a user namespace (default 1)"},
	{Name: "digest", Type: str, Server: true},
	{Name: "lock", Type: str, Enum: []string{"backup", "create", "destroyed", "disk", "fstrim", "migrate", "mounted", "rollback",
		"snapshot", "snapshot-delete"}},
}

var lxcFamilies = []Option{
	{Name: "net", Count: 32, Type: str, check: checkLXCNet, Text: "name=eth0,bridge=vmbr0,ip=dhcp"},
	{Name: "mp", Count: 256, Type: str, check: checkMount("mp0"), Text: "volume,mp=/path"},
	{Name: "dev", Count: 256, Type: str, Plain: "-"},
	{Name: "unused", Count: 256, Type: str},
}
