package deb

import (
	"fmt"
	"slices"
	"strings"

	"joist/internal/finding"
	"joist/rootfs/lock"
)

// closure is the state of one dependency resolution. There is no
// backtracking: of alternatives the first that can be had is taken, and what
// does not fit is a finding for a person, so that the same input gives the
// same, explicable answer.
type closure struct {
	ix       *Index
	excludes map[string]string
	used     map[string]bool // exclusions that made a difference
	chosen   map[string]*choice
	order    []*choice
	provided map[string][]provider // by chosen packages
	findings finding.List
}

type choice struct {
	rec *Record
	by  *choice // nil: asked for by name
}

// why is the chain of packages that pulled c in, outermost first.
func (c *choice) why() []string {
	var out []string
	for b := c.by; b != nil; b = b.by {
		out = append(out, b.rec.Name)
	}
	slices.Reverse(out)
	return out
}

// need is a clause of a package that waits for its turn.
type need struct {
	of     *choice
	clause Clause
}

// Closure returns the wanted packages and everything they depend on
// (Pre-Depends and Depends), sorted by name. Excluded packages (name →
// reason) are never taken and count as installed. It is pure and its result
// depends on its arguments only.
func Closure(ix *Index, wants []string, excludes map[string]string) ([]lock.Package, finding.List) {
	c := &closure{ix: ix, excludes: excludes, used: map[string]bool{},
		chosen: map[string]*choice{}, provided: map[string][]provider{}}
	wants = slices.Clone(wants)
	slices.Sort(wants)
	for _, w := range slices.Compact(wants) {
		c.want(w)
	}
	c.run()
	c.checkConflicts()
	c.checkExcludes()
	out := make([]lock.Package, 0, len(c.order))
	for _, ch := range c.order {
		p := ch.rec.Locked()
		p.Why = ch.why()
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b lock.Package) int { return strings.Compare(a.Name, b.Name) })
	return out, c.findings
}

func (c *closure) want(name string) {
	if reason, ok := c.excludes[name]; ok {
		c.used[name] = true
		c.findings.Stopf("package-excluded", name, "take it off one of the two lists", "wanted package is also excluded (%s)", reason)
		return
	}
	if rec := c.ix.Record(name); rec != nil {
		c.choose(rec, nil)
		return
	}
	hint := "check the name; only amd64 packages of the listed suites and components are known"
	if ps := c.ix.providers(Relation{Name: name}); len(ps) > 0 {
		hint = "it is a virtual package: name one of " + names(ps)
	}
	c.findings.Stopf("package-unknown", name, hint, "wanted package is in no suite")
}

func names(rs []*Record) string {
	var out []string
	for _, r := range rs {
		out = append(out, r.Name)
	}
	const most = 8
	if len(out) > most {
		out = append(out[:most], "…")
	}
	return strings.Join(out, ", ")
}

func (c *closure) choose(rec *Record, by *choice) {
	if c.chosen[rec.Name] != nil {
		return
	}
	ch := &choice{rec: rec, by: by}
	c.chosen[rec.Name] = ch
	c.order = append(c.order, ch)
	for _, cl := range c.relations(rec, "Provides", rec.Provides) {
		for _, p := range cl {
			c.provided[p.Name] = append(c.provided[p.Name], provider{rec: rec, version: p.Version})
		}
	}
}

// relations parses a field, turning an error into a finding.
func (c *closure) relations(rec *Record, field, text string) []Clause {
	cs, err := ParseRelations(text)
	if err != nil {
		c.findings.Stopf("index-relation", rec.Name, "report it to the archive, or exclude the package", "%s: %v", field, err)
	}
	return cs
}

// run first follows everything that leaves no choice. Only when nothing of
// that kind is left, one choice is made: so a package that is needed anyway
// wins over the first alternative, whatever the order of the wants.
func (c *closure) run() {
	var open []need
	done := 0
	for {
		for ; done < len(c.order); done++ {
			ch := c.order[done]
			deps := append(c.relations(ch.rec, "Pre-Depends", ch.rec.PreDepends), c.relations(ch.rec, "Depends", ch.rec.Depends)...)
			for _, cl := range deps {
				if len(cl) == 1 && c.ix.Record(cl[0].Name) != nil {
					c.settle(need{ch, cl})
				} else {
					open = append(open, need{ch, cl})
				}
			}
		}
		if len(open) == 0 {
			return
		}
		c.settle(open[0])
		open = open[1:]
	}
}

// settle makes sure a clause holds.
func (c *closure) settle(n need) {
	for _, r := range n.clause {
		if c.holds(r) {
			return
		}
	}
	// Where there is a choice, what clashes with the chosen is avoided; where
	// there is none it is taken all the same, and checkConflicts says so.
	choice := len(n.clause) > 1 || c.ix.Record(n.clause[0].Name) == nil
	for _, avoid := range []bool{choice, false} {
		for _, r := range n.clause {
			if c.excluded(r) {
				return
			}
			if rec := c.candidate(r, avoid); rec != nil {
				c.choose(rec, n.of)
				return
			}
		}
	}
	chain := append(n.of.why(), n.of.rec.Name)
	c.findings.Stopf("dependency-unmet", n.of.rec.Name,
		"the suites may be from different days: try again later, try another --mirror, or exclude the dependency with a reason",
		"needs %q, which no suite offers (wanted through %s)", n.clause.String(), strings.Join(chain, " → "))
}

