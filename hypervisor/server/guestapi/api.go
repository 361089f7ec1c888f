// Package guestapi is the part of the REST API that creates, shows, changes
// and runs guests, virtual machines and containers alike, and that opens their
// consoles. Parameters come from the option tables of api/guest; what the
// calls do is hypervisor/control's.
package guestapi

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	wire "joist/api/guest"
	"joist/api/schema"
	"joist/hypervisor/control"
	"joist/hypervisor/guest"
	"joist/hypervisor/server"
	"joist/hypervisor/task"
)

// Tickets signs and checks the tickets of consoles.
type Tickets interface {
	IssueVNC(user, path string, port int) string
	CheckVNC(ticket, user, path string, port int) error
}

// API is what the handlers work on.
type API struct {
	Node    string
	Guests  *control.Controller
	Tasks   task.Starter
	Tickets Tickets
	Cert    string // the API's certificate, PEM: VNC clients pin it
	CPUs    int    // of the node: what a container without a limit sees

	// Exec runs a program as root in a running container; nil: none can.
	Exec func(ctx context.Context, g guest.Guest, argv []string) (ExecResult, error)
	// Interfaces lists what a running container has; nil: nobody knows.
	Interfaces func(ctx context.Context, g guest.Guest) ([]Interface, error)
	// Shell opens root's shell on the node; n is a number that no other shell
	// of this boot has. nil: there is none.
	Shell func(ctx context.Context, n int) (guest.Console, error)

	consoles *consoles
}

// ExecResult is how a program in a guest ended.
type ExecResult struct {
	Exit     int
	Out, Err []byte
}

// Interface is one network interface inside a guest.
type Interface struct {
	Name, MAC string
	Addresses []string // with prefix length
}

// Routes lists the calls.
func (a *API) Routes() []server.Route {
	a.consoles = newConsoles(time.Now)
	out := append(a.guestRoutes(guest.KVM), a.guestRoutes(guest.LXC)...)
	out = append(out, a.machineRoutes()...)
	out = append(out, a.containerRoutes()...)
	out = append(out, a.shellRoutes()...)
	return append(out, a.nodeRoutes()...)
}

// kind is a nouns' routes: what differs between machines and containers is a
// parameter, not a copy.
type kind struct {
	a    *API
	kind guest.Kind
}

var vmidP = schema.Param{Name: "vmid", Type: schema.Integer, Format: "pve-vmid", Text: "id of the guest"}

func boolP(name, text string) schema.Param {
	return schema.Param{Name: name, Type: schema.Boolean, Optional: true, Text: text}
}

func intP(name, text string) schema.Param {
	return schema.Param{Name: name, Type: schema.Integer, Optional: true, Min: schema.F(0), Text: text}
}

func textP(name, text string) schema.Param {
	return schema.Param{Name: name, Optional: true, MaxLen: 8192, Text: text}
}

func listP(name, text string) schema.Param {
	return schema.Param{Name: name, Optional: true, List: true, Text: text}
}

// configParams are the keys of a configuration that clients may set.
func configParams(k guest.Kind) []schema.Param {
	var out []schema.Param
	for _, p := range wire.Params(wire.Kind(k)) {
		if p.Name == "unused[n]" {
			continue
		}
		p.Enum, p.MaxLen = nil, 0 // wire.Check has the same rules and the same texts
		out = append(out, p)
	}
	return out
}

// helpsWithoutQuorum are the calls on a guest that change no configuration:
// they end, look into or talk to what runs here, which is nobody else's. A
// start is not among them: the guest may have become another node's.
func helpsWithoutQuorum(call string) bool {
	switch call {
	case "/status/stop", "/status/shutdown", "/status/reset", "/status/suspend", "/status/resume",
		"/termproxy", "/vncproxy", "/sendkey", "/agent/ping":
		return true
	}
	return false
}

