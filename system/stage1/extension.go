package stage1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	imageboot "joist/image/boot"
	"joist/system/dm"
	"joist/system/module"
)

// extensions is where their own file systems are mounted, in a place that moves
// along into the system.
const extensions = runDir + "/ext"

// extend lays the extensions that the system names over it. They lie behind it in
// the same file or partition. The list is part of the system, whose own hash
// covers it, and so the root hashes in it. Each is checked by dm-verity, whether
// or not the system was checked as a whole.
func (b *boot) extend() error {
	text, err := os.ReadFile(filepath.Join(newRoot, imageboot.ExtensionsFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := imageboot.DecodeExtensions(text)
	if err != nil || len(list) == 0 {
		return err
	}
	rel, err := module.Release()
	if err != nil {
		return err
	}
	// overlay is not in the initrd, which is the same with and without extensions.
	x, err := module.Open(filepath.Join(newRoot, "usr/lib/modules", rel))
	if err != nil {
		return err
	}
	mods := module.Loader{Index: x, Params: b.opt.Params, Blacklist: b.opt.Blacklist, Insert: module.Insert}
	if err := mods.Load("dm_mod", "dm_verity", "overlay"); err != nil {
		return err
	}
	f, err := os.Open(b.device)
	if err != nil {
		return err
	}
	defer f.Close()
	lower, err := b.mountExtensions(f, list)
	if err != nil {
		return &problem{err, b.damaged()}
	}
	if err := unix.Mount("overlay", newRoot, "overlay", unix.MS_RDONLY|unix.MS_NODEV, "lowerdir="+strings.Join(append(lower, newRoot), ":")); err != nil {
		return fmt.Errorf("lay extensions over the system: %w", err)
	}
	return nil
}

// mountExtensions mounts each from the device that holds the system and returns
// the folders.
func (b *boot) mountExtensions(device *os.File, list []imageboot.Extension) (dirs []string, err error) {
	v, err := dm.ReadVerity(device)
	if err != nil {
		return nil, err
	}
	at := v.End()
	for _, x := range list {
		if err := b.mountExtension(device, x, at); err != nil {
			return nil, fmt.Errorf("extension %s at byte %d of %s: %w", x.Name, at, b.device, err)
		}
		at += x.Size
		dirs = append(dirs, filepath.Join(extensions, x.Name))
		b.log.Printf("          extension %s (%d packages)", x.Name, len(x.Packages))
	}
	return dirs, nil
}

func (b *boot) mountExtension(device io.ReaderAt, x imageboot.Extension, at int64) error {
	v, err := dm.ReadVerity(io.NewSectionReader(device, at, x.Size))
	if err != nil {
		return err
	}
	// dm-verity's data begins where its device does.
	part, err := dm.Create("joist_ext_"+x.Name+"_raw", "JOIST-EXT-RAW-"+x.VerityRoot[:32], dm.Linear(b.device, at, x.Size))
	if err != nil {
		return err
	}
	t, err := v.Target(part, x.VerityRoot)
	if err != nil {
		return err
	}
	node, err := dm.Create("joist_ext_"+x.Name, "JOIST-EXT-"+x.VerityRoot[:32], t)
	if err != nil {
		return err
	}
	dir := filepath.Join(extensions, x.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.Mount(node, dir, "squashfs", unix.MS_RDONLY|unix.MS_NODEV, "")
}
