// Package net is the wire form of a guest's network devices: netN of virtual
// machines (virtio=MAC,bridge=vmbr0) and of containers
// (name=eth0,bridge=vmbr0,hwaddr=MAC,ip=dhcp).
package net

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"joist/api/guest/property"
)

// MAC addresses of guests start with the prefix that the field uses
// (registered with the IEEE by Proxmox Server Solutions).
var prefix = [3]byte{0xbc, 0x24, 0x11}

// NewMAC makes a random address from r (crypto/rand.Reader).
func NewMAC(r io.Reader) (net.HardwareAddr, error) {
	mac := net.HardwareAddr{prefix[0], prefix[1], prefix[2], 0, 0, 0}
	if _, err := io.ReadFull(r, mac[3:]); err != nil {
		return nil, fmt.Errorf("make MAC address: %w", err)
	}
	return mac, nil
}

// FormatMAC writes an address as configurations hold it: upper case.
func FormatMAC(mac net.HardwareAddr) string { return strings.ToUpper(mac.String()) }

var (
	macRE    = regexp.MustCompile(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)
	bridgeRE = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$`)
	nameRE   = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$`)
)

func parseMAC(s string) (net.HardwareAddr, error) {
	if !macRE.MatchString(s) {
		return nil, fmt.Errorf("'%s' is not a MAC address", s)
	}
	mac, err := net.ParseMAC(s)
	if err == nil && mac[0]&1 != 0 {
		return nil, fmt.Errorf("'%s' is a multicast address", s)
	}
	return mac, err
}

// flag reads a boolean and keeps one that was given as 0, so that it reads back.
func flag(k string, all, rest property.Set) (bool, error) {
	on, err := all.Bool(k, false)
	if err == nil && !on {
		rest[k] = "0"
	}
	return on, err
}

// Models of network cards that virtual machines can have.
var models = []string{"virtio", "e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "e1000e", "i82551", "i82557b",
	"i82559er", "ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "vmxnet3"}

// Net is netN of a virtual machine.
type Net struct {
	Model    string
	MAC      net.HardwareAddr // nil in a request: make one
	Bridge   string
	Firewall bool
	LinkDown bool
	MTU      int
	Tag      int
	Rest     property.Set // trunks, rate, queues; firewall and link_down given as 0
}

// Parse reads netN of a virtual machine.
func Parse(s string) (Net, error) {
	set, err := property.Parse(s, "model")
	if err != nil {
		return Net{}, err
	}
	n := Net{Rest: property.Set{}}
	for k, v := range set {
		if err := n.set(k, v, set); err != nil {
			return Net{}, err
		}
	}
	if n.Model == "" {
		return Net{}, fmt.Errorf("invalid format - model: property is missing and it is not optional")
	}
	return n, nil
}

func (n *Net) set(k, v string, all property.Set) (err error) {
	mac := ""
	switch k {
	case "model":
		err = n.model(v)
	case "macaddr":
		mac = v
	case "bridge":
		if n.Bridge = v; !bridgeRE.MatchString(v) {
			err = fmt.Errorf("invalid format - bridge: '%s' is not a bridge name", v)
		}
	case "firewall":
		n.Firewall, err = flag(k, all, n.Rest)
	case "link_down":
		n.LinkDown, err = flag(k, all, n.Rest)
	case "mtu":
		n.MTU, err = all.Int(k, 0, 1, 65520)
	case "tag":
		n.Tag, err = all.Int(k, 0, 1, 4094)
	case "trunks", "rate", "queues":
		n.Rest[k] = v
	default:
		// The card's model may stand as key of its address: virtio=BC:24:11:…
		if err = n.model(k); err != nil {
			return fmt.Errorf("invalid format - %s: property is not defined in schema and the schema does not allow additional properties", k)
		}
		mac = v
	}
	if err == nil && mac != "" {
		if n.MAC != nil {
			return fmt.Errorf("invalid format - macaddr: given twice")
		}
		if n.MAC, err = parseMAC(mac); err != nil {
			err = fmt.Errorf("invalid format - macaddr: %w", err)
		}
	}
	return err
}

func (n *Net) model(m string) error {
	if !slices.Contains(models, m) {
		return fmt.Errorf("invalid format - model: value '%s' does not have a value in the enumeration '%s'", m, strings.Join(models, ", "))
	}
	if n.Model != "" && n.Model != m {
		return fmt.Errorf("invalid format - model: given twice")
	}
	n.Model = m
	return nil
}

// String is the device as a configuration holds it: model=MAC first.
func (n Net) String() string {
	s := maps.Clone(n.Rest)
	if s == nil {
		s = property.Set{}
	}
	if n.Bridge != "" {
		s["bridge"] = n.Bridge
	}
	for k, b := range map[string]bool{"firewall": n.Firewall, "link_down": n.LinkDown} {
		if b {
			s[k] = "1"
		}
	}
	for k, i := range map[string]int{"mtu": n.MTU, "tag": n.Tag} {
		if i > 0 {
			s[k] = strconv.Itoa(i)
		}
	}
	head := n.Model
	if n.MAC != nil {
		head += "=" + FormatMAC(n.MAC)
	}
	if rest := s.Format(""); rest != "" {
		return head + "," + rest
	}
	return head
}

// Unsupported names the properties that are kept without effect.
func (n Net) Unsupported() []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(n.Rest)) {
		if n.Rest[k] != "0" {
			out = append(out, k)
		}
	}
	if n.Firewall {
		out = append(out, "firewall")
	}
	return out
}

