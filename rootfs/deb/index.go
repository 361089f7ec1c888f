package deb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"joist/rootfs/lock"
)

// Record is one package as a Packages index describes it. Relations stay text
// until somebody asks: of 70,000 records a few hundred are ever looked at.
type Record struct {
	Name, Version, Arch string
	Priority, Section   string
	Essential           bool
	PreDepends, Depends string
	Provides            string
	Conflicts, Breaks   string
	Path, SHA256        string
	Size                int64
	Suite, Component    string
}

// Locked is the record as a line of the lock file.
func (r *Record) Locked() lock.Package {
	return lock.Package{Name: r.Name, Version: r.Version, Arch: r.Arch, Size: r.Size,
		SHA256: r.SHA256, Path: r.Path, Suite: r.Suite, Component: r.Component}
}

// indexPiece is how much of an index is parsed at once, beside the unpacking of
// what follows.
const indexPiece = 2 << 20

// ReadIndex reads a Packages file of at most limit bytes as it comes.
func ReadIndex(r io.Reader, limit int64, suite, component string) ([]Record, error) {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	var lists []*[]Record
	in := io.LimitReader(r, limit+1)
	buf, rest := make([]byte, 2*indexPiece), 0 // so much of it is of a stanza whose end has not come yet
	total, line := int64(0), 1
	for ended := false; !ended; {
		if len(buf) < rest+indexPiece {
			buf = append(buf, make([]byte, indexPiece)...)
		}
		n, err := io.ReadFull(in, buf[rest:rest+indexPiece])
		ended = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			return nil, errors.Join(err, g.Wait())
		}
		if total += int64(n); total > limit {
			return nil, errors.Join(fmt.Errorf("more than %d bytes", limit), g.Wait())
		}
		have := buf[:rest+n]
		cut := len(have)
		if !ended {
			if cut = bytes.LastIndex(have, []byte("\n\n")) + 2; cut == 1 {
				cut = 0
			}
		}
		text, from, list := string(have[:cut]), line, new([]Record)
		rest = copy(buf, have[cut:])
		line += strings.Count(text, "\n")
		lists = append(lists, list)
		g.Go(func() (err error) {
			*list, err = parseIndex(text, suite, component, from)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []Record
	for _, l := range lists {
		out = append(out, *l...)
	}
	return out, nil
}

// ParseIndex reads the text of a Packages file. The records share the memory
// of text.
func ParseIndex(text, suite, component string) ([]Record, error) {
	return parseIndex(text, suite, component, 1)
}

// parseIndex reads whole stanzas that begin in a line of the file.
func parseIndex(text, suite, component string, line int) ([]Record, error) {
	out := make([]Record, 0, len(text)/800) // 823 bytes a stanza in trixie main
	rec := Record{Suite: suite, Component: component}
	empty := true
	s := newScanner(text)
	s.next = line
	for {
		name, value, k, err := s.scan()
		if err == nil && k == atField {
			empty = false
			err = rec.set(name, value)
		}
		if err != nil {
			return nil, fmt.Errorf("parse index %s/%s: line %d: %w", suite, component, s.line, err)
		}
		if k == atField {
			continue
		}
		if !empty {
			if rec.Arch == "amd64" || rec.Arch == "all" {
				if err := rec.Locked().Validate(); err != nil {
					return nil, fmt.Errorf("parse index %s/%s: line %d: %w", suite, component, s.line, err)
				}
				out = append(out, rec)
			}
			rec, empty = Record{Suite: suite, Component: component}, true
		}
		if k == atEnd {
			return out, nil
		}
	}
}

func (r *Record) set(name, value string) (err error) {
	switch name {
	case "Package":
		r.Name = value
	case "Version":
		r.Version = value
	case "Architecture":
		r.Arch = value
	case "Priority":
		r.Priority = value
	case "Section":
		r.Section = value
	case "Essential":
		r.Essential = value == "yes"
	case "Pre-Depends":
		r.PreDepends = value
	case "Depends":
		r.Depends = value
	case "Provides":
		r.Provides = value
	case "Conflicts":
		r.Conflicts = value
	case "Breaks":
		r.Breaks = value
	case "Filename":
		r.Path = value
	case "SHA256":
		r.SHA256 = value
	case "Size":
		r.Size, err = strconv.ParseInt(value, 10, 64)
	}
	return err
}

// provider is a package that provides a name, version "" when it does not say.
type provider struct {
	rec     *Record
	version string
}

// Index is what a set of suites offers: of each name the newest version.
type Index struct {
	records  map[string]*Record
	provides map[string][]provider // sorted by package name
}

// NewIndex merges the records of several indexes. The highest version wins;
// of equal versions the one that comes first.
func NewIndex(lists ...[]Record) (*Index, error) {
	n := 0
	for _, l := range lists {
		n += len(l)
	}
	ix := &Index{records: make(map[string]*Record, n), provides: map[string][]provider{}}
	for _, l := range lists {
		for i := range l {
			r := &l[i]
			if old, ok := ix.records[r.Name]; !ok || CompareVersions(r.Version, old.Version) > 0 {
				ix.records[r.Name] = r
			}
		}
	}
	for _, r := range ix.records {
		if err := ix.addProvides(r); err != nil {
			return nil, err
		}
	}
	for _, ps := range ix.provides {
		slices.SortFunc(ps, func(a, b provider) int {
			if c := strings.Compare(a.rec.Name, b.rec.Name); c != 0 {
				return c
			}
			return strings.Compare(a.version, b.version)
		})
	}
	return ix, nil
}

func (ix *Index) addProvides(r *Record) error {
	if r.Provides == "" {
		return nil
	}
	clauses, err := ParseRelations(r.Provides)
	if err != nil {
		return fmt.Errorf("read Provides of %s: %w", r.Name, err)
	}
	for _, c := range clauses {
		for _, p := range c {
			ix.provides[p.Name] = append(ix.provides[p.Name], provider{rec: r, version: p.Version})
		}
	}
	return nil
}

// Record returns the newest version of a package, nil when there is none.
func (ix *Index) Record(name string) *Record { return ix.records[name] }

// Len is the number of package names.
func (ix *Index) Len() int { return len(ix.records) }

// Select returns the sorted names of the packages for which keep is true, for
// example all essential ones.
func (ix *Index) Select(keep func(*Record) bool) []string {
	var out []string
	for name, r := range ix.records {
		if keep(r) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// providers are the packages that fulfil a relation by their Provides. A
// relation with a version is only met by a Provides with one (policy 7.5).
func (ix *Index) providers(r Relation) []*Record {
	var out []*Record
	for _, p := range ix.provides[r.Name] {
		if p.fulfils(r) && (len(out) == 0 || out[len(out)-1] != p.rec) {
			out = append(out, p.rec)
		}
	}
	return out
}

func (p provider) fulfils(r Relation) bool {
	return r.Op == "" || p.version != "" && r.Matches(p.version)
}
