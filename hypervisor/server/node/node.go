// Package node holds the calls on a node itself: status, power, time, names,
// network, subscription.
package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"time"

	"joist/api/node"
	"joist/api/schema"
	"joist/hypervisor/server"
	"joist/hypervisor/server/version"
	"joist/system/support"
)

// Deps is what the calls need.
type Deps struct {
	Node     string
	Version  version.Info
	Machine  *Machine
	Init     func(ctx context.Context, r node.InitRequest) (node.InitReply, error) // PID 1
	NetState string                                                                // node.NetState
	Config   node.Config                                                           // node.json
	Alerts   func() []node.Alert                                                   // what is wrong with the node
	First    func() (node.FirstBoot, error)                                        // the first start
	Settle   func() error                                                          // takes its failures as dealt with
	Crashes  string                                                                // node.CrashDir
	Support  support.Machine
	Reset    func(ctx context.Context, r Reset) error // prepares the next start
}

// Routes returns the calls on a node.
func Routes(d Deps) []server.Route {
	self := []schema.Param{server.NodeParam()}
	at := func(priv string) schema.Perm {
		if priv == "" {
			return schema.Perm{}
		}
		return schema.Perm{Path: "/nodes/{node}", Privs: []string{priv}}
	}
	get := func(path, text, priv string, do server.Handler, more ...schema.Param) server.Route {
		return server.Route{Method: schema.Method{Verb: "GET", Path: "/nodes/{node}/" + path, Text: text, OnNode: true,
			Perm: at(priv), Params: append(self[:1:1], more...)}, Do: do}
	}
	return append(append(d.evidenceRoutes(), d.resetRoute()), []server.Route{
		get("status", "Load, memory, kernel and CPUs.", "Sys.Audit", d.status),
		{Method: schema.Method{Verb: "POST", Path: "/nodes/{node}/status", Text: "Restart or switch off the node.", OnNode: true, NoQuorum: true,
			Perm: at("Sys.PowerMgmt"), Params: append(self[:1:1],
				schema.Param{Name: "command", Enum: []string{"reboot", "shutdown"}, Text: "what to do"})}, Do: d.power},
		get("time", "Clock and time zone.", "Sys.Audit", d.time),
		get("dns", "Name servers.", "Sys.Audit", d.dns),
		get("network", "Network interfaces.", "", d.network, schema.Param{Name: "type", Optional: true,
			Enum: []string{"bridge", "bond", "eth", "alias", "vlan", "fabric", "OVSBridge", "OVSBond", "OVSPort", "OVSIntPort", "vnet",
				"any_bridge", "any_local_bridge", "include_sdn"}, Text: "only this kind"}),
		get("firstboot", "How far the first start of the node is, or how it went.", "Sys.Audit", func(context.Context, *server.Request) (any, error) { return d.First() }),
		{Method: schema.Method{Verb: "DELETE", Path: "/nodes/{node}/firstboot", Text: "Take what failed at the first start as dealt with.", OnNode: true, NoQuorum: true,
			Perm: schema.Perm{Root: true}, Params: self}, Do: func(context.Context, *server.Request) (any, error) { return nil, d.Settle() }},
		get("subscription", "Support contract; there is none.", "", d.subscription),
	}...)
}

// power asks PID 1, which shuts guests down first.
func (d *Deps) power(ctx context.Context, r *server.Request) (any, error) {
	verb := map[string]string{"reboot": "reboot", "shutdown": "poweroff"}[r.Params.String("command")]
	return nil, d.ask(ctx, verb)
}

func (d *Deps) time(context.Context, *server.Request) (any, error) {
	zone, err := time.LoadLocation(d.Config.Timezone)
	if err != nil {
		return nil, fmt.Errorf("read time zone: %w", err)
	}
	now := d.Machine.Now()
	_, offset := now.In(zone).Zone()
	return map[string]any{"timezone": d.Config.Timezone, "time": now.Unix(), "localtime": now.Unix() + int64(offset)}, nil
}

// netStatus reads what the network process has set up; before it has, nothing
// is set up.
func (d *Deps) netStatus() (node.NetStatus, error) {
	var s node.NetStatus
	b, err := os.ReadFile(d.NetState)
	if os.IsNotExist(err) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read network state: %w", err)
	}
	return s, nil
}

func (d *Deps) dns(context.Context, *server.Request) (any, error) {
	s, err := d.netStatus()
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	if s.Search != "" {
		out["search"] = s.Search
	}
	for i, a := range s.DNS[:min(3, len(s.DNS))] {
		out[fmt.Sprintf("dns%d", i+1)] = a
	}
	return out, nil
}

func (d *Deps) network(_ context.Context, r *server.Request) (any, error) {
	s, err := d.netStatus()
	if err != nil {
		return nil, err
	}
	want := r.Params.String("type")
	rows := []map[string]any{}
	for _, row := range interfaces(s) {
		kind := row["type"]
		if want == "" || want == kind || kind == "bridge" && (want == "any_bridge" || want == "any_local_bridge" || want == "include_sdn") {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// interfaces lists the management bridge and its link.
func interfaces(s node.NetStatus) []map[string]any {
	if s.Bridge == "" {
		return nil
	}
	bridge := map[string]any{
		"iface": s.Bridge, "type": "bridge", "method": "manual", "method6": "manual", "autostart": 1, "active": server.Bit(s.Up),
		"priority": 4, "bridge_ports": s.Link, "bridge_stp": "off", "bridge_fd": "0",
	}
	families := []string{}
	for _, a := range s.Addresses {
		p, err := netip.ParsePrefix(a)
		if err != nil || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if p.Addr().Is4() && bridge["address"] == nil {
			bridge["address"], bridge["cidr"], bridge["netmask"], bridge["method"] = p.Addr().String(), a, fmt.Sprint(p.Bits()), s.Method
			families = append(families, "inet")
			if gw, err := netip.ParseAddr(s.Gateway); err == nil && gw.Is4() {
				bridge["gateway"] = s.Gateway
			}
		}
		if p.Addr().Is6() && bridge["address6"] == nil {
			bridge["address6"], bridge["cidr6"], bridge["netmask6"], bridge["method6"] = p.Addr().String(), a, p.Bits(), "auto"
			families = append(families, "inet6")
			if gw, err := netip.ParseAddr(s.Gateway); err == nil && gw.Is6() {
				bridge["gateway6"] = s.Gateway
			}
		}
	}
	if len(families) == 0 {
		families = append(families, "inet")
	}
	bridge["families"] = families
	rows := []map[string]any{bridge}
	if s.Link != "" {
		kind := "eth"
		if s.Bond {
			kind = "bond"
		}
		rows = append(rows, map[string]any{"iface": s.Link, "type": kind, "method": "manual", "method6": "manual",
			"exists": 1, "active": server.Bit(s.Up), "priority": 3, "families": []string{"inet"}})
	}
	return rows
}

func (d *Deps) subscription(context.Context, *server.Request) (any, error) {
	return map[string]any{"status": "notfound", "message": "There is no subscription key", "serverid": d.Config.InstallationID,
		"url": ""}, nil
}