// LXC is netN of a container.
type LXC struct {
	Name     string
	Bridge   string
	MAC      net.HardwareAddr // hwaddr; nil in a request: make one
	IP, IP6  string           // "", "dhcp", "manual", a prefix; IP6 also "auto"
	GW, GW6  string
	Firewall bool
	LinkDown bool
	MTU      int
	Tag      int
	Rest     property.Set // trunks, rate, host-managed; firewall and link_down given as 0
}

// ParseLXC reads netN of a container.
func ParseLXC(s string) (LXC, error) {
	set, err := property.Parse(s, "")
	if err != nil {
		return LXC{}, err
	}
	n := LXC{Rest: property.Set{}}
	for k, v := range set {
		if err := n.set(k, v, set); err != nil {
			return LXC{}, err
		}
	}
	if n.Name == "" {
		return LXC{}, fmt.Errorf("invalid format - name: property is missing and it is not optional")
	}
	return n, nil
}

func (n *LXC) set(k, v string, all property.Set) (err error) {
	switch k {
	case "name":
		if n.Name = v; !nameRE.MatchString(v) {
			err = fmt.Errorf("invalid format - name: '%s' is not an interface name", v)
		}
	case "bridge":
		if n.Bridge = v; !bridgeRE.MatchString(v) {
			err = fmt.Errorf("invalid format - bridge: '%s' is not a bridge name", v)
		}
	case "hwaddr":
		if n.MAC, err = parseMAC(v); err != nil {
			err = fmt.Errorf("invalid format - hwaddr: %w", err)
		}
	case "type":
		err = all.Enum(k, "veth")
	case "ip":
		n.IP, err = v, address(k, v, netip.Addr.Is4, "dhcp", "manual")
	case "ip6":
		n.IP6, err = v, address(k, v, netip.Addr.Is6, "auto", "dhcp", "manual")
	case "gw":
		n.GW, err = v, gateway(k, v, netip.Addr.Is4)
	case "gw6":
		n.GW6, err = v, gateway(k, v, netip.Addr.Is6)
	case "firewall":
		n.Firewall, err = flag(k, all, n.Rest)
	case "link_down":
		n.LinkDown, err = flag(k, all, n.Rest)
	case "mtu":
		n.MTU, err = all.Int(k, 0, 64, 65535)
	case "tag":
		n.Tag, err = all.Int(k, 0, 1, 4094)
	case "trunks", "rate", "host-managed":
		n.Rest[k] = v
	default:
		return fmt.Errorf("invalid format - %s: property is not defined in schema and the schema does not allow additional properties", k)
	}
	return err
}

func address(key, v string, family func(netip.Addr) bool, words ...string) error {
	if slices.Contains(words, v) {
		return nil
	}
	if p, err := netip.ParsePrefix(v); err != nil || !family(p.Addr()) {
		return fmt.Errorf("invalid format - %s: '%s' is not an address with prefix length", key, v)
	}
	return nil
}

func gateway(key, v string, family func(netip.Addr) bool) error {
	if a, err := netip.ParseAddr(v); err != nil || !family(a) || a.Zone() != "" {
		return fmt.Errorf("invalid format - %s: '%s' is not an address", key, v)
	}
	return nil
}

// String is the device as a configuration holds it: name first.
func (n LXC) String() string {
	s := maps.Clone(n.Rest)
	if s == nil {
		s = property.Set{}
	}
	for k, v := range map[string]string{"bridge": n.Bridge, "ip": n.IP, "ip6": n.IP6, "gw": n.GW, "gw6": n.GW6} {
		if v != "" {
			s[k] = v
		}
	}
	if n.MAC != nil {
		s["hwaddr"] = FormatMAC(n.MAC)
	}
	for k, b := range map[string]bool{"firewall": n.Firewall, "link_down": n.LinkDown} {
		if b {
			s[k] = "1"
		}
	}
	for k, i := range map[string]int{"mtu": n.MTU, "tag": n.Tag} {
		if i > 0 {
			s[k] = strconv.Itoa(i)
		}
	}
	s["type"] = "veth"
	return "name=" + n.Name + "," + s.Format("")
}

// Unsupported names the properties that are kept without effect.
func (n LXC) Unsupported() []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(n.Rest)) {
		if n.Rest[k] != "0" {
			out = append(out, k)
		}
	}
	if n.Firewall {
		out = append(out, "firewall")
	}
	return out
}
