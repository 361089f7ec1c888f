package initramfs

import (
	"bytes"
	"io"

	"joist/rootfs/tree"
)

// NetSpec is what goes into the archive that follows the initrd where a
// machine starts from the network.
type NetSpec struct {
	System *tree.Node // as in Spec
	Kernel string
	Files  map[string][]byte // further files, by path
}

// WriteNet packs drivers of network cards, their firmware and further files.
// The kernel unpacks it over what the initrd brought, so that the modules'
// indexes are of both.
func WriteNet(w io.Writer, s NetSpec) (Parts, error) {
	var parts Parts
	out := tree.New()
	wanted := func(file string) bool { return Wanted(file) || listed(file, netNames, netDirs) }
	if err := modules(out, s.System, s.Kernel, wanted, Wanted); err != nil {
		return parts, err
	}
	if err := firmware(out, s.System, &parts); err != nil {
		return parts, err
	}
	for p, text := range s.Files {
		if err := out.AddFile(p, 0o644, tree.Bytes(text)); err != nil {
			return parts, err
		}
	}
	var archive bytes.Buffer
	if err := writeCPIO(&archive, out); err != nil {
		return parts, err
	}
	parts.Modules = int64(archive.Len()) - parts.Firmware
	cw := &counter{w: w}
	err := compress(cw, archive.Bytes())
	parts.Total = cw.n
	return parts, err
}
