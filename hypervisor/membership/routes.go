package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"joist/api/client"
	"joist/api/schema"
	"joist/cluster/join"
	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/cluster/store"
	"joist/hypervisor/server"
	"joist/hypervisor/task"
)

// API is the calls on the cluster's membership.
type API struct {
	Service *Service
	Tasks   task.Starter
	// Fingerprint is that of this node's API certificate.
	Fingerprint string
}

const (
	defaultLife = time.Hour
	maxLife     = 7 * 24 * time.Hour
)

// Routes returns the calls.
func (a *API) Routes() []server.Route {
	root := schema.Perm{Root: true}
	audit := schema.Perm{Path: "/", Privs: []string{"Sys.Audit"}}
	text := func(name, what string, optional bool) schema.Param {
		return schema.Param{Name: name, MaxLen: 512, Optional: optional, Text: what}
	}
	node := server.NodeParam()
	self := []schema.Param{node}
	joinParams := []schema.Param{
		text("hostname", "address of a node of the cluster, with or without port", false),
		text("fingerprint", "SHA-256 of the cluster's certificate, or of that node's", false),
		text("token", "single-use token of the cluster", true),
		text("password", "root's password on that node, instead of a token", true),
		text("renumber", `"auto", or new VMIDs for own guests as in {"100": 300}`, true),
	}
	return []server.Route{
		{Method: schema.Method{Verb: "GET", Path: "/cluster/config/nodes", Text: "Nodes with their part in the store.", Perm: audit}, Do: a.nodes},
		{Method: schema.Method{Verb: "DELETE", Path: "/cluster/config/nodes/{node}", Text: "Remove a node that is gone for good.", Perm: root, Params: append(self[:1:1],
			schema.Param{Name: "force", Type: schema.Boolean, Optional: true, Text: "also if it has guests; their configurations go into the task's log"})}, Do: a.remove},
		{Method: schema.Method{Verb: "GET", Path: "/cluster/config/keys", Text: "Keys of the shared state with revision and size in bytes; what they hold is not shown.", Perm: root}, Do: a.keys},
		{Method: schema.Method{Verb: "GET", Path: "/cluster/config/join", Text: "What a machine needs to know to join, but for a token.", Perm: audit,
			Params: []schema.Param{{Name: "node", Format: "pve-node", Optional: true, Text: "node to join through"}}}, Do: a.info},
		{Method: schema.Method{Verb: "POST", Path: "/cluster/config", Text: "Make this node a cluster and name it.", Perm: root,
			Params: []schema.Param{{Name: "clustername", MaxLen: 15, Pattern: `[A-Za-z0-9][A-Za-z0-9-]*`, Text: "its name"}}}, Do: a.found},
		{Method: schema.Method{Verb: "POST", Path: "/cluster/config/join", Text: "Have this node join a cluster.", Perm: root, Params: joinParams}, Do: a.join},
		{Method: schema.Method{Verb: "POST", Path: "/cluster/config/preview", Text: "Show what a join would do and what stands against it.", Perm: root, Params: joinParams}, Do: a.preview},
		{Method: schema.Method{Verb: "POST", Path: "/cluster/config/token", Text: "Make a token for one join. A node that was alone becomes a cluster.", Perm: root, Params: []schema.Param{
			{Name: "expire", Type: schema.Integer, Optional: true, Min: schema.F(60), Max: schema.F(maxLife.Seconds()), Text: "seconds it is good for, 3600 without it"},
			{Name: "for", Format: "pve-node", Optional: true, Text: "only for a node of this name"}}}, Do: a.newToken},
		{Method: schema.Method{Verb: "GET", Path: "/cluster/config/token", Text: "Tokens that are out, without their secrets.", Perm: root}, Do: a.tokens},
		{Method: schema.Method{Verb: "DELETE", Path: "/cluster/config/token/{id}", Text: "Make a token useless.", Perm: root,
			Params: []schema.Param{{Name: "id", Pattern: `[a-z2-7]{8}`, Text: "id of the token"}}}, Do: a.revoke},
		{Method: schema.Method{Verb: "GET", Path: "/nodes/{node}/membership", Text: "How a join, leave or recovery of the node goes, or went.", OnNode: true, Perm: audit, Params: self}, Do: a.operation},
		{Method: schema.Method{Verb: "POST", Path: "/nodes/{node}/membership/leave", Text: "Take the node out of the cluster; its guests stay with it.", OnNode: true, NoQuorum: true, Perm: root, Params: self}, Do: a.leave},
		{Method: schema.Method{Verb: "POST", Path: "/nodes/{node}/membership/recover", Text: "Make the node a cluster of one of all that its copy holds.",
			OnNode: true, NoQuorum: true, Perm: root, Params: self}, Do: a.recover},
		{Method: schema.Method{Verb: "DELETE", Path: "/nodes/{node}/membership", Text: "Call the operation under way off.", OnNode: true, NoQuorum: true, Perm: root, Params: self}, Do: a.cancel},
	}
}

