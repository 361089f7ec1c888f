package policy

// Folders of the kernel's module tree that stay out of the image, below
// kernel/. Devices handed to guests need no driver on the node.
var moduleDrops = []reason{
	{"sound/", "no sound on a node"},
	{"drivers/media/", "cameras and tuners"},
	{"drivers/gpu/drm/amd/", "3D graphics; the boot screen uses simpledrm or efifb"},
	{"drivers/gpu/drm/i915/", "3D graphics; the boot screen uses simpledrm or efifb"},
	{"drivers/gpu/drm/xe/", "3D graphics; the boot screen uses simpledrm or efifb"},
	{"drivers/gpu/drm/nouveau/", "3D graphics; the boot screen uses simpledrm or efifb"},
	{"drivers/gpu/drm/radeon/", "3D graphics; the boot screen uses simpledrm or efifb"},
	{"drivers/net/wireless/", "a bridge cannot ride on a wireless station"},
	{"net/wireless/", "a bridge cannot ride on a wireless station"},
	{"net/mac80211/", "a bridge cannot ride on a wireless station"},
	{"net/bluetooth/", "no Bluetooth on a node"},
	{"drivers/bluetooth/", "no Bluetooth on a node"},
	{"net/nfc/", "no NFC on a node"},
	{"drivers/nfc/", "no NFC on a node"},
	{"drivers/staging/", "drivers that are not ready"},
	{"drivers/iio/", "sensors of embedded boards"},
	{"drivers/input/touchscreen/", "no touch screens on a node"},
	{"drivers/input/joystick/", "no game controllers on a node"},
	{"drivers/input/tablet/", "no tablets on a node"},
	{"drivers/isdn/", "telephony"},
	{"drivers/comedi/", "data acquisition"},
	{"drivers/firewire/", "FireWire opens the node's memory"},
	{"drivers/leds/", "board lights"},
	{"drivers/pcmcia/", "laptops"},
	{"net/ax25/", "amateur radio"},
	{"net/netrom/", "amateur radio"},
	{"net/rose/", "amateur radio"},
	{"drivers/net/hamradio/", "amateur radio"},
	{"drivers/net/can/", "field buses"},
	{"net/can/", "field buses"},
	{"net/atm/", "obsolete networks"},
	{"drivers/atm/", "obsolete networks"},
	{"net/appletalk/", "obsolete networks"},
	{"drivers/net/arcnet/", "obsolete networks"},
	{"drivers/net/fddi/", "obsolete networks"},
	{"drivers/platform/x86/", "laptops"},
	{"drivers/platform/surface/", "laptops"},
	{"fs/ocfs2/", "file systems nobody brings to a node"},
	{"fs/jfs/", "file systems nobody brings to a node"},
	{"fs/gfs2/", "file systems nobody brings to a node"},
	{"fs/bcachefs/", "file systems nobody brings to a node"},
	{"fs/f2fs/", "file systems nobody brings to a node"},
	{"fs/orangefs/", "file systems nobody brings to a node"},
	{"fs/coda/", "file systems nobody brings to a node"},
	{"fs/afs/", "file systems nobody brings to a node"},
}

// DropModule reports whether the module file (a path below the kernel
// release's folder, "kernel/…") stays out.
func DropModule(file string) bool {
	for _, d := range moduleDrops {
		if matches("kernel/"+d.name+"*", file) {
			return true
		}
	}
	return false
}
