package node

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"

	"joist/api/schema"
	"joist/hypervisor/server"
	"joist/system/crash"
)

// evidenceRoutes are the calls on what the kernel said when it died, and on all
// that tells what is wrong.
func (d *Deps) evidenceRoutes() []server.Route {
	one := []schema.Param{server.NodeParam(), {Name: "id", MaxLen: 64, Text: "name of the crash, as the list has it"}}
	method := func(verb, path, text, priv string, params []schema.Param) schema.Method {
		return schema.Method{Verb: verb, Path: "/nodes/{node}/crashes" + path, Text: text, OnNode: true, NoQuorum: true,
			Perm: schema.Perm{Path: "/nodes/{node}", Privs: []string{priv}}, Params: params}
	}
	return []server.Route{
		{Method: method("GET", "", "Crashes of the kernel that nobody has deleted yet, oldest first.", "Sys.Audit", one[:1:1]), Do: d.crashes},
		{Method: method("GET", "/{id}", "What the kernel said at a crash.", "Sys.Syslog", one), Do: d.crashText},
		{Method: method("DELETE", "/{id}", "Delete a crash that was looked at; the dashboard does not show it any more.", "Sys.Modify", one), Do: d.crashDelete},
		{Method: schema.Method{Verb: "GET", Path: "/nodes/{node}/support", Text: "Logs, facts and versions for whoever is to find a fault, without secrets: a gzipped tar archive in base64.",
			OnNode: true, NoQuorum: true, Perm: schema.Perm{Path: "/nodes/{node}", Privs: []string{"Sys.Syslog", "Sys.Audit"}}, Params: one[:1:1]}, Do: d.support},
	}
}

func (d *Deps) crashes(context.Context, *server.Request) (any, error) {
	list, err := crash.List(d.Crashes)
	if err != nil {
		return nil, err
	}
	out := []map[string]any{}
	for _, c := range list {
		out = append(out, map[string]any{"id": c.ID, "time": c.Time.Unix(), "reason": c.Reason, "size": c.Bytes})
	}
	return out, nil
}

func (d *Deps) crashText(_ context.Context, r *server.Request) (any, error) {
	text, err := crash.Text(d.Crashes, r.Params.String("id"))
	if err != nil {
		return nil, notFound(err)
	}
	return string(text), nil
}

func (d *Deps) crashDelete(_ context.Context, r *server.Request) (any, error) {
	return nil, notFound(crash.Delete(d.Crashes, r.Params.String("id")))
}

func notFound(err error) error {
	if errors.Is(err, crash.ErrNotFound) {
		return &server.Error{Status: http.StatusBadRequest, Text: "Parameter verification failed.", Params: map[string]string{"id": "there is no such crash on this node"}}
	}
	return err
}

// support is the bundle as base64. It is small: each file is bounded.
func (d *Deps) support(ctx context.Context, _ *server.Request) (any, error) {
	var b bytes.Buffer
	if err := d.Support.Write(ctx, &b); err != nil {
		return nil, err
	}
	return map[string]any{"name": d.Support.Name(), "content": base64.StdEncoding.EncodeToString(b.Bytes())}, nil
}
