package boot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"joist/image/disk"
	"joist/rootfs/tree"
)

// Loaders are Debian's signed programs for UEFI.
type Loaders struct {
	Shim tree.Source // shimx64.efi.signed
	Grub tree.Source // disk: grubx64.efi.signed; medium: gcdx64.efi.signed, whose prefix is /boot/grub
	MOK  tree.Source // mmx64.efi.signed: shim's key manager
}

// in lists the loaders below dir; shim goes by the name given.
func (l Loaders) in(dir, shim string) []disk.File {
	return []disk.File{{Path: dir + "/" + shim, Data: l.Shim}, {Path: dir + "/grubx64.efi", Data: l.Grub}, {Path: dir + "/mmx64.efi", Data: l.MOK}}
}

// Paths on the EFI system partition of a disk.
const (
	ESPLabel   = "JOIST-ESP"
	PathMenu   = "/joist/grub.cfg"
	PathStub   = "/EFI/debian/grub.cfg"
	PathEnv    = "/joist/grubenv"
	PathLoader = `\EFI\joist\shimx64.efi` // of the firmware's boot entry
)

// What lies beside: all that an installer takes from its medium otherwise, for
// a system that makes its own disk a node's. The answer is a place for one.
const (
	PathModuleKey    = "/joist/modules.der"
	PathAnswer       = "/joist/answer.toml"
	PathAnswerSource = "/joist/answer-source.toml"
)

// PathManifest is where the manifest of a slot's system lies.
func PathManifest(s Slot) string { return PathSlotFile(s, "manifest.json") }

// answerRoom is the size of the place for an answer.
const answerRoom = 32 << 10

// AnswerPlace is an answer, which is TOML, with comments behind it so that
// another one can be written in its place. Without one it is comments alone.
func AnswerPlace(text []byte) []byte {
	if len(text) >= answerRoom {
		return text
	}
	out := bytes.Clone(text)
	if len(out) > 0 && len(out) < answerRoom && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	return append(out, bytes.Repeat([]byte("#"), answerRoom-len(out))...)
}

// NoAnswer says whether a place holds none.
func NoAnswer(place []byte) bool { return len(bytes.Trim(place, "#\n")) == 0 }

// PathInstallation is a file on the boot partition that says which
// installation it belongs to, for whoever looks without reading the table.
const PathInstallation = "/joist/installation.json"

// InstallationFile is its content. id has 16 hex digits.
func InstallationFile(id string, m Manifest) ([]byte, error) {
	b, err := json.Marshal(map[string]string{"installation_id": id, "build_id": m.BuildID, "version": m.Version})
	if err != nil {
		return nil, fmt.Errorf("encode installation id: %w", err)
	}
	return append(b, '\n'), nil
}

// PathSlotConfig is where a slot's arguments lie.
func PathSlotConfig(s Slot) string { return "/joist/" + string(s) + ".cfg" }

// PathSlotFile is where a slot's vmlinuz or initrd lies.
func PathSlotFile(s Slot, name string) string { return "/joist/" + string(s) + "/" + name }

// ESP is the content of a fresh system disk's EFI system partition.
type ESP struct {
	Loaders        Loaders
	Kernel, Initrd tree.Source
	Boot           SlotBoot
	State          State

	Config []byte      // Boot's, where that is not what SlotConfig gives
	Beside []disk.File // further files
}

// Volume returns the partition's file system, ready to be planned and written.
// The removable-media path gets shim without its fallback program: that one
// would write boot entries of its own.
func (e ESP) Volume(p disk.Partition, sectorSize int, serial uint32) (disk.FAT, error) {
	menu, err := DiskMenu(e.Boot.Console)
	if err != nil {
		return disk.FAT{}, err
	}
	slot := e.Config
	if slot == nil {
		if slot, err = SlotConfig(e.Boot); err != nil {
			return disk.FAT{}, err
		}
	}
	env := &Env{}
	if err := e.State.Store(env); err != nil {
		return disk.FAT{}, err
	}
	block, err := env.Encode()
	if err != nil {
		return disk.FAT{}, err
	}
	files := append(e.Loaders.in("/EFI/BOOT", "BOOTX64.EFI"), e.Loaders.in("/EFI/joist", "shimx64.efi")...)
	files = append(files,
		disk.File{Path: PathStub, Data: tree.Bytes(DiskStub())},
		disk.File{Path: PathMenu, Data: tree.Bytes(menu)},
		disk.File{Path: PathSlotConfig(e.Boot.Slot), Data: tree.Bytes(slot)},
		disk.File{Path: PathEnv, Data: tree.Bytes(block)},
		disk.File{Path: PathSlotFile(e.Boot.Slot, FileKernel), Data: e.Kernel},
		disk.File{Path: PathSlotFile(e.Boot.Slot, FileInitrd), Data: e.Initrd},
	)
	files = append(files, e.Beside...)
	return disk.FAT{
		Size: p.Size, SectorSize: sectorSize, Start: p.Start, Label: ESPLabel, Serial: serial,
		Time: e.Boot.Manifest.Built, Files: files,
	}, nil
}

// MediumImage is the EFI image of an installation medium: the loaders and the
// way to the medium's menu, found by the signed GRUB's prefix or, when that
// does not resolve, beside itself. Its size follows its content.
func MediumImage(buildID string, l Loaders, built time.Time, serial uint32) (disk.FAT, error) {
	stub, err := MediumStub(buildID)
	if err != nil {
		return disk.FAT{}, err
	}
	files := append(l.in("/EFI/BOOT", "BOOTX64.EFI"),
		disk.File{Path: "/EFI/BOOT/grub.cfg", Data: tree.Bytes(stub)},
		disk.File{Path: "/boot/grub/grub.cfg", Data: tree.Bytes(stub)},
	)
	var size int64
	for _, f := range files {
		if f.Data == nil {
			return disk.FAT{}, fmt.Errorf("make EFI image: %q is missing", f.Path)
		}
		size += f.Data.Size()
	}
	// Directories, tables and half-filled clusters take less than 256 KiB.
	size = max((size+256*1024+disk.MiB-1)/disk.MiB*disk.MiB, 4*disk.MiB)
	return disk.FAT{Size: size, SectorSize: sector, Label: "JOIST-EFI", Serial: serial, Time: built, Files: files}, nil
}
