// Package guest is what the node knows about running guests, whatever runs
// them: the driver and guest interfaces that kvm and lxc implement in folders
// of their own, the states, and the record in /run by which a guest is found
// again after the daemon was restarted, updated or killed.
//
// A guest outlives the daemon. It is found by its cgroup (guests/<vmid>) and
// its folder in /run/joist/guests/<vmid>, both made before the first process
// starts; never from memory and never from the store.
package guest

import (
	"context"
	"errors"
	"time"
)

// Kind is the API's word for what drives a guest.
type Kind string

const (
	KVM Kind = "qemu"
	LXC Kind = "lxc"
)

// State of a guest on this node.
type State string

const (
	Stopped  State = "stopped"
	Starting State = "starting"
	Running  State = "running"
	Paused   State = "paused"
	Stopping State = "stopping"
)

var (
	ErrRunning    = errors.New("guest is already running")
	ErrNotRunning = errors.New("guest is not running")
)

// Spec is what the controller hands to a driver: everything resolved, nothing
// left to look up. Config is the guest's configuration as the API shows it
// (the keys of qm.conf or pct.conf); Volumes maps each configuration key that
// holds a volume ("scsi0", "ide2", "rootfs", "mp0") to what was activated.
type Spec struct {
	VMID    int
	Name    string
	Config  map[string]string
	Volumes map[string]Volume
}

// Volume is an activated volume: an existing device or file of a declared
// format. Path was made by a pool, never by a user.
type Volume struct {
	ID       string // volume id, for messages
	Path     string
	Format   string // "raw" or "qcow2"
	ReadOnly bool
	Size     int64
}

// Status is a guest as seen right now. Sizes are bytes, CPU is the share of
// the guest's own CPUs (0..1) since the previous reading.
type Status struct {
	VMID                int
	Kind                Kind
	State               State
	PID                 int
	Uptime              time.Duration
	CPU                 float64
	CPUs                float64
	Mem, MaxMem         int64
	Swap, MaxSwap       int64
	NetIn, NetOut       int64
	DiskRead, DiskWrite int64
	Accel               string // qemu: "kvm" or "tcg"
	Exit                string // stopped: how it ended last, "" when it was asked to
	Note                string // running: what is wrong with it, "" when nothing is
}

// StopMode is how a guest is to end.
type StopMode int

const (
	Shutdown StopMode = iota // ask, wait for the guest
	Kill                     // end it now
)

// Event is a change that nobody asked for, or the end of one that was.
type Event struct {
	VMID  int
	State State
	Text  string // why: "guest shut down", "qemu was killed by signal 9"
}

// Driver starts guests and finds those that run.
type Driver interface {
	Kind() Kind
	// Start runs the guest or ends with nothing left of it. Exactly one guest
	// of a VMID runs at a time, also when two calls race or the daemon died
	// in the middle of an earlier one.
	Start(ctx context.Context, s Spec) (Guest, error)
	// Find returns every guest of this kind that runs on the machine, also
	// those whose monitor died or whose start was never finished; leftovers
	// of guests that do not run are removed.
	Find(ctx context.Context) ([]Guest, error)
}

// Guest is a handle on one running guest.
type Guest interface {
	VMID() int
	Status(ctx context.Context) (Status, error)
	// Stop returns when the guest is gone, with nothing of it left in /run or
	// the cgroup tree. Shutdown that the guest ignores ends with ctx's error
	// and leaves it running.
	Stop(ctx context.Context, how StopMode) error
	// Done is closed when the guest has ended, for whatever reason, within 2 s
	// of its end.
	Done() <-chan struct{}
	// Exit says why it ended; valid once Done is closed. "" means: as asked.
	Exit() string
	// Close lets go of the handle; the guest lives on.
	Close() error
}

// Consoler is a guest with a text console.
type Consoler interface {
	// Console opens a byte stream to the guest's terminal. Resize may be nil.
	Console(ctx context.Context) (Console, error)
}

// Console is a terminal's byte stream.
type Console interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	Resize(cols, rows uint16) error
	Close() error
}
