package control

import (
	"context"
	"encoding/json"
	"net"

	"joist/hypervisor/task"
)

// ProvisionSpec asks for one new volume of a container to be made ready: a file
// system, and in the root volume the unpacked template with what makes it this
// container's own (host name, resolver, root's password and keys, package
// sources).
type ProvisionSpec struct {
	VMID         int
	Device       string            // activated volume, as large as it will be, all zeros
	FSType       string            // "ext4"
	Template     string            // path of the template's archive; "" for a mount point: an empty file system
	Config       map[string]string // the container's configuration
	Password     string            // root's, plain; "" sets none
	SSHKeys      []string          // one public key each
	Unprivileged bool              // owners are shifted into the container's range of ids
}

// Provisioner fills the volumes of containers. It leaves nothing mounted,
// however it ends. Password and keys must not reach a log.
type Provisioner interface {
	Provision(ctx context.Context, s ProvisionSpec, log task.Log) error
}

// Grower is a Provisioner that can grow the file system on a volume that has
// become larger, mounted by a running container or not.
type Grower interface {
	Grow(ctx context.Context, device string) error
}

// Importer copies a disk image into a new, empty volume.
type Importer interface {
	Import(ctx context.Context, dst, src, srcFormat string) error
}

// What handles of running guests may be able to do besides guest.Guest.
type (
	// Resetter has a reset button.
	Resetter interface {
		Reset(ctx context.Context) error
	}
	// Pauser holds a guest's CPUs and lets them go on.
	Pauser interface {
		Pause(ctx context.Context) error
		Resume(ctx context.Context) error
	}
	// KeySender types: names of keys pressed together, joined with "-".
	KeySender interface {
		SendKey(ctx context.Context, keys string) error
	}
	// Screen is a guest with a display: a bare RFB stream, no authentication.
	Screen interface {
		VNC(ctx context.Context) (net.Conn, error)
	}
	// DiskResizer tells a running guest that a disk has grown.
	DiskResizer interface {
		ResizeDisk(ctx context.Context, key string, size int64) error
	}
	// AgentAsker asks the agent inside the guest. What the agent refuses is a
	// *guest.AgentError; ctx must have a deadline.
	AgentAsker interface {
		AskAgent(ctx context.Context, command string) (json.RawMessage, error)
	}
)
