package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
)

// Kind is a kind of artefact.
type Kind string

// The kinds. Templates are of their own; the others wrap the same system.
const (
	ISO         Kind = "iso"
	Netboot     Kind = "netboot"
	Disk        Kind = "disk"
	Update      Kind = "update"
	Template    Kind = "template"
	TemplateOld Kind = "template-debian-12"
)

// wrapper makes one kind of artefact.
type wrapper struct {
	kind Kind
	step string
	// files puts the artefact into the work folder and returns its files: name
	// in the output folder → name in the work folder.
	files func(b *Builder, ctx context.Context, s System) (map[string]string, error)
}

// wrappers are all kinds that wrap a system, in the order in which they are
// made.
var wrappers = []wrapper{
	{ISO, "write medium", (*Builder).isoFiles},
	{Netboot, "write netboot folder", (*Builder).netbootFolder},
	{Disk, "write disk images", (*Builder).diskFiles},
	{Update, "write update bundle", (*Builder).updateFiles},
}

// Kinds are those that "all" means, in the order in which they are made. The
// template of an older release is made when it is asked for by name.
func Kinds() []Kind {
	var out []Kind
	for _, w := range wrappers {
		out = append(out, w.kind)
	}
	return append(out, Template)
}

// holdsAnswer says whether an answer can be put inside a kind.
func holdsAnswer(k Kind) bool { return k == ISO || k == Disk }

// artefactPath is the artefact's name in the output folder; of several, the
// first one's.
func (b *Builder) artefactPath(k Kind) string {
	switch k {
	case Netboot:
		return netbootDir
	case Disk:
		return b.diskPaths()[0]
	case Template, TemplateOld:
		return b.forGuest(k).templateName() + templateSuffix
	}
	return b.base() + "." + string(k)
}

// papers are the names of the manifest and the bill of materials that account
// for an artefact.
func (b *Builder) papers(k Kind) (manifest, bill string) {
	base := b.base()
	switch k {
	case Netboot:
		return netbootDir + "/manifest.json", netbootDir + "/sbom.spdx.json"
	case Template, TemplateOld:
		base = b.forGuest(k).templateName()
	}
	return base + manifestSuffix, base + billSuffix
}

// Make builds artefacts and returns their paths. What they share is made once,
// and all of them are published together: one that fails leaves the former ones
// as they were.
func (b *Builder) Make(ctx context.Context, kinds ...Kind) ([]string, error) {
	for _, k := range kinds {
		if !slices.Contains(append(Kinds(), TemplateOld), k) {
			return nil, fmt.Errorf("build %q: there is no such kind of artefact", k)
		}
	}
	if err := b.make(ctx, kinds); err != nil {
		return nil, explainFull(err, b.o.Out, b.cache)
	}
	var out []string
	for _, k := range kinds {
		out = append(out, filepath.Join(b.o.Out, b.artefactPath(k)))
		if k == Disk {
			out = append(out, filepath.Join(b.o.Out, b.diskPaths()[1]))
		}
	}
	return out, nil
}

