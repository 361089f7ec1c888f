package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"joist/hypervisor/server"
	"joist/hypervisor/server/node"
)

type some struct{}

func (some) Guests(context.Context) ([]Guest, error) {
	return []Guest{
		{VMID: 100, Kind: "qemu", Name: "a", Node: "n1", Status: "running", Tags: "x;y", Lock: "clone", MaxCPU: 2, MaxMem: 1 << 30},
		{VMID: 102, Kind: "lxc", Node: "n1", Status: "stopped", Template: true},
	}, nil
}

func (some) Storages(context.Context) ([]Storage, error) {
	return []Storage{{ID: "local", Node: "n1", Type: "dir", Content: "iso,backup", Active: true, Used: 1, Total: 2}}, nil
}

func TestCalls(t *testing.T) {
	calls := map[string]server.Handler{}
	alone := View{Nodes: []Node{{Name: "n1", Online: true, Address: "192.0.2.1", Status: Status{Usage: node.Usage{MaxCPU: 4}}}}}
	for _, r := range Routes(Deps{Node: "n1", View: func() (View, error) { return alone, nil }, Guests: some{}, Storages: some{}}) {
		calls[r.Path] = r.Do
	}
	all := func(string, string) bool { return true }
	only := func(paths ...string) func(string, string) bool {
		return func(path, _ string) bool { return slices.Contains(paths, path) }
	}
	qemu := `{"cpu":0,"disk":0,"diskread":0,"diskwrite":0,"id":"qemu/100","lock":"clone","maxcpu":2,"maxdisk":0,"maxmem":1073741824,"mem":0,"name":"a","netin":0,"netout":0,"node":"n1","status":"running","tags":"x;y","template":0,"type":"qemu","uptime":0,"vmid":100}`
	lxc := `{"cpu":0,"disk":0,"diskread":0,"diskwrite":0,"id":"lxc/102","maxcpu":0,"maxdisk":0,"maxmem":0,"mem":0,"netin":0,"netout":0,"node":"n1","status":"stopped","template":1,"type":"lxc","uptime":0,"vmid":102}`
	full := `{"cpu":0,"disk":0,"id":"node/n1","level":"","maxcpu":4,"maxdisk":0,"maxmem":0,"mem":0,"node":"n1","status":"online","type":"node","uptime":0}`
	bare := `{"id":"node/n1","level":"","node":"n1","status":"online","type":"node"}`
	sto := `{"content":"iso,backup","disk":1,"id":"storage/n1/local","maxdisk":2,"node":"n1","plugintype":"dir","shared":0,"status":"available","storage":"local","type":"storage"}`
	tests := []struct {
		name, path, want string
		may              func(string, string) bool
		p                server.Values
	}{
		{"all", "/cluster/resources", "[" + qemu + "," + lxc + "," + full + "," + sto + "]", all, nil},
		{"one guest", "/cluster/resources", "[" + qemu + "," + bare + "]", only("/vms/100"), nil},
		{"guests", "/cluster/resources", "[" + lxc + "]", only("/vms/102"), server.Values{"type": "vm"}},
		{"networks", "/cluster/resources", "[]", all, server.Values{"type": "sdn"}},
		{"next", "/cluster/nextid", `"101"`, all, nil},
		{"free", "/cluster/nextid", `"200"`, all, server.Values{"vmid": int64(200)}},
		{"alone", "/cluster/status", `[{"id":"node/n1","ip":"192.0.2.1","level":"","local":1,"name":"n1","nodeid":0,"online":1,"type":"node"}]`, all, nil},
		{"none", "/cluster/ha/resources", "[]", all, nil}, {"no device", "/cluster/config/qdevice", "{}", all, nil},
		{"backup", "/cluster/backup-info/not-backed-up", `[{"name":"a","type":"qemu","vmid":100},{"name":"","type":"lxc","vmid":102}]`, all, nil},
	}
	for _, tt := range tests {
		v, err := calls[tt.path](t.Context(), &server.Request{Params: tt.p, May: tt.may})
		if err != nil {
			t.Fatal(tt.name, err)
		}
		b, _ := json.Marshal(v)
		if d := cmp.Diff(tt.want, string(b)); d != "" {
			t.Error(tt.name, d)
		}
	}
	var e *server.Error
	_, err := calls["/cluster/nextid"](t.Context(), &server.Request{Params: server.Values{"vmid": int64(100)}})
	if !errors.As(err, &e) || e.Status != 400 || e.Params["vmid"] != "VM 100 already exists" {
		t.Errorf("taken id: %v", err)
	}
}