func (a *API) nodes(ctx context.Context, _ *server.Request) (any, error) {
	s := a.Service
	rows := []map[string]any{}
	if s.id == nil {
		return rows, nil
	}
	for _, n := range s.book.Nodes() {
		addr := s.book.Addresses(n.Name)
		row := map[string]any{"node": n.Name, "name": n.Name, "nodeid": fmt.Sprint(n.ID), "state": n.State, "version": n.Version,
			"online": server.Bit(s.online(n.Name)), "addresses": addr, "joined": n.Joined.Unix(), "member": "none", "quorum_votes": "0"}
		if len(addr) > 0 {
			row["ring0_addr"] = addr[0]
		}
		if m, ok := s.findMember(s.member.LocalMembers(), n.Name); ok {
			row["member"] = "voter"
			row["quorum_votes"] = "1"
			if m.Learner {
				row["member"], row["quorum_votes"] = "learner", "0"
			}
		}
		st := s.peerState(n.Name)
		if !st.Online && st.Error != "" {
			row["error"] = st.Error
		}
		if st.Online {
			row["clock_skew"] = st.Skew.Seconds()
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// keys shows what the store holds without telling any of it: enough to see
// that something was left behind, or what grows.
func (a *API) keys(ctx context.Context, _ *server.Request) (any, error) {
	items, err := store.Dump(ctx, a.Service.store, prefix)
	if err != nil {
		return nil, err
	}
	rows := []map[string]any{}
	for _, it := range items {
		rows = append(rows, map[string]any{"key": it.Key, "revision": it.Rev, "size": len(it.Value)})
	}
	return rows, nil
}

func (a *API) info(_ context.Context, r *server.Request) (any, error) {
	s := a.Service
	if s.id == nil {
		return nil, server.Errorf("node is not in a cluster, no join info available!")
	}
	name := r.Params.String("node")
	if name == "" {
		name = s.o.Name
	}
	list := []map[string]any{}
	for _, n := range s.book.Nodes() {
		row := map[string]any{"name": n.Name, "nodeid": fmt.Sprint(n.ID), "quorum_votes": "1"}
		if addr := s.book.Addresses(n.Name); len(addr) > 0 {
			row["pve_addr"], row["ring0_addr"] = addr[0], addr[0]
		}
		row["pve_fp"] = pki.Fingerprint(s.id.CA()) // a joiner takes the cluster's for any node's
		list = append(list, row)
	}
	c := s.book.Cluster()
	return map[string]any{"nodelist": list, "preferred_node": name, "config_digest": c.ID, "fingerprint": pki.Fingerprint(s.id.CA()),
		"totem": map[string]any{"cluster_name": c.Name, "version": "2"}}, nil
}

func (a *API) start(kind string, r *server.Request, f task.Func) (any, error) {
	u, err := a.Tasks.Start(task.Spec{Type: kind, User: r.Who.Name()}, f)
	if err != nil {
		return nil, err
	}
	return u.String(), nil
}

func (a *API) found(_ context.Context, r *server.Request) (any, error) {
	if a.Service.id != nil {
		return nil, server.Errorf("%s", ErrClustered)
	}
	name := r.Params.String("clustername")
	return a.start("clustercreate", r, func(ctx context.Context, log task.Log) error {
		if err := a.Service.Found(ctx, name); err != nil {
			return err
		}
		log.Printf("this node is the cluster %s now; its API restarts", name)
		time.AfterFunc(time.Second, a.Service.askRestart)
		return nil
	})
}

func (a *API) newToken(ctx context.Context, r *server.Request) (any, error) {
	life := time.Duration(r.Params.Int("expire", int(defaultLife.Seconds()))) * time.Second
	return a.Service.NewToken(ctx, life, r.Params.String("for"))
}

func (a *API) tokens(ctx context.Context, _ *server.Request) (any, error) {
	list, err := a.Service.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	rows := []map[string]any{}
	for _, t := range list {
		row := map[string]any{"id": t.ID, "created": t.Created.Unix(), "expire": t.Expires.Unix(), "used": server.Bit(t.Bound != ""), "void": server.Bit(t.Burnt)}
		for k, v := range map[string]string{"for": t.Node, "node": t.Joiner} {
			if v != "" {
				row[k] = v
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (a *API) revoke(ctx context.Context, r *server.Request) (any, error) {
	return nil, a.Service.Revoke(ctx, r.Params.String("id"))
}

// ask reads what a join is given. With a password the token is fetched from
// the other node, which then knows that password only over a connection whose
// certificate was compared.
func (a *API) ask(ctx context.Context, r *server.Request) (join.Ask, error) {
	p := r.Params
	ask := join.Ask{Address: p.String("hostname"), Token: p.String("token"), Fingerprint: p.String("fingerprint")}
	if s := p.String("renumber"); s != "" {
		if !strings.HasPrefix(s, "{") {
			s = fmt.Sprintf("%q", s)
		}
		if err := json.Unmarshal([]byte(s), &ask.Renumber); err != nil {
			return ask, server.ParamErrorf("renumber", "%s", err)
		}
	}
	switch password := p.String("password"); {
	case ask.Token == "" && password == "":
		return ask, server.ParamErrorf("token", "a token or a password is needed")
	case ask.Token == "":
		token, err := fetchToken(ctx, ask, password, a.Service.o.Name)
		if err != nil {
			return ask, err
		}
		ask.Token = token
	}
	if _, err := join.ParseToken(ask.Token); err != nil {
		return ask, server.ParamErrorf("token", "%s", err)
	}
	return ask, nil
}

// refused turns findings into the API's error: all of them, by place.
func refused(err error) error {
	var no *join.Refused
	if !errors.As(err, &no) {
		return err
	}
	e := &server.Error{Status: http.StatusBadRequest, Text: err.Error(), Params: map[string]string{}}
	for _, f := range no.Findings {
		key := f.Code
		if f.Path != "" {
			key += " " + f.Path
		}
		e.Params[key] = strings.TrimSuffix(f.Text+"; "+f.Hint, "; ")
	}
	return e
}

func (a *API) preview(ctx context.Context, r *server.Request) (any, error) {
	ask, err := a.ask(ctx, r)
	if err != nil {
		return nil, err
	}
	p, err := a.Service.Preview(ctx, ask)
	if err != nil {
		return nil, refused(err)
	}
	ids := map[string]int{}
	for from, to := range p.IDs {
		ids[fmt.Sprint(from)] = to
	}
	return map[string]any{"cluster": p.Cluster.Name, "node": p.Node, "fingerprint": p.Authority, "findings": listOf(p.Findings), "clashes": listOf(p.Clashes),
		"renumber": ids, "renames": listOf(p.Renames), "ok": server.Bit(!p.Findings.Stops())}, nil
}

// listOf makes an empty list of none.
func listOf[T any](v []T) []T {
	if v == nil {
		return []T{}
	}
	return v
}

func (a *API) join(ctx context.Context, r *server.Request) (any, error) {
	ask, err := a.ask(ctx, r)
	if err != nil {
		return nil, err
	}
	// What stands against it is said at once; the operation asks again.
	p, err := a.Service.Preview(ctx, ask)
	if err == nil && p.Findings.Stops() {
		err = &join.Refused{Findings: p.Findings}
	}
	if err != nil {
		return nil, refused(err)
	}
	return a.start("clusterjoin", r, func(ctx context.Context, log task.Log) error {
		for _, f := range p.Findings {
			log.Printf("%s", f)
		}
		if err := a.Service.Join(ask); err != nil {
			return err
		}
		log.Printf("joining cluster %s through node %s; this node's API restarts on its way, GET /nodes/%s/membership shows how it goes", p.Cluster.Name, p.Node, a.Service.o.Name)
		return nil
	})
}

func (a *API) leave(_ context.Context, r *server.Request) (any, error) {
	return a.start("clusterleave", r, func(ctx context.Context, log task.Log) error {
		log.Printf("leaving the cluster; this node's API restarts on its way")
		return a.Service.Leave(ctx)
	})
}

func (a *API) recover(_ context.Context, r *server.Request) (any, error) {
	return a.start("clusterrecover", r, func(ctx context.Context, log task.Log) error {
		log.Printf("making this node a cluster of one; its API restarts on the way")
		return a.Service.Recover(ctx)
	})
}

func (a *API) cancel(context.Context, *server.Request) (any, error) {
	a.Service.Cancel()
	return nil, nil
}

func (a *API) remove(_ context.Context, r *server.Request) (any, error) {
	name, force := r.Params.String("node"), r.Params.Bool("force", false)
	return a.start("clusterremove", r, func(ctx context.Context, log task.Log) error {
		return a.Service.Remove(ctx, name, force, log.Printf)
	})
}

// operation shows how the last operation went, and where the node stands.
func (a *API) operation(context.Context, *server.Request) (any, error) {
	s := a.Service
	last := s.Last()
	out := map[string]any{"member": server.Bit(s.id != nil), "quorate": server.Bit(s.Quorum() == nil)}
	if last.Kind != "" {
		out["operation"], out["state"], out["time"], out["running"] = last.Kind, last.State, last.At.Unix(), server.Bit(!last.State.End())
		out["findings"] = listOf(last.Findings)
		for k, v := range map[string]string{"reason": last.Reason, "error": last.Error} {
			if v != "" {
				out[k] = v
			}
		}
	}
	if s.id != nil {
		c := s.book.Cluster()
		out["cluster"], out["cluster_id"], out["fingerprint"] = c.Name, c.ID, pki.Fingerprint(s.id.CA())
		if cert, err := s.id.Certificate(); err == nil {
			out["certificate_ends"] = cert.NotAfter.Unix()
			var warnings []string
			if pki.RenewDue(cert, s.o.Now()) {
				warnings = append(warnings, fmt.Sprintf("the node's certificate ends on %s and could not be renewed yet", cert.NotAfter.Format(time.DateOnly)))
			}
			if warnings = append(warnings, s.skewed()...); len(warnings) > 0 {
				out["warning"] = strings.Join(warnings, "; ")
			}
		}
		if n, ok := s.book.Node(s.o.Name); ok && n.State != roster.Member {
			out["roster_state"] = n.State
		}
	}
	return out, nil
}

// skewed names the nodes whose clocks differ so much from this one's that
// tickets and certificates of one may not be good on the other.
func (s *Service) skewed() (out []string) {
	for _, n := range s.book.Nodes() {
		st := s.peerState(n.Name)
		if skew := st.Skew.Round(time.Second); st.Online && skew.Abs() > join.MaxSkew {
			word := "ahead of"
			if skew < 0 {
				word = "behind"
			}
			out = append(out, fmt.Sprintf("the clock of node %s is %s %s this node's: log-ins made on one are refused by the other until chrony has set both", n.Name, skew.Abs(), word))
		}
	}
	return out
}

// fetchToken logs in to a node of the cluster and has it make a token. The
// fingerprint must be that of its API certificate: no password goes to a node
// that could be another one.
func fetchToken(ctx context.Context, a join.Ask, password, name string) (string, error) {
	address := a.Address
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), join.APIPort)
	}
	c, err := client.New(client.Options{URL: "https://" + address, Fingerprint: a.Fingerprint})
	if err != nil {
		return "", server.ParamErrorf("fingerprint", "%s", err)
	}
	defer c.Close()
	if err := c.Login(ctx, "root@pam", password); err != nil {
		return "", server.Errorf("log in to %s: %s", a.Address, err)
	}
	var t Token
	if err := c.Post(ctx, "/cluster/config/token", client.Params{"for": name}, &t); err != nil {
		return "", server.Errorf("get a token from %s: %s", a.Address, err)
	}
	return t.Text, nil
}
