package deb

import (
	"fmt"
	"strings"
)

// Relation is one alternative of a dependency: a package name, perhaps with a
// version it must be in a relation to.
type Relation struct {
	Name    string
	Arch    string // architecture qualifier behind the colon: any, native, amd64
	Op      string // "", "<<", "<=", "=", ">=", ">>"
	Version string
}

// Clause is a list of alternatives, of which one is enough.
type Clause []Relation

func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	return s
}

func (c Clause) String() string {
	s := make([]string, len(c))
	for i, r := range c {
		s[i] = r.String()
	}
	return strings.Join(s, " | ")
}

// Matches reports whether a version fulfils the relation.
func (r Relation) Matches(version string) bool {
	if r.Op == "" {
		return true
	}
	c := CompareVersions(version, r.Version)
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	default: // ">>", ParseRelations lets nothing else through
		return c > 0
	}
}

// ParseRelations reads the value of a Depends-like field (Debian policy 7.1).
// Architecture lists and build profiles occur in source packages only and are
// errors here.
func ParseRelations(s string) ([]Clause, error) {
	var out []Clause
	for part := range strings.SplitSeq(s, ",") {
		if blank(strings.Trim(part, "\r\n")) {
			continue // a trailing comma is common
		}
		var c Clause
		for alt := range strings.SplitSeq(part, "|") {
			r, err := parseRelation(alt)
			if err != nil {
				return nil, fmt.Errorf("parse dependency %q: %w", strings.TrimSpace(alt), err)
			}
			c = append(c, r)
		}
		out = append(out, c)
	}
	return out, nil
}

func parseRelation(s string) (Relation, error) {
	s = strings.TrimSpace(s)
	name, paren, hasVersion := strings.Cut(s, "(")
	var r Relation
	r.Name, r.Arch, _ = strings.Cut(strings.TrimSpace(name), ":")
	if !validName(r.Name) {
		return Relation{}, fmt.Errorf("bad package name %q", r.Name)
	}
	if strings.Trim(r.Arch, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return Relation{}, fmt.Errorf("bad architecture %q", r.Arch)
	}
	if !hasVersion {
		return r, nil
	}
	inner, after, closed := strings.Cut(paren, ")")
	if !closed || strings.TrimSpace(after) != "" {
		return Relation{}, fmt.Errorf("version is not closed by a parenthesis")
	}
	inner = strings.TrimSpace(inner)
	op := len(inner) - len(strings.TrimLeft(inner, "<>="))
	switch r.Op = inner[:op]; r.Op {
	case "<<", "<=", "=", ">=", ">>":
	case "<", ">": // obsolete forms that mean "or equal" (deb-control history)
		r.Op += "="
	default:
		return Relation{}, fmt.Errorf("bad operator %q", r.Op)
	}
	r.Version = strings.TrimSpace(inner[op:])
	if err := CheckVersion(r.Version); err != nil {
		return Relation{}, err
	}
	return r, nil
}

// validName is Debian policy 5.6.1; upper case occurs in some third-party
// virtual names and is harmless.
func validName(s string) bool {
	if len(s) < 2 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case isDigit(c), c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case i > 0 && (c == '+' || c == '-' || c == '.' || c == '_'):
		default:
			return false
		}
	}
	return true
}
