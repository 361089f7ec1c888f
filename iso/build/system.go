package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"joist/image/boot"
	"joist/image/verity"
	"joist/internal/finding"
	"joist/internal/run"
	"joist/rootfs/initramfs"
	"joist/rootfs/overlay"
	"joist/rootfs/policy"
	"joist/rootfs/tree"
	"joist/rootfs/unpack"
)

// System is the three files every wrapping holds, and what is said of them.
type System struct {
	Kernel, Initrd, Squash string // files in the work folder
	Manifest               boot.Manifest
	Parts                  initramfs.Parts
}

// system builds the three files from the packages' tree.
func (b *Builder) system(ctx context.Context, root *tree.Node) (System, error) {
	var s System
	release, err := kernelRelease(root)
	if err != nil {
		return s, err
	}
	b.id = b.buildID()
	s.Manifest = boot.Manifest{BuildID: b.id, Version: b.cfg.Version, Built: b.built, Kernel: release}
	build, err := json.Marshal(map[string]string{"version": b.cfg.Version, "build_id": b.id, "built": b.built.Format(time.RFC3339)})
	if err != nil {
		return s, err
	}
	s.Kernel = filepath.Join(b.work, boot.FileKernel)
	if err := copyOut(root, "/boot/vmlinuz-"+release, s.Kernel); err != nil {
		return s, fmt.Errorf("take the kernel: %w", err)
	}
	s.Initrd = filepath.Join(b.work, boot.FileInitrd)
	err = b.o.Sink.Do("pack initrd", func(func(n, of int64)) error {
		return writeFile(s.Initrd, func(f *os.File) (err error) {
			s.Parts, err = initramfs.Write(f, initramfs.Spec{System: root, Kernel: release, Init: b.bins["joist-init"], Build: build})
			return err
		})
	})
	if err != nil {
		return s, err
	}
	if err := b.complete(root, build); err != nil {
		return s, err
	}
	s.Squash = filepath.Join(b.work, boot.FileSystem)
	err = b.o.Sink.Do("compress system", func(func(n, of int64)) error { return b.squash(ctx, root, boot.FileSystem) })
	if err != nil {
		return s, err
	}
	err = b.o.Sink.Do("hash system", func(func(n, of int64)) (err error) {
		if s.Manifest.VerityRoot, err = b.verity(s.Squash); err != nil {
			return err
		}
		s.Manifest.Files = map[string]boot.File{}
		for _, f := range []string{s.Kernel, s.Initrd, s.Squash} {
			if s.Manifest.Files[filepath.Base(f)], err = describe(f); err != nil {
				return err
			}
		}
		return nil
	})
	return s, err
}

// packages merges the packages of the image, puts the rules of package policy
// in the place of their scripts and checks that its tables name all there is.
func (b *Builder) packages(ctx context.Context) (*tree.Node, error) {
	pkgs, err := b.open(setImage)
	if err != nil {
		return nil, err
	}
	accept := map[string]bool{}
	for _, a := range b.cfg.AcceptScripts {
		accept[a] = true
	}
	root, fl, err := unpack.Tree(ctx, pkgs, unpack.Options{Drop: true, Accept: accept})
	if err != nil {
		return nil, err
	}
	if err := unpack.Apply(root, pkgs); err != nil {
		return nil, err
	}
	for _, check := range []func(*tree.Node) finding.List{unpack.PruneScripts, unpack.Privileges, unpack.Accounts, unpack.UdevRules} {
		fl = append(fl, check(root)...)
	}
	b.o.Say(fl)
	return root, fl.Err()
}

