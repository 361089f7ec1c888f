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
	"os"
	"path"
	"path/filepath"
	"time"

	"joist/image/boot"
	"joist/internal/finding"
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
	Bill                   []byte            // of materials, SPDX
	Signatures             map[string][]byte // of modules that were signed here
}

// system builds the three files from the packages' tree.
func (b *Builder) system(ctx context.Context, root *tree.Node) (System, error) {
	s := b.inWork()
	release, err := kernelRelease(root)
	if err != nil {
		return s, err
	}
	if b.moduleKey != nil {
		s.Signatures = b.moduleKey.made
	}
	s.Manifest = boot.Manifest{BuildID: b.id, Version: b.cfg.Version, Built: b.built, Kernel: release}
	build, err := json.Marshal(map[string]string{"version": b.cfg.Version, "build_id": b.id, "built": b.built.Format(time.RFC3339)})
	if err != nil {
		return s, err
	}
	if err := copyOut(root, "/boot/vmlinuz-"+release, s.Kernel); err != nil {
		return s, fmt.Errorf("take the kernel: %w", err)
	}
	var parts initramfs.Parts
	err = b.o.Sink.Do("pack initrd", func(func(n, of int64)) error {
		return writeFile(s.Initrd, func(f *os.File) (err error) {
			parts, err = initramfs.Write(f, initramfs.Spec{System: root, Kernel: release, Init: b.bins["joist-init"], Build: build})
			return err
		})
	})
	if err != nil {
		return s, err
	}
	b.sayFirmware(parts)
	if s.Bill, err = b.bill(root); err != nil {
		return s, err
	}
	if err := root.AddFile(billFile, 0o644, tree.Bytes(s.Bill)); err != nil {
		return s, err
	}
	if err := b.complete(root, build); err != nil {
		return s, err
	}
	if s.Manifest.Extensions, err = b.extend(ctx, root); err != nil {
		return s, err
	}
	err = b.o.Sink.Do("compress system", func(advance func(n, of int64)) error { return b.squash(ctx, root, boot.FileSystem, advance) })
	if err != nil {
		return s, err
	}
	err = b.o.Sink.Do("hash system", func(func(n, of int64)) (err error) {
		if s.Manifest.VerityRoot, err = b.verity(s.Squash); err != nil {
			return err
		}
		if err := b.appendExtensions(s.Squash, s.Manifest.Extensions); err != nil {
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
func (b *Builder) packages(ctx context.Context, advance func(n, of int64)) (*tree.Node, error) {
	pkgs, err := b.open(setImage)
	if err != nil {
		return nil, err
	}
	accept := map[string]bool{}
	for _, a := range b.cfg.AcceptScripts {
		accept[a] = true
	}
	root, fl, err := unpack.Tree(ctx, pkgs, unpack.Options{Drop: true, Accept: accept, Advance: advance})
	if err != nil {
		return nil, err
	}
	if err := unpack.Apply(root, pkgs); err != nil {
		return nil, err
	}
	for _, check := range []func(*tree.Node) finding.List{unpack.PruneScripts, unpack.Privileges, unpack.Accounts, unpack.UdevRules} {
		fl = append(fl, check(root)...)
	}
	b.say(fl)
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
	if err := certificates(root, b.extra.certificates); err != nil {
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
	fl, err := b.customise(root)
	if err != nil {
		return err
	}
	if err := b.finish(root, build); err != nil {
		return err
	}
	fl = append(fl, unpack.CheckLibraries(root)...)
	fl = append(fl, unpack.DanglingLinks(root)...)
	b.say(fl)
	return fl.Err()
}

// certificateFile holds all certificate authorities; Go's programs look there.
const certificateFile = "/etc/ssl/certs/ca-certificates.crt"

// certificates joins the certificate authorities into the bundle programs read.
func certificates(root *tree.Node, own []certificate) error {
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
	for _, c := range own {
		bundle = append(bundle, c.pem...)
	}
	return root.AddFile(certificateFile, 0o644, tree.Bytes(bundle))
}

func kernelRelease(root *tree.Node) (string, error) {
	d := root.Resolve("/usr/lib/modules")
	if d == nil || len(d.Children) != 1 {
		return "", fmt.Errorf("find the kernel: the image must hold exactly one, in /usr/lib/modules")
	}
	return d.Children[0].Name, nil
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
