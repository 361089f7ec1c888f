// Package diskapi holds the calls on a node's disks and on what is wrong with
// the node.
package diskapi

import (
	"context"
	"net/http"
	"strings"

	"joist/api/schema"
	"joist/hypervisor/alert"
	"joist/hypervisor/disks"
	"joist/hypervisor/server"
	"joist/hypervisor/task"
	"joist/internal/finding"
)

// API is the calls.
type API struct {
	Disks *disks.Service
	Board *alert.Board
	Tasks task.Starter
	// Check looks at the whole machine: a report for programs.
	Check func(ctx context.Context) (any, error)
}

// Routes returns them.
func (a *API) Routes() []server.Route {
	self := []schema.Param{server.NodeParam()}
	audit := schema.Perm{Path: "/nodes/{node}", Privs: []string{"Sys.Audit"}}
	root := schema.Perm{Root: true}
	exchange := append(self[:1:1],
		schema.Param{Name: "old", MaxLen: 64, Pattern: `[A-Za-z0-9/!._-]+`, Text: `disk that goes: its name, the GUID of its table, or "missing"`},
		schema.Param{Name: "new", MaxLen: 64, Pattern: `[A-Za-z0-9/!._-]+`, Text: "disk that takes its place"},
		schema.Param{Name: "overwrite", Optional: true, Pattern: `[0-9a-f]{16}`, Text: "id of the data on it that may go, as the refusal names it"})
	return []server.Route{
		{Method: schema.Method{Verb: "GET", Path: "/nodes/{node}/alerts", Text: "What is wrong with the node.", OnNode: true, Perm: audit, Params: self}, Do: a.alerts},
		{Method: schema.Method{Verb: "GET", Path: "/nodes/{node}/check", Text: "Check the machine as before an installation.", OnNode: true, Perm: audit, Params: self}, Do: a.check},
		{Method: schema.Method{Verb: "GET", Path: "/nodes/{node}/disks/list", Text: "Disks of the node, and what each does for its system.", OnNode: true, Perm: audit, Params: append(self[:1:1],
			schema.Param{Name: "include-partitions", Type: schema.Boolean, Optional: true, Text: "without effect"},
			schema.Param{Name: "skipsmart", Type: schema.Boolean, Optional: true, Text: "without effect"},
			schema.Param{Name: "type", Optional: true, Enum: []string{"unused", "journal_disks"}, Text: "only disks that hold nothing"})}, Do: a.list},
		{Method: schema.Method{Verb: "POST", Path: "/nodes/{node}/disks/preview", Text: "Show what stands against replacing a disk.", OnNode: true, NoQuorum: true, Perm: root, Params: exchange}, Do: a.preview},
		{Method: schema.Method{Verb: "POST", Path: "/nodes/{node}/disks/replace", Text: "Put a disk in the place of another one of the system.", OnNode: true, NoQuorum: true, Perm: root, Params: exchange}, Do: a.replace},
		{Method: schema.Method{Verb: "POST", Path: "/nodes/{node}/disks/repair", Text: "Bring the boot parts of all disks of the system to one state.", OnNode: true, NoQuorum: true, Perm: root, Params: self}, Do: a.repair},
	}
}

func (a *API) alerts(context.Context, *server.Request) (any, error) { return a.Board.List(), nil }

func (a *API) check(ctx context.Context, _ *server.Request) (any, error) { return a.Check(ctx) }

func (a *API) list(ctx context.Context, r *server.Request) (any, error) {
	list, err := a.Disks.List(ctx)
	if err != nil {
		return nil, err
	}
	rows := []map[string]any{}
	for _, d := range list {
		if r.Params.Has("type") && d.DataID != "" {
			continue
		}
		rows = append(rows, row(d))
	}
	return rows, nil
}

// row has the keys that clients know, and ours behind them.
func row(d disks.Row) map[string]any {
	kind := "ssd"
	switch {
	case d.Bus == "nvme" || d.Bus == "usb":
		kind = d.Bus
	case d.Rotational:
		kind = "hdd"
	}
	m := map[string]any{"devpath": "/dev/" + d.Name, "size": d.Size, "model": d.Model, "serial": d.Serial, "wwn": d.WWN, "vendor": "",
		"type": kind, "gpt": server.Bit(d.GUID != ""), "health": "UNKNOWN", "osdid": -1, "osdid-list": nil, "sector": d.Sector}
	if d.Failing != nil {
		m["health"] = map[bool]string{true: "FAILED", false: "PASSED"}[*d.Failing]
		m["wearout"] = 100 - d.Wear
	}
	if d.Holds != "" {
		m["used"] = d.Holds
	}
	if d.DataID != "" {
		m["data-id"] = d.DataID
	}
	if d.GUID == "" {
		return m
	}
	m["used"], m["guid"], m["booted"], m["starts"] = "this system", d.GUID, server.Bit(d.Booted), server.Bit(d.Starts)
	if d.Lacks != "" {
		m["lacks"] = d.Lacks
	}
	if d.Member != "" {
		m["data"] = d.Member
	}
	return m
}

func (a *API) exchange(ctx context.Context, r *server.Request) (disks.Exchange, finding.List) {
	p := r.Params
	x, fs := a.Disks.Check(ctx, p.String("old"), p.String("new"), p.String("overwrite"))
	x.User = r.Who.Name()
	return x, fs
}

func (a *API) preview(ctx context.Context, r *server.Request) (any, error) {
	_, fs := a.exchange(ctx, r)
	if fs == nil {
		fs = finding.List{}
	}
	return map[string]any{"possible": server.Bit(!fs.Stops()), "findings": fs}, nil
}

func (a *API) replace(ctx context.Context, r *server.Request) (any, error) {
	x, fs := a.exchange(ctx, r)
	if fs.Stops() {
		var texts []string
		for _, f := range fs {
			if f.Level == finding.Stop {
				texts = append(texts, f.Text+" ("+f.Hint+")")
			}
		}
		return nil, &server.Error{Status: http.StatusBadRequest, Text: strings.Join(texts, "; ")}
	}
	u, err := a.Disks.Start(x)
	if err != nil {
		return nil, err
	}
	return u.String(), nil
}

func (a *API) repair(_ context.Context, r *server.Request) (any, error) {
	u, err := a.Tasks.Start(task.Spec{Type: "diskrepair", User: r.Who.Name()}, a.Disks.Repair)
	if err != nil {
		return nil, err
	}
	return u.String(), nil
}
