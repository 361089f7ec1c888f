package initramfs

import (
	"bytes"
	"fmt"
	"path"
	"slices"

	fw "joist/rootfs/firmware"
	"joist/rootfs/tree"
)

// initFirmware is where the firmware loader looks before the system is mounted.
const initFirmware = "/lib/firmware"

// firmware copies the files that the modules in out name with
// MODULE_FIRMWARE() from the system. Stage 1 loads drivers of disks, and a
// driver that asks for firmware gets it from the initrd or never: it does not
// ask again once the system is mounted.
func firmware(out, sys *tree.Node, parts *Parts) error {
	wants := map[string][]string{}
	err := out.Walk(func(p string, n *tree.Node) error {
		if !n.Mode.IsRegular() || path.Ext(p) != ".ko" {
			return nil
		}
		b, err := content(n.Data)
		if err != nil {
			return err
		}
		list, err := fw.Names(bytes.NewReader(b))
		if err != nil {
			return fmt.Errorf("read what module %s says of itself: %w", p, err)
		}
		wants[moduleName(p)] = list
		return nil
	})
	if err != nil {
		return err
	}
	for module, list := range wants {
		for _, pattern := range list {
			names, err := fw.Match(sys, pattern)
			if err != nil {
				return fmt.Errorf("find firmware of module %s: %w", module, err)
			}
			if len(names) == 0 {
				parts.NoFirmware = append(parts.NoFirmware, module+": "+pattern)
			}
			for _, name := range names {
				if out.Lookup(path.Join(initFirmware, name)) != nil { // two modules, one file
					continue
				}
				n := sys.Resolve(path.Join(fw.Dir, name))
				if err := out.AddFile(path.Join(initFirmware, name), 0o644, n.Data); err != nil {
					return err
				}
				if n.Data != nil {
					parts.Firmware += n.Data.Size()
				}
			}
		}
	}
	slices.Sort(parts.NoFirmware)
	return nil
}
