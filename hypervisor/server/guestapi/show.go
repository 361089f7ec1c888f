package guestapi

import (
	"context"
	"fmt"
	"strconv"

	"joist/api/drive"
	wire "joist/api/guest"
	"joist/hypervisor/control"
	"joist/hypervisor/guest"
	"joist/hypervisor/server"
	clusterapi "joist/hypervisor/server/cluster"
)

// runs reports whether there is a guest to speak of.
func runs(v control.View) bool { return v.Status.State != guest.Stopped }

func status(v control.View) string {
	if runs(v) {
		return "running"
	}
	return "stopped"
}

// name is what lists show: a machine without a name gets one.
func name(v control.View) string {
	switch n := v.Name(); {
	case n != "":
		return n
	case v.Kind == guest.LXC:
		return "CT" + strconv.Itoa(v.VMID)
	}
	return "VM " + strconv.Itoa(v.VMID)
}

// cpus is how many CPUs a guest has or may use.
func (a *API) cpus(v control.View) int {
	if v.Kind == guest.KVM {
		now, _, _, _ := wire.CPUs(v.Config)
		return now
	}
	if n, err := strconv.ParseFloat(v.Config["cpulimit"], 64); err == nil && n >= 1 {
		return int(n)
	}
	if n, err := strconv.Atoi(v.Config["cores"]); err == nil {
		return n
	}
	return a.CPUs
}

func mib(config map[string]string, key string) int64 {
	if n, err := strconv.ParseInt(config[key], 10, 64); err == nil {
		return n << 20
	}
	return 512 << 20
}

func memory(v control.View) int64 {
	if v.Kind == guest.LXC {
		return mib(v.Config, "memory")
	}
	n, err := wire.Memory(v.Config["memory"])
	if err != nil {
		n = 512
	}
	return int64(n) << 20
}

// diskSize is that of the root volume, or of the first disk.
func diskSize(v control.View) int64 {
	if v.Kind == guest.LXC {
		m, err := drive.ParseMount("rootfs", v.Config["rootfs"])
		if err != nil {
			return 0
		}
		return m.Size
	}
	for _, bus := range []drive.Bus{drive.SCSI, drive.VirtIO, drive.SATA, drive.IDE} {
		for n := range 31 {
			d, err := drive.Parse(v.Config[string(bus)+strconv.Itoa(n)])
			if err == nil && !d.CDROM {
				return d.Size
			}
		}
	}
	return 0
}

// row is a guest in lists and, with more, in its status. Keys that do not
// apply are absent: clients wait for "lock" to vanish and take any "template"
// for yes.
func (a *API) row(v control.View) map[string]any {
	s := v.Status
	m := map[string]any{
		"vmid": v.VMID, "name": name(v), "status": status(v), "cpu": s.CPU, "cpus": a.cpus(v),
		"mem": s.Mem, "maxmem": memory(v), "disk": 0, "maxdisk": diskSize(v), "uptime": int64(s.Uptime.Seconds()),
		"netin": s.NetIn, "netout": s.NetOut, "diskread": s.DiskRead, "diskwrite": s.DiskWrite,
	}
	if v.Kind == guest.LXC {
		m["type"] = "lxc"
		m["swap"], m["maxswap"] = s.Swap, mib(v.Config, "swap")
	}
	if s.PID != 0 && runs(v) {
		m["pid"] = s.PID
	}
	for k, t := range map[string]string{"tags": v.Config["tags"], "lock": v.Lock} {
		if t != "" {
			m[k] = t
		}
	}
	return m
}

// qmpStatus is the finer state that machines have.
func qmpStatus(v control.View) string {
	switch v.Status.State {
	case guest.Paused:
		return "paused"
	case guest.Stopped:
		return "stopped"
	}
	return "running"
}

func (k kind) list(_ context.Context, r *server.Request) (any, error) {
	out := []map[string]any{}
	for _, v := range k.a.Guests.All() {
		if v.Kind != k.kind || v.Node != k.a.Node || !r.May(fmt.Sprintf("/vms/%d", v.VMID), "VM.Audit") {
			continue
		}
		m := k.a.row(v)
		if k.kind == guest.KVM {
			m["qmpstatus"] = qmpStatus(v)
		}
		out = append(out, m)
	}
	return out, nil
}

func (k kind) status(_ context.Context, r *server.Request) (any, error) {
	v, err := k.view(r)
	if err != nil {
		return nil, err
	}
	m := k.a.row(v)
	m["ha"] = map[string]any{"managed": 0}
	if v.Exit != "" { // ours: how it ended when nobody had asked for it
		m["exit"] = v.Exit
	}
	if k.kind != guest.KVM {
		return m, nil
	}
	m["qmpstatus"] = qmpStatus(v)
	if wire.AgentOn(v.Config["agent"]) {
		m["agent"] = 1
	}
	if v.Config["serial0"] != "" {
		m["serial"] = 1
	}
	if runs(v) && v.Status.Accel != "" { // ours: hardware or software
		m["accel"] = v.Status.Accel
	}
	return m, nil
}

// shown is a configuration as JSON. Secrets are not shown.
func shown(kind guest.Kind, config map[string]string) map[string]any {
	out := map[string]any{}
	for key, value := range config {
		if key == "cipassword" {
			value = "**********"
		}
		out[key] = wire.Wire(wire.Kind(kind), key, value)
	}
	return out
}

func (k kind) config(_ context.Context, r *server.Request) (any, error) {
	v, err := k.view(r)
	if err != nil {
		return nil, err
	}
	if s := r.Params.String("snapshot"); s != "" {
		return nil, server.Errorf("snapshot '%s' does not exist", s)
	}
	config := v.Config
	if r.Params.Bool("current", false) {
		config = v.Current()
	}
	out := shown(k.kind, config)
	out["digest"] = v.Digest()
	if v.Lock != "" {
		out["lock"] = v.Lock
	}
	return out, nil
}

func (k kind) pending(_ context.Context, r *server.Request) (any, error) {
	v, err := k.view(r)
	if err != nil {
		return nil, err
	}
	out := []map[string]any{}
	for _, p := range v.Pending() {
		m := map[string]any{"key": p.Key}
		show := func(s string) any { return shown(k.kind, map[string]string{p.Key: s})[p.Key] }
		if p.HasValue {
			m["value"] = show(p.Value)
		}
		if p.Changed {
			m["pending"] = show(p.Next)
		}
		if p.Deleted {
			m["delete"] = 1
		}
		out = append(out, m)
	}
	return append(out, map[string]any{"key": "digest", "value": v.Digest()}), nil
}

// Lister shows guests to the calls below /cluster.
type Lister struct{ API *API }

// Guests implements cluster.GuestLister.
func (l Lister) Guests(context.Context) ([]clusterapi.Guest, error) {
	all := l.API.Guests.All()
	out := make([]clusterapi.Guest, 0, len(all))
	for _, v := range all {
		s := v.Status
		out = append(out, clusterapi.Guest{VMID: v.VMID, Kind: string(v.Kind), Name: name(v), Node: v.Node, Status: status(v),
			Tags: v.Config["tags"], Lock: v.Lock, CPU: s.CPU, MaxCPU: l.API.cpus(v), Mem: s.Mem, MaxMem: memory(v),
			MaxDisk: diskSize(v), DiskRead: s.DiskRead, DiskWrite: s.DiskWrite, NetIn: s.NetIn, NetOut: s.NetOut,
			Uptime: int64(s.Uptime.Seconds())})
	}
	return out, nil
}
