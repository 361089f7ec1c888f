// Package lxc runs containers: it turns a guest's configuration into liblxc's,
// mounts the volumes, starts the container through the helper joist-lxc, which
// leaves a monitor behind, and watches container and monitor. It also makes a
// new container's file system from a template (Provision).
//
// Everything that touches files which a container can change goes through
// tree: names are resolved by the kernel inside the container's root, whatever
// links lie there.
package lxc

import (
	"log/slog"
	"path/filepath"
	"strconv"

	"joist/api/node"
	"joist/hypervisor/guest"
	"joist/internal/run"
)

// Config says where the driver finds what it needs; Defaults are a node's.
type Config struct {
	Runs      guest.Runs
	Cgroup    string   // root of the cgroup v2 tree
	Helper    string   // joist-lxc
	NSEnter   string   // nsenter of util-linux
	Resolv    []string // resolv.conf files of the node, the first that is there counts
	Localtime string   // the node's own time zone, a link
	AptMirror string   // base URL for Debian packages in containers, "" leaves containers as they are
	Mount     Mounter
	Run       run.Runner // mkfs
	Host      func() Host
	Log       *slog.Logger
	// Step, when set, is called after each named step of a start. Tests die
	// in it.
	Step func(name string)
}

// Defaults are the places of a node.
func Defaults(log *slog.Logger) Config {
	return Config{
		Runs: guest.Runs{Dir: node.GuestRun}, Cgroup: "/sys/fs/cgroup",
		Helper: "/usr/libexec/joist/joist-lxc", NSEnter: "/usr/bin/nsenter",
		Resolv: []string{node.RunDir + "/resolv.conf", "/etc/resolv.conf"}, Localtime: "/etc/localtime",
		Mount: Mounts{}, Run: run.OS{}, Log: log,
	}
}

// Driver starts containers and keeps an eye on those that run.
type Driver struct {
	Config

	containers guest.Set[*Container]
}

var _ guest.Driver = (*Driver)(nil)

// New makes a driver. It looks at nothing yet; Find does.
func New(c Config) *Driver {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Step == nil {
		c.Step = func(string) {}
	}
	if c.Host == nil {
		c.Host = func() Host { return Probe(c.Cgroup) }
	}
	return &Driver{Config: c}
}

// Kind is guest.LXC.
func (d *Driver) Kind() guest.Kind { return guest.LXC }

// The groups of one container, below the root of the cgroup tree.
//
// payload holds the container. monitor is where liblxc puts its monitor.
// launch is where the helper starts, so that one whose caller died is found,
// and where a monitor goes on its way out (lxc.cgroup.dir.monitor.pivot).
// holder has the process that keeps the terminals open.
// liblxc insists on making the first two itself.
func payload(vmid int) string { return "guests/" + strconv.Itoa(vmid) }
func monitor(vmid int) string { return "system/lxc-" + strconv.Itoa(vmid) }
func launch(vmid int) string  { return "system/lxc-start-" + strconv.Itoa(vmid) }
func holder(vmid int) string  { return "system/lxc-hold-" + strconv.Itoa(vmid) }

// groups are all of them, in the order in which they end: first what could
// start or restart the container.
func groups(vmid int) []string {
	return []string{launch(vmid), monitor(vmid), payload(vmid), holder(vmid)}
}

func (d *Driver) group(path string) guest.Group {
	return guest.Group{Dir: filepath.Join(d.Cgroup, path)}
}

// The files in a container's run folder.
const (
	configFile = "config" // where liblxc looks for it: <path>/<name>/config
	logFile    = "lxc.log"
)

func (d *Driver) path(vmid int, name string) string {
	return filepath.Join(d.Runs.Folder(vmid), name)
}
