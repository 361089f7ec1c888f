package guestapi

import (
	"context"
	"errors"
	"net/netip"
	"time"

	wire "joist/api/guest"
	"joist/api/schema"
	"joist/hypervisor/control"
	"joist/hypervisor/guest"
	"joist/hypervisor/server"
)

// machineRoutes are the calls that only virtual machines have.
func (a *API) machineRoutes() []server.Route {
	k := kind{a, guest.KVM}
	const one = "/nodes/{node}/qemu/{vmid}"
	r := func(verb, path, text, priv string, do server.Handler, params ...schema.Param) server.Route {
		m := schema.Method{Verb: verb, Path: one + path, Text: text, OnNode: true, NoQuorum: helpsWithoutQuorum(path), Params: append([]schema.Param{server.NodeParam(), vmidP}, params...)}
		if priv != "" {
			m.Perm = schema.Perm{Path: "/vms/{vmid}", Privs: []string{priv}}
		}
		return server.Route{Method: m, Do: do}
	}
	skip := boolP("skiplock", "ignore locks; root@pam only")
	change := append(configParams(guest.KVM),
		listP("delete", "keys to remove"), listP("revert", "keys whose pending change is dropped"),
		textP("digest", "digest of the configuration that the change is meant for"), skip,
		boolP("force", "delete volumes that are taken out"), intP("background_delay", "has no effect: the answer is always the task"),
		textP("import-working-storage", "has no effect"))
	const audit = "VM.GuestAgent.Audit"
	return []server.Route{
		r("POST", "/config", "Change the configuration in a task.", "", k.configureTask, change...),
		r("POST", "/status/reset", "Press the reset button.", "VM.PowerMgmt", k.power(control.OpReset), skip),
		r("PUT", "/sendkey", "Press keys.", "VM.Console", k.sendKey, skip,
			schema.Param{Name: "key", MaxLen: 256, Pattern: `[a-z0-9_]+(-[a-z0-9_]+)*`, Text: "names of keys, joined with -"}),
		r("PUT", "/unlink", "Take disks out, or delete unused ones.", "VM.Config.Disk", k.unlink,
			listP("idlist", "keys of the disks"), boolP("force", "delete the volumes")),
		r("POST", "/agent/ping", "Ask the guest's agent for a sign of life.", audit, k.agent("guest-ping")),
		r("GET", "/agent/network-get-interfaces", "Interfaces, as the guest's agent knows them.", audit, k.agent("guest-network-get-interfaces")),
		r("GET", "/agent/get-osinfo", "Operating system, as the guest's agent knows it.", audit, k.agent("guest-get-osinfo")),
	}
}

