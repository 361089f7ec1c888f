// Package access holds the calls below /access: log-in, users, roles, rules.
package access

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"joist/api/schema"
	"joist/hypervisor/access"
	"joist/hypervisor/server"
)

type calls struct{ s *access.Service }

// Routes returns the calls below /access.
func Routes(s *access.Service) []server.Route {
	c := calls{s}
	get := func(path, text string, do server.Handler, params ...schema.Param) server.Route {
		return server.Route{Method: schema.Method{Verb: "GET", Path: path, Text: text, Params: params}, Do: do}
	}
	domains := get("/access/domains", "Realms that users log in to.", c.domains)
	domains.Perm.World = true
	none := get("/access/ticket", "Answers nothing; exists for clients that probe it.",
		func(context.Context, *server.Request) (any, error) { return nil, nil })
	none.Perm.World = true
	return []server.Route{
		none, domains,
		{Method: schema.Method{Verb: "POST", Path: "/access/ticket", Text: "Log in, or renew a ticket.", NoQuorum: true,
			Perm: schema.Perm{World: true}, NoToken: true, Params: ticketParams()}, Do: c.ticket},
		get("/access/permissions", "Privileges of the caller or of another user.", c.permissions,
			schema.Param{Name: "userid", Optional: true, Format: "pve-userid-or-token", Text: "user or token instead of the caller"},
			schema.Param{Name: "path", Optional: true, Format: "pve-acl-path", Text: "only this path"}),
		get("/access/users", "Users that the caller may see.", c.users,
			schema.Param{Name: "enabled", Type: schema.Boolean, Optional: true, Text: "only enabled or only disabled users"},
			schema.Param{Name: "full", Type: schema.Boolean, Optional: true, Text: "with groups and tokens"}),
		get("/access/users/{userid}", "One user.", c.user, schema.Param{Name: "userid", Format: "pve-userid", Text: "user@realm"}),
		get("/access/groups", "Groups that the caller may see.", c.groups),
		get("/access/acl", "Access rules.", c.acl),
		get("/access/roles", "Roles and their privileges.", c.roles),
	}
}

func ticketParams() []schema.Param {
	opt := func(name, text string) schema.Param {
		return schema.Param{Name: name, Optional: true, MaxLen: 4096, Text: text}
	}
	privs := opt("privs", "privileges that the user must have on path")
	privs.List = true
	path := opt("path", "path to check privs on")
	path.Format = "pve-acl-path"
	return []schema.Param{
		{Name: "username", MaxLen: 128, Text: "user, with or without @realm"},
		{Name: "password", MaxLen: 4096, Text: "password or a valid ticket"},
		opt("realm", "realm when username has none"), opt("otp", "second factor"),
		opt("tfa-challenge", "ticket of the first step"), path, privs,
		{Name: "new-format", Type: schema.Boolean, Optional: true, Text: "has no effect"},
	}
}

func failed() error {
	return &server.Error{Status: http.StatusUnauthorized, Text: "authentication failure"}
}

func (c calls) ticket(ctx context.Context, r *server.Request) (any, error) {
	user := r.Params.String("username")
	if !strings.Contains(user, "@") {
		user += "@" + cmp.Or(r.Params.String("realm"), "pam")
	}
	// No user has a second factor, so that no challenge was ever issued.
	if r.Params.Has("otp") || r.Params.Has("tfa-challenge") {
		return nil, failed()
	}
	if err := c.s.Login(ctx, user, r.Params.String("password")); errors.Is(err, access.ErrCredentials) {
		return nil, failed()
	} else if err != nil {
		return nil, err
	}
	for _, priv := range r.Params.List("privs") {
		if !c.s.May(user, "", r.Params.String("path"), priv) {
			return nil, failed()
		}
	}
	ticket, csrf := c.s.Issue(user)
	return map[string]any{
		"username": user, "ticket": ticket, "CSRFPreventionToken": csrf,
		"cap": c.s.Policy().Capabilities(user),
	}, nil
}

func (c calls) domains(context.Context, *server.Request) (any, error) {
	return []map[string]any{{"realm": "pam", "type": "pam", "comment": "accounts of the node", "default": 1}}, nil
}

