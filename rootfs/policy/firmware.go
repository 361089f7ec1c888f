package policy

import "strings"

// FirmwareSet is which firmware of devices an image brings. Microcode of
// processors is not among it: every image has that.
type FirmwareSet string

// The sets of joist.toml.
const (
	FirmwareNone   FirmwareSet = "none"
	FirmwareServer FirmwareSet = "server" // network cards, storage adapters and what else a server has
	FirmwareAll    FirmwareSet = "all"    // whatever a module of the image names
)

// FirmwareSets lists them, smallest first.
func FirmwareSets() []FirmwareSet {
	return []FirmwareSet{FirmwareNone, FirmwareServer, FirmwareAll}
}

// firmwarePackage is a package of which the image takes the files that its
// kernel modules name.
type firmwarePackage struct {
	name   string
	server bool
	holds  string
}

// firmwarePackages are those of Debian that have a file for a module of the
// image: what was left of all of trixie's firmware after each file was compared
// with each module.
var firmwarePackages = []firmwarePackage{
	{"firmware-ast", true, "displays of ASPEED management controllers"},
	{"firmware-bnx2", true, "Broadcom NetXtreme II, 1 Gbit/s"},
	{"firmware-bnx2x", true, "Broadcom NetXtreme II, 10 Gbit/s"},
	{"firmware-cavium", true, "Cavium LiquidIO"},
	{"firmware-cirrus", false, "Cirrus Logic codecs"},
	{"firmware-intel-misc", true, "Intel E810 (DDP package of ice), E100, Omni-Path, QuickAssist; with \"all\" neural processors and sensor hubs"},
	{"firmware-linux-free", true, "Intel C600 SAS; with \"all\" serial cards and adapters"},
	{"firmware-misc-nonfree", true, "Broadcom Tigon 3, Chelsio T3 to T6, Tehuti, 3Com Typhoon, AdvanSys, Microsemi PHYs; with \"all\" modems, serial adapters and card readers"},
	{"firmware-myricom", true, "Myricom Myri-10G"},
	{"firmware-netronome", true, "Netronome Agilio"},
	{"firmware-netxen", true, "NetXen and QLogic Intelligent Ethernet"},
	{"firmware-qlogic", true, "QLogic Fibre Channel and FastLinQ, Brocade Fibre Channel and Ethernet, QLogic SCSI and InfiniBand"},
	{"firmware-realtek", true, "Realtek Ethernet, 1 to 10 Gbit/s, PCI and USB"},
}

// serverModules are the folders below kernel/ whose modules drive what a
// server has and whose firmware the set "server" brings.
var serverModules = []string{
	"drivers/ata/", "drivers/block/", "drivers/crypto/", "drivers/gpu/drm/ast/", "drivers/infiniband/", "drivers/message/",
	"drivers/net/ethernet/", "drivers/net/phy/", "drivers/net/usb/", "drivers/nvme/", "drivers/scsi/",
}

// Firmware returns the packages of a set.
func Firmware(set FirmwareSet) []string {
	var out []string
	for _, p := range firmwarePackages {
		if set == FirmwareAll || set == FirmwareServer && p.server {
			out = append(out, p.name)
		}
	}
	return out
}

// FirmwareOf reports whether a set brings the firmware of a module (a path below
// the kernel release's folder, "kernel/…").
func FirmwareOf(set FirmwareSet, file string) bool {
	if set != FirmwareServer {
		return set == FirmwareAll
	}
	for _, d := range serverModules {
		if strings.HasPrefix(file, "kernel/"+d) {
			return true
		}
	}
	return false
}
