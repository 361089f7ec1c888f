package build

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"joist/image/boot"
	"joist/image/bundle"
	"joist/internal/finding"
	"joist/rootfs/tree"
)

// updateFiles writes the bundle that brings a node to this version: the system
// and the loaders that its disk starts with.
func (b *Builder) updateFiles(ctx context.Context, s System) (map[string]string, error) {
	out := b.artefactPath(Update)
	loaders, err := b.slotLoaders(ctx)
	if err != nil {
		return nil, err
	}
	var files []bundle.Content
	add := func(name, from string) error {
		f, err := tree.FromFile(from)
		files = append(files, bundle.Content{Name: name, Data: f})
		return err
	}
	// The system comes first: a node writes it to the slot while the rest is
	// still on its way.
	for _, name := range []string{boot.FileSystem, boot.FileKernel, boot.FileInitrd} {
		if err := add(name, s.files()[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(loaders)) {
		if err := add(name, loaders[name]); err != nil {
			return nil, err
		}
	}
	const local = "bundle"
	return map[string]string{out: local}, writeFile(filepath.Join(b.work, local), func(f *os.File) error {
		return bundle.Write(f, s.Manifest, files, func(m []byte) ([]byte, error) { return b.sign(out, m) })
	})
}

// warnUnsigned tells what a bundle without a signature is good for.
func (b *Builder) warnUnsigned() {
	if b.key == nil && b.o.Again == nil {
		var fl finding.List
		fl.Warnf("update-unsigned", b.artefactPath(Update), "build it with --sign-key", "the bundle has no signature, and no node takes one without")
		b.o.Say(fl)
	}
}
