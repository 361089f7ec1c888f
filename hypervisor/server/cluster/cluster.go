// Package cluster holds the calls below /cluster: what there is, over all
// nodes and kinds.
package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"joist/api/schema"
	"joist/hypervisor/server"
)

// Guest is a guest as lists show it. Sizes are bytes, CPU is in cores' worth
// of use divided by MaxCPU, NetIn and the like count since the guest started.
type Guest struct {
	VMID                int
	Kind                string // qemu or lxc
	Name, Node, Status  string // Status: running or stopped
	Tags, Lock, Pool    string
	Template            bool
	CPU                 float64
	MaxCPU              int
	Mem, MaxMem         int64
	Disk, MaxDisk       int64
	DiskRead, DiskWrite int64
	NetIn, NetOut       int64
	Uptime              int64 // seconds
}

// GuestLister knows all guests of the cluster, and how those of this node are.
type GuestLister interface {
	Guests(ctx context.Context) ([]Guest, error)
}

// Storage is a storage on one node as lists show it.
type Storage struct {
	ID, Node, Type, Content string // Content: comma separated
	Shared, Active          bool
	Used, Total             int64
}

// StorageLister knows the storages of this node.
type StorageLister interface {
	Storages(ctx context.Context) ([]Storage, error)
}

// Deps is what the calls need.
type Deps struct {
	Node     string
	Keyboard string // the cluster's default layout
	View     func() (View, error)
	Guests   GuestLister
	Storages StorageLister
}

// Routes returns the calls below /cluster.
func Routes(d Deps) []server.Route {
	get := func(path, text string, do server.Handler, params ...schema.Param) server.Route {
		return server.Route{Method: schema.Method{Verb: "GET", Path: path, Text: text, Params: params}, Do: do}
	}
	audit := func(r server.Route) server.Route {
		r.Perm = schema.Perm{Path: "/", Privs: []string{"Sys.Audit"}}
		return r
	}
	// There is no HA manager, quorum device or backup job yet: none is what
	// there are.
	none := func(v any) server.Handler {
		return func(context.Context, *server.Request) (any, error) { return v, nil }
	}
	return []server.Route{
		get("/cluster/resources", "Guests, storages and nodes of the cluster.", d.resources,
			schema.Param{Name: "type", Optional: true, Enum: []string{"vm", "storage", "node", "sdn"}, Text: "only this kind"}),
		audit(get("/cluster/status", "Nodes and quorum.", d.status)),
		get("/cluster/tasks", "Recent tasks of all nodes.", d.tasks),
		get("/nodes", "Nodes of the cluster.", d.nodes),
		get("/cluster/nextid", "A free VMID, or a check whether one is free.", d.nextID,
			schema.Param{Name: "vmid", Type: schema.Integer, Optional: true, Format: "pve-vmid", Text: "VMID to check"}),
		audit(get("/cluster/options", "Settings of the cluster.", d.options)),
		audit(get("/cluster/ha/resources", "Guests under high availability.", none([]struct{}{}),
			schema.Param{Name: "type", Optional: true, Enum: []string{"ct", "vm"}, Text: "only this kind"})),
		audit(get("/cluster/config/qdevice", "State of the quorum device.", none(struct{}{}))),
		audit(get("/cluster/backup-info/not-backed-up", "Guests that no backup job covers.", d.notBackedUp)),
	}
}

func (d Deps) options(context.Context, *server.Request) (any, error) {
	o := map[string]any{}
	if d.Keyboard != "" {
		o["keyboard"] = d.Keyboard
	}
	return o, nil
}

func (d Deps) status(context.Context, *server.Request) (any, error) {
	v, err := d.View()
	if err != nil {
		return nil, err
	}
	rows := []map[string]any{}
	if v.Name != "" { // a node that is in no cluster is one row with id 0
		rows = append(rows, map[string]any{"type": "cluster", "id": "cluster", "name": v.Name, "nodes": len(v.Nodes),
			"quorate": server.Bit(v.Quorate), "version": v.Version})
	}
	for _, n := range v.Nodes {
		rows = append(rows, map[string]any{"type": "node", "id": "node/" + n.Name, "name": n.Name, "nodeid": n.ID,
			"online": server.Bit(n.Online), "local": server.Bit(n.Name == d.Node), "level": "", "ip": n.Address})
	}
	return rows, nil
}

