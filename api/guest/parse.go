package guest

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"joist/api/drive"
	"joist/api/guest/property"
)

// Memory reads a machine's memory in MiB: "2048" or "current=2048". Absent is
// 512.
func Memory(s string) (int, error) {
	set, err := property.Parse(s, "current")
	if err == nil {
		err = set.Only("current")
	}
	if err != nil {
		return 0, err
	}
	return set.Int("current", 512, 16, 1<<26)
}

// BootOrder reads "order=scsi0;ide2;net0". The older form, letters such as
// "cdn", gives no devices.
func BootOrder(s string) ([]string, error) {
	set, err := property.Parse(s, "legacy")
	if err == nil {
		err = set.Only("legacy", "order")
	}
	if err != nil {
		return nil, err
	}
	if l := set["legacy"]; strings.Trim(l, "acdn") != "" {
		return nil, fmt.Errorf("invalid format - legacy: value does not match the regex pattern")
	}
	var out []string
	for dev := range strings.SplitSeq(set["order"], ";") {
		dev = strings.TrimSpace(dev)
		if dev == "" {
			continue
		}
		if _, _, ok := drive.ParseKey(dev); !ok && !bootDevRE.MatchString(dev) {
			return nil, fmt.Errorf("invalid format - order: '%s' is not a device to boot from", dev)
		}
		out = append(out, dev)
	}
	return out, nil
}

var bootDevRE = regexp.MustCompile(`^(net|hostpci|usb)[0-9]{1,2}$`)

// Startup is when a guest starts and stops with the node. Missing numbers are
// -1.
type Startup struct{ Order, Up, Down int }

// ParseStartup reads "order=1,up=30,down=60".
func ParseStartup(s string) (Startup, error) {
	st := Startup{-1, -1, -1}
	set, err := property.Parse(s, "order")
	if err == nil {
		err = set.Only("order", "up", "down")
	}
	if err == nil {
		st.Order, err = set.Int("order", -1, 0, 1<<30)
	}
	if err == nil {
		st.Up, err = set.Int("up", -1, 0, 1<<20)
	}
	if err == nil {
		st.Down, err = set.Int("down", -1, 0, 1<<20)
	}
	return st, err
}

// VGA is a machine's display.
type VGA struct {
	Type   string // std, virtio, cirrus, vmware, qxl…, none, serial0 … serial3
	Memory int    // MiB, 0 for the default
}

// ParseVGA reads "std,memory=32".
func ParseVGA(s string) (VGA, error) {
	v := VGA{Type: "std"}
	set, err := property.Parse(s, "type")
	if err == nil {
		err = set.Only("type", "memory", "clipboard")
	}
	if err == nil {
		err = set.Enum("type", "cirrus", "none", "qxl", "qxl2", "qxl3", "qxl4", "serial0", "serial1", "serial2", "serial3", "std",
			"virtio", "virtio-gl", "vmware")
	}
	if err == nil {
		v.Memory, err = set.Int("memory", 0, 4, 512)
	}
	if t := set["type"]; t != "" {
		v.Type = t
	}
	return v, err
}

// Serial reports whether the display is a serial port: no graphics at all.
func (v VGA) Serial() bool { return strings.HasPrefix(v.Type, "serial") }

// AgentOn reports whether the agent's channel is wanted.
func AgentOn(s string) bool {
	set, err := property.Parse(s, "enabled")
	on, err2 := set.Bool("enabled", false)
	return err == nil && err2 == nil && on
}

// CPU is a processor model.
type CPU struct {
	Model  string   // "" for the node's default
	Flags  []string // "+aes", "-pcid"
	Hidden bool     // hide the hypervisor
	Rest   property.Set
}

