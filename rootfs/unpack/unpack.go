// Package unpack turns Debian packages into a tree without installing them.
// Their files are merged in memory, what policy leaves behind is left behind,
// and for every maintainer script and trigger the table of package policy
// must say what stands in for it: a script the table does not know is a
// finding.
package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"joist/internal/finding"
	"joist/rootfs/deb"
	"joist/rootfs/policy"
	"joist/rootfs/tree"
)

// Package is one opened .deb.
type Package = *deb.Package

func name(p Package) string { return p.Control.Get("Package") }

// Options choose between an image and a tree of tools.
type Options struct {
	Drop     bool              // leave out what policy.Drop names
	Accept   map[string]bool   // "package:script", "package:unit:NAME" … that joist.toml accepts although no rule covers it
	MergeUsr bool              // make the links of the merged /usr, which base-files brings from Debian 13 on
	Advance  func(n, of int64) // told each package that was read; may be nil
}

// Tree unpacks the packages. base-files comes first, because it brings the
// links of the merged /usr; the others follow by name.
func Tree(ctx context.Context, pkgs []Package, o Options) (*tree.Node, finding.List, error) {
	pkgs = slices.Clone(pkgs)
	slices.SortFunc(pkgs, func(a, b Package) int {
		if x, y := name(a) != "base-files", name(b) != "base-files"; x != y {
			if y {
				return -1
			}
			return 1
		}
		return strings.Compare(name(a), name(b))
	})
	parts, err := readAll(ctx, pkgs, o)
	if err != nil {
		return nil, nil, err
	}
	root := tree.New()
	if o.MergeUsr {
		if err := mergeUsr(root); err != nil {
			return nil, nil, err
		}
	}
	var fl finding.List
	for _, part := range parts {
		if err := merge(root, part, &fl); err != nil {
			return nil, fl, fmt.Errorf("unpack %s: %w", part.name, err)
		}
		checkUnits(part, o, &fl)
	}
	for _, p := range pkgs {
		checkScripts(p, o, &fl)
	}
	return root, fl, nil
}

// mergeUsr makes what base-files of Debian 12 leaves to whoever installs it.
func mergeUsr(root *tree.Node) error {
	for _, d := range []string{"bin", "lib", "lib64", "sbin"} {
		if _, err := root.Dir("/usr/" + d); err != nil {
			return err
		}
		if err := root.AddLink("/"+d, "usr/"+d); err != nil {
			return err
		}
	}
	return nil
}

// part is one package's entries in the order of its archive.
type part struct {
	name    string
	entries []entry
	units   []string // of systemd, init and cron; filled for images only
}

type entry struct {
	path string
	node *tree.Node
}

func readAll(ctx context.Context, pkgs []Package, o Options) ([]part, error) {
	parts := make([]part, len(pkgs))
	var ready atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range pkgs {
		g.Go(func() (err error) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if parts[i], err = read(ctx, p, o); errors.Is(err, deb.ErrKept) {
				parts[i], err = read(ctx, p, o)
			}
			if err != nil {
				return fmt.Errorf("unpack %s: %w", name(p), err)
			}
			if n := ready.Add(1); o.Advance != nil {
				o.Advance(n, int64(len(pkgs)))
			}
			return nil
		})
	}
	return parts, g.Wait()
}

func read(ctx context.Context, p Package, o Options) (part, error) {
	out := part{name: name(p)}
	err := p.Walk(func(h *tar.Header, r io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := path.Clean("/" + h.Name)
		if at == "/" {
			return nil
		}
		if o.Drop {
			if u, ok := policy.UnitOf(at); ok && h.Typeflag != tar.TypeDir {
				out.units = append(out.units, u)
			}
			if _, drop := policy.Drop(at); drop {
				return nil
			}
			if _, drop := policy.Drop(at + "/"); drop && h.Typeflag == tar.TypeDir {
				return nil
			}
		}
		n, err := node(h, r)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		n.Name, n.Origin = path.Base(at), name(p)
		out.entries = append(out.entries, entry{at, n})
		return nil
	})
	return out, err
}

