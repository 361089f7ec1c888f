// Package policy holds what the builder decides about Debian's packages,
// because it unpacks them and never installs them: which dependencies stay
// out and why, what stands in for each maintainer script, which system users
// exist under which numbers, which files are left behind.
//
// The tables are closed. A package, script, trigger or user that they do not
// name is a finding and stops the build, so that nothing a package counts on
// is missed silently when a new version brings it.
package policy

import (
	"io/fs"
	"slices"
	"strings"
)

// Op is what an Action does to the tree.
type Op int

const (
	Link  Op = iota // symbolic link at Path to Arg
	Copy            // regular file at Path with the content of Arg
	Dir             // directory at Path with Perm and owner
	Perm            // owner and permission bits of the entry at Path
	Write           // regular file at Path with Arg as its content
)

// Action is one change the builder makes in place of a script.
type Action struct {
	Op       Op
	Path     string
	Arg      string
	Perm     fs.FileMode
	UID, GID int
}

// Rule says what stands in for the maintainer scripts of one package.
type Rule struct {
	Package string   // name, or a pattern that ends in *
	Scripts []string // of preinst, postinst, config; removal never happens, see needless
	Why     string   // why that is enough
	Do      []Action
	Covers  []Cover // what the scripts register with dpkg and Do does not make
}

// Call is something a script registers with dpkg or the kernel, outside the
// files of its package.
type Call struct {
	Kind    Kind
	Subject string // path or name, as the script's text has it: "$f" stays "$f"
}

// Kind says which program a script calls.
type Kind string

// The kinds of calls a rule must answer one by one.
const (
	Diversion    Kind = "diversion"    // dpkg-divert(1)
	Alternative  Kind = "alternative"  // update-alternatives(1), each link and each slave's
	Statoverride Kind = "statoverride" // dpkg-statoverride(1)
	Capability   Kind = "capability"   // setcap(8)
	Account      Kind = "account"      // adduser(8), useradd(8), addgroup(8), groupadd(8)
)

// Cover says why a call of a script needs nothing.
type Cover struct {
	Call
	Why string
}

// Answers reports whether the rule says what becomes of the call: an action
// on the same path, an entry of Covers, an account of the table, or a path
// that stays out of the image.
func (r Rule) Answers(c Call) bool {
	if _, out := Drop(c.Subject); out {
		return true
	}
	if slices.ContainsFunc(r.Covers, func(v Cover) bool { return v.Kind == c.Kind && matches(v.Subject, c.Subject) }) {
		return true
	}
	switch c.Kind {
	case Account:
		return HasUser(c.Subject) || HasGroup(c.Subject)
	case Alternative:
		return slices.ContainsFunc(r.Do, func(a Action) bool { return a.Op == Link && a.Path == c.Subject })
	case Statoverride:
		return slices.ContainsFunc(r.Do, func(a Action) bool { return a.Op != Link && a.Path == c.Subject })
	}
	return false
}

var needless = map[string]string{
	"prerm":  "runs at removal; an image is replaced, nothing in it is ever removed",
	"postrm": "runs at removal; an image is replaced, nothing in it is ever removed",
}

// Needless reports whether a script never runs because of what the image is.
func Needless(script string) bool {
	_, ok := needless[script]
	return ok
}

// ScriptRule returns the rule for one script of a package. ok is false when
// the table does not cover it.
func ScriptRule(pkg, script string) (r Rule, ok bool) {
	if why, ok := needless[script]; ok {
		return Rule{Package: pkg, Scripts: []string{script}, Why: why}, true
	}
	for _, r := range scripts {
		if matches(r.Package, pkg) && slices.Contains(r.Scripts, script) {
			return r, true
		}
	}
	return Rule{}, false
}

// Trigger returns why an activated or declared dpkg trigger needs nothing, or
// what the builder does for it.
func Trigger(name string) (why string, ok bool) {
	for _, t := range triggers {
		if matches(t.name, name) {
			return t.why, true
		}
	}
	return "", false
}

// Excluded returns the packages that stay out although others depend on them,
// each with its reason.
func Excluded() map[string]string {
	m := make(map[string]string, len(excluded))
	for _, e := range excluded {
		m[e.name] = e.why
	}
	return m
}

// Drop reports whether the file at path stays out of the image, and why.
// Licence texts stay in.
func Drop(path string) (why string, drop bool) {
	for _, d := range drops {
		if !strings.HasPrefix(path, d.name) {
			continue
		}
		if d.name == "/usr/share/doc/" && (strings.HasSuffix(path, "/copyright") || strings.Count(path, "/") == 4) {
			return "", false
		}
		return d.why, true
	}
	return "", false
}

type reason struct{ name, why string }

func matches(pattern, s string) bool {
	if p, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, p)
	}
	return pattern == s
}
