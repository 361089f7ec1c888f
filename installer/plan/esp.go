package plan

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"joist/image/boot"
	"joist/image/disk"
	"joist/rootfs/tree"
)

// Sources gives the content of a file of the medium by its name: a loader,
// vmlinuz or initrd.
type Sources func(name string) (tree.Source, error)

// Slot is what the kernel of slot A is started with from the first disk.
// storage is the volume group's UUID or the pool's GUID.
func (p Plan) Slot(storage string) boot.SlotBoot { return p.MemberSlot(0, storage) }

// MemberSlot is the same for the n-th disk: each finds itself by its own GUID.
func (p Plan) MemberSlot(n int, storage string) boot.SlotBoot {
	s := boot.SlotBoot{Manifest: p.Image.Manifest, Slot: boot.A, DiskGUID: p.All()[n].Layout.DiskGUID, State: "lvm:" + storage, Console: p.ConsoleArgs}
	if p.InPlace != nil {
		s.Slot = boot.Slot(p.InPlace.Slot)
	}
	if p.ZFS() {
		// the pool knows the host that it belongs to; only this one opens it
		// without force (spl(4))
		s.State, s.Extra = "zfs:"+storage, []string{"spl.spl_hostid=0x" + p.Identity.HostID()}
	}
	if u := p.arrayUUID(); u != "" {
		s.Extra = []string{"joist.md=" + u}
	}
	return s
}

// ESP is the content of the first disk's boot partition.
func (p Plan) ESP(storage string, src Sources) (disk.FAT, error) { return p.MemberESP(0, storage, src) }

// MemberESP is the content of the n-th disk's boot partition.
func (p Plan) MemberESP(n int, storage string, src Sources) (disk.FAT, error) {
	layout := p.All()[n].Layout
	part, err := layout.Find(disk.NameESP)
	if err != nil {
		return disk.FAT{}, err
	}
	e := boot.ESP{Boot: p.MemberSlot(n, storage), State: boot.Fresh()}
	// so that the node can be made anew in place; where it does not fit, it cannot
	if conf, err := boot.InPlaceConfig(e.Boot); err == nil {
		e.Config = conf
	}
	if e.Beside, err = p.beside(src); err != nil {
		return disk.FAT{}, err
	}
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
	fat, err := e.Volume(part, layout.SectorSize, p.Identity.ESPSerial+uint32(n))
	if err != nil {
		return fat, err
	}
	b, err := boot.InstallationFile(p.InstallationID, p.Image.Manifest)
	if err != nil {
		return fat, err
	}
	fat.Files = append(fat.Files, disk.File{Path: boot.PathInstallation, Data: tree.Bytes(b)})
	return fat, nil
}

// beside is what an installer takes from its medium otherwise, and the place for
// an answer.
func (p Plan) beside(src Sources) ([]disk.File, error) {
	manifest, err := p.Image.Encode()
	if err != nil {
		return nil, err
	}
	out := []disk.File{{Path: boot.PathManifest(boot.A), Data: tree.Bytes(manifest)}, {Path: boot.PathAnswer, Data: tree.Bytes(boot.AnswerPlace(nil))}}
	if p.Image.ModuleKey == "" {
		return out, nil
	}
	key, err := src(ModuleCert)
	return append(out, disk.File{Path: boot.PathModuleKey, Data: key}), err
}

// sized is a file of which a plan knows only the size.
type sized int64

func (s sized) Size() int64                  { return int64(s) }
func (s sized) Open() (io.ReadCloser, error) { return nil, errors.New("a plan has no content") }

// placeholder stands for the storage's id where that exists only after the
// storage was made; a UUID has a fixed length, a GUID at most this one.
func (p Plan) placeholder() string {
	switch {
	case p.Adopt != nil && p.ZFS():
		return p.Adopt.Pool
	case p.Adopt != nil:
		return p.Adopt.Group
	case p.ZFS():
		return strings.Repeat("9", 20)
	default:
		return "xxxxxx" + strings.Repeat("-xxxx", 5) + "-xxxxxx"
	}
}

// espFiles lists the files of the n-th disk's boot partition.
func (p Plan) espFiles(n int) ([]File, error) {
	fat, err := p.MemberESP(n, p.placeholder(), func(name string) (tree.Source, error) {
		if size, ok := p.Image.Loaders[name]; ok {
			return sized(size), nil
		}
		for _, key := range []string{name, boot.LoaderFile(name)} {
			if f, ok := p.Image.Files[key]; ok {
				return sized(f.Size), nil
			}
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
