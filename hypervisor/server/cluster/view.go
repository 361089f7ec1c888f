package cluster

import (
	"cmp"
	"slices"

	"joist/hypervisor/server"
	"joist/hypervisor/server/node"
)

// Status is what a node tells the others of itself, all the time.
type Status struct {
	Usage       node.Usage       `json:"usage"`
	Fingerprint string           `json:"fingerprint"` // of its API's certificate
	Guests      []Guest          `json:"guests"`      // its own only
	Storages    []Storage        `json:"storages"`    // its own only
	Tasks       []map[string]any `json:"tasks"`       // recent ones, rows as the API gives them
}

// Node is one node as this one sees it.
type Node struct {
	Name    string
	ID      int // 0 outside of a cluster
	Online  bool
	Address string
	Status  Status // the last that it told; this node's own is fresh
}

// View is the cluster as this node sees it. Outside of a cluster it is this
// node alone, without a name.
type View struct {
	Name    string
	Version int64 // changes with the roster
	Quorate bool
	Nodes   []Node // by name
}

func (v View) node(name string) (Node, bool) {
	i := slices.IndexFunc(v.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, false
	}
	return v.Nodes[i], true
}

// guests adds to what the store knows of all guests what their nodes tell of
// them. A node that is away tells nothing.
func (v View) guests(self string, known []Guest) []Guest {
	told := map[int]Guest{}
	for _, n := range v.Nodes {
		if n.Name != self && n.Online {
			for _, g := range n.Status.Guests {
				told[g.VMID] = g
			}
		}
	}
	out := slices.Clone(known)
	for i, g := range out {
		if g.Node == self {
			continue
		}
		t, ok := told[g.VMID]
		if ok && t.Node == g.Node && t.Kind == g.Kind {
			// Name, tags and lock are the store's: they are newer there.
			t.Name, t.Tags, t.Lock, t.Pool, t.Template = g.Name, g.Tags, g.Lock, g.Pool, g.Template
			out[i] = t
			continue
		}
		out[i].Status, out[i].CPU, out[i].Mem, out[i].Uptime = "unknown", 0, 0, 0
	}
	return out
}

// storages are those of all nodes; of a node that is away it is not known how
// full they are.
func (v View) storages(self string, own []Storage) []Storage {
	out := slices.Clone(own)
	for _, n := range v.Nodes {
		if n.Name == self {
			continue
		}
		for _, s := range n.Status.Storages {
			if !n.Online {
				s.Active, s.Used = false, 0
			}
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b Storage) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID)) })
	return out
}

// row is the node in lists; numbers only for those who may see them.
func (n Node) row(audit bool) map[string]any {
	row := map[string]any{"id": "node/" + n.Name, "type": "node", "node": n.Name, "status": "offline", "level": ""}
	if !n.Online {
		return row
	}
	row["status"] = "online"
	if audit {
		n.Status.Usage.Into(row)
	}
	return row
}

func mayAudit(r *server.Request, name string) bool { return r.May("/nodes/"+name, "Sys.Audit") }