// complete adds what is ours and makes the tree what the node will see; what
// belongs to the initrd alone goes.
func (b *Builder) complete(root *tree.Node, build []byte) error {
	for p, text := range map[string]string{"/etc/passwd": policy.Passwd(), "/etc/group": policy.Groups()} {
		if err := root.AddFile(p, 0o644, tree.Bytes(text)); err != nil {
			return err
		}
	}
	if err := root.Set("/etc/shadow", &tree.Node{Mode: 0o640, GID: 42, Data: tree.Bytes(policy.Shadow()), Origin: "joist"}); err != nil {
		return err
	}
	if err := overlay.Apply(root); err != nil {
		return err
	}
	if err := certificates(root); err != nil {
		return err
	}
	for _, p := range programs {
		if err := root.AddFile(p.dest, 0o755, tree.Bytes(b.bins[filepath.Base(p.pkg)])); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"/usr/sbin/init": "joist-init", "/usr/sbin/reboot": "joist-init", "/usr/sbin/poweroff": "joist-init", "/usr/sbin/halt": "joist-init",
		"/etc/resolv.conf": "/run/joist/resolv.conf", "/etc/mtab": "/proc/self/mounts",
	} {
		if err := root.AddLink(link, target); err != nil {
			return err
		}
	}
	if err := b.finish(root, build); err != nil {
		return err
	}
	fl := append(unpack.CheckLibraries(root), unpack.DanglingLinks(root)...)
	b.o.Say(fl)
	return fl.Err()
}

// certificates joins the certificate authorities into the bundle programs read.
func certificates(root *tree.Node) error {
	var bundle []byte
	dir := "/usr/share/ca-certificates/mozilla"
	d := root.Resolve(dir)
	if d == nil {
		return fmt.Errorf("join certificates: %s is not in the image", dir)
	}
	for _, c := range d.Children {
		pem, err := root.Read(path.Join(dir, c.Name))
		if err != nil {
			return err
		}
		bundle = append(append(bundle, bytes.TrimRight(pem, "\n")...), '\n')
	}
	return root.AddFile("/etc/ssl/certs/ca-certificates.crt", 0o644, tree.Bytes(bundle))
}

func kernelRelease(root *tree.Node) (string, error) {
	d := root.Resolve("/usr/lib/modules")
	if d == nil || len(d.Children) != 1 {
		return "", fmt.Errorf("find the kernel: the image must hold exactly one, in /usr/lib/modules")
	}
	return d.Children[0].Name, nil
}

// buildID names the inputs of this build.
func (b *Builder) buildID() string {
	h := sha256.New()
	fmt.Fprintf(h, "%+v\n%s\n%d\n", b.cfg, b.lockText, b.built.Unix())
	for _, name := range slices.Sorted(maps.Keys(b.bins)) {
		fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(b.bins[name]))
	}
	// The builder's tables are part of the joist program, which is in the image.
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// indexModules drops unwanted modules and lets depmod index the rest. The
// result is kept by the hash of all that goes in, because depmod must unpack
// every module to look into it.
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
		key, err := digestOf(mods, filepath.Base(b.box.Root), release)
		if err != nil {
			return err
		}
		dir, err := b.cached(ctx, "modules", key, func(tmp string) error { return b.depmod(ctx, mods, release, tmp) })
		if err != nil {
			return err
		}
		found, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range found {
			c, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				return err
			}
			if err := root.AddFile(path.Join(base, f.Name()), 0o644, tree.Bytes(c)); err != nil {
				return err
			}
		}
		return nil
	})
}

// depmod writes the indexes of the modules to the folder to.
func (b *Builder) depmod(ctx context.Context, mods *tree.Node, release, to string) error {
	dir := filepath.Join(b.work, "depmod", "lib", "modules", release)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := mods.WriteDir(dir); err != nil {
		return err
	}
	if _, err := b.inBox(ctx, "/usr/sbin/depmod", "-b", "/host/work/depmod", release); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(dir, "modules.*"))
	if err != nil {
		return err
	}
	for _, f := range found {
		if err := linkOrCopy(f, filepath.Join(to, filepath.Base(f))); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(b.work, "depmod"))
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

