package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"joist/internal/finding"
	"joist/rootfs/deb"
	"joist/rootfs/lock"
	"joist/rootfs/policy"
	"joist/rootfs/tree"
	"joist/rootfs/unpack"
)

// Explanation says why a package is in the image and what it weighs.
type Explanation struct {
	Package lock.Package
	Wanted  bool     // by name, in rootfs/policy or joist.toml
	Why     []string // otherwise: the chain of packages that brought it, outermost first
	Needers []string // packages of the image that depend on it
	Own     Weight
	Brings  []Brought // what goes with it when it goes, without itself
}

// Weight is what a package has in the image, before compression.
type Weight struct {
	Files int
	Bytes int64
}

// Brought is a package that is in the image for another one only.
type Brought struct {
	Name string
	Weight
}

// Explain looks a package of the image up.
func (b *Builder) Explain(ctx context.Context, name string) (Explanation, error) {
	e, err := b.explain(ctx, name)
	return e, explainFull(err, b.o.Out, b.cache)
}

func (b *Builder) explain(ctx context.Context, name string) (e Explanation, err error) {
	if err := b.loadLock(ctx); err != nil {
		return e, err
	}
	if err := b.inImage(name); err != nil {
		return e, err
	}
	e.Package, _ = b.lock.Package(name)
	e.Why = e.Package.Why
	wants, _ := b.wants()
	e.Wanted = slices.Contains(wants, name)
	if err := b.prepare(ctx, setImage); err != nil {
		return e, err
	}
	pkgs, err := b.open(setImage)
	if err != nil {
		return e, err
	}
	goes, err := b.without(pkgs, name)
	if err != nil {
		return e, err
	}
	if e.Needers, err = needers(pkgs, name); err != nil {
		return e, err
	}
	weights, err := b.weights(ctx)
	if err != nil {
		return e, err
	}
	e.Own = weights[name]
	for _, g := range goes {
		e.Brings = append(e.Brings, Brought{g, weights[g]})
	}
	slices.SortFunc(e.Brings, func(x, y Brought) int { return int(y.Bytes - x.Bytes) })
	return e, nil
}

// inImage tells what is known of a package that is not.
func (b *Builder) inImage(name string) error {
	p, ok := b.lock.Package(name)
	if ok && b.belongs(p, setImage) {
		return nil
	}
	var fl finding.List
	_, excluded := b.cfg.wants()
	switch why, out := excluded[name]; {
	case out:
		fl.Stopf("package-not-in", name, "", "the package stays out of the image: %s", why)
	case ok:
		fl.Stopf("package-not-in", name, "", "the package is not in the image; it belongs to: %s", strings.Join(p.Sets, ", "))
	default:
		fl.Stopf("package-not-in", name, "check the name, or add it to packages.add in joist.toml", "no package of that name is in joist.lock")
	}
	return fl.Err()
}

// wants are the packages that the image has not because of others, and what
// stays out.
func (b *Builder) wants() (wants []string, excluded map[string]string) {
	wants, excluded = b.cfg.wants()
	return append(wants, policy.Firmware(b.cfg.Image.Firmware)...), excluded
}

// records are the packages as an index of their own: the one from which the
// lock could be resolved again.
func records(pkgs []unpack.Package) []deb.Record {
	out := make([]deb.Record, len(pkgs))
	for i, p := range pkgs {
		c := p.Control
		out[i] = deb.Record{Name: c.Get("Package"), Version: c.Get("Version"), Arch: c.Get("Architecture"), PreDepends: c.Get("Pre-Depends"), Depends: c.Get("Depends"), Provides: c.Get("Provides")}
	}
	return out
}

// without returns the packages that nothing would need if the named one were
// not there, sorted.
func (b *Builder) without(pkgs []unpack.Package, name string) ([]string, error) {
	ix, err := deb.NewIndex(records(pkgs))
	if err != nil {
		return nil, err
	}
	wants, excluded := b.wants()
	left := map[string]bool{}
	excluded[name] = "it is being explained"
	rest, _ := deb.Closure(ix, slices.DeleteFunc(wants, func(w string) bool { return w == name }), excluded)
	for _, p := range rest {
		left[p.Name] = true
	}
	var goes []string
	for _, p := range b.packagesOf(setImage) {
		if p.Name != name && !left[p.Name] {
			goes = append(goes, p.Name)
		}
	}
	return goes, nil
}

// needers are the packages that name the given one, or something that it
// provides, among what they depend on.
func needers(pkgs []unpack.Package, name string) ([]string, error) {
	names := map[string]bool{name: true}
	for _, p := range pkgs {
		if p.Control.Get("Package") != name {
			continue
		}
		provides, err := deb.ParseRelations(p.Control.Get("Provides"))
		if err != nil {
			return nil, err
		}
		for _, c := range provides {
			for _, r := range c {
				names[r.Name] = true
			}
		}
	}
	var out []string
	for _, p := range pkgs {
		clauses, err := deb.ParseRelations(p.Control.Get("Pre-Depends") + ", " + p.Control.Get("Depends"))
		if err != nil {
			return nil, fmt.Errorf("dependencies of %s: %w", p.Control.Get("Package"), err)
		}
		if slices.ContainsFunc(clauses, func(c deb.Clause) bool {
			return slices.ContainsFunc(c, func(r deb.Relation) bool { return names[r.Name] })
		}) {
			out = append(out, p.Control.Get("Package"))
		}
	}
	slices.Sort(out)
	return out, nil
}