func (b *Builder) make(ctx context.Context, kinds []Kind) (err error) {
	if slices.ContainsFunc(kinds, holdsAnswer) {
		if b.private, err = b.inside(); err != nil {
			return err
		}
	}
	if slices.Contains(kinds, Update) {
		b.warnUnsigned()
	}
	if err := b.begin(ctx, kinds); err != nil {
		return err
	}
	r := release{kinds: map[Kind]map[string]string{}, bills: map[Kind][]byte{}}
	todo, err := b.changed(kinds)
	if err != nil || len(todo) == 0 {
		return err
	}
	if slices.ContainsFunc(todo, wraps) {
		if r.system, err = b.parts(ctx); err != nil {
			return err
		}
	}
	for _, w := range wrappers {
		if !slices.Contains(todo, w.kind) {
			continue
		}
		err := b.o.Sink.Do(w.step, func(func(n, of int64)) (err error) {
			r.kinds[w.kind], err = w.files(b, ctx, r.system)
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, k := range todo {
		if wraps(k) {
			continue
		}
		if r.kinds[k], r.bills[k], err = b.forGuest(k).template(ctx, b.work); err != nil {
			return err
		}
	}
	if err := b.o.Sink.Do("publish", func(func(n, of int64)) error { return b.release(r) }); err != nil {
		return err
	}
	b.boundCache(ctx)
	return nil
}

// wraps reports whether artefacts of a kind wrap a system.
func wraps(k Kind) bool { return !isTemplate(k) }

// changed leaves out the kinds that the output folder holds already.
func (b *Builder) changed(kinds []Kind) (todo []Kind, err error) {
	for _, k := range kinds {
		same := false
		if !holdsAnswer(k) || len(b.private) == 0 { // of an answer's secrets no cache keeps a trace
			if same, err = b.unchanged(k); err != nil {
				return nil, err
			}
		}
		if !same && !slices.Contains(todo, k) {
			todo = append(todo, k)
		}
	}
	return todo, nil
}

// release is what a build publishes.
type release struct {
	system System
	bills  map[Kind][]byte            // of templates
	kinds  map[Kind]map[string]string // files of each: name in the output folder → in the work folder
}

// release publishes artefacts with what accounts for them, and notes the
// results for the next build.
func (b *Builder) release(r release) error {
	all := map[string]string{}
	for k, files := range r.kinds {
		papers, err := b.accountFor(k, r)
		if err != nil {
			return err
		}
		maps.Copy(files, papers)
		maps.Copy(all, files)
	}
	sums, err := b.out.publish(all, b.key)
	if err != nil || b.o.Again != nil {
		return err
	}
	for k, files := range r.kinds {
		if holdsAnswer(k) && len(b.private) > 0 {
			continue
		}
		of := map[string]string{}
		for name := range files {
			of[name] = sums[name]
		}
		b.cacheFailed("results", b.noteResult(k, of))
	}
	return nil
}

// accountFor writes manifest and bill of an artefact into the work folder.
func (b *Builder) accountFor(k Kind, r release) (map[string]string, error) {
	manifest, bill := b.papers(k)
	text, materials := []byte(nil), r.system.Bill
	var err error
	if isTemplate(k) {
		materials = r.bills[k]
		text, err = b.forGuest(k).templateManifest()
	} else {
		text, err = b.manifest(r.system, b.signaturesOf(manifest))
	}
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for name, content := range map[string][]byte{manifest: text, bill: materials} {
		files[name] = "release-" + string(k) + "-" + filepath.Base(name)
		if err := b.saveInWork(files[name], content); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// errNoKind: no artefact was asked for.
var errNoKind = errors.New("name at least one kind of artefact")

// templateNamed is the kind that a word behind "template" means.
func templateNamed(word string) (Kind, bool) {
	switch word {
	case "debian", "debian-13":
		return Template, true
	case "debian-12":
		return TemplateOld, true
	}
	return "", false
}

// ParseKinds reads what stands behind `joist build`: kinds, "all", and behind
// "template" the names of some.
func ParseKinds(words []string) ([]Kind, error) {
	var out []Kind
	behind := false // "template" or a template's name
	for i, w := range words {
		k := Kind(w)
		named, ok := templateNamed(w)
		switch {
		case behind && ok:
			if words[i-1] == string(Template) {
				out = out[:len(out)-1] // it was not said which yet
			}
			out = append(out, named)
			continue
		case w == "all":
			out = append(out, Kinds()...)
		case slices.Contains(Kinds(), k):
			out = append(out, k)
		case behind:
			return nil, fmt.Errorf("there is no template %q, only debian (13) and debian-12", w)
		default:
			return nil, fmt.Errorf("there is no artefact %q", w)
		}
		behind = k == Template
	}
	if len(out) == 0 {
		return nil, errNoKind
	}
	var once []Kind
	for _, k := range out {
		if !slices.Contains(once, k) {
			once = append(once, k)
		}
	}
	return once, nil
}
