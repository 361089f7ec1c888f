package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/therootcompany/xz"
	"golang.org/x/sync/errgroup"

	"joist/internal/finding"
	"joist/rootfs/firmware"
	"joist/rootfs/initramfs"
	"joist/rootfs/policy"
	"joist/rootfs/tree"
)

// indexModules drops unwanted kernel modules, unpacks the others and lets
// depmod index them. Debian compresses each module with xz, which the kernel
// must undo for each one it loads, at every boot; the initrd and system.sqfs
// are compressed as a whole, with what unpacks quickly. A module's signature
// is behind its unpacked bytes (kernel document admin-guide/module-signing.rst)
// and stays where it is.
//
// The result is kept by the hash of all that goes in.
func (b *Builder) indexModules(ctx context.Context, root *tree.Node) error {
	return b.o.Sink.Do("index kernel modules", func(func(n, of int64)) error {
		release, err := kernelRelease(root)
		if err != nil {
			return err
		}
		base := "/usr/lib/modules/" + release
		mods, err := keptModules(root, base)
		if err != nil {
			return err
		}
		if err := b.addZFS(ctx, mods, release); err != nil {
			return err
		}
		key, err := digestOf(mods, "unpacked", filepath.Base(b.box.Root), release)
		if err != nil {
			return err
		}
		dir, err := b.cached(ctx, "modules", key, func(tmp string) error { return b.depmod(ctx, mods, release, tmp) })
		if err != nil {
			return err
		}
		root.Remove(base)
		return graft(root, base, dir)
	})
}

// depmod writes the modules and their indexes to the empty folder to.
func (b *Builder) depmod(ctx context.Context, mods *tree.Node, release, to string) error {
	base := filepath.Join(b.work, "depmod")
	dir := filepath.Join(base, "lib", "modules", release)
	if err := writeModules(ctx, mods, dir); err != nil {
		return fmt.Errorf("unpack kernel modules: %w", err)
	}
	if _, err := b.inBox(ctx, "/usr/sbin/depmod", "-b", "/host/work/depmod", release); err != nil {
		return err
	}
	if err := linkAll(dir, to); err != nil {
		return err
	}
	return os.RemoveAll(base)
}

// packed is what Debian's modules end in.
const packed = ".ko.xz"

// writeModules writes the files of a tree below dir, modules unpacked.
func writeModules(ctx context.Context, mods *tree.Node, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	err := mods.Walk(func(p string, n *tree.Node) error {
		if n.Mode.IsDir() {
			return os.Mkdir(filepath.Join(dir, p), 0o755)
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := writeModule(filepath.Join(dir, p), n.Data); err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			return nil
		})
		return nil
	})
	return errors.Join(err, g.Wait())
}

// writeModule writes one file to the path name, without the xz around a module.
func writeModule(name string, data tree.Source) error {
	in, err := data.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	r := io.Reader(in)
	if module, ok := strings.CutSuffix(name, packed); ok {
		name = module + ".ko"
		if r, err = xz.NewReader(in, xz.DefaultDictMax); err != nil {
			return err
		}
	}
	return writeFile(name, func(w *os.File) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// linkAll links or copies the files below the folder from to the same places
// below the folder to. Links, of which depmod makes none, are left out.
func linkAll(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		switch at := filepath.Join(to, rel); {
		case d.IsDir():
			return os.MkdirAll(at, 0o755)
		case d.Type().IsRegular():
			return linkOrCopy(p, at)
		}
		return nil
	})
}

// graft puts the files of a folder into the tree, below base. Their content
// stays where it is.
func graft(root *tree.Node, base, dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		data, err := tree.FromFile(p)
		if err != nil {
			return err
		}
		return root.AddFile(path.Join(base, filepath.ToSlash(rel)), 0o644, data)
	})
}

// digestOf names the content of the files of a tree, and what else matters.
func digestOf(root *tree.Node, more ...string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", more)
	err := root.Walk(func(p string, n *tree.Node) error {
		if n.Data == nil {
			return nil
		}
		fmt.Fprintf(h, "%q %d\n", p, n.Data.Size())
		r, err := n.Data.Open()
		if err != nil {
			return err
		}
		_, err = io.Copy(h, r)
		return errors.Join(err, r.Close())
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}

// keptModules returns a tree of the files below base without the modules that
// policy drops.
func keptModules(root *tree.Node, base string) (*tree.Node, error) {
	mods := tree.New()
	err := root.Resolve(base).Walk(func(p string, n *tree.Node) error {
		if !n.Mode.IsRegular() || policy.DropModule(strings.TrimPrefix(p, "/")) {
			return nil
		}
		return mods.AddFile(p, 0o644, n.Data)
	})
	return mods, err
}

// chooseFirmware takes from the tree what the packages of the set bring beyond
// what a module of the image names. Packages that joist.toml adds stay whole.
func (b *Builder) chooseFirmware(root *tree.Node) error {
	set := b.cfg.Image.Firmware
	from := map[string]bool{}
	for _, p := range policy.Firmware(set) {
		if !slices.Contains(b.cfg.Packages.Add, p) {
			from[p] = true
		}
	}
	if len(from) == 0 {
		return nil
	}
	return b.o.Sink.Do("choose firmware", func(func(n, of int64)) error {
		release, err := kernelRelease(root)
		if err != nil {
			return err
		}
		patterns, err := firmware.Declared(root, "/usr/lib/modules/"+release, func(file string) bool { return policy.FirmwareOf(set, file) })
		if err != nil {
			return err
		}
		bytes, err := firmware.Prune(root, from, patterns)
		var fl finding.List
		fl.Notef("firmware-size", "system", "firmware of the set %q: %s before compression", set, mega(bytes))
		b.say(fl)
		return err
	})
}

// sayFirmware tells which firmware the initrd lacks. It is no mistake: drivers
// name files for every device they ever knew, and many work without.
func (b *Builder) sayFirmware(p initramfs.Parts) {
	if len(p.NoFirmware) == 0 {
		return
	}
	var fl finding.List
	fl.Notef("firmware-missing", "initrd", "no package of the image brings firmware that these modules name; "+
		"for a system disk behind such a device, choose image.firmware = \"all\" or add a package to packages.add in joist.toml: %s", strings.Join(p.NoFirmware, ", "))
	b.say(fl)
}
