package unpack

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"joist/internal/finding"
	"joist/rootfs/policy"
	"joist/rootfs/tree"
)

// The tables of package policy are closed: here is what looks for anything
// that they do not name.

// checkScripts reports scripts, what scripts register, and triggers without a
// rule.
func checkScripts(p Package, o Options, fl *finding.List) {
	for _, s := range slices.Sorted(maps.Keys(p.Scripts)) {
		at := name(p) + ":" + s
		if o.Accept[at] {
			continue
		}
		r, ok := policy.ScriptRule(name(p), s)
		if !ok {
			fl.Stopf("unknown-script", at, acceptHint(at),
				"package %s brings the maintainer script %s, and no rule says what the builder does instead", name(p), s)
			continue
		}
		// A config script does nothing but ask (debconf-devel(7)), often in Perl.
		if policy.Needless(s) || s == "config" {
			continue
		}
		list, err := calls(p.Scripts[s])
		if err != nil {
			fl.Stopf("unreadable-script", at, acceptHint(at), "the maintainer script %s of package %s cannot be read: %v", s, name(p), err)
		}
		for _, c := range list {
			if !r.Answers(c) {
				fl.Stopf("unknown-"+string(c.Kind), at, acceptHint(at),
					"the maintainer script %s of package %s makes the %s %q, and its rule does not say what becomes of that", s, name(p), c.Kind, c.Subject)
			}
		}
	}
	for _, t := range p.Triggers {
		at := name(p) + ":trigger:" + t.Name
		if _, ok := policy.Trigger(t.Name); !ok && !o.Accept[at] {
			fl.Stopf("unknown-trigger", name(p)+":triggers", acceptHint(at),
				"package %s has the trigger %s, and no rule says what the builder does instead", name(p), t.Name)
		}
	}
}

// checkUnits reports what a package would have systemd, init or cron start
// and no rule answers.
func checkUnits(p part, o Options, fl *finding.List) {
	units := slices.Clone(p.units)
	slices.Sort(units)
	for _, u := range slices.Compact(units) {
		at := p.name + ":unit:" + u
		if _, ok := policy.Unit(p.name, u); !ok && !o.Accept[at] {
			fl.Stopf("unknown-unit", at, acceptHint(at),
				"package %s brings %s for systemd, init or cron to start, and no rule says what does its work", p.name, u)
		}
	}
}

func acceptHint(at string) string {
	return fmt.Sprintf("say in rootfs/policy what replaces it, or accept it in joist.toml: accept-scripts = [%q]", at)
}

// Privileges takes away the set-user-ID and set-group-ID bits and file
// capabilities that policy does not keep, and reports those it does not know.
// Directories may have a set-group-ID bit: it gives nobody a right.
func Privileges(root *tree.Node) finding.List {
	var fl finding.List
	root.Walk(func(p string, n *tree.Node) error {
		_, capable := n.Xattrs["security.capability"]
		if !n.Mode.IsRegular() || n.Mode&policy.Elevated == 0 && !capable {
			return nil
		}
		switch d, ok := policy.PrivilegeOf(p); {
		case !ok:
			fl.Stopf("unknown-privilege", p, "say in the table of privileges in rootfs/policy whether it keeps them",
				"%s of package %s runs with more rights than its caller (%v), and no rule says whether that is needed", p, n.Origin, n.Mode)
		case !d.Keep:
			n.Mode &^= policy.Elevated
			delete(n.Xattrs, "security.capability")
		}
		return nil
	})
	return fl
}

// Accounts reports users and groups that sysusers.d(5) files of the packages
// ask for and the table does not have. The files themselves are of no use on
// the node.
func Accounts(root *tree.Node) finding.List {
	var fl finding.List
	each(root, "/usr/lib/sysusers.d", ".conf", func(file string, n *tree.Node, text string) {
		for i, line := range strings.Split(text, "\n") {
			f := strings.Fields(line)
			if len(f) < 2 || strings.HasPrefix(f[0], "#") {
				continue
			}
			kind := strings.TrimRight(f[0], "!+-")
			var known bool
			switch kind {
			case "u":
				known = policy.HasUser(f[1])
			case "g":
				known = policy.HasGroup(f[1])
			case "r": // a range for numbers, which the table fixes
				known = true
			}
			if !known {
				fl.Add(finding.Finding{Level: finding.Stop, Code: "unknown-account", Path: file, Line: i + 1, Source: line,
					Hint: "add it to the table of users in rootfs/policy",
					Text: fmt.Sprintf("package %s asks for an account that is not in the table: %s %s", n.Origin, kind, f[1])})
			}
		}
	})
	return fl
}

var (
	systemdRE = regexp.MustCompile(`ENV\{(SYSTEMD_\w+)\}\s*(?:\+|:)?=\s*"([^"]*)"`)
	programRE = regexp.MustCompile(`(RUN|RUN\{program\}|PROGRAM|IMPORT\{program\})\s*(?:\+|:|=)?=\s*"([^" ]+)`)
)

// UdevRules reports what udev rules ask of systemd, and programs they start
// that the image does not have, where no rule says what happens instead.
func UdevRules(root *tree.Node) finding.List {
	var fl finding.List
	each(root, "/usr/lib/udev/rules.d", ".rules", func(file string, n *tree.Node, text string) {
		number := 1
		for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", "\x00"), "\n") {
			at := number
			number += 1 + strings.Count(line, "\x00")
			line = strings.ReplaceAll(line, "\x00", " ")
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			for _, what := range requests(root, line) {
				if _, ok := policy.UdevWant(path.Base(file), what); !ok {
					fl.Add(finding.Finding{Level: finding.Stop, Code: "unknown-udev", Path: file, Line: at,
						Hint: "say in the table of udev rules in rootfs/policy what replaces it, or drop the file there",
						Text: fmt.Sprintf("a udev rule of package %s asks for %s, and nothing of ours answers", n.Origin, what)})
				}
			}
		}
	})
	return fl
}

// requests lists what one udev rule counts on. "==" and "!=" compare; a
// variable or a shell's text in the place of a program is not looked into.
func requests(root *tree.Node, line string) []string {
	var out []string
	for _, m := range systemdRE.FindAllStringSubmatch(line, -1) {
		out = append(out, m[1]+"="+m[2])
	}
	for _, m := range programRE.FindAllStringSubmatch(line, -1) {
		prog := m[2]
		if strings.Contains(prog, "$") {
			continue
		}
		if !path.IsAbs(prog) {
			prog = "/usr/lib/udev/" + prog // udev(7)
		}
		if root.Resolve(prog) == nil {
			out = append(out, "RUN "+m[2])
		}
	}
	return out
}

// each calls f for the regular files of a directory that have the suffix.
func each(root *tree.Node, dir, suffix string, f func(file string, n *tree.Node, text string)) {
	d := root.Resolve(dir)
	if d == nil || !d.Mode.IsDir() {
		return
	}
	for _, n := range d.Children {
		b, ok := n.Data.(tree.Bytes)
		if ok && n.Mode&fs.ModeType == 0 && strings.HasSuffix(n.Name, suffix) {
			f(path.Join(dir, n.Name), n, string(b))
		}
	}
}