func (k kind) sendKey(ctx context.Context, r *server.Request) (any, error) {
	h, err := k.a.Guests.Handle(k.kind, vmid(r))
	if err != nil {
		return nil, err
	}
	keys, ok := h.(control.KeySender)
	if !ok {
		return nil, server.Errorf("VM %d has no keyboard", vmid(r))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return nil, keys.SendKey(ctx, r.Params.String("key"))
}

func (k kind) unlink(ctx context.Context, r *server.Request) (any, error) {
	if len(r.Params.List("idlist")) == 0 {
		return nil, server.ParamErrorf("idlist", "property is missing and it is not optional")
	}
	ch := control.Change{Delete: r.Params.List("idlist"), Force: r.Params.Bool("force", false)}
	v, err := k.view(r)
	if err != nil {
		return nil, err
	}
	if err := k.admit(r, nil, ch.Delete, v.Config); err != nil {
		return nil, err
	}
	if err := k.a.Guests.Configure(ctx, k.kind, vmid(r), r.Who.Name(), ch); err != nil {
		return nil, failed(err)
	}
	return nil, nil
}

// agentPatience is how long the agent may take; it answers these at once.
const agentPatience = 3 * time.Second

// agent passes a command on to the agent inside the guest. Clients know these
// texts and wait while they come.
func (k kind) agent(command string) server.Handler {
	return func(ctx context.Context, r *server.Request) (any, error) {
		v, err := k.view(r)
		switch {
		case err != nil:
			return nil, err
		case !wire.AgentOn(v.Config["agent"]):
			return nil, server.Errorf("No QEMU guest agent configured")
		case !runs(v):
			return nil, server.Errorf("VM %d is not running", v.VMID)
		}
		h, err := k.a.Guests.Handle(k.kind, v.VMID)
		if err != nil {
			return nil, err
		}
		asker, ok := h.(control.AgentAsker)
		if !ok {
			return nil, errNoAgent
		}
		ctx, cancel := context.WithTimeout(ctx, agentPatience)
		defer cancel()
		reply, err := asker.AskAgent(ctx, command)
		var refused *guest.AgentError
		switch {
		case errors.As(err, &refused):
			return nil, refused
		case err != nil: // it has no channel, or nobody answers on it
			return nil, errNoAgent
		}
		return map[string]any{"result": reply}, nil
	}
}

var errNoAgent = errors.New("QEMU guest agent is not running")

// containerRoutes are the calls that only containers have.
func (a *API) containerRoutes() []server.Route {
	k := kind{a, guest.LXC}
	const one = "/nodes/{node}/lxc/{vmid}"
	params := []schema.Param{server.NodeParam(), vmidP}
	return []server.Route{
		{Method: schema.Method{Verb: "GET", Path: one + "/interfaces", Text: "Network interfaces of a running container.", OnNode: true,
			Perm: schema.Perm{Path: "/vms/{vmid}", Privs: []string{"VM.Audit"}}, Params: params}, Do: k.interfaces},
		{Method: schema.Method{Verb: "POST", Path: one + "/exec", Text: "Run a program in the container, as root.", OnNode: true, NoQuorum: true,
			Perm: schema.Perm{Root: true}, NoToken: true, Params: append(params[:2:2],
				schema.Param{Name: "command", Type: schema.Array, Text: "program and arguments"})}, Do: k.exec},
	}
}

func (k kind) interfaces(ctx context.Context, r *server.Request) (any, error) {
	h, err := k.a.Guests.Handle(k.kind, vmid(r))
	if err != nil {
		return nil, err
	}
	if k.a.Interfaces == nil {
		return nil, server.Errorf("CT %d cannot tell its interfaces", vmid(r))
	}
	list, err := k.a.Interfaces(ctx, h)
	if err != nil {
		return nil, err
	}
	out := []map[string]any{}
	for _, i := range list {
		out = append(out, interfaceRow(i))
	}
	return out, nil
}

// interfaceRow has the older keys and the newer ones.
func interfaceRow(i Interface) map[string]any {
	m := map[string]any{"name": i.Name, "hwaddr": i.MAC, "hardware-address": i.MAC}
	list := []map[string]any{}
	for _, s := range i.Addresses {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			continue
		}
		key, family := "inet", "ipv4"
		if p.Addr().Is6() {
			key, family = "inet6", "ipv6"
		}
		if m[key] == nil || p.Addr().IsGlobalUnicast() {
			m[key] = s
		}
		list = append(list, map[string]any{"ip-address": p.Addr().String(), "prefix": p.Bits(), "ip-address-type": family})
	}
	m["ip-addresses"] = list
	return m
}

// execTimeout bounds what a program may take; longer work belongs into a
// terminal.
const execTimeout = 5 * time.Minute

func (k kind) exec(ctx context.Context, r *server.Request) (any, error) {
	h, err := k.a.Guests.Handle(k.kind, vmid(r))
	if err != nil {
		return nil, err
	}
	if k.a.Exec == nil {
		return nil, errors.New("this node runs no programs in containers")
	}
	if len(r.Params.List("command")) == 0 {
		return nil, server.ParamErrorf("command", "property is missing and it is not optional")
	}
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	res, err := k.a.Exec(ctx, h, r.Params.List("command"))
	if err != nil {
		return nil, err
	}
	return map[string]any{"exitcode": res.Exit, "out-data": string(res.Out), "err-data": string(res.Err)}, nil
}
