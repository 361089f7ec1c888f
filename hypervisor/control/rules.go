package control

import (
	"fmt"
	"slices"

	"joist/hypervisor/guest"
)

// Op is an operation on a guest that exists.
type Op string

// The operations.
const (
	OpStart     Op = "start"
	OpStop      Op = "stop"
	OpShutdown  Op = "shutdown"
	OpReboot    Op = "reboot"
	OpReset     Op = "reset"
	OpSuspend   Op = "suspend"
	OpResume    Op = "resume"
	OpConfigure Op = "config"
	OpResize    Op = "resize"
	OpDestroy   Op = "destroy"
	OpConsole   Op = "console"
)

type need int

const (
	anyState need = iota
	mustRun
	mustStop
)

// rule says when an operation may begin.
type rule struct {
	need  need
	locks []string // locks under which it may begin all the same
	free  bool     // locks do not concern it
}

// rules is the whole state machine: a guest runs or does not, and it is locked
// for something or is not. A destruction that was interrupted can be repeated.
var rules = map[Op]rule{
	OpStart:     {need: mustStop},
	OpStop:      {need: mustRun},
	OpShutdown:  {need: mustRun},
	OpReboot:    {need: mustRun},
	OpReset:     {need: mustRun},
	OpSuspend:   {need: mustRun},
	OpResume:    {need: mustRun},
	OpConfigure: {need: anyState},
	OpResize:    {need: anyState},
	OpDestroy:   {need: mustStop, locks: []string{lockDestroyed}},
	OpConsole:   {need: mustRun, free: true},
}

// Locks that this package sets.
const (
	lockCreate    = "create"
	lockDestroyed = "destroyed"
)

// check applies the table. The texts are part of the contract: clients look
// for them.
func check(op Op, kind guest.Kind, vmid int, lock string, running, skipLock bool) error {
	r, ok := rules[op]
	if !ok {
		return fmt.Errorf("operation %q is not known", op)
	}
	if lock != "" && !r.free && !skipLock && !slices.Contains(r.locks, lock) {
		return fmt.Errorf("%s is locked (%s)", word(kind), lock)
	}
	switch {
	case r.need == mustRun && !running:
		return notRunning(kind, vmid)
	case r.need == mustStop && running && op == OpDestroy && kind == guest.LXC:
		return fmt.Errorf("unable to destroy CT %d - container is running", vmid)
	case r.need == mustStop && running && op == OpDestroy:
		return fmt.Errorf("VM %d is running - destroy failed", vmid)
	case r.need == mustStop && running:
		return alreadyRunning(kind, vmid)
	}
	return nil
}

func notRunning(kind guest.Kind, vmid int) error {
	return fmt.Errorf("%s %d not running", word(kind), vmid)
}

func alreadyRunning(kind guest.Kind, vmid int) error {
	return fmt.Errorf("%s %d already running", word(kind), vmid)
}

func missing(node string, kind guest.Kind, vmid int) error {
	dir := "qemu-server"
	if kind == guest.LXC {
		dir = "lxc"
	}
	return fmt.Errorf("Configuration file 'nodes/%s/%s/%d.conf' does not exist", node, dir, vmid)
}

func exists(kind guest.Kind, vmid int, node string) error {
	return fmt.Errorf("unable to create %s %d - VM %d already exists on node '%s'", word(kind), vmid, vmid, node)
}

// ParamError is what is wrong with one parameter of a request.
type ParamError struct{ Param, Text string }

func (e *ParamError) Error() string { return e.Param + ": " + e.Text }

func badParam(param, format string, args ...any) error {
	return &ParamError{Param: param, Text: fmt.Sprintf(format, args...)}
}

// taskTypes are the words of the field for operations.
var taskTypes = map[guest.Kind]map[Op]string{
	guest.KVM: {OpStart: "qmstart", OpStop: "qmstop", OpShutdown: "qmshutdown", OpReboot: "qmreboot", OpReset: "qmreset",
		OpSuspend: "qmsuspend", OpResume: "qmresume", OpConfigure: "qmconfig", OpResize: "resize", OpDestroy: "qmdestroy",
		opCreate: "qmcreate", opExit: "qmexit"},
	guest.LXC: {OpStart: "vzstart", OpStop: "vzstop", OpShutdown: "vzshutdown", OpReboot: "vzreboot",
		OpSuspend: "vzsuspend", OpResume: "vzresume", OpConfigure: "vzconfig", OpResize: "resize", OpDestroy: "vzdestroy",
		opCreate: "vzcreate", opExit: "vzexit"},
}

// Operations that are no transition of an existing guest: its creation, and
// its end when nobody asked for it.
const (
	opCreate Op = "create"
	opExit   Op = "exit"
)