func (a *API) guestRoutes(gk guest.Kind) []server.Route {
	k := kind{a, gk}
	base := "/nodes/{node}/" + string(gk)
	one := base + "/{vmid}"
	r := func(verb, path, text, priv string, do server.Handler, params ...schema.Param) server.Route {
		m := schema.Method{Verb: verb, Path: path, Text: text, OnNode: true, Params: []schema.Param{server.NodeParam()}}
		if len(path) > len(base) {
			m.Params = append(m.Params, vmidP)
		}
		if priv != "" {
			m.Perm = schema.Perm{Path: "/vms/{vmid}", Privs: []string{priv}}
		}
		m.Params = append(m.Params, params...)
		m.NoQuorum = helpsWithoutQuorum(strings.TrimPrefix(path, one))
		return server.Route{Method: m, Do: do}
	}
	skip := boolP("skiplock", "ignore locks; root@pam only")
	timeout := intP("timeout", "seconds to wait for the guest")
	power := func(op control.Op, text string, params ...schema.Param) server.Route {
		return r("POST", one+"/status/"+string(op), text, "VM.PowerMgmt", k.power(op), append(params, skip)...)
	}
	change := append(configParams(gk),
		listP("delete", "keys to remove"), listP("revert", "keys whose pending change is dropped"),
		textP("digest", "digest of the configuration that the change is meant for"), skip,
		boolP("force", "delete volumes that are taken out"))
	out := []server.Route{
		r("GET", base, "Guests of the node.", "", k.list, boolP("full", "has no effect: rows are full")),
		r("POST", base, "Create a guest.", "VM.Allocate", k.create, k.createParams()...),
		r("DELETE", one, "Destroy a guest with its disks.", "VM.Allocate", k.destroy, skip, boolP("purge", "also forget it in jobs"),
			boolP("destroy-unreferenced-disks", "also disks that its configuration does not name"), boolP("force", "containers: even if it runs")),
		r("GET", one+"/config", "Configuration, with pending changes or as it is in force.", "VM.Audit", k.config,
			boolP("current", "as it is in force"), textP("snapshot", "of this snapshot")),
		r("PUT", one+"/config", "Change the configuration.", "", k.configure, change...),
		r("GET", one+"/pending", "Configuration with what changes at the next start.", "VM.Audit", k.pending),
		r("GET", one+"/status/current", "Status.", "VM.Audit", k.status),
		r("PUT", one+"/resize", "Grow a disk.", "VM.Config.Disk", k.resize,
			schema.Param{Name: "disk", MaxLen: 16, Text: "key of the disk"},
			schema.Param{Name: "size", Pattern: `\+?\d+(\.\d+)?[KMGT]?`, Text: "new size, or + and how much more"},
			textP("digest", "digest of the configuration"), skip),
		power(control.OpStart, "Start.", timeout, textP("machine", "has no effect"), boolP("debug", "has no effect")),
		power(control.OpStop, "Stop at once.", timeout, boolP("overrule-shutdown", "has no effect: a stop never waits for a shutdown"),
			boolP("keepActive", "has no effect")),
		power(control.OpShutdown, "Shut down.", timeout, boolP("forceStop", "stop it when it does not end in time"),
			boolP("keepActive", "has no effect")),
		power(control.OpReboot, "Shut down and start.", timeout),
		power(control.OpSuspend, "Hold the CPUs.", boolP("todisk", "hibernate"), textP("statestorage", "where to")),
		power(control.OpResume, "Let the CPUs go on.", boolP("nocheck", "has no effect")),
		r("GET", one+"/firewall/options", "Firewall settings; there are none.", "VM.Audit", k.firewall),
		r("GET", one+"/firewall/rules", "Firewall rules; there are none.", "VM.Audit", k.noRules),
		r("GET", one+"/snapshot", "Snapshots; the last row is the present.", "VM.Audit", k.snapshots),
	}
	return append(out, k.consoleRoutes(r, one)...)
}

// view finds the guest of a request.
func (k kind) view(r *server.Request) (control.View, error) {
	return k.a.Guests.Get(k.kind, vmid(r))
}

func vmid(r *server.Request) int { return r.Params.Int("vmid", 0) }

// isRoot: some things are for root@pam in person only.
func isRoot(r *server.Request) bool { return r.Who.User == "root@pam" && r.Who.Token == "" }

// skipLock reads the parameter that only root may use.
func skipLock(r *server.Request) (bool, error) {
	if r.Params.Bool("skiplock", false) && !isRoot(r) {
		return false, server.ParamErrorf("skiplock", "Only root may use this option.")
	}
	return r.Params.Bool("skiplock", false), nil
}

// answered turns the controller's errors into the API's.
func answered(upid task.UPID, err error) (any, error) {
	if err != nil {
		return nil, failed(err)
	}
	return upid.String(), nil
}

func failed(err error) error {
	var p *control.ParamError
	if errors.As(err, &p) {
		return server.ParamErrorf(p.Param, "%s", p.Text)
	}
	return err
}

