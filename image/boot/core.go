package boot

import "slices"

// Making GRUB's core images for BIOS. No folder of modules is shipped: what a
// menu needs is inside the image.

// GrubDir is where Debian's grub-pc-bin keeps the modules.
const GrubDir = "/usr/lib/grub/i386-pc"

// Commands and readers that every menu of ours uses. linux brings the video
// modules that it needs; halt and reboot are for a person at the prompt.
func commonModules() []string {
	return []string{
		"biosdisk", "part_gpt", "part_msdos", // disks
		"normal", "configfile", "test", "echo", "true", "sleep", "minicmd", "ls", "cat", "halt", "reboot",
		"serial", "terminal", "gzio", "linux", "all_video",
	}
}

// MediumCore returns the arguments of grub-mkimage for the image that boots as
// CD (El Torito, no emulation) and, from its fifth sector on, as USB disk. The
// prefix has no device: it is the one that was started from.
func MediumCore(out string) []string {
	return mkimage("i386-pc-eltorito", out, "/boot/grub", append(commonModules(), "iso9660", "search", "search_fs_file"))
}

// DiskCore returns the arguments of grub-mkimage for an installed disk:
// partition 2 of the disk that the BIOS started, and no other, is read.
func DiskCore(out string) []string {
	return mkimage("i386-pc", out, "(,gpt2)/joist", append(commonModules(), "fat", "loadenv"))
}

// NetCore returns the arguments of grub-mkimage for the image that a BIOS
// fetches by PXE: it looks in /grub of the server that it came from.
func NetCore(out string) []string {
	return mkimage("i386-pc-pxe", out, "(pxe)/grub", append(commonModules(), "pxe", "net", "tftp", "http", "regexp"))
}

func mkimage(format, out, prefix string, modules []string) []string {
	slices.Sort(modules)
	return append([]string{"--directory=" + GrubDir, "--format=" + format, "--compression=xz", "--prefix=" + prefix, "--output=" + out}, modules...)
}
