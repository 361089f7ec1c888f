package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"joist/image/boot"
	"joist/image/disk"
	"joist/rootfs/tree"
)

// PathInstallation is a file on the boot partition that says which
// installation it belongs to, for whoever looks without reading the table.
const PathInstallation = "/joist/installation.json"

// Sources gives the content of a file of the medium by its name: a loader,
// vmlinuz or initrd.
type Sources func(name string) (tree.Source, error)

// Slot is what the kernel of slot A is started with.
func (p Plan) Slot(vgUUID string) boot.SlotBoot {
	return boot.SlotBoot{Manifest: p.Image.Manifest, Slot: boot.A, DiskGUID: p.Layout.DiskGUID, State: "lvm:" + vgUUID, Console: p.ConsoleArgs}
}

// ESP is the content of the boot partition.
func (p Plan) ESP(vgUUID string, src Sources) (disk.FAT, error) {
	part, err := p.Layout.Find(disk.NameESP)
	if err != nil {
		return disk.FAT{}, err
	}
	e := boot.ESP{Boot: p.Slot(vgUUID), State: boot.Fresh()}
	for _, f := range []struct {
		name string
		to   *tree.Source
	}{
		{LoaderShim, &e.Loaders.Shim}, {LoaderGrub, &e.Loaders.Grub}, {LoaderMOK, &e.Loaders.MOK},
		{boot.FileKernel, &e.Kernel}, {boot.FileInitrd, &e.Initrd},
	} {
		if *f.to, err = src(f.name); err != nil {
			return disk.FAT{}, err
		}
	}
	fat, err := e.Volume(part, p.Layout.SectorSize, p.Identity.ESPSerial)
	if err != nil {
		return fat, err
	}
	b, err := json.Marshal(map[string]string{"installation_id": p.InstallationID, "build_id": p.Image.BuildID, "version": p.Image.Version})
	if err != nil {
		return fat, fmt.Errorf("encode installation id: %w", err)
	}
	fat.Files = append(fat.Files, disk.File{Path: PathInstallation, Data: tree.Bytes(append(b, '\n'))})
	return fat, nil
}

// sized is a file of which a plan knows only the size.
type sized int64

func (s sized) Size() int64                  { return int64(s) }
func (s sized) Open() (io.ReadCloser, error) { return nil, errors.New("a plan has no content") }

// espFiles lists the boot partition's files; the volume group's UUID, which
// one of them holds, is not known yet but has a fixed length.
func (p Plan) espFiles() ([]File, error) {
	placeholder := "xxxxxx" + strings.Repeat("-xxxx", 5) + "-xxxxxx"
	fat, err := p.ESP(placeholder, func(name string) (tree.Source, error) {
		if n, ok := p.Image.Loaders[name]; ok {
			return sized(n), nil
		}
		if f, ok := p.Image.Files[name]; ok {
			return sized(f.Size), nil
		}
		return nil, fmt.Errorf("the medium has no file %q", name)
	})
	if err != nil {
		return nil, err
	}
	if _, err := disk.PlanFAT(fat); err != nil {
		return nil, err
	}
	var out []File
	for _, f := range fat.Files {
		out = append(out, File{Path: f.Path, Bytes: f.Data.Size()})
	}
	return out, nil
}
