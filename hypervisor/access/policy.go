// Package access decides who is calling and what they may do: passwords,
// tickets, API tokens, roles and access rules. The rules are values; Service
// keeps them up to date from the cluster store.
package access

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Root is the user that no rule restricts.
const Root = "root@pam"

// Rule grants a role on a path.
type Rule struct {
	Path      string `json:"path"`
	Type      string `json:"type"` // user, group or token
	Who       string `json:"ugid"`
	Role      string `json:"roleid"`
	Propagate bool   `json:"propagate"` // holds below Path too
}

// User is an account besides root@pam.
type User struct {
	Enable  bool   `json:"enable"`
	Expire  int64  `json:"expire"` // epoch, 0 never
	Comment string `json:"comment,omitempty"`
}

// Token is an API token. Only the hash of its secret is kept.
type Token struct {
	Hash    string `json:"hash"`    // SHA-256 of the secret, hex
	PrivSep bool   `json:"privsep"` // needs rules of its own
	Expire  int64  `json:"expire"`
	Comment string `json:"comment,omitempty"`
}

// Policy is all access rules of the cluster. Its JSON form is one value in the
// store, so that a change of several parts is one change.
type Policy struct {
	Users  map[string]User     `json:"users,omitempty"`
	Groups map[string][]string `json:"groups,omitempty"`
	Roles  map[string][]string `json:"roles,omitempty"` // besides the built-in ones
	Tokens map[string]Token    `json:"tokens,omitempty"`
	ACL    []Rule              `json:"acl,omitempty"`
}

// Enabled reports whether the user exists and may log in.
func (p Policy) Enabled(user string, now time.Time) bool {
	if user == Root {
		return true
	}
	u, ok := p.Users[user]
	return ok && u.Enable && (u.Expire == 0 || now.Unix() < u.Expire)
}

// AllRoles returns built-in roles and those of the policy.
func (p Policy) AllRoles() map[string][]string {
	roles := BuiltinRoles()
	for id, privs := range p.Roles {
		if _, builtin := roles[id]; !builtin {
			roles[id] = privs
		}
	}
	return roles
}

// Privileges returns what user (or, with token not "", the user's token) may
// do on a path; the value says whether it holds below the path too.
func (p Policy) Privileges(user, token, path string) map[string]bool {
	if token == "" {
		return p.ofUser(user, path)
	}
	t, ok := p.Tokens[user+"!"+token]
	if !ok {
		return nil
	}
	own := p.ofUser(user, path)
	if !t.PrivSep {
		return own
	}
	// A separated token has what both it and its user have.
	privs := p.granted(path, func(r Rule) bool { return r.Type == "token" && r.Who == user+"!"+token })
	maps.DeleteFunc(privs, func(priv string, _ bool) bool { _, ok := own[priv]; return !ok })
	for priv, below := range privs {
		privs[priv] = below && own[priv]
	}
	return privs
}

func (p Policy) ofUser(user, path string) map[string]bool {
	if user == Root {
		all := map[string]bool{}
		for _, priv := range Privileges() {
			all[priv] = true
		}
		return all
	}
	return p.granted(path,
		func(r Rule) bool { return r.Type == "user" && r.Who == user },
		func(r Rule) bool { return r.Type == "group" && slices.Contains(p.Groups[r.Who], user) })
}

// granted walks from / down to path. Rules on a level replace those above it;
// on one level the first kind that has a rule wins (a user's own before those
// of groups), and NoAccess beats the other roles of its kind.
func (p Policy) granted(path string, kinds ...func(Rule) bool) map[string]bool {
	held := map[string]bool{} // role → propagates
	for _, level := range levels(path) {
		for _, match := range kinds {
			here := map[string]bool{}
			for _, r := range p.ACL {
				if cleanPath(r.Path) == level && match(r) && (r.Propagate || level == cleanPath(path)) {
					here[r.Role] = here[r.Role] || r.Propagate
				}
			}
			if len(here) == 0 {
				continue
			}
			if below, no := here[noAccess]; no {
				here = map[string]bool{noAccess: below}
			}
			held = here
			break
		}
	}
	roles := p.AllRoles()
	privs := map[string]bool{}
	for role, below := range held {
		for _, priv := range roles[role] {
			privs[priv] = privs[priv] || below
		}
	}
	return privs
}

// May reports whether the privilege is held on the path.
func (p Policy) May(user, token, path, priv string) bool {
	if user == Root && token == "" {
		return true
	}
	_, ok := p.Privileges(user, token, path)[priv]
	return ok
}

// Tree is the answer of GET /access/permissions: for each path that matters
// the privileges, 1 when they hold below it. One path gives only that path.
func (p Policy) Tree(user, token, path string) map[string]map[string]int {
	paths := []string{path}
	if path == "" {
		paths = []string{"/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"}
		for _, r := range p.ACL {
			paths = append(paths, cleanPath(r.Path))
		}
	}
	tree := map[string]map[string]int{}
	for _, at := range paths {
		privs := map[string]int{}
		for priv, below := range p.Privileges(user, token, at) {
			privs[priv] = 0
			if below {
				privs[priv] = 1
			}
		}
		if len(privs) > 0 {
			tree[at] = privs
		}
	}
	return tree
}

// Capabilities is the coarse view that the ticket's answer gives to user
// interfaces: area → privilege → 1. All areas are there, empty or not.
func (p Policy) Capabilities(user string) map[string]map[string]int {
	areas := []struct {
		name, path string
		prefixes   []string
	}{
		{"vms", "/vms", []string{"VM.", "Permissions."}},
		{"storage", "/storage", []string{"Datastore.", "Permissions."}},
		{"access", "/access", []string{"User.", "Group.", "Permissions.", "Realm."}},
		{"nodes", "/nodes", []string{"Sys.", "Permissions."}},
		{"sdn", "/sdn", []string{"SDN.", "Permissions."}},
		{"dc", "/", []string{"Sys.", "SDN."}},
		{"mapping", "/mapping", []string{"Mapping.", "Permissions."}},
	}
	caps := map[string]map[string]int{}
	for _, a := range areas {
		held := map[string]int{}
		for priv := range p.Privileges(user, "", a.path) {
			if slices.ContainsFunc(a.prefixes, func(s string) bool { return strings.HasPrefix(priv, s) }) {
				held[priv] = 1
			}
		}
		caps[a.name] = held
	}
	return caps
}

// levels lists path and all above it, / first.
func levels(path string) []string {
	out := []string{"/"}
	at := ""
	for _, s := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' }) {
		at += "/" + s
		out = append(out, at)
	}
	return out
}

func cleanPath(path string) string {
	l := levels(path)
	return l[len(l)-1]
}
