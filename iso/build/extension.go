package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"joist/image/boot"
	"joist/image/sbom"
	"joist/internal/finding"
	"joist/rootfs/policy"
	"joist/rootfs/tree"
	"joist/rootfs/unpack"
)

// OwnExtension is an extension that joist.toml makes up of packages.
type OwnExtension struct {
	Name     string   `toml:"name" json:"name"`
	Packages []string `toml:"packages" json:"packages"`
}

// extensionSet is the lock's set of an extension.
func extensionSet(name string) string { return "ext-" + name }

// lockedExtensions are those that the lock has packages of: all that the tree
// knows, so that choosing one changes no lock, and joist.toml's own.
func (c Config) lockedExtensions() []policy.Extension {
	out := policy.Extensions()
	for _, x := range c.Own {
		out = append(out, policy.Extension{Name: x.Name, Packages: x.Packages})
	}
	slices.SortFunc(out, func(a, b policy.Extension) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// extensions are those of the image, by name.
func (c Config) extensions() []policy.Extension {
	own := func(x policy.Extension) bool {
		return slices.ContainsFunc(c.Own, func(o OwnExtension) bool { return o.Name == x.Name })
	}
	return slices.DeleteFunc(c.lockedExtensions(), func(x policy.Extension) bool { return !own(x) && !slices.Contains(c.Extensions, x.Name) })
}

// extensionSets are the sets of the image's extensions.
func (b *Builder) extensionSets() []string {
	var out []string
	for _, x := range b.cfg.extensions() {
		out = append(out, extensionSet(x.Name))
	}
	return out
}

// checkExtensions finds what is wrong with the extensions of joist.toml.
func (c Config) checkExtensions(fl *finding.List, src source) {
	var known []string
	for _, x := range policy.Extensions() {
		known = append(known, x.Name)
	}
	seen := map[string]bool{}
	for i, name := range c.Extensions {
		if !slices.Contains(known, name) {
			src.stop(fl, "config-extension", at("extensions", i), fmt.Sprintf("choose among %q, or make one of packages with [[extension]] (docs/extensions.md)", known), "extensions: there is no extension %q", name)
		} else if seen[name] {
			src.stop(fl, "config-extension", at("extensions", i), "name each once", "extensions: %q is there twice", name)
		}
		seen[name] = true
	}
	seen = map[string]bool{}
	for i, x := range c.Own {
		key := at("extension", i)
		switch {
		case !boot.ExtensionName(x.Name):
			src.stop(fl, "config-extension", key+".name", "use small letters, digits and -, at most 32, a letter first", "extension: %q is no name of an extension", x.Name)
		case slices.Contains(known, x.Name):
			src.stop(fl, "config-extension", key+".name", fmt.Sprintf("give it another name, or take the one of that name: extensions = [%q]", x.Name), "extension: %q is the name of one that Joist brings", x.Name)
		case seen[x.Name]:
			src.stop(fl, "config-extension", key+".name", "give each a name of its own", "extension: a second one is called %q", x.Name)
		}
		seen[x.Name] = true
		if len(x.Packages) == 0 {
			src.stop(fl, "config-extension", key, `add packages = ["…"]`, "extension: %q has no packages", x.Name)
		}
		for j, p := range x.Packages {
			if !packageRE.MatchString(p) {
				src.stop(fl, "config-package", at(key+".packages", j), "use the name of a Debian package", "extension: %q is not a package name", p)
			}
		}
	}
	if n := len(c.extensions()); n > boot.MaxExtensions {
		src.stop(fl, "config-extension", "extensions", "join several of your own into one", "%d extensions are more than the %d that a system may have", n, boot.MaxExtensions)
	}
}

// extension is one of the image's under way.
type extension struct {
	policy.Extension
	root *tree.Node // what it lays over the system
}

// unpackExtensions makes the trees of the image's extensions.
func (b *Builder) unpackExtensions(ctx context.Context) error {
	for _, x := range b.cfg.extensions() {
		err := b.o.Sink.Do("unpack extension "+x.Name, func(advance func(n, of int64)) error {
			pkgs, err := b.open(extensionSet(x.Name))
			if err != nil {
				return err
			}
			accept := map[string]bool{}
			for _, a := range b.cfg.AcceptScripts {
				accept[a] = true
			}
			root, fl, err := unpack.Tree(ctx, pkgs, unpack.Options{Drop: true, Accept: accept, Advance: advance})
			if err != nil {
				return err
			}
			if err := unpack.Apply(root, pkgs); err != nil {
				return err
			}
			for _, check := range []func(*tree.Node) finding.List{unpack.Privileges, unpack.Accounts, unpack.UdevRules} {
				fl = append(fl, check(root)...)
			}
			b.say(fl)
			for p, text := range x.Files {
				if err := root.AddFile(p, 0o755, tree.Bytes(text)); err != nil {
					return err
				}
			}
			b.ext = append(b.ext, extension{x, root})
			return fl.Err()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// billExtensions lists the packages of the extensions.
func (b *Builder) billExtensions() []sbom.Package {
	var out []sbom.Package
	seen := map[string]bool{}
	for _, x := range b.ext {
		for _, p := range b.debianBill(extensionSet(x.Name), x.root.Read) {
			if !seen[p.Name] {
				out = append(out, p)
			}
			seen[p.Name] = true
		}
	}
	return out
}

// extend compresses the extensions and puts their list into the system, which
// is complete but for that.
func (b *Builder) extend(ctx context.Context, system *tree.Node) ([]boot.Extension, error) {
	var list []boot.Extension
	all := cloneFolders(system) // checks may change it
	for _, x := range b.ext {
		moveVar(x.root)
		var fl finding.List
		all = union(all, x.root, "/", &fl)
		for _, f := range unpack.PruneScripts(all) {
			x.root.Remove(f.Path)
			fl = append(fl, f)
		}
		fl = append(fl, unpack.CheckLibraries(all)...)
		fl = append(fl, unpack.DanglingLinks(all)...)
		b.say(fl)
		if err := fl.Err(); err != nil {
			return nil, fmt.Errorf("extension %s: %w", x.Name, err)
		}
		e := boot.Extension{Name: x.Name}
		err := b.o.Sink.Do("compress extension "+x.Name, func(advance func(n, of int64)) (err error) {
			local := extensionFile(x.Name)
			if err := b.squash(ctx, x.root, local, advance); err != nil {
				return err
			}
			if e.VerityRoot, err = b.verity(filepath.Join(b.work, local)); err != nil {
				return err
			}
			st, err := os.Stat(filepath.Join(b.work, local))
			if err == nil {
				e.Size = st.Size()
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, p := range b.packagesOf(extensionSet(x.Name)) {
			e.Packages = append(e.Packages, p.Name+" "+p.Version)
		}
		list = append(list, e)
	}
	if len(list) == 0 {
		return nil, nil
	}
	text, err := boot.EncodeExtensions(list)
	if err != nil {
		return nil, err
	}
	return list, system.AddFile(boot.ExtensionsFile, 0o644, tree.Bytes(text))
}

func extensionFile(name string) string { return "ext-" + name + ".sqfs" }

// appendExtensions puts the extensions behind the system and its hash tree.
func (b *Builder) appendExtensions(to string, list []boot.Extension) (err error) {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, x := range list {
		local := filepath.Join(b.work, extensionFile(x.Name))
		r, err := os.Open(local)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, r.Close(), os.Remove(local)); err != nil {
			return err
		}
	}
	return nil
}

// moveVar puts what a tree has below /var where a node takes it from.
func moveVar(root *tree.Node) {
	v := root.Child("var")
	if v == nil {
		return
	}
	root.Remove("/var")
	if d, err := root.Dir("/usr/share/factory"); err == nil {
		v.Name = "var"
		d.Put(v)
	}
}

// cloneFolders is the same tree with folders of its own.
func cloneFolders(n *tree.Node) *tree.Node {
	if !n.Mode.IsDir() {
		return n
	}
	out := *n
	out.Children = make([]*tree.Node, len(n.Children))
	for i, c := range n.Children {
		out.Children[i] = cloneFolders(c)
	}
	return &out
}

// union is what a node sees: upper over lower. Folders of both have the mode and
// owner of lower's. What is the same in both goes out of upper; what is not the
// same is a finding, because an extension adds and never replaces.
func union(lower, upper *tree.Node, dir string, fl *finding.List) *tree.Node {
	out := *lower
	out.Children = slices.Clone(lower.Children)
	for _, c := range slices.Clone(upper.Children) {
		p := path.Join(dir, c.Name)
		old := lower.Child(c.Name)
		switch {
		case old == nil:
			out.Put(c)
		case old.Mode.IsDir() && c.Mode.IsDir():
			c.Mode, c.UID, c.GID, c.Xattrs = old.Mode, old.UID, old.GID, old.Xattrs
			u := union(old, c, p, fl)
			i := slices.IndexFunc(out.Children, func(n *tree.Node) bool { return n.Name == c.Name })
			out.Children[i] = u
		case same(old, c):
			upper.Remove("/" + c.Name)
		default:
			fl.Stopf("extension-replaces", p, "leave the package out of the extension, or add it to the image itself (packages.add)", "it comes with %s and, different, with %s of an extension", origin(old), origin(c))
		}
	}
	return &out
}

func same(a, b *tree.Node) bool {
	if a.Mode != b.Mode || a.Target != b.Target || a.UID != b.UID || a.GID != b.GID {
		return false
	}
	if a.Mode&fs.ModeType != 0 || a.Data == nil || b.Data == nil {
		return a.Data == b.Data
	}
	x, xerr := content(a)
	y, yerr := content(b)
	return xerr == nil && yerr == nil && bytes.Equal(x, y)
}

func content(n *tree.Node) ([]byte, error) {
	r, err := n.Data.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
