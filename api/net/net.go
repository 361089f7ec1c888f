// Package net is the wire form of a guest's network devices: netN of virtual
// machines (virtio=MAC,bridge=vmbr0) and of containers
// (name=eth0,bridge=vmbr0,hwaddr=MAC,ip=dhcp).
package net

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
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
	macRE  = regexp.MustCompile(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)
	linkRE = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$`) // a name that the kernel takes
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

// Models of network cards that virtual machines can have.
var models = []string{"virtio", "e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "e1000e", "i82551", "i82557b",
	"i82559er", "ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "vmxnet3"}

// Net is netN of a virtual machine.
type Net struct {
	Port
	Model string
}

var netRules = rules{1, 65520, []string{"trunks", "rate", "queues"}}

// Parse reads netN of a virtual machine.
func Parse(s string) (Net, error) {
	all, err := property.Parse(s, "model")
	if err != nil {
		return Net{}, err
	}
	n := Net{Port: Port{Rest: property.Set{}}}
	if err := all.Each(func(k, v string) error { return n.set(k, v, all) }); err != nil {
		return Net{}, err
	}
	if n.Model == "" {
		return Net{}, property.Missing("model")
	}
	return n, nil
}

func (n *Net) set(k, v string, all property.Set) error {
	if known, err := n.Port.set(k, v, all, netRules); known {
		return err
	}
	mac := v
	switch k {
	case "model":
		return n.model(v)
	case "macaddr":
	default:
		// The card's model may stand as key of its address: virtio=BC:24:11:…
		if err := n.model(k); err != nil {
			return property.Unknown(k)
		}
	}
	if mac == "" {
		return nil
	}
	if n.MAC != nil {
		return property.Invalid("macaddr", "given twice")
	}
	var err error
	if n.MAC, err = parseMAC(mac); err != nil {
		return property.Invalid("macaddr", "%w", err)
	}
	return nil
}

func (n *Net) model(m string) error {
	if !slices.Contains(models, m) {
		return property.Invalid("model", "value '%s' does not have a value in the enumeration '%s'", m, strings.Join(models, ", "))
	}
	if n.Model != "" && n.Model != m {
		return property.Invalid("model", "given twice")
	}
	n.Model = m
	return nil
}

// String is the device as a configuration holds it: model=MAC first.
func (n Net) String() string {
	head := n.Model
	if n.MAC != nil {
		head += "=" + FormatMAC(n.MAC)
	}
	if rest := n.properties().Format(""); rest != "" {
		return head + "," + rest
	}
	return head
}

// LXC is netN of a container.
type LXC struct {
	Port
	Name    string
	IP, IP6 string // "", "dhcp", "manual", a prefix; IP6 also "auto"
	GW, GW6 string
}

var lxcRules = rules{64, 65535, []string{"trunks", "rate", "host-managed"}}

// ParseLXC reads netN of a container.
func ParseLXC(s string) (LXC, error) {
	all, err := property.Parse(s, "")
	if err != nil {
		return LXC{}, err
	}
	n := LXC{Port: Port{Rest: property.Set{}}}
	if err := all.Each(func(k, v string) error { return n.set(k, v, all) }); err != nil {
		return LXC{}, err
	}
	if n.Name == "" {
		return LXC{}, property.Missing("name")
	}
	return n, nil
}

func (n *LXC) set(k, v string, all property.Set) (err error) {
	if known, err := n.Port.set(k, v, all, lxcRules); known {
		return err
	}
	switch k {
	case "name":
		if n.Name = v; !linkRE.MatchString(v) {
			err = property.Invalid(k, "'%s' is not an interface name", v)
		}
	case "hwaddr":
		if n.MAC, err = parseMAC(v); err != nil {
			err = property.Invalid(k, "%w", err)
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
	default:
		err = property.Unknown(k)
	}
	return err
}

func address(key, v string, family func(netip.Addr) bool, words ...string) error {
	if slices.Contains(words, v) {
		return nil
	}
	if p, err := netip.ParsePrefix(v); err != nil || !family(p.Addr()) {
		return property.Invalid(key, "'%s' is not an address with prefix length", v)
	}
	return nil
}

func gateway(key, v string, family func(netip.Addr) bool) error {
	if a, err := netip.ParseAddr(v); err != nil || !family(a) || a.Zone() != "" {
		return property.Invalid(key, "'%s' is not an address", v)
	}
	return nil
}

// String is the device as a configuration holds it: name first.
func (n LXC) String() string {
	s := n.properties()
	for k, v := range map[string]string{"ip": n.IP, "ip6": n.IP6, "gw": n.GW, "gw6": n.GW6} {
		if v != "" {
			s[k] = v
		}
	}
	if n.MAC != nil {
		s["hwaddr"] = FormatMAC(n.MAC)
	}
	s["type"] = "veth"
	return "name=" + n.Name + "," + s.Format("")
}
