package policy

// Want is something a udev rule asks of systemd, or a program it starts that
// is not in the image.
type Want struct {
	File string // name of the rules file
	What string // "SYSTEMD_READY=0", "SYSTEMD_WANTS=mdmonitor.service", "RUN /usr/bin/x"; a pattern when it ends in *
	Why  string // what does it instead, or why nothing must
}

const noDeviceUnits = "a property for systemd's device units; joist-init waits for the device nodes it needs by itself"

var wants = []Want{
	{"01-md-raid-creating.rules", "SYSTEMD_READY=0", noDeviceUnits},
	{"60-cdrom_id.rules", "SYSTEMD_MOUNT_DEVICE_BOUND=1", "unmounts a CD that is ejected; the node keeps none mounted"},
	{"60-cdrom_id.rules", "SYSTEMD_READY=0", noDeviceUnits},
	{"63-md-raid-arrays.rules", "SYSTEMD_READY=0", noDeviceUnits},
	{"63-md-raid-arrays.rules", "SYSTEMD_WANTS=mdadm-grow-continue@%c.service", "arrays are reshaped by no part of the node"},
	{"63-md-raid-arrays.rules", "SYSTEMD_WANTS=mdmon@*", "external metadata (IMSM, DDF) is not used: arrays of the node have version 1.2"},
	{"63-md-raid-arrays.rules", "SYSTEMD_WANTS=mdmonitor.service", "no array is assembled by udev; who assembles one watches it"},
	{"64-btrfs.rules", "SYSTEMD_READY=0", noDeviceUnits},
}

// UdevWant returns what stands in for a request of a udev rule.
func UdevWant(file, what string) (why string, ok bool) {
	for _, w := range wants {
		if w.File == file && matches(w.What, what) {
			return w.Why, true
		}
	}
	return "", false
}
