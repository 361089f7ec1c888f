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
	for _, r := range Routes(Deps{Node: "n1", Self: func() (node.Usage, error) { return node.Usage{MaxCPU: 4}, nil },
		Address: func() string { return "192.0.2.1" }, Guests: some{}, Storages: some{}}) {
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
