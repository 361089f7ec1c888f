package build

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"joist/image/boot"
	"joist/image/squashfs"
	"joist/internal/finding"
	"joist/iso/netboot"
	"joist/rootfs/initramfs"
)

// netbootDir is the folder of the output folder that a server offers.
const netbootDir = "netboot"

// netbootFolder puts the files of the folder for machines that start from the
// network into the work folder: name in the output folder → name there.
func (b *Builder) netbootFolder(ctx context.Context, s System) (map[string]string, error) {
	spec := netboot.Spec{Manifest: s.Manifest, Console: b.consoles(), Extra: strings.Fields(b.cfg.Image.KernelArgs)}
	ipxe, err := spec.IPXE()
	if err != nil {
		return nil, err
	}
	grub, err := spec.Grub()
	if err != nil {
		return nil, err
	}
	if err := b.core(ctx, boot.NetCore("/host/work/netboot-"+netboot.BIOSFile)); err != nil {
		return nil, err
	}
	loaders, err := b.slotLoaders(ctx)
	if err != nil {
		return nil, err
	}
	files := map[string]string{netboot.BIOSFile: "netboot-" + netboot.BIOSFile}
	for _, name := range []string{boot.FileKernel, boot.FileInitrd, boot.FileSystem} {
		files[name] = name
	}
	remote := boot.Remote{Manifest: s.Manifest, Loaders: map[string]boot.File{}}
	texts := map[string]func() ([]byte, error){
		netboot.IPXEFile: func() ([]byte, error) { return ipxe, nil }, "grub.cfg": func() ([]byte, error) { return grub, nil },
		// GRUB looks in /grub of its server before it looks beside itself.
		netboot.GrubFile: func() ([]byte, error) { return grub, nil },
	}
	// shim asks the server for grubx64.efi and mmx64.efi beside itself.
	copies := map[string]string{netboot.UEFIFile: shimDir + "/shimx64.efi.signed", "mmx64.efi": shimDir + "/mmx64.efi.signed", "grubx64.efi": grubSigned + "/grubnetx64.efi.signed"}
	for name, from := range copies {
		texts[name] = func() ([]byte, error) { return os.ReadFile(filepath.Join(b.box.Root, from)) }
	}
	for name, from := range loaders {
		if remote.Loaders[name], err = describe(from); err != nil {
			return nil, err
		}
		texts["boot/"+name] = func() ([]byte, error) { return os.ReadFile(from) }
	}
	for name, text := range texts {
		files[name] = "netboot-" + strings.ReplaceAll(name, "/", "-")
		c, err := text()
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(b.work, files[name]), c, 0o644); err != nil {
			return nil, err
		}
	}
	files[netboot.InitrdFile] = "netboot-" + netboot.InitrdFile
	if err := b.netInitrd(filepath.Join(b.work, files[netboot.InitrdFile]), s, remote); err != nil {
		return nil, fmt.Errorf("pack %s: %w", netboot.InitrdFile, err)
	}
	out := map[string]string{}
	for name, local := range files {
		out[netbootDir+"/"+name] = local
	}
	return out, nil
}

// netInitrd writes the initrd of machines that start from the network: that of
// the system, which stays as small as a disk needs it, and behind it drivers of
// network cards, certificates for https and what is to be fetched. It is one
// file because not every loader can join two.
func (b *Builder) netInitrd(name string, s System, r boot.Remote) error {
	img, err := os.Open(s.Squash)
	if err != nil {
		return err
	}
	defer img.Close()
	sys, err := squashfs.Open(img)
	if err != nil {
		return err
	}
	list, err := r.Encode()
	if err != nil {
		return err
	}
	ca, err := sys.Root.Read(certificateFile)
	if err != nil {
		return err
	}
	return writeFile(name, func(w *os.File) error {
		in, err := os.Open(s.Initrd)
		if err != nil {
			return err
		}
		defer in.Close()
		if _, err := io.Copy(w, in); err != nil {
			return err
		}
		parts, err := initramfs.WriteNet(w, initramfs.NetSpec{System: sys.Root, Kernel: s.Manifest.Kernel, Files: map[string][]byte{boot.RemoteFile: list, certificateFile: ca}})
		if err == nil {
			b.sayNetFirmware(parts)
		}
		return err
	})
}

// sayNetFirmware tells which firmware network cards lack.
func (b *Builder) sayNetFirmware(p initramfs.Parts) {
	if len(p.NoFirmware) == 0 {
		return
	}
	var fl finding.List
	fl.Notef("firmware-missing", netboot.InitrdFile, "no package of the image brings firmware that these modules name; "+
		"for a network card that cannot do without it, add its package to packages.add in joist.toml: %s", strings.Join(p.NoFirmware, ", "))
	b.o.Say(fl)
}
