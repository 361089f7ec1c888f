package lxc

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"joist/api/drive"
	"joist/api/guest/property"
	apinet "joist/api/net"
	"joist/hypervisor/guest"
)

// Host is what the plan needs to know of the machine.
type Host struct {
	AppArmor    bool     // the kernel enforces profiles
	Parser      bool     // and they can be loaded
	Seccomp     string   // file with the system calls that no container may use, "" for none
	LXCFS       string   // mount hook of a running lxcfs, "" for none
	Controllers []string // cgroup controllers that guests can have
}

// Plan is everything about a container that is decided before it starts.
type Plan struct {
	VMID         int
	Name         string
	Unprivileged bool
	Nesting      bool
	FUSE         bool
	TTYs         int
	CMode        string
	Limits       guest.Limits
	CPUs         float64 // CPUs' worth of time, 0 without limit
	Nets         []Net
	Mounts       []Mount
	Inside       Inside
}

// Net is one network device with the name of its host side.
type Net struct {
	apinet.LXC
	Index int
	Veth  string
}

// Mount is a volume of the container; Path is "/" for its root.
type Mount struct {
	Key, Path string
	Volume    guest.Volume
	ReadOnly  bool
}

// Links are the names of the host's sides of the network devices.
func (p *Plan) Links() []string {
	var out []string
	for _, n := range p.Nets {
		out = append(out, n.Veth)
	}
	return out
}

// Make turns a configuration into a plan. It looks at nothing but its
// argument.
func Make(s guest.Spec) (*Plan, error) {
	c := config{s.Config}
	p := &Plan{VMID: s.VMID, Name: c.text("hostname", s.Name), Unprivileged: c.flag("unprivileged", true), CMode: c.text("cmode", "tty")}
	if p.Name == "" {
		p.Name = "CT" + strconv.Itoa(s.VMID)
	}
	features, err := property.Parse(c.text("features", ""), "")
	if err != nil {
		return nil, fmt.Errorf("read features: %w", err)
	}
	// Units of systemd from 254 on mount file systems for their credentials,
	// which a profile without nesting forbids: network and log-in fail. In a
	// user namespace the kernel itself refuses what would reach the host.
	if p.Nesting, err = features.Bool("nesting", p.Unprivileged); err != nil {
		return nil, fmt.Errorf("read features: %w", err)
	}
	if p.FUSE, err = features.Bool("fuse", false); err != nil {
		return nil, fmt.Errorf("read features: %w", err)
	}
	if p.TTYs, err = c.number("tty", 2, 0, 6); err != nil {
		return nil, err
	}
	for _, step := range []func(config, guest.Spec) error{p.limits, p.nets, p.mounts, p.inside} {
		if err := step(c, s); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Plan) limits(c config, _ guest.Spec) error {
	memory, err := c.number("memory", 512, 16, 1<<26)
	if err != nil {
		return err
	}
	swap, err := c.number("swap", 512, 0, 1<<26)
	if err != nil {
		return err
	}
	cores, err := c.number("cores", 0, 0, 8192)
	if err != nil {
		return err
	}
	weight, err := c.number("cpuunits", 100, 0, 500000)
	if err != nil {
		return err
	}
	// Cores limit the time as cpulimit does; the lower one counts. Binding to
	// certain CPUs instead would leave the choice to us and the others idle.
	p.CPUs = float64(cores)
	if s := c.text("cpulimit", ""); s != "" {
		limit, err := strconv.ParseFloat(s, 64)
		if err != nil || limit < 0 || limit > 8192 {
			return fmt.Errorf("read cpulimit: %q is no number of CPUs", s)
		}
		if limit > 0 && (p.CPUs == 0 || limit < p.CPUs) {
			p.CPUs = limit
		}
	}
	p.Limits = guest.Limits{Memory: int64(memory) << 20, Swap: int64(swap) << 20, CPUs: p.CPUs, Weight: min(max(weight, 1), 10000)}
	if swap == 0 {
		p.Limits.Swap = -1
	}
	return nil
}

var netRE = regexp.MustCompile(`^net(0|[1-9][0-9]?)$`)

func (p *Plan) nets(_ config, s guest.Spec) error {
	for key, value := range s.Config {
		m := netRE.FindStringSubmatch(key)
		if m == nil {
			continue
		}
		n, err := apinet.ParseLXC(value)
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		i, _ := strconv.Atoi(m[1])
		veth := fmt.Sprintf("veth%di%d", s.VMID, i)
		if len(veth) > 15 { // IFNAMSIZ, netdevice(7)
			return fmt.Errorf("read %s: the name %s is too long for a network interface; use net0 to net9", key, veth)
		}
		p.Nets = append(p.Nets, Net{LXC: n, Index: i, Veth: veth})
	}
	slices.SortFunc(p.Nets, func(a, b Net) int { return a.Index - b.Index })
	return nil
}

func (p *Plan) mounts(_ config, s guest.Spec) error {
	for key, v := range s.Volumes {
		if !drive.IsMount(key) {
			return fmt.Errorf("volume of %s: containers have rootfs and mp0 … mp255", key)
		}
		if v.Format != "raw" {
			return fmt.Errorf("volume %s of %s: containers need raw volumes, this is %s", v.ID, key, v.Format)
		}
		m := Mount{Key: key, Path: "/", Volume: v}
		if value, ok := s.Config[key]; ok {
			d, err := drive.ParseMount(key, value)
			if err != nil {
				return fmt.Errorf("read %s: %w", key, err)
			}
			m.ReadOnly = d.ReadOnly || v.ReadOnly
			if key != "rootfs" {
				m.Path = strings.TrimSuffix(d.Path, "/")
			}
		} else if key != "rootfs" {
			return fmt.Errorf("volume of %s: the configuration has no such key", key)
		}
		if strings.ContainsFunc(m.Path, func(r rune) bool { return r < ' ' || r == 0x7f }) || m.Path == "" {
			return fmt.Errorf("read %s: %q is no folder to mount at", key, m.Path)
		}
		p.Mounts = append(p.Mounts, m)
	}
	// The root first, then folders before what is mounted in them.
	slices.SortFunc(p.Mounts, func(a, b Mount) int {
		if n := depth(a.Path) - depth(b.Path); n != 0 {
			return n
		}
		return strings.Compare(a.Path, b.Path)
	})
	if len(p.Mounts) == 0 || p.Mounts[0].Key != "rootfs" {
		return fmt.Errorf("the container has no rootfs")
	}
	for i := 1; i < len(p.Mounts); i++ {
		if p.Mounts[i].Path == p.Mounts[i-1].Path {
			return fmt.Errorf("%s and %s are both mounted at %s", p.Mounts[i-1].Key, p.Mounts[i].Key, p.Mounts[i].Path)
		}
	}
	return nil
}

func depth(p string) int {
	if p == "/" {
		return 0
	}
	return strings.Count(p, "/")
}

// config reads values that the API has checked already; what was written by an
// older version or by hand is checked again.
type config struct{ m map[string]string }

func (c config) text(key, def string) string {
	if v := c.m[key]; v != "" {
		return v
	}
	return def
}

func (c config) flag(key string, def bool) bool {
	switch c.m[key] {
	case "":
		return def
	case "0":
		return false
	}
	return true
}

func (c config) number(key string, def, lo, hi int) (int, error) {
	s := c.m[key]
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < lo || n > hi {
		return 0, fmt.Errorf("read %s: %q is no number from %d to %d", key, s, lo, hi)
	}
	return n, nil
}