func (k kind) power(op control.Op) server.Handler {
	return func(_ context.Context, r *server.Request) (any, error) {
		skip, err := skipLock(r)
		if err != nil {
			return nil, err
		}
		if r.Params.Bool("todisk", false) {
			return nil, server.ParamErrorf("todisk", "hibernation is not supported on this node")
		}
		return answered(k.a.Guests.Power(control.PowerRequest{Op: op, Kind: k.kind, VMID: vmid(r), User: r.Who.Name(), SkipLock: skip,
			Timeout: time.Duration(r.Params.Int("timeout", 0)) * time.Second, ForceStop: r.Params.Bool("forceStop", false)}))
	}
}

func (k kind) destroy(_ context.Context, r *server.Request) (any, error) {
	skip, err := skipLock(r)
	if err != nil {
		return nil, err
	}
	return answered(k.a.Guests.Destroy(control.DestroyRequest{Kind: k.kind, VMID: vmid(r), User: r.Who.Name(), SkipLock: skip,
		Force: k.kind == guest.LXC && r.Params.Bool("force", false), Stray: r.Params.Bool("destroy-unreferenced-disks", false)}))
}

func (k kind) resize(_ context.Context, r *server.Request) (any, error) {
	skip, err := skipLock(r)
	if err != nil {
		return nil, err
	}
	return answered(k.a.Guests.Resize(control.ResizeRequest{Kind: k.kind, VMID: vmid(r), User: r.Who.Name(), SkipLock: skip,
		Disk: r.Params.String("disk"), Size: r.Params.String("size"), Digest: r.Params.String("digest")}))
}

func (k kind) firewall(_ context.Context, r *server.Request) (any, error) {
	_, err := k.view(r)
	return struct{}{}, err
}

func (k kind) noRules(_ context.Context, r *server.Request) (any, error) {
	_, err := k.view(r)
	return []struct{}{}, err
}

func (k kind) snapshots(_ context.Context, r *server.Request) (any, error) {
	v, err := k.view(r)
	if err != nil {
		return nil, err
	}
	return []map[string]any{{"name": "current", "description": "You are here!", "digest": v.Digest(), "running": server.Bit(runs(v))}}, nil
}

// nodeRoutes are for all guests of the node together.
func (a *API) nodeRoutes() []server.Route {
	perm := schema.Perm{Path: "/", Privs: []string{"VM.PowerMgmt"}}
	params := []schema.Param{server.NodeParam(), listP("vms", "only these guests"), intP("max-workers", "has no effect")}
	return []server.Route{
		{Method: schema.Method{Verb: "POST", Path: "/nodes/{node}/startall", Text: "Start guests, by default those with onboot.", OnNode: true,
			Perm: perm, Params: append(params[:3:3], boolP("force", "has no effect"))}, Do: a.startAll},
		{Method: schema.Method{Verb: "POST", Path: "/nodes/{node}/stopall", Text: "Shut guests down, those first that start last.", OnNode: true,
			NoQuorum: true, Perm: perm, Params: append(params[:3:3], boolP("force-stop", "has no effect: it is so always"),
				intP("timeout", "seconds for each guest"), intP("overall", "seconds for all guests together"),
				boolP("final", "no guest starts again before the node boots; root@pam only"))}, Do: a.stopAll},
	}
}

func numbers(r *server.Request, name string) ([]int, error) {
	var out []int
	for _, s := range r.Params.List(name) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, server.ParamErrorf(name, "invalid format - value does not look like a valid VM ID")
		}
		out = append(out, n)
	}
	return out, nil
}

func (a *API) startAll(_ context.Context, r *server.Request) (any, error) {
	vms, err := numbers(r, "vms")
	if err != nil {
		return nil, err
	}
	return answered(a.Guests.StartAll(r.Who.Name(), vms))
}

func (a *API) stopAll(_ context.Context, r *server.Request) (any, error) {
	vms, err := numbers(r, "vms")
	if err != nil {
		return nil, err
	}
	final := r.Params.Bool("final", false)
	if final && !isRoot(r) {
		return nil, server.ParamErrorf("final", "Only root may use this option.")
	}
	return answered(a.Guests.StopAll(control.StopAllRequest{User: r.Who.Name(), VMs: vms, Final: final,
		Timeout: time.Duration(r.Params.Int("timeout", 0)) * time.Second, Overall: time.Duration(r.Params.Int("overall", 0)) * time.Second}))
}
