package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"joist/image/squashfs"
	"joist/image/verity"
	"joist/rootfs/tree"
)

// maxBlocks bounds the cache of compressed blocks: some ten images that have
// nothing in common.
const maxBlocks = 2 << 30

// blocksDir holds blocks of system.sqfs, compressed.
func (b *Builder) blocksDir() string { return filepath.Join(b.cache, "blocks") }

// squash compresses the tree. Blocks that an earlier build compressed are taken
// from the cache, which only ever saves time: what is wrong with it is told,
// and the image is made all the same.
func (b *Builder) squash(ctx context.Context, root *tree.Node, name string, advance func(n, of int64)) error {
	o := squashfs.Options{Time: b.built, Level: b.cfg.Image.Compression, Order: bootOrder, Progress: advance}
	write := func(f *os.File) error {
		_, err := squashfs.Write(ctx, f, root, o)
		return err
	}
	if b.o.Again != nil {
		return writeFile(filepath.Join(b.work, name), write)
	}
	blocks, err := squashfs.OpenCache(b.blocksDir())
	if err != nil {
		return err
	}
	o.Cache = blocks
	err = writeFile(filepath.Join(b.work, name), write)
	b.cacheFailed("blocks", errors.Join(blocks.Prune(maxBlocks), blocks.Close()))
	return err
}

// bootFirst is what a node reads while it starts, in about that order: a CD or a
// slow USB disk then reads forward, in one sweep. A path that ends in "/" means
// all below it.
var bootFirst = []string{
	"/usr/sbin/joist-init", "/etc/", "/usr/lib/joist/", "/usr/lib64/",
	"/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/lib", // libraries themselves, not the folders of plug-ins
	"/usr/lib/systemd/", "/usr/lib/udev/", "/usr/bin/udevadm", "/usr/bin/kmod", "/usr/lib/modprobe.d/",
	"/usr/sbin/lvm", "/usr/sbin/joistd", "/usr/sbin/joist-install", "/usr/sbin/chronyd", "/usr/sbin/sshd", "/usr/share/factory/",
	"/usr/lib/modules/",
}

// bootOrder ranks the files of the image (squashfs.Options.Order).
func bootOrder(path string, _ *tree.Node) int {
	for i, p := range bootFirst {
		if path == p || strings.HasPrefix(path, p) && (strings.HasSuffix(p, "/") || strings.Contains(path, ".so")) {
			return i
		}
	}
	return len(bootFirst)
}

// verity appends the image's hash tree. The salt comes from the build id, so
// that the same inputs give the same bytes.
func (b *Builder) verity(name string) (root string, err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	salt := sha256.Sum256([]byte("joist verity salt " + b.id))
	root, _, err = verity.Append(f, st.Size(), salt[:])
	return root, err
}
