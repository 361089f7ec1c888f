package lxc

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	apinet "joist/api/net"
)

// devices are what a privileged container may use: the memory devices without
// /dev/mem, its terminals and FUSE. Making nodes is allowed, using them is
// not; see Documentation/admin-guide/cgroup-v1/devices.rst for the notation,
// which liblxc turns into a BPF program. In a user namespace the kernel makes
// no nodes at all.
var devices = []string{"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm",
	"c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 10:229 rwm", "c 136:* rwm"}

// Conf is the container's lxc.container.conf(5). It is whole: no file of the
// distribution is included, so that what a container may do is written here
// and nowhere else. folder is its run folder, base the host's id of its root.
func (p *Plan) Conf(folder string, base int, h Host) string {
	var t conf
	t.put("lxc.uts.name", p.Name)
	t.put("lxc.arch", "linux64")
	t.put("lxc.rootfs.path", "dir:"+filepath.Join(folder, p.Mounts[0].Key))
	if p.Mounts[0].ReadOnly {
		t.put("lxc.rootfs.options", "ro")
	}
	t.put("lxc.init.cmd", "/sbin/init")
	if p.Unprivileged {
		t.put("lxc.idmap", fmt.Sprintf("u 0 %d %d", base, IDs))
		t.put("lxc.idmap", fmt.Sprintf("g 0 %d %d", base, IDs))
	}
	t.put("lxc.mount.auto", "proc:mixed sys:mixed cgroup:mixed")
	t.put("lxc.tty.max", strconv.Itoa(p.TTYs))
	t.put("lxc.pty.max", "1024")
	if p.TTYs > 0 {
		// systemd-getty-generator(8) puts a log-in prompt on each of these. In
		// the container's fresh devpts the console is 0, the terminals follow.
		var names []string
		for i := range p.TTYs {
			names = append(names, "pts/"+strconv.Itoa(i+1))
		}
		t.put("lxc.environment", "container_ttys="+strings.Join(names, " "))
	}
	t.put("lxc.log.file", filepath.Join(folder, logFile))
	t.put("lxc.log.level", "WARN")
	// The container outlives its monitor.
	t.put("lxc.monitor.signal.pdeath", "0")
	p.security(&t, h)
	p.groups(&t, h)
	p.mountEntries(&t, folder, h)
	for i, n := range p.Nets {
		n.conf(&t, "lxc.net."+strconv.Itoa(i)+".")
	}
	if len(p.Nets) == 0 {
		t.put("lxc.net.0.type", "empty")
	}
	return t.String()
}

func (p *Plan) security(t *conf, h Host) {
	// In a user namespace these are of no use, and systemd's units look at them
	// before they try what must fail.
	t.put("lxc.cap.drop", "mac_admin mac_override sys_time sys_module sys_rawio")
	if !p.Unprivileged {
		t.put("lxc.cgroup2.devices.deny", "a")
		for _, d := range devices {
			t.put("lxc.cgroup2.devices.allow", d)
		}
	}
	switch {
	case h.AppArmor && h.Parser:
		t.put("lxc.apparmor.profile", "generated")
		if p.Nesting {
			t.put("lxc.apparmor.allow_nesting", "1")
		}
	case h.AppArmor:
		t.put("lxc.apparmor.profile", "unconfined")
	}
	if h.Seccomp != "" {
		t.put("lxc.seccomp.profile", h.Seccomp)
	}
}

func (p *Plan) groups(t *conf, h Host) {
	t.put("lxc.cgroup.dir.container", payload(p.VMID))
	t.put("lxc.cgroup.dir.monitor", monitor(p.VMID))
	t.put("lxc.cgroup.dir.monitor.pivot", launch(p.VMID))
	limit := func(controller, key, value string, on bool) {
		if on && slices.Contains(h.Controllers, controller) {
			t.put("lxc.cgroup2."+key, value)
		}
	}
	l := p.Limits
	limit("memory", "memory.max", strconv.FormatInt(l.Memory, 10), l.Memory > 0)
	limit("memory", "memory.swap.max", strconv.FormatInt(max(l.Swap, 0), 10), l.Swap != 0)
	limit("cpu", "cpu.max", strconv.FormatInt(int64(l.CPUs*100000), 10)+" 100000", l.CPUs > 0)
	limit("cpu", "cpu.weight", strconv.Itoa(l.Weight), l.Weight > 0)
}

// mountEntries are fstab(5) lines. Their targets are relative: liblxc resolves
// such a target below the root without following links.
func (p *Plan) mountEntries(t *conf, folder string, h Host) {
	if p.Nesting {
		// A user namespace in the container may mount proc and sysfs only
		// while instances that nothing is mounted over are in sight:
		// mount_too_revealing() in the kernel's fs/namespace.c.
		t.put("lxc.mount.entry", "proc dev/.lxc/proc proc create=dir,optional 0 0")
		t.put("lxc.mount.entry", "sys dev/.lxc/sys sysfs create=dir,optional 0 0")
	}
	if p.FUSE {
		t.put("lxc.mount.entry", "/dev/fuse dev/fuse none bind,create=file,optional 0 0")
	}
	for _, m := range p.Mounts[1:] {
		opt := "bind,create=dir"
		if m.ReadOnly {
			opt = "bind,ro,create=dir"
		}
		t.put("lxc.mount.entry", fstab(filepath.Join(folder, m.Key))+" "+fstab(strings.TrimPrefix(m.Path, "/"))+" none "+opt+" 0 0")
	}
	if h.LXCFS != "" {
		t.put("lxc.hook.mount", h.LXCFS)
	}
}

// fstab escapes a field as getmntent(3) reads it.
func fstab(s string) string {
	return strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`, "#", `\043`).Replace(s)
}

func (n Net) conf(t *conf, key string) {
	t.put(key+"type", "veth")
	if n.Bridge != "" && !n.LinkDown {
		t.put(key+"link", n.Bridge)
	}
	t.put(key+"veth.pair", n.Veth)
	t.put(key+"name", n.Name)
	t.put(key+"flags", "up")
	if n.MAC != nil {
		t.put(key+"hwaddr", apinet.FormatMAC(n.MAC))
	}
	if n.MTU > 0 {
		t.put(key+"mtu", strconv.Itoa(n.MTU))
	}
	if n.Tag > 0 {
		t.put(key+"veth.vlan.id", strconv.Itoa(n.Tag))
	}
}

// conf collects lines. Values come from checked sources; a line break in one
// would be a second setting and is a fault of ours.
type conf struct{ strings.Builder }

func (t *conf) put(key, value string) {
	if strings.ContainsAny(value, "\n\r\x00") {
		panic("line break in value of " + key)
	}
	t.WriteString(key + " = " + value + "\n")
}