// weights is what each package has in the image.
func (b *Builder) weights(ctx context.Context) (map[string]Weight, error) {
	root, err := b.packages(ctx, nil)
	if err != nil {
		return nil, err
	}
	release, err := kernelRelease(root)
	if err != nil {
		return nil, err
	}
	base := "/usr/lib/modules/" + release
	kernel := root.Resolve(base).Origin
	if err := b.indexModules(ctx, root); err != nil {
		return nil, err
	}
	if err := b.chooseFirmware(root); err != nil {
		return nil, err
	}
	if err := b.finish(root, nil); err != nil {
		return nil, err
	}
	out := map[string]Weight{}
	err = root.Walk(func(p string, n *tree.Node) error {
		from := n.Origin
		if strings.HasPrefix(p, base+"/") {
			from = kernel // its modules, unpacked and indexed by us
		}
		w := out[from]
		w.Files++
		if n.Data != nil && n.LinkTo == "" {
			w.Bytes += n.Data.Size()
		}
		out[from] = w
		return nil
	})
	return out, err
}

// Write shows the explanation to a person.
func (e Explanation) Write(w io.Writer) error {
	p := e.Package
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s (%s, %s)\n", p.Name, p.Version, p.Suite, p.Component)
	if e.Wanted {
		fmt.Fprintln(&b, "  wanted by name (docs/packages.md, or packages.add and image.firmware in joist.toml)")
	} else if len(e.Why) > 0 {
		fmt.Fprintf(&b, "  brought by %s\n", strings.Join(e.Why, " → "))
	}
	if len(e.Needers) > 0 {
		fmt.Fprintf(&b, "  %d packages depend on it: %s\n", len(e.Needers), strings.Join(e.Needers, ", "))
	}
	fmt.Fprintf(&b, "  in the image: %d files, %s before compression (the .deb: %s)\n", e.Own.Files, mega(e.Own.Bytes), mega(p.Size))
	total := e.Own.Bytes
	for _, x := range e.Brings {
		total += x.Bytes
	}
	if len(e.Brings) > 0 {
		fmt.Fprintf(&b, "  without it %s would be saved, because nothing else needs:\n", mega(total))
	}
	for _, x := range e.Brings {
		fmt.Fprintf(&b, "    %10s  %s\n", mega(x.Bytes), x.Name)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func mega(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// DiffLock writes what joist.lock has that an older one has not, and the other
// way round.
func (b *Builder) DiffLock(w io.Writer, old string) error {
	text, err := os.ReadFile(old)
	if err != nil {
		return fmt.Errorf("read the older lock: %w", err)
	}
	was, err := lock.Decode(old, text)
	if err != nil {
		return err
	}
	if text, err = os.ReadFile(b.lockFile()); err != nil {
		return fmt.Errorf("read joist.lock: %w", err)
	}
	is, err := lock.Decode("joist.lock", text)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, diffLocks(was, is))
	return err
}

func diffLocks(was, is lock.Lock) string {
	older, newer := map[string]lock.Package{}, map[string]lock.Package{}
	for _, p := range was.Packages {
		older[p.Name] = p
	}
	for _, p := range is.Packages {
		newer[p.Name] = p
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(merged(older, newer))) {
		x, had := older[name]
		y, has := newer[name]
		sets := strings.Join(y.Sets, ", ")
		switch {
		case !has:
			fmt.Fprintf(&b, "- %s %s (%s)\n", name, x.Version, strings.Join(x.Sets, ", "))
		case !had:
			fmt.Fprintf(&b, "+ %s %s from %s (%s), %s\n", name, y.Version, y.Suite, sets, mega(y.Size))
		case x.SHA256 != y.SHA256:
			fmt.Fprintf(&b, "~ %s %s → %s from %s (%s)\n", name, x.Version, y.Version, y.Suite, sets)
		case !slices.Equal(x.Sets, y.Sets):
			fmt.Fprintf(&b, "~ %s %s: was for %s, is for %s\n", name, y.Version, strings.Join(x.Sets, ", "), sets)
		}
	}
	if b.Len() == 0 {
		return "the same packages\n"
	}
	return b.String()
}

func merged(a, b map[string]lock.Package) map[string]lock.Package {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// PruneCache brings the cache down to what recent builds used, or to nothing.
// It returns the bytes before and after.
func PruneCache(ctx context.Context, all bool) (before, after int64, err error) {
	b := &Builder{o: Options{Say: func(finding.List) {}}}
	if b.cache, err = cacheDir(); err != nil {
		return 0, 0, err
	}
	if before, err = sizeBelow(b.cache); err != nil {
		return before, 0, err
	}
	err = b.pruneKinds(ctx, all)
	after, e := sizeBelow(b.cache)
	return before, after, errors.Join(err, e)
}
