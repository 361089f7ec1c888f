// Package task holds the calls on tasks: list, status, log, stop.
package task

import (
	"context"
	"strings"
	"time"

	"joist/api/schema"
	"joist/hypervisor/server"
	"joist/hypervisor/task"
)

type calls struct {
	node string
	m    *task.Manager
}

// Routes returns the calls on tasks.
func Routes(node string, m *task.Manager) []server.Route {
	c := calls{node, m}
	params := []schema.Param{server.NodeParam(), {Name: "upid", MaxLen: 400, Text: "task id"}}
	logParams := append(params[:2:2],
		schema.Param{Name: "start", Type: schema.Integer, Optional: true, Min: schema.F(0), Text: "first line, from 0"},
		schema.Param{Name: "limit", Type: schema.Integer, Optional: true, Min: schema.F(0), Text: "number of lines, 0 for all"})
	return []server.Route{
		{Method: schema.Method{Verb: "GET", Path: "/nodes/{node}/tasks", Text: "Tasks of the node, newest first.", OnNode: true,
			Params: listParams()}, Do: c.list},
		{Method: schema.Method{Verb: "GET", Path: "/nodes/{node}/tasks/{upid}/status", Text: "Where a task stands.", OnNode: true,
			Params: params}, Do: c.status},
		{Method: schema.Method{Verb: "GET", Path: "/nodes/{node}/tasks/{upid}/log", Text: "Lines of a task's log.", OnNode: true,
			Params: logParams}, Do: c.log},
		{Method: schema.Method{Verb: "DELETE", Path: "/nodes/{node}/tasks/{upid}", Text: "Stop a task.", OnNode: true, NoQuorum: true,
			Params: params}, Do: c.stop},
	}
}

func listParams() []schema.Param {
	num := func(name, text string) schema.Param {
		return schema.Param{Name: name, Type: schema.Integer, Optional: true, Min: schema.F(0), Text: text}
	}
	return []schema.Param{
		server.NodeParam(),
		num("start", "skip so many"), num("limit", "at most so many, 50 without it"),
		num("since", "started at or after, epoch"), num("until", "started at or before, epoch"),
		{Name: "vmid", Type: schema.Integer, Optional: true, Format: "pve-vmid", Text: "only of this guest"},
		{Name: "typefilter", Optional: true, MaxLen: 64, Text: "only of this type"},
		{Name: "userfilter", Optional: true, MaxLen: 128, Text: "only of users whose name has this"},
		{Name: "statusfilter", Optional: true, List: true, Enum: []string{"unknown", "ok", "warning", "error"}, Text: "only with these statuses"},
		{Name: "errors", Type: schema.Boolean, Optional: true, Text: "only failed tasks"},
		{Name: "source", Optional: true, Enum: []string{"archive", "active", "all"}, Text: "ended, running or all tasks"},
	}
}

func (c calls) list(_ context.Context, r *server.Request) (any, error) {
	p := r.Params
	f := task.Filter{
		Source: task.Source(p.String("source")), Type: p.String("typefilter"), VMID: p.String("vmid"), User: p.String("userfilter"),
		Errors: p.Bool("errors", false), Statuses: p.List("statusfilter"), Start: p.Int("start", 0), Limit: p.Int("limit", 50),
		Visible: c.visible(r),
	}
	if p.Has("since") {
		f.Since = time.Unix(int64(p.Int("since", 0)), 0)
	}
	if p.Has("until") {
		f.Until = time.Unix(int64(p.Int("until", 0)), 0)
	}
	tasks, total := c.m.List(f)
	r.Total = &total
	return rows(tasks), nil
}

// Recent is the rows of the newest tasks, which a node tells the others.
func Recent(m *task.Manager, limit int) []map[string]any {
	tasks, _ := m.List(task.Filter{Source: task.All, Limit: limit})
	return rows(tasks)
}

// owns reports whether the caller started the task; a user owns what the
// user's tokens start, a token only its own.
func owns(who server.Identity, u task.UPID) bool {
	user, _, _ := strings.Cut(u.User, "!")
	return u.User == who.Name() || who.Token == "" && user == who.User
}

func (c calls) visible(r *server.Request) func(task.UPID) bool {
	all := r.May("/nodes/"+c.node, "Sys.Audit")
	return func(u task.UPID) bool { return all || owns(r.Who, u) }
}

func rows(tasks []task.Info) []map[string]any {
	out := make([]map[string]any, 0, len(tasks))
	for _, t := range tasks {
		row := row(t)
		if t.Running {
			row["status"] = "RUNNING"
		} else {
			row["endtime"], row["status"] = t.Ended.Unix(), t.Status
		}
		out = append(out, row)
	}
	return out
}

func row(t task.Info) map[string]any {
	u := t.UPID
	user, token, _ := strings.Cut(u.User, "!")
	row := map[string]any{
		"upid": u.String(), "node": u.Node, "pid": u.Num, "pstart": u.Start, "starttime": u.Time.Unix(),
		"type": u.Type, "id": u.ID, "user": user,
	}
	if token != "" {
		row["tokenid"] = token
	}
	return row
}

// find returns the task that a request names, if the caller may see it.
func (c calls) find(r *server.Request, priv string) (task.Info, error) {
	id := r.Params.String("upid")
	u, err := task.ParseUPID(id)
	if err != nil {
		return task.Info{}, server.ParamErrorf("upid", "%s", err)
	}
	if at := "/nodes/" + c.node; !owns(r.Who, u) && !r.May(at, priv) {
		return task.Info{}, server.Denied(at, priv)
	}
	t, err := c.m.Get(id)
	if err != nil {
		return t, server.ParamErrorf("upid", "no such task")
	}
	return t, nil
}

func (c calls) status(_ context.Context, r *server.Request) (any, error) {
	t, err := c.find(r, "Sys.Audit")
	if err != nil {
		return nil, err
	}
	row := row(t)
	row["status"] = "running"
	if !t.Running {
		row["status"], row["exitstatus"] = "stopped", t.Status
	}
	return row, nil
}

func (c calls) log(_ context.Context, r *server.Request) (any, error) {
	t, err := c.find(r, "Sys.Audit")
	if err != nil {
		return nil, err
	}
	start := r.Params.Int("start", 0)
	lines, total, err := c.m.Read(t.UPID.String(), start, r.Params.Int("limit", 50))
	if err != nil {
		return nil, err
	}
	if total == 0 {
		start, total, lines = 0, 1, []string{"no content"}
	}
	r.Total = &total
	out := make([]map[string]any, 0, len(lines))
	for i, l := range lines {
		out = append(out, map[string]any{"n": start + i + 1, "t": l})
	}
	return out, nil
}

func (c calls) stop(_ context.Context, r *server.Request) (any, error) {
	t, err := c.find(r, "Sys.Modify")
	if err != nil {
		return nil, err
	}
	return nil, c.m.Stop(t.UPID.String())
}
