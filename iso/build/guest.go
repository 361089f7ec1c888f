package build

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"joist/rootfs/deb"
	"joist/rootfs/lock"
	"joist/rootfs/policy"
)

// guestRelease is a release of Debian that a template is made of.
type guestRelease struct {
	kind     Kind
	name     string   // the template's, without version: "debian-13"
	lock     string   // file beside go.mod
	suites   []string // nil: those of joist.toml
	mergeUsr bool     // Debian merges /usr in its packages from 13 on
}

// guestReleases are all of them. The first is of the release that the image is
// made of and shares its lock; each other has one of its own, so that neither
// changes because of the other.
func guestReleases() []guestRelease {
	return []guestRelease{
		{kind: Template, name: "debian-13", lock: poolLock},
		{kind: TemplateOld, name: "debian-12", lock: "template-debian-12.lock", suites: []string{"bookworm", "bookworm-updates", "bookworm-security"}, mergeUsr: true},
	}
}

// guestOf is the release that a kind is made of; the stable one for all that
// are no template.
func guestOf(k Kind) guestRelease {
	all := guestReleases()
	if i := slices.IndexFunc(all, func(g guestRelease) bool { return g.kind == k }); i >= 0 {
		return all[i]
	}
	return all[0]
}

// isTemplate reports whether a kind is a template.
func isTemplate(k Kind) bool { return k == Template || k == TemplateOld }

// forGuest is the builder of a template: this one, or for a release with a lock
// of its own one beside it, whose packages and sandbox are of that lock.
func (b *Builder) forGuest(k Kind) *Builder {
	g := guestOf(k)
	if g.suites == nil {
		return b
	}
	if b.older == nil {
		c := *b
		c.guest, c.cfg.Suites = g, g.suites
		c.lock, c.lockText, c.files = lock.Lock{}, nil, nil
		c.work = filepath.Join(b.work, g.name)
		b.older = &c
	}
	return b.older
}

// lockGuest reads or resolves the lock of a release that has its own.
func (b *Builder) lockGuest(ctx context.Context) error {
	if err := os.MkdirAll(b.work, 0o755); err != nil {
		return err
	}
	if err := b.loadLock(ctx); err != nil {
		return err
	}
	if b.o.Again != nil {
		return b.sameInputs(ctx, false)
	}
	return nil
}

// wants returns the packages of a template beside the essential ones.
func (g guestRelease) wants() []string {
	if g.mergeUsr {
		return policy.TemplateOld()
	}
	return policy.Template()
}

// resolveSets resolves what the lock of a template alone holds.
func (g guestRelease) resolveSets(ix *deb.Index, add func(set string, wants []string, out map[string]string) error) error {
	if err := add(setGuest, append(g.wants(), essential(ix)...), nil); err != nil {
		return err
	}
	return add(setTools, policy.TemplateTools(), policy.TemplateToolsExcluded())
}

// essential are the packages that Debian takes for granted.
func essential(ix *deb.Index) []string {
	return ix.Select(func(r *deb.Record) bool { return r.Essential })
}