// nodes answers GET /nodes.
func (d Deps) nodes(_ context.Context, r *server.Request) (any, error) {
	v, err := d.View()
	if err != nil {
		return nil, err
	}
	rows := []map[string]any{}
	for _, n := range v.Nodes {
		row := n.row(mayAudit(r, n.Name))
		if n.Online && mayAudit(r, n.Name) {
			row["ssl_fingerprint"] = n.Status.Fingerprint
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// tasks answers GET /cluster/tasks: what each node did lately, newest first.
func (d Deps) tasks(_ context.Context, r *server.Request) (any, error) {
	v, err := d.View()
	if err != nil {
		return nil, err
	}
	rows := []map[string]any{}
	for _, n := range v.Nodes {
		for _, row := range n.Status.Tasks {
			user, _ := row["user"].(string)
			token, _ := row["tokenid"].(string)
			if mayAudit(r, n.Name) || user == r.Who.User && (r.Who.Token == "" || r.Who.Token == token) {
				rows = append(rows, row)
			}
		}
	}
	slices.SortStableFunc(rows, func(a, b map[string]any) int { return cmp.Compare(number(b["starttime"]), number(a["starttime"])) })
	return rows[:min(len(rows), 50)], nil
}

// number reads what was a number here and a JSON number elsewhere.
func number(v any) float64 {
	switch n := v.(type) {
	case int64:
		return float64(n)
	case float64:
		return n
	}
	return 0
}

func (d Deps) nextID(ctx context.Context, r *server.Request) (any, error) {
	guests, err := d.Guests.Guests(ctx)
	if err != nil {
		return nil, err
	}
	taken := map[int]bool{}
	for _, g := range guests {
		taken[g.VMID] = true
	}
	if id := r.Params.Int("vmid", 0); id != 0 {
		if taken[id] {
			return nil, server.ParamErrorf("vmid", "VM %d already exists", id)
		}
		return strconv.Itoa(id), nil
	}
	for id := 100; id <= 999_999_999; id++ {
		if !taken[id] {
			return strconv.Itoa(id), nil
		}
	}
	return nil, server.Errorf("unable to get any free VMID")
}

func (d Deps) notBackedUp(ctx context.Context, _ *server.Request) (any, error) {
	guests, err := d.Guests.Guests(ctx)
	if err != nil {
		return nil, err
	}
	rows := make([]map[string]any, 0, len(guests))
	for _, g := range guests {
		rows = append(rows, map[string]any{"type": g.Kind, "vmid": g.VMID, "name": g.Name})
	}
	return rows, nil
}

func (d Deps) resources(ctx context.Context, r *server.Request) (any, error) {
	v, err := d.View()
	if err != nil {
		return nil, err
	}
	rows := []map[string]any{}
	kind := r.Params.String("type")
	if kind == "" || kind == "vm" {
		guests, err := d.Guests.Guests(ctx)
		if err != nil {
			return nil, err
		}
		for _, g := range v.guests(d.Node, guests) {
			if r.May("/vms/"+strconv.Itoa(g.VMID), "VM.Audit") {
				rows = append(rows, guestRow(g))
			}
		}
	}
	if kind == "" || kind == "node" {
		for _, n := range v.Nodes {
			rows = append(rows, n.row(mayAudit(r, n.Name)))
		}
	}
	if kind == "" || kind == "storage" {
		storages, err := d.Storages.Storages(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range v.storages(d.Node, storages) {
			if at := "/storage/" + s.ID; r.May(at, "Datastore.Audit") || r.May(at, "Datastore.AllocateSpace") {
				rows = append(rows, storageRow(s))
			}
		}
	}
	return rows, nil
}

// guestRow leaves out what does not apply: clients wait for "lock" to vanish.
func guestRow(g Guest) map[string]any {
	row := map[string]any{
		"id": fmt.Sprintf("%s/%d", g.Kind, g.VMID), "type": g.Kind, "vmid": g.VMID, "node": g.Node, "status": g.Status,
		"template": server.Bit(g.Template), "cpu": g.CPU, "maxcpu": g.MaxCPU, "mem": g.Mem, "maxmem": g.MaxMem,
		"disk": g.Disk, "maxdisk": g.MaxDisk, "diskread": g.DiskRead, "diskwrite": g.DiskWrite,
		"netin": g.NetIn, "netout": g.NetOut, "uptime": g.Uptime,
	}
	for k, v := range map[string]string{"name": g.Name, "tags": g.Tags, "lock": g.Lock, "pool": g.Pool} {
		if v != "" {
			row[k] = v
		}
	}
	return row
}

func storageRow(s Storage) map[string]any {
	status := "unknown"
	if s.Active {
		status = "available"
	}
	return map[string]any{
		"id": "storage/" + s.Node + "/" + s.ID, "type": "storage", "storage": s.ID, "node": s.Node, "status": status,
		"plugintype": s.Type, "content": s.Content, "shared": server.Bit(s.Shared), "disk": s.Used, "maxdisk": s.Total,
	}
}
