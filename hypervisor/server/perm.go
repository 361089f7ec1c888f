package server

import (
	"regexp"
	"strings"

	"joist/api/schema"
)

// rootUser is the one user that no rule restricts.
const rootUser = "root@pam"

var placeholder = regexp.MustCompile(`\{[a-z-]+\}`)

// permitted evaluates a permission expression. The text names the first
// privilege that is missing.
func permitted(p schema.Perm, who Identity, may func(path, priv string) bool, param func(string) string) (text string, ok bool) {
	if p.World {
		return "", true
	}
	own := p.Root || len(p.Privs) > 0 || len(p.And) > 0
	if !own && len(p.Or) == 0 {
		return "", true
	}
	if own {
		if text, ok = required(p, who, may, param); ok {
			return "", true
		}
	}
	for _, o := range p.Or {
		t, ok := permitted(o, who, may, param)
		if ok {
			return "", true
		}
		if text == "" {
			text = t
		}
	}
	return text, false
}

func required(p schema.Perm, who Identity, may func(path, priv string) bool, param func(string) string) (string, bool) {
	if p.Root && (who.User != rootUser || who.Token != "") {
		return "Permission check failed (user != root@pam)", false
	}
	if len(p.Privs) > 0 {
		path := placeholder.ReplaceAllStringFunc(p.Path, func(s string) string { return param(s[1 : len(s)-1]) })
		have := 0
		for _, priv := range p.Privs {
			if may(path, priv) {
				have++
			}
		}
		sep := ", "
		if p.Any {
			sep = "|"
		}
		if have == 0 || have < len(p.Privs) && !p.Any {
			return "Permission check failed (" + path + ", " + strings.Join(p.Privs, sep) + ")", false
		}
	}
	for _, a := range p.And {
		if text, ok := permitted(a, who, may, param); !ok {
			return text, false
		}
	}
	return "", true
}
