package initramfs

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"joist/rootfs/tree"
)

// Where the kernel's firmware loader looks (kernel document
// driver-api/firmware/fw_search_path.rst).
const (
	systemFirmware = "/usr/lib/firmware"
	initFirmware   = "/lib/firmware"
)

// Spellings under which the firmware loader finds a file, in its order
// (kernel, drivers/base/firmware_loader/main.c).
var spellings = []string{"", ".zst", ".xz"}

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
		list, err := modinfo(b, "firmware")
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
			names, err := match(sys, pattern)
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
				n := sys.Resolve(path.Join(systemFirmware, name))
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

// modinfo returns the values of one key in a module's .modinfo section, where
// "key=value" stand one after the other, each ended by a zero byte.
func modinfo(module []byte, key string) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, nil
	}
	text, err := s.Data()
	if err != nil {
		return nil, err
	}
	var out []string
	for word := range strings.SplitSeq(string(text), "\x00") {
		if v, ok := strings.CutPrefix(word, key+"="); ok && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out, nil
}

// match returns the system's firmware files that a module means. Drivers that
// make up names as they run give a pattern.
func match(sys *tree.Node, pattern string) ([]string, error) {
	if !fs.ValidPath(pattern) {
		return nil, fmt.Errorf("%q is no path below %s", pattern, systemFirmware)
	}
	if !strings.ContainsAny(pattern, `*?[\`) {
		for _, s := range spellings {
			if n := sys.Resolve(path.Join(systemFirmware, pattern+s)); n != nil && n.Mode.IsRegular() {
				return []string{pattern + s}, nil
			}
		}
		return nil, nil
	}
	dir := sys.Resolve(systemFirmware)
	if dir == nil || !dir.Mode.IsDir() {
		_, err := path.Match(pattern, "")
		return nil, err
	}
	var names []string
	err := dir.Walk(func(p string, n *tree.Node) error {
		p = strings.TrimPrefix(p, "/")
		target := sys.Resolve(path.Join(systemFirmware, p))
		if target == nil || !target.Mode.IsRegular() {
			return nil
		}
		for _, s := range spellings {
			switch ok, err := path.Match(pattern+s, p); {
			case err != nil:
				return err
			case ok:
				names = append(names, p)
				return nil
			}
		}
		return nil
	})
	return names, err
}