// three is a cluster of three nodes as n1 sees it: n2 online, n3 away.
func three() View {
	task := func(upid, user string, at float64) map[string]any {
		return map[string]any{"upid": upid, "user": user, "starttime": at}
	}
	return View{Name: "lab", Version: 7, Quorate: true, Nodes: []Node{
		{Name: "n1", ID: 1, Online: true, Address: "192.0.2.1", Status: Status{Tasks: []map[string]any{{"upid": "a", "user": "joe@pve", "starttime": int64(5)}}}},
		{Name: "n2", ID: 2, Online: true, Address: "192.0.2.2", Status: Status{Usage: node.Usage{MaxCPU: 8}, Fingerprint: "AA",
			Guests:   []Guest{{VMID: 200, Kind: "qemu", Name: "old", Node: "n2", Status: "running", CPU: 0.5}, {VMID: 201, Kind: "lxc", Node: "n2", Status: "running"}},
			Storages: []Storage{{ID: "local", Node: "n2", Type: "dir", Active: true, Used: 1, Total: 2}},
			Tasks:    []map[string]any{task("b", "root@pam", 9), task("c", "joe@pve", 1)}}},
		{Name: "n3", ID: 3, Status: Status{Guests: []Guest{{VMID: 300, Kind: "qemu", Node: "n3", Status: "running"}},
			Storages: []Storage{{ID: "local", Node: "n3", Type: "dir", Active: true, Used: 1, Total: 2}}}},
	}}
}

func TestView(t *testing.T) {
	known := []Guest{{VMID: 100, Node: "n1", Kind: "qemu", Status: "running"}, {VMID: 200, Node: "n2", Kind: "qemu", Name: "new", Status: "stopped"},
		{VMID: 201, Node: "n1", Kind: "lxc", Status: "stopped"}, {VMID: 300, Node: "n3", Kind: "qemu", Status: "stopped"}}
	got := map[int]string{}
	for _, g := range three().guests("n1", known) {
		got[g.VMID] = g.Node + " " + g.Status + " " + g.Name
	}
	// 201 moved here since n2 told of it; n3 is away.
	want := map[int]string{100: "n1 running ", 200: "n2 running new", 201: "n1 stopped ", 300: "n3 unknown "}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	own := []Storage{{ID: "local", Node: "n1", Active: true, Used: 5, Total: 9}}
	if d := cmp.Diff([]Storage{own[0], {ID: "local", Node: "n2", Type: "dir", Active: true, Used: 1, Total: 2}, {ID: "local", Node: "n3", Type: "dir", Total: 2}},
		three().storages("n1", own)); d != "" {
		t.Error(d)
	}
}

func TestClusterCalls(t *testing.T) {
	calls := map[string]server.Handler{}
	for _, r := range Routes(Deps{Node: "n1", View: func() (View, error) { return three(), nil }, Guests: some{}, Storages: some{}}) {
		calls[r.Path] = r.Do
	}
	joe := func(path, _ string) bool { return path == "/nodes/n2" }
	for path, want := range map[string]string{
		"/cluster/status": `[{"id":"cluster","name":"lab","nodes":3,"quorate":1,"type":"cluster","version":7},` +
			`{"id":"node/n1","ip":"192.0.2.1","level":"","local":1,"name":"n1","nodeid":1,"online":1,"type":"node"},` +
			`{"id":"node/n2","ip":"192.0.2.2","level":"","local":0,"name":"n2","nodeid":2,"online":1,"type":"node"},` +
			`{"id":"node/n3","ip":"","level":"","local":0,"name":"n3","nodeid":3,"online":0,"type":"node"}]`,
		"/nodes": `[{"id":"node/n1","level":"","node":"n1","status":"online","type":"node"},` +
			`{"cpu":0,"disk":0,"id":"node/n2","level":"","maxcpu":8,"maxdisk":0,"maxmem":0,"mem":0,"node":"n2","ssl_fingerprint":"AA","status":"online","type":"node","uptime":0},` +
			`{"id":"node/n3","level":"","node":"n3","status":"offline","type":"node"}]`,
		"/cluster/tasks": `[{"starttime":9,"upid":"b","user":"root@pam"},{"starttime":5,"upid":"a","user":"joe@pve"},{"starttime":1,"upid":"c","user":"joe@pve"}]`,
	} {
		v, err := calls[path](t.Context(), &server.Request{May: joe, Who: server.Identity{User: "joe@pve"}})
		if err != nil {
			t.Fatal(path, err)
		}
		b, _ := json.Marshal(v)
		if d := cmp.Diff(want, string(b)); d != "" {
			t.Error(path, d)
		}
	}
}