// holds reports whether what is chosen so far fulfils a relation.
func (c *closure) holds(r Relation) bool {
	if !foreign(r) {
		if ch := c.chosen[r.Name]; ch != nil && r.Matches(ch.rec.Version) {
			return true
		}
		for _, p := range c.provided[r.Name] {
			if p.fulfils(r) {
				return true
			}
		}
	}
	return false
}

// excluded reports whether a relation is met by an exclusion: its own name,
// or, for a purely virtual name, a provider's.
func (c *closure) excluded(r Relation) bool {
	if _, ok := c.excludes[r.Name]; ok {
		c.used[r.Name] = true
		return true
	}
	if c.ix.Record(r.Name) != nil {
		return false
	}
	for _, p := range c.ix.provides[r.Name] {
		if _, ok := c.excludes[p.rec.Name]; ok {
			c.used[p.rec.Name] = true
			return true
		}
	}
	return false
}

// foreign: only the machine's own architecture exists here.
func foreign(r Relation) bool {
	return r.Arch != "" && r.Arch != "any" && r.Arch != "native" && r.Arch != "amd64"
}

// candidate is the package to take for a relation: the real package of that
// name if its version fits, else the best provider.
func (c *closure) candidate(r Relation, avoid bool) *Record {
	if foreign(r) {
		return nil
	}
	if rec := c.ix.Record(r.Name); rec != nil && r.Matches(rec.Version) && !(avoid && c.clashes(rec)) {
		return rec
	}
	var best *Record
	for _, rec := range c.ix.providers(r) {
		if _, ok := c.excludes[rec.Name]; ok || avoid && c.clashes(rec) {
			continue
		}
		if best == nil || rank(rec) < rank(best) { // equal rank: the first by name
			best = rec
		}
	}
	return best
}

// rank prefers what Debian itself prefers.
func rank(r *Record) int {
	if i := slices.Index([]string{"required", "important", "standard", "optional"}, r.Priority); i >= 0 {
		return i
	}
	return 4
}

// clashes reports whether rec and something chosen exclude each other.
func (c *closure) clashes(rec *Record) bool {
	if c.chosen[rec.Name] != nil {
		return false
	}
	if len(c.enemies(rec)) > 0 {
		return true
	}
	for _, ch := range c.order {
		if ch.rec.Conflicts == "" && ch.rec.Breaks == "" {
			continue
		}
		for _, r := range c.negative(ch.rec) {
			if hits(r, rec) {
				return true
			}
		}
	}
	return false
}

// negative lists what a package must not be together with.
func (c *closure) negative(rec *Record) []Relation {
	var out []Relation
	for _, text := range []string{rec.Conflicts, rec.Breaks} {
		cs, err := ParseRelations(text)
		if err != nil {
			continue // said once, by checkConflicts
		}
		for _, cl := range cs {
			out = append(out, cl...)
		}
	}
	return out
}

// hits reports whether a negative relation concerns rec by name or Provides.
func hits(r Relation, rec *Record) bool {
	if foreign(r) {
		return false
	}
	if r.Name == rec.Name {
		return r.Matches(rec.Version)
	}
	if !strings.Contains(rec.Provides, r.Name) {
		return false
	}
	cs, err := ParseRelations(rec.Provides)
	if err != nil {
		return false
	}
	for _, cl := range cs {
		for _, p := range cl {
			if p.Name == r.Name && (provider{rec, p.Version}).fulfils(r) {
				return true
			}
		}
	}
	return false
}

// enemy is a chosen package that a relation of another one rules out.
type enemy struct {
	name string
	rel  Relation
}

// enemies are the chosen packages rec cannot be installed with, by its own
// Conflicts and Breaks. A package never conflicts with itself (policy 7.4).
func (c *closure) enemies(rec *Record) []enemy {
	var out []enemy
	for _, r := range c.negative(rec) {
		if foreign(r) {
			continue
		}
		if ch := c.chosen[r.Name]; ch != nil && ch.rec != rec && r.Matches(ch.rec.Version) {
			out = append(out, enemy{r.Name, r})
		}
		for _, p := range c.provided[r.Name] {
			if p.rec != rec && p.rec.Name != r.Name && p.fulfils(r) {
				out = append(out, enemy{p.rec.Name, r})
			}
		}
	}
	return out
}

func (c *closure) checkConflicts() {
	sorted := slices.Clone(c.order)
	slices.SortFunc(sorted, func(a, b *choice) int { return strings.Compare(a.rec.Name, b.rec.Name) })
	for _, ch := range sorted {
		c.relations(ch.rec, "Conflicts", ch.rec.Conflicts)
		c.relations(ch.rec, "Breaks", ch.rec.Breaks)
		for _, e := range c.enemies(ch.rec) {
			other := c.chosen[e.name]
			c.findings.Stopf("package-conflict", ch.rec.Name,
				"want only one of the two, or exclude one with a reason",
				"cannot be installed with %s %s (its rule: %s); %s; %s", e.name, other.rec.Version, e.rel, ch.wantedBy(), other.wantedBy())
		}
	}
}

func (c *choice) wantedBy() string {
	if c.by == nil {
		return c.rec.Name + " is wanted by name"
	}
	return fmt.Sprintf("%s is wanted through %s", c.rec.Name, strings.Join(c.why(), " → "))
}

func (c *closure) checkExcludes() {
	var idle []string
	for name := range c.excludes {
		if !c.used[name] {
			idle = append(idle, name)
		}
	}
	slices.Sort(idle)
	for _, name := range idle {
		c.findings.Notef("exclude-unused", name, "exclusion changes nothing: no package asks for it")
	}
}
