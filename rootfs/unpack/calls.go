package unpack

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"joist/rootfs/policy"
)

// calls lists what a maintainer script registers beyond the files of its
// package. Branches are not followed: a call that stands anywhere in the
// script counts. Those that only ask or undo (--list, --remove …) do not, as
// nothing was ever installed that could be undone.
func calls(script []byte) ([]policy.Call, error) {
	line, _, _ := bytes.Cut(script, []byte("\n"))
	f := strings.Fields(strings.TrimPrefix(string(line), "#!"))
	if !bytes.HasPrefix(line, []byte("#!")) || len(f) == 0 || !isShell(f[0]) {
		return nil, fmt.Errorf("it is no shell script: %q", line[:min(len(line), 40)])
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(bytes.NewReader(script), "")
	if err != nil {
		return nil, fmt.Errorf("parse it: %w", err)
	}
	var out []policy.Call
	syntax.Walk(file, func(n syntax.Node) bool {
		if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 {
			argv := make([]string, len(c.Args))
			for i, w := range c.Args {
				argv[i] = text(w)
			}
			for _, x := range registered(argv) {
				if !slices.Contains(out, x) {
					out = append(out, x)
				}
			}
		}
		return true
	})
	return out, nil
}

func isShell(interpreter string) bool {
	return slices.Contains([]string{"/bin/sh", "/usr/bin/sh", "/bin/bash", "/usr/bin/bash", "/bin/dash", "/usr/bin/dash"}, interpreter)
}

// text is a word without its quotes; what the shell would put in stays as it
// is written.
func text(w *syntax.Word) string {
	var b strings.Builder
	var add func(parts []syntax.WordPart)
	add = func(parts []syntax.WordPart) {
		for _, p := range parts {
			switch p := p.(type) {
			case *syntax.Lit:
				b.WriteString(p.Value)
			case *syntax.SglQuoted:
				b.WriteString(p.Value)
			case *syntax.DblQuoted:
				add(p.Parts)
			case *syntax.CmdSubst:
				b.WriteString("$(…)")
			case *syntax.ParamExp:
				b.WriteByte('$')
				if p.Param != nil {
					b.WriteString(p.Param.Value)
				}
			default:
				b.WriteString("$?")
			}
		}
	}
	add(w.Parts)
	return b.String()
}

// passive are the options with which a call changes nothing that a fresh
// system has.
var passive = []string{
	"--list", "--listpackage", "--truename", "--remove", "--remove-all", "--query", "--display", "--get-selections", "--help", "--version",
}

// registered says what one call registers.
func registered(argv []string) []policy.Call {
	name, args := argv[0][strings.LastIndexByte(argv[0], '/')+1:], argv[1:]
	for len(args) > 0 && slices.Contains([]string{"command", "exec", "env"}, name) {
		name, args = args[0][strings.LastIndexByte(args[0], '/')+1:], args[1:]
	}
	one := func(k policy.Kind, subject string) []policy.Call { return []policy.Call{{Kind: k, Subject: subject}} }
	if len(args) == 0 || slices.ContainsFunc(args, func(a string) bool { return slices.Contains(passive, a) }) {
		return nil
	}
	last := args[len(args)-1]
	switch name {
	case "dpkg-divert":
		return one(policy.Diversion, diverted(args))
	case "dpkg-statoverride":
		return one(policy.Statoverride, last)
	case "update-alternatives":
		return alternatives(args)
	case "setcap":
		return one(policy.Capability, last)
	case "adduser", "addgroup", "useradd", "groupadd":
		return one(policy.Account, last)
	}
	return nil
}

// diverted returns the file a call of dpkg-divert is about: its argument that
// is no option's value.
func diverted(args []string) string {
	for i := 0; i < len(args); i++ {
		switch {
		case slices.Contains([]string{"--package", "--divert", "--admindir", "--instdir", "--root"}, args[i]):
			i++
		case !strings.HasPrefix(args[i], "--"):
			return args[i]
		}
	}
	return "?"
}

// alternatives returns the links a call of update-alternatives makes, slaves
// included.
func alternatives(args []string) []policy.Call {
	var out []policy.Call
	for i, a := range args {
		switch {
		case (a == "--install" || a == "--slave" || a == "--set") && i+1 < len(args):
			out = append(out, policy.Call{Kind: policy.Alternative, Subject: args[i+1]})
		case strings.Contains(a, "$(…)"):
			out = append(out, policy.Call{Kind: policy.Alternative, Subject: a})
		}
	}
	return out
}
