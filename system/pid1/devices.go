package pid1

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"joist/api/node"
	"joist/internal/run"
)

// settleTime bounds a wait for udevd's queue.
const settleTime = 5 * time.Minute

// first are the subsystems on the way to the node's disks, its network and the
// keyboard in front of it, the buses that they hang on among them.
var first = []string{"pci", "virtio", "vmbus", "xen", "usb", "scsi", "nvme", "hid", "block", "net", "input", "misc"}

// noise are subsystems of which no rule of the image wants to know anything
// when they are there from the start; in a machine with much memory or many
// processors they are most devices.
var noise = []string{"drivers", "subsystem", "bdi", "wakeup", "clockevents", "clocksource", "event_source", "machinecheck", "workqueue", "memory",
	"memory_tiering", "node", "vc", "vtconsole", "thermal", "msr", "cpuid", "container", "serial-base", "ata_link", "ata_port", "ata_device"}

// coldplugFirst has udevd handle the first of the devices that the kernel
// knows already, and waits until it is done.
func (s *system) coldplugFirst(ctx context.Context) error {
	return s.coldplug(ctx, trigger("--subsystem-match=", first))
}

// coldplugRest is for all others.
func (s *system) coldplugRest(ctx context.Context) error {
	return s.coldplug(ctx, trigger("--subsystem-nomatch=", append(append([]string(nil), noise...), first...)))
}

// trigger is a call of udevadm(8).
func trigger(option string, subsystems []string) []string {
	args := []string{"trigger", "--type=all", "--action=add", "--prioritized-subsystem=module,block,net"}
	for _, sub := range subsystems {
		args = append(args, option+sub)
	}
	return args
}

func (s *system) coldplug(ctx context.Context, args []string) error {
	if _, err := s.run.Run(ctx, run.Cmd{Path: "udevadm", Args: args}); err != nil {
		return err
	}
	_, err := s.run.Run(ctx, run.Cmd{Path: "udevadm", Args: []string{"settle", "--timeout=280"}})
	return err
}

// findCard waits until the card of the management network is there, at most
// for all cards: among some of them "joistd network" might take another.
func (s *system) findCard(ctx context.Context) error {
	cfg, err := node.Load("/")
	if err != nil {
		return nil // it says so itself, and waits
	}
	for !hasCard("/sys", cfg.Network.MAC) && !ended(s.board.Phases(), phaseDisks) && ctx.Err() == nil {
		sleep(ctx, 50*time.Millisecond)
	}
	return nil
}

// hasCard reports whether a link that is no virtual one has the address.
func hasCard(sys, mac string) bool {
	devices, _ := filepath.Glob(filepath.Join(sys, "class/net/*/device"))
	for _, d := range devices {
		b, _ := os.ReadFile(filepath.Join(filepath.Dir(d), "address"))
		if mac != "" && strings.EqualFold(strings.TrimSpace(string(b)), mac) {
			return true
		}
	}
	return false
}

// ended reports whether a phase is over.
func ended(list []node.Phase, name string) bool {
	for _, p := range list {
		if p.Name == name {
			return p.State == node.PhaseDone || p.State == node.PhaseFailed
		}
	}
	return false
}
