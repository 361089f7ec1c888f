package build

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"joist/image/boot"
	"joist/iso/netboot"
)

// netbootDir is the folder of the output folder that a server offers.
const netbootDir = "netboot"

// netbootFolder writes the folder for machines that start from the network.
func (b *Builder) netbootFolder(_ context.Context, s System) (map[string]string, error) {
	return b.netbootFiles(s)
}

// netbootFiles puts the files into the work folder: name in the output folder →
// name there.
func (b *Builder) netbootFiles(s System) (map[string]string, error) {
	spec := netboot.Spec{Manifest: s.Manifest, Console: b.consoles(), Extra: strings.Fields(b.cfg.Image.KernelArgs)}
	ipxe, err := spec.IPXE()
	if err != nil {
		return nil, err
	}
	grub, err := spec.Grub()
	if err != nil {
		return nil, err
	}
	texts := map[string][]byte{
		"boot.ipxe": ipxe, "grub.cfg": grub,
		// GRUB looks in /grub of its server before it looks beside itself.
		"grub/grub.cfg": grub,
	}
	// shim asks the server for grubx64.efi and mmx64.efi beside itself.
	for name, from := range map[string]string{"shimx64.efi": shimDir + "/shimx64.efi.signed", "mmx64.efi": shimDir + "/mmx64.efi.signed", "grubx64.efi": grubSigned + "/grubnetx64.efi.signed"} {
		if texts[name], err = os.ReadFile(filepath.Join(b.box.Root, from)); err != nil {
			return nil, err
		}
	}
	files := map[string]string{}
	for name, text := range texts {
		local := "netboot-" + strings.ReplaceAll(name, "/", "-")
		if err := os.WriteFile(filepath.Join(b.work, local), text, 0o644); err != nil {
			return nil, err
		}
		files[netbootDir+"/"+name] = local
	}
	for _, name := range []string{boot.FileKernel, boot.FileInitrd, boot.FileSystem} {
		files[netbootDir+"/"+name] = name
	}
	return files, nil
}
