package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"joist/image/boot"
	"joist/image/disk"
	"joist/iso/diskimage"
	"joist/rootfs/tree"
)

// Ends of the names of disk images, behind the version: the sector size where
// it is not the usual one, and the format.
const (
	nativeSuffix = "-4k"
	rawSuffix    = ".raw.zst"
	qcowSuffix   = ".qcow2"
)

// sectorSize is that of disk images: of the flag, else of joist.toml.
func (b *Builder) sectorSize() int {
	if b.o.SectorSize != 0 {
		return b.o.SectorSize
	}
	return b.cfg.Disk.SectorSize
}

// diskPaths are the names of disk images in the output folder.
func (b *Builder) diskPaths() []string {
	base := b.base()
	if b.sectorSize() == 4096 {
		base += nativeSuffix
	}
	return []string{base + rawSuffix, base + qcowSuffix}
}

// diskOf tells from a name that it is a disk image, and which one.
func diskOf(name string) (base string, sector int, ok bool) {
	for _, s := range []string{rawSuffix, qcowSuffix} {
		if base, ok = strings.CutSuffix(name, s); ok {
			if short, native := strings.CutSuffix(base, nativeSuffix); native {
				return short, 4096, true
			}
			return base, 512, true
		}
	}
	return "", 0, false
}

// diskFiles writes the image of a system disk without data in both formats.
func (b *Builder) diskFiles(ctx context.Context, s System) (map[string]string, error) {
	spec, err := b.diskSpec(ctx, s)
	if err != nil {
		return nil, err
	}
	mode := os.FileMode(0o644)
	if len(b.private) > 0 { // it may hold secrets
		mode = 0o600
	}
	raw, err := os.OpenFile(filepath.Join(b.work, "disk.raw"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { raw.Close(); _ = os.Remove(raw.Name()) }()
	m, err := diskimage.Write(raw, spec)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for i, write := range []func(io.Writer, diskimage.Image) error{diskimage.WriteZstd, diskimage.WriteQcow2} {
		name := b.diskPaths()[i]
		files[name] = name
		err := writeFile(filepath.Join(b.work, name), func(f *os.File) error {
			if err := f.Chmod(mode); err != nil {
				return err
			}
			return write(f, m)
		})
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return files, nil
}

// diskSpec gathers what is on the disk.
func (b *Builder) diskSpec(ctx context.Context, s System) (spec diskimage.Spec, err error) {
	loaders, err := b.slotLoaders(ctx)
	if err != nil {
		return spec, err
	}
	if spec.Layout, err = b.diskLayout(); err != nil {
		return spec, err
	}
	if spec.System, err = tree.FromFile(s.Squash); err != nil {
		return spec, err
	}
	if spec.BootImg, err = os.ReadFile(loaders["grub-boot.img"]); err != nil {
		return spec, err
	}
	if spec.Core, err = os.ReadFile(loaders["grub-core-disk.img"]); err != nil {
		return spec, err
	}
	e := boot.ESP{Boot: boot.SlotBoot{Manifest: s.Manifest, Slot: boot.A, Console: b.consoles()}, State: boot.State{First: boot.A, A: boot.SlotState{OK: true}}}
	for _, f := range []struct {
		from string
		to   *tree.Source
	}{
		{loaders["shimx64.efi"], &e.Loaders.Shim}, {loaders["grubx64.efi"], &e.Loaders.Grub}, {loaders["mmx64.efi"], &e.Loaders.MOK},
		{s.Kernel, &e.Kernel}, {s.Initrd, &e.Initrd},
	} {
		if *f.to, err = tree.FromFile(f.from); err != nil {
			return spec, err
		}
	}
	if e.Config, err = boot.FirstConfig(e.Boot, strings.Fields(b.cfg.Image.KernelArgs)); err != nil {
		return spec, fmt.Errorf("make disk image (image.consoles and image.kernel-args of joist.toml): %w", err)
	}
	if e.Beside, err = b.diskBeside(s); err != nil {
		return spec, err
	}
	part, err := spec.Layout.Find(disk.NameESP)
	if err != nil {
		return spec, err
	}
	serial := sha256.Sum256([]byte("joist disk image " + b.id))
	spec.ESP, err = e.Volume(part, spec.Layout.SectorSize, binary.LittleEndian.Uint32(serial[:]))
	return spec, err
}

// diskLayout has GUIDs that follow from the build: those of the node come when
// it is made.
func (b *Builder) diskLayout() (disk.Layout, error) {
	r := disk.ImageRequest{SectorSize: b.sectorSize()}
	var err error
	for i, to := range []*string{&r.DiskGUID, &r.PartGUIDs[0], &r.PartGUIDs[1], &r.PartGUIDs[2], &r.PartGUIDs[3], &r.PartGUIDs[4]} {
		sum := sha256.Sum256(fmt.Appendf(nil, "joist disk image %s %d", b.id, i))
		if *to, err = disk.NewGUID(bytes.NewReader(sum[:])); err != nil {
			return disk.Layout{}, err
		}
	}
	return disk.PlanImage(r)
}

// diskBeside is what an installer finds on its medium.
func (b *Builder) diskBeside(s System) ([]disk.File, error) {
	manifest, err := s.Manifest.Encode()
	if err != nil {
		return nil, err
	}
	installation, err := boot.InstallationFile(strings.Repeat("0", 16), s.Manifest)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{boot.PathManifest(boot.A): manifest, boot.PathInstallation: installation}
	if b.moduleKey != nil {
		files[boot.PathModuleKey] = b.moduleKey.cert
	}
	maps.Copy(files, b.private)
	files[boot.PathAnswer] = boot.AnswerPlace(files[boot.PathAnswer])
	var out []disk.File
	for _, at := range slices.Sorted(maps.Keys(files)) {
		out = append(out, disk.File{Path: at, Data: tree.Bytes(files[at])})
	}
	return out, nil
}
