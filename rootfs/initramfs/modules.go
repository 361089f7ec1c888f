package initramfs

// Whole directories of the kernel's module tree that hold drivers a system
// disk or an installation medium may hang on.
var dirs = []string{
	"drivers/ata", "drivers/nvme", "drivers/cdrom", "drivers/usb/host", "drivers/usb/storage", "drivers/usb/core",
	"drivers/scsi/megaraid", "drivers/scsi/mpt3sas", "drivers/scsi/aacraid", "drivers/scsi/smartpqi", "drivers/scsi/mpi3mr",
	"drivers/virtio", "drivers/mmc",
}

// Single modules, by the kernel's name.
var names = []string{
	"sd_mod", "sr_mod", "scsi_mod", "virtio_blk", "virtio_scsi", "hpsa", "vmw_pvscsi", "mptsas", "mptspi", "arcmsr", "isci", "pm80xx",
	"hv_storvsc", "hv_vmbus", "xen_blkfront", "loop", "dm_mod", "dm_verity", "squashfs", "isofs", "vfat", "fat", "exfat", "ntfs3",
	"nls_ascii", "nls_cp437", "nls_iso8859_1", "nls_utf8", "crc32c_generic", "crc32c_intel", "crc32c_cryptoapi", "crct10dif_common",
	"sha256_generic", "sha256_ssse3", "softdog", "iTCO_wdt", "sp5100_tco", "i6300esb", "wdat_wdt", "ipmi_watchdog",
	"usbhid", "hid_generic", "i8042", "atkbd", "phy_generic", "typec",
}

// Drivers of network cards, for machines that fetch the system image.
var netDirs = []string{
	"drivers/net/ethernet", "drivers/net/phy", "drivers/net/mdio", "drivers/net/pcs", "drivers/net/usb", "drivers/net/hyperv", "drivers/net/vmxnet3",
}

var netNames = []string{"virtio_net", "xen_netfront", "net_failover", "mii", "mdio"}
