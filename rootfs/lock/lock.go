// Package lock is joist.lock: the exact Debian packages an image is made of.
// The file is committed, so that its text is stable (one form for one
// content) and says nothing about the machine or mirror it was resolved from:
// a package is known by its hash and its path below an archive's base.
package lock

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Format is the version of the file format this package reads and writes.
const Format = 1

// Package is one Debian binary package.
type Package struct {
	Name      string   `toml:"name"`
	Version   string   `toml:"version"`
	Arch      string   `toml:"arch"`      // amd64 or all
	Size      int64    `toml:"size"`      // of the .deb, bytes
	SHA256    string   `toml:"sha256"`    // of the .deb, lower case hex
	Path      string   `toml:"path"`      // below the archive's base: pool/main/…
	Suite     string   `toml:"suite"`     // trixie, trixie-updates, trixie-security
	Component string   `toml:"component"` // main, contrib, non-free-firmware
	Sets      []string `toml:"sets"`      // who needs it (image, sandbox, …), empty when the lock has one set only
	Why       []string `toml:"why"`       // who pulled it in, outermost first; empty when it was asked for by name
}

// Lock is the whole file.
type Lock struct {
	Config   string   // Digest of the configuration it was resolved from
	Suites   []string // in the order they were searched
	Packages []Package
}

// Digest names the configuration a lock was resolved from.
func Digest(config []byte) string {
	sum := sha256.Sum256(config)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Package returns the package called name.
func (l Lock) Package(name string) (Package, bool) {
	for _, p := range l.Packages {
		if p.Name == name {
			return p, true
		}
	}
	return Package{}, false
}

// Set returns the packages that belong to a set, in the lock's order.
func (l Lock) Set(name string) []Package {
	var out []Package
	for _, p := range l.Packages {
		if slices.Contains(p.Sets, name) {
			out = append(out, p)
		}
	}
	return out
}

// Join makes one lock of several that were resolved from the same suites,
// each becoming a set under its key. Where sets share a package its Why is
// that of the set that comes first by name. Sets that disagree on a version
// are an error: they were not resolved from one state of the archive.
func Join(sets map[string]Lock) (Lock, error) {
	var out Lock
	at := map[string]int{}
	names := make([]string, 0, len(sets))
	for name := range sets {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		l := sets[name]
		if i == 0 {
			out.Suites, out.Config = slices.Clone(l.Suites), l.Config
		}
		if !slices.Equal(out.Suites, l.Suites) || out.Config != l.Config {
			return Lock{}, fmt.Errorf("join lock set %q: suites or configuration differ from set %q", name, names[0])
		}
		for _, p := range l.Packages {
			j, ok := at[p.Name]
			if !ok {
				p.Sets = []string{name}
				at[p.Name] = len(out.Packages)
				out.Packages = append(out.Packages, p)
				continue
			}
			if have := out.Packages[j]; have.SHA256 != p.SHA256 {
				return Lock{}, fmt.Errorf("join lock set %q: package %s is %s here and %s in set %q",
					name, p.Name, p.Version, have.Version, have.Sets[0])
			}
			out.Packages[j].Sets = append(out.Packages[j].Sets, name)
		}
	}
	sortPackages(out.Packages)
	return out, nil
}

func sortPackages(ps []Package) {
	slices.SortFunc(ps, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
}

// The character sets of Debian policy 5.6.1 (names) and 5.6.12 (versions);
// suites, components and sets are single words of the same letters.
var (
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	versionForm = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~:-]*$`)
	wordForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	hashForm    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	digestForm  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	pathForm    = regexp.MustCompile(`^pool/[A-Za-z0-9+.~_%:/-]+\.deb$`)
)

// maxSize bounds one .deb. The largest in Debian is below 2 GiB.
const maxSize = 4 << 30

// Validate refuses a package that could lead a download or a file name astray.
func (p Package) Validate() error {
	bad := func(field, value string) error {
		return fmt.Errorf("check locked package %q: %s %q is not valid", p.Name, field, value)
	}
	switch {
	case !nameForm.MatchString(p.Name):
		return bad("name", p.Name)
	case !versionForm.MatchString(p.Version):
		return bad("version", p.Version)
	case p.Arch != "amd64" && p.Arch != "all":
		return bad("arch", p.Arch)
	case p.Size <= 0 || p.Size > maxSize:
		return bad("size", fmt.Sprint(p.Size))
	case !hashForm.MatchString(p.SHA256):
		return bad("sha256", p.SHA256)
	case !pathForm.MatchString(p.Path) || path.Clean(p.Path) != p.Path:
		return bad("path", p.Path)
	case !wordForm.MatchString(p.Suite):
		return bad("suite", p.Suite)
	case !wordForm.MatchString(p.Component):
		return bad("component", p.Component)
	}
	for _, s := range p.Sets {
		if !wordForm.MatchString(s) {
			return bad("set", s)
		}
	}
	for _, w := range p.Why {
		if !nameForm.MatchString(w) {
			return bad("why", w)
		}
	}
	return nil
}

// Validate checks the lock as a whole: every package, no name twice.
func (l Lock) Validate() error {
	if l.Config != "" && !digestForm.MatchString(l.Config) {
		return fmt.Errorf("check lock: config %q is not a sha256 digest", l.Config)
	}
	for _, s := range l.Suites {
		if !wordForm.MatchString(s) {
			return fmt.Errorf("check lock: suite %q is not valid", s)
		}
	}
	seen := map[string]bool{}
	for _, p := range l.Packages {
		if err := p.Validate(); err != nil {
			return err
		}
		if seen[p.Name] {
			return fmt.Errorf("check lock: package %q is listed twice", p.Name)
		}
		seen[p.Name] = true
		if !slices.Contains(l.Suites, p.Suite) {
			return fmt.Errorf("check lock: package %q is from suite %q, which the lock does not list", p.Name, p.Suite)
		}
	}
	return nil
}
