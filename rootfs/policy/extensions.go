package policy

import (
	"maps"
	"slices"
)

// Extension is what an image may have beside its base: packages with what they
// depend on and the base has not.
type Extension struct {
	Name     string
	For      string            // what a node can do with it
	Packages []string          // asked for by name
	Out      map[string]string // dependencies that stay out, beside Excluded, and why
	Files    map[string]string // scripts of ours: path → text
}

const (
	needsPython = "in Python, which the image has not"
	pythonOnly  = "for programs in Python, which the image has not"
)

// Extensions are those that the tree knows, by name.
func Extensions() []Extension {
	return []Extension{
		{Name: "ceph", For: "Ceph's clients: rbd, rados, mount.ceph; the kernel has rbd and ceph",
			Packages: []string{"ceph-common"},
			Out: map[string]string{"python3-ceph-argparse": needsPython, "python3-ceph-common": needsPython, "python3-cephfs": pythonOnly,
				"python3-prettytable": pythonOnly, "python3-rados": pythonOnly, "python3-rbd": pythonOnly, "python3-requests": pythonOnly}},
		{Name: "gluster", For: "GlusterFS's client: mount -t glusterfs",
			Packages: []string{"glusterfs-client"},
			Out: map[string]string{"python3-prettytable": pythonOnly, "python3-requests": pythonOnly, "python3-jwt": pythonOnly,
				"psmisc": "for scripts of the server", "attr": "for scripts of the server"}},
		{Name: "openvswitch", For: "Open vSwitch: its two daemons run, ovs-vsctl asks them",
			Packages: []string{"openvswitch-switch"},
			Out:      map[string]string{"python3-netifaces": pythonOnly, "python3-openvswitch": pythonOnly},
			Files:    map[string]string{OVSDatabase: ovsDatabase, OVSSwitch: ovsSwitch}},
	}
}

// ExtensionOut returns what stays out of an extension: what is in the image
// already, and the dependencies that nothing in it needs.
func (x Extension) ExtensionOut(image []string) map[string]string {
	out := Excluded()
	maps.Copy(out, x.Out)
	for _, p := range image {
		out[p] = "the image has it"
	}
	return out
}

// ExtensionNamed returns one of Extensions.
func ExtensionNamed(name string) (Extension, bool) {
	all := Extensions()
	i := slices.IndexFunc(all, func(x Extension) bool { return x.Name == name })
	if i < 0 {
		return Extension{}, false
	}
	return all[i], true
}

// Programs that joist-init starts Open vSwitch's daemons with.
const (
	OVSDatabase = "/usr/lib/joist/openvswitch/ovsdb"
	OVSSwitch   = "/usr/lib/joist/openvswitch/vswitchd"
)

// ovsSwitch starts the switch once the database answers: it ends where there is
// no folder for its control socket.
const ovsSwitch = `#!/bin/sh
until [ -S /run/openvswitch/db.sock ]; do sleep 0.2; done
exec ovs-vswitchd unix:/run/openvswitch/db.sock --mlockall \
	--unixctl=/run/openvswitch/ovs-vswitchd.ctl --pidfile=/run/openvswitch/ovs-vswitchd.pid
`

// ovsDatabase does what ovs-ctl(8) does before the database server, which then
// takes its place and stays in the foreground.
const ovsDatabase = `#!/bin/sh
set -e
db=/var/lib/openvswitch/conf.db
schema=/usr/share/openvswitch/vswitch.ovsschema
modprobe openvswitch
mkdir -p /run/openvswitch /var/lib/openvswitch /var/log/openvswitch
if [ ! -s "$db" ]; then
	rm -f "$db"
	ovsdb-tool create "$db" "$schema"
elif [ "$(ovsdb-tool needs-conversion "$db" "$schema")" = yes ]; then
	ovsdb-tool convert "$db" "$schema"
fi
# The switch waits until the database has its first row.
(until ovs-vsctl --db=unix:/run/openvswitch/db.sock --timeout=5 --no-wait init; do sleep 1; done) &
exec ovsdb-server --remote=punix:/run/openvswitch/db.sock --remote=db:Open_vSwitch,Open_vSwitch,manager_options \
	--unixctl=/run/openvswitch/ovsdb-server.ctl --pidfile=/run/openvswitch/ovsdb-server.pid "$db"
`