func (c calls) permissions(_ context.Context, r *server.Request) (any, error) {
	user, token := r.Who.User, r.Who.Token
	if other := r.Params.String("userid"); other != "" && other != r.Who.Name() {
		u, t, _ := strings.Cut(other, "!")
		if u != user && !r.May("/access", "Sys.Audit") { // one's own tokens are open to see
			return nil, server.Denied("/access", "Sys.Audit")
		}
		user, token = u, t
	}
	return c.s.Policy().Tree(user, token, r.Params.String("path")), nil
}

// sees reports whether the caller may know of a user.
func sees(r *server.Request, user string) bool {
	return user == r.Who.User || r.May("/access/groups", "User.Modify") || r.May("/access/groups", "Sys.Audit")
}

// accounts are all users, root@pam among them.
func accounts(p access.Policy) map[string]access.User {
	all := map[string]access.User{access.Root: {Enable: true}}
	maps.Copy(all, p.Users)
	return all
}

func (c calls) users(_ context.Context, r *server.Request) (any, error) {
	p := c.s.Policy()
	all := accounts(p)
	rows := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		u := all[id]
		if !sees(r, id) || r.Params.Has("enabled") && r.Params.Bool("enabled", true) != u.Enable {
			continue
		}
		_, realm, _ := strings.Cut(id, "@")
		row := map[string]any{"userid": id, "enable": server.Bit(u.Enable), "expire": u.Expire, "realm-type": realm}
		if u.Comment != "" {
			row["comment"] = u.Comment
		}
		if r.Params.Bool("full", false) {
			row["groups"] = strings.Join(groupsOf(p, id), ",")
			row["tokens"] = tokensOf(p, id)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (c calls) user(_ context.Context, r *server.Request) (any, error) {
	id := r.Params.String("userid")
	p := c.s.Policy()
	if !sees(r, id) {
		return nil, server.Denied("/access/groups", "User.Modify")
	}
	u, ok := accounts(p)[id]
	if !ok {
		return nil, server.Errorf("no such user ('%s')", id)
	}
	tokens := map[string]any{}
	for _, t := range tokensOf(p, id) {
		tokens[t["tokenid"].(string)] = t
	}
	row := map[string]any{"enable": server.Bit(u.Enable), "expire": u.Expire, "groups": groupsOf(p, id), "tokens": tokens}
	if u.Comment != "" {
		row["comment"] = u.Comment
	}
	return row, nil
}

func groupsOf(p access.Policy, user string) []string {
	list := []string{}
	for _, g := range slices.Sorted(maps.Keys(p.Groups)) {
		if slices.Contains(p.Groups[g], user) {
			list = append(list, g)
		}
	}
	return list
}

func tokensOf(p access.Policy, user string) []map[string]any {
	list := []map[string]any{}
	for _, full := range slices.Sorted(maps.Keys(p.Tokens)) {
		if id, ok := strings.CutPrefix(full, user+"!"); ok {
			t := p.Tokens[full]
			list = append(list, map[string]any{"tokenid": id, "privsep": server.Bit(t.PrivSep), "expire": t.Expire, "comment": t.Comment})
		}
	}
	return list
}

func (c calls) groups(_ context.Context, r *server.Request) (any, error) {
	p := c.s.Policy()
	rows := []map[string]any{}
	for _, g := range slices.Sorted(maps.Keys(p.Groups)) {
		if at := "/access/groups/" + g; r.May(at, "Group.Allocate") || r.May(at, "Sys.Audit") {
			rows = append(rows, map[string]any{"groupid": g, "users": strings.Join(p.Groups[g], ",")})
		}
	}
	return rows, nil
}

func (c calls) acl(_ context.Context, r *server.Request) (any, error) {
	rows := []map[string]any{}
	for _, a := range c.s.Policy().ACL {
		if r.May("/access", "Sys.Audit") || r.May(a.Path, "Permissions.Modify") {
			rows = append(rows, map[string]any{"path": a.Path, "type": a.Type, "ugid": a.Who, "roleid": a.Role, "propagate": server.Bit(a.Propagate)})
		}
	}
	return rows, nil
}

func (c calls) roles(context.Context, *server.Request) (any, error) {
	all, builtin := c.s.Policy().AllRoles(), access.BuiltinRoles()
	rows := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		_, special := builtin[id]
		rows = append(rows, map[string]any{"roleid": id, "privs": strings.Join(all[id], ","), "special": server.Bit(special)})
	}
	return rows, nil
}