// keptModules takes the modules that policy drops out of the tree and returns
// the others as a tree of their own.
func keptModules(root *tree.Node, base string) (*tree.Node, error) {
	var drop []string
	mods := tree.New()
	err := root.Resolve(base).Walk(func(p string, n *tree.Node) error {
		if !n.Mode.IsRegular() {
			return nil
		}
		if policy.DropModule(strings.TrimPrefix(p, "/")) {
			drop = append(drop, p)
			return nil
		}
		return mods.AddFile(p, 0o644, n.Data)
	})
	for _, p := range drop {
		root.Remove(base + p)
	}
	return mods, err
}

// finish makes the tree what the node will see: /var and /boot move out, mount
// points appear.
func (b *Builder) finish(root *tree.Node, build []byte) error {
	for _, p := range []string{"/boot", "/usr/lib/firmware/intel-ucode", "/usr/lib/firmware/amd-ucode", "/media", "/srv", "/home", "/usr/games", "/usr/local/games"} {
		root.Remove(p)
	}
	v := root.Child("var")
	if v != nil {
		root.Remove("/var")
		if err := root.Set("/usr/share/factory/var", v); err != nil {
			return err
		}
	}
	for _, d := range []string{"/var", "/proc", "/sys", "/dev", "/run", "/tmp", "/mnt", "/boot", "/media", "/usr/lib/joist"} {
		if _, err := root.Dir(d); err != nil {
			return err
		}
	}
	root.Child("tmp").Mode = fs.ModeDir | fs.ModeSticky | 0o777
	if err := root.AddFile("/usr/lib/joist/build.json", 0o644, tree.Bytes(build)); err != nil {
		return err
	}
	return root.AddFile("/etc/os-release", 0o644, tree.Bytes(fmt.Sprintf(
		"NAME=\"Joist\"\nID=joist\nID_LIKE=debian\nVERSION_ID=%q\nVERSION=%q\nPRETTY_NAME=\"Joist %s\"\nBUILD_ID=%s\n", b.cfg.Version, b.cfg.Version, b.cfg.Version, b.id)))
}

// squash compresses the tree. The archive goes to sqfstar through a pipe: no
// file of the image ever lies on the building machine's disk uncompressed.
func (b *Builder) squash(ctx context.Context, root *tree.Node, name string) error {
	r, w := io.Pipe()
	fed := make(chan error, 1)
	go func() {
		err := root.WriteTar(w, b.built)
		w.CloseWithError(err)
		fed <- err
	}()
	epoch := strconv.FormatInt(b.built.Unix(), 10)
	_, err := b.box.Run(ctx, run.Cmd{
		Path: "/usr/bin/sqfstar",
		Args: []string{"-comp", "zstd", "-Xcompression-level", strconv.Itoa(b.cfg.Image.Compression), "-b", "131072",
			"-mkfs-time", epoch, "-all-time", epoch, "-root-mode", "0755", "-root-uid", "0", "-root-gid", "0", "-root-time", epoch,
			"-no-progress", "-quiet", "/host/work/" + name},
		Stdin: r, Dir: "/host/work",
	})
	r.CloseWithError(io.ErrClosedPipe)
	// Of the two, the tree's own error is the cause; a closed pipe is not.
	if e := <-fed; e != nil && !errors.Is(e, io.ErrClosedPipe) {
		return e
	}
	return explain(err)
}

// verity pads the image and appends its hash tree. The salt comes from the
// build id, so that the same inputs give the same bytes.
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
	size := (st.Size() + 4095) &^ 4095
	if err := f.Truncate(size); err != nil {
		return "", err
	}
	salt := sha256.Sum256([]byte("joist verity salt " + b.id))
	root, _, err = verity.Append(f, size, salt[:])
	return root, err
}

// writeFile makes a file of what f writes.
func writeFile(name string, f func(*os.File) error) error {
	w, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f(w), w.Close())
}

func describe(name string) (boot.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return boot.File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return boot.File{Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

func copyOut(root *tree.Node, from, to string) error {
	c, err := root.Read(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, c, 0o644)
}