func node(h *tar.Header, r io.Reader) (*tree.Node, error) {
	n := &tree.Node{Mode: h.FileInfo().Mode(), UID: h.Uid, GID: h.Gid}
	switch h.Typeflag {
	case tar.TypeDir:
	case tar.TypeSymlink:
		n.Target = h.Linkname
	case tar.TypeLink:
		n.Mode &= fs.ModePerm // a regular file; the rest comes from its first name
		n.LinkTo = path.Clean("/" + h.Linkname)
	case tar.TypeReg:
		b := bytes.NewBuffer(make([]byte, 0, h.Size+bytes.MinRead))
		if _, err := io.Copy(b, r); err != nil {
			return nil, err
		}
		n.Data = tree.Bytes(b.Bytes())
	default:
		return nil, fmt.Errorf("entry type %q has no place in a package", h.Typeflag)
	}
	for k, v := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if n.Xattrs == nil {
				n.Xattrs = map[string]string{}
			}
			n.Xattrs[attr] = v
		}
	}
	return n, nil
}

func merge(root *tree.Node, p part, fl *finding.List) error {
	for _, e := range p.entries {
		d, err := root.Dir(path.Dir(e.path))
		if err != nil {
			return err
		}
		old := d.Child(path.Base(e.path))
		if old != nil && e.node.Mode.IsDir() {
			// A directory of the merged /usr may be a link here: /lib → usr/lib.
			if old.Mode&fs.ModeSymlink != 0 {
				if t := root.Resolve(e.path); t != nil && t.Mode.IsDir() {
					continue
				}
			}
			if old.Mode.IsDir() {
				continue
			}
		}
		if e.node.LinkTo != "" {
			t := root.Resolve(e.node.LinkTo)
			if t == nil || !t.Mode.IsRegular() {
				return fmt.Errorf("%s is a hard link to %s, which is not in the package", e.path, e.node.LinkTo)
			}
			// One inode: mode, owner and attributes are shared too.
			e.node.Data, e.node.Mode, e.node.UID, e.node.GID, e.node.Xattrs = t.Data, t.Mode, t.UID, t.GID, maps.Clone(t.Xattrs)
		}
		if old != nil && !same(old, e.node) {
			fl.Stopf("file-in-two-packages", e.path, "exclude one of the packages or add a rule to rootfs/policy",
				"the file comes with %s and, different, with %s", old.Origin, e.node.Origin)
		}
		d.Put(e.node)
	}
	return nil
}

func same(a, b *tree.Node) bool {
	if a.Mode != b.Mode || a.Target != b.Target {
		return false
	}
	x, xok := a.Data.(tree.Bytes)
	y, yok := b.Data.(tree.Bytes)
	return xok == yok && bytes.Equal(x, y)
}

// Apply does what the rules put in place of the packages' scripts.
func Apply(root *tree.Node, pkgs []Package) error {
	for _, p := range pkgs {
		for _, a := range actions(p) {
			if err := act(root, a); err != nil {
				return fmt.Errorf("replace scripts of %s: %s: %w", name(p), a.Path, err)
			}
		}
	}
	return nil
}

// actions are those of the one rule a package has, whichever of its scripts
// leads to it.
func actions(p Package) []policy.Action {
	for _, s := range slices.Sorted(maps.Keys(p.Scripts)) {
		if r, ok := policy.ScriptRule(name(p), s); ok && len(r.Do) > 0 {
			return r.Do
		}
	}
	return nil
}

func act(root *tree.Node, a policy.Action) error {
	n := &tree.Node{Mode: a.Perm, UID: a.UID, GID: a.GID, Origin: "joist"}
	switch a.Op {
	case policy.Link:
		return root.AddLink(a.Path, a.Arg)
	case policy.Copy:
		src := root.Resolve(a.Arg)
		if src == nil {
			return fmt.Errorf("its source %s is not in the tree: %w", a.Arg, fs.ErrNotExist)
		}
		n.Data = src.Data
	case policy.Write:
		n.Data = tree.Bytes(a.Arg)
	case policy.Dir:
		n.Mode |= fs.ModeDir
	case policy.Perm:
		old := root.Resolve(a.Path)
		if old == nil {
			return fs.ErrNotExist
		}
		old.Mode, old.UID, old.GID = old.Mode.Type()|a.Perm, a.UID, a.GID
		return nil
	default:
		return fmt.Errorf("action %d is unknown", a.Op)
	}
	return root.Set(a.Path, n)
}