var (
	modelRE = regexp.MustCompile(`^(custom-)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	flagRE  = regexp.MustCompile(`^[+-][a-z0-9][a-z0-9._-]{0,40}$`)
)

// ParseCPU reads "x86-64-v3,flags=+aes;-pcid".
func ParseCPU(s string) (CPU, error) {
	set, err := property.Parse(s, "cputype")
	if err == nil {
		err = set.Only("cputype", "flags", "hidden", "hv-vendor-id", "phys-bits", "guest-phys-bits", "reported-model", "level")
	}
	if err != nil {
		return CPU{}, err
	}
	c := CPU{Model: set["cputype"], Rest: property.Set{}}
	if c.Model != "" && !modelRE.MatchString(c.Model) {
		return CPU{}, fmt.Errorf("invalid format - cputype: value does not match the regex pattern")
	}
	for f := range strings.SplitSeq(set["flags"], ";") {
		if f = strings.TrimSpace(f); f == "" {
			continue
		}
		if !flagRE.MatchString(f) {
			return CPU{}, fmt.Errorf("invalid format - flags: '%s' is not a CPU flag", f)
		}
		c.Flags = append(c.Flags, f)
	}
	if c.Hidden, err = set.Bool("hidden", false); err != nil {
		return CPU{}, err
	}
	for k, v := range set {
		if k != "cputype" && k != "flags" && k != "hidden" {
			c.Rest[k] = v
		}
	}
	return c, nil
}

// Machine is the board of a virtual machine.
type Machine struct {
	Type string // what QEMU calls it: pc, q35, pc-i440fx-9.2, pc-q35-9.2
	Q35  bool
	Rest property.Set // viommu, enable-s3, enable-s4, aw-bits
}

var machineRE = regexp.MustCompile(`^(pc|q35|pc-i440fx-[0-9]{1,2}\.[0-9](?:\.[0-9])?|pc-q35-[0-9]{1,2}\.[0-9](?:\.[0-9])?)(\+pve[0-9]+)?$`)

// ParseMachine reads "q35", "pc-q35-9.2+pve1". Absent is pc.
func ParseMachine(s string) (Machine, error) {
	set, err := property.Parse(s, "type")
	if err == nil {
		err = set.Only("type", "viommu", "enable-s3", "enable-s4", "aw-bits")
	}
	if err != nil {
		return Machine{}, err
	}
	m := Machine{Type: "pc", Rest: property.Set{}}
	if t, ok := set["type"]; ok {
		p := machineRE.FindStringSubmatch(t)
		if p == nil {
			return Machine{}, fmt.Errorf("invalid format - type: value does not match the regex pattern")
		}
		m.Type = p[1] // the part after + is the field's own revision, QEMU knows none
	}
	m.Q35 = strings.Contains(m.Type, "q35")
	for k, v := range set {
		if k != "type" {
			m.Rest[k] = v
		}
	}
	return m, nil
}

// SMBIOS is the system table a guest reads about itself.
type SMBIOS struct{ UUID, Manufacturer, Product, Version, Serial, SKU, Family string }

var uuidRE = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// ParseSMBIOS reads "uuid=…,base64=1,serial=…".
func ParseSMBIOS(s string) (SMBIOS, error) {
	var out SMBIOS
	set, err := property.Parse(s, "")
	if err == nil {
		err = set.Only("uuid", "manufacturer", "product", "version", "serial", "sku", "family", "base64")
	}
	if err != nil {
		return out, err
	}
	coded, err := set.Bool("base64", false)
	if err != nil {
		return out, err
	}
	if out.UUID = set["uuid"]; out.UUID != "" && !uuidRE.MatchString(out.UUID) {
		return out, fmt.Errorf("invalid format - uuid: value does not match the regex pattern")
	}
	for k, p := range map[string]*string{"manufacturer": &out.Manufacturer, "product": &out.Product, "version": &out.Version,
		"serial": &out.Serial, "sku": &out.SKU, "family": &out.Family} {
		v := set[k]
		if coded {
			b, err := base64.StdEncoding.DecodeString(v)
			if err != nil {
				return out, fmt.Errorf("invalid format - %s: not base64", k)
			}
			v = string(b)
		}
		if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(v) > 512 {
			return out, fmt.Errorf("invalid format - %s: control character or too long", k)
		}
		*p = v
	}
	return out, nil
}

// CPUs returns how many CPUs a machine's configuration gives it, and how many
// it could have.
func CPUs(config map[string]string) (now, most, sockets, cores int) {
	sockets, cores = atoi(config["sockets"], 1), atoi(config["cores"], 1)
	most = sockets * cores
	now = min(atoi(config["vcpus"], most), most)
	return now, most, sockets, cores
}

func atoi(s string, def int) int {
	if n, err := strconv.Atoi(s); err == nil && n > 0 {
		return n
	}
	return def
}
