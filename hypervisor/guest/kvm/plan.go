// Package kvm runs virtual machines with QEMU. Planning is pure: a Spec and
// what the host offers become an argument vector and the list of files that
// QEMU gets as open descriptors (Make). Around it are the steps of a start,
// each of which the daemon may die in, and the handle on a running machine.
//
// QEMU runs as a uid of its own with seccomp on, in its cgroup from the first
// instruction, and opens nothing by name but its firmware.
package kvm

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	wire "joist/api/guest"
	"joist/hypervisor/guest"
)

// Host is what the machine offers to guests.
type Host struct {
	KVM      bool   // /dev/kvm makes virtual machines
	VHost    bool   // /dev/vhost-net is there
	Firmware string // folder of OVMF_CODE_4M.fd and OVMF_VARS_4M.fd
}

// fileKind is what a descriptor of QEMU is.
type fileKind int

const (
	volumeFile fileKind = iota
	varsFile            // volume of UEFI variables, or memory when it has no path
	kvmFile
	vhostFile
	tapFile
	listenFile // listening unix socket in the guest's folder
)

// file is one descriptor that QEMU is started with.
type file struct {
	kind     fileKind
	key      string // configuration key, socket name
	path     string
	format   string
	block    bool // a block device is expected at path
	readOnly bool
	direct   bool   // O_DIRECT: QEMU 10 takes from a set only a descriptor with the same
	bridge   string // tapFile
	mac      []byte
}

// Plan is how one machine is to be started. Descriptor 3+i is files[i].
type Plan struct {
	Args     []string
	Accel    string // "kvm" or "tcg"
	CPUs     int
	Memory   int64 // bytes the guest sees
	VNC      bool  // has a screen
	LinkDown []string
	Links    []string // taps on the host
	Frozen   bool     // CPUs are not to be started
	Limits   guest.Limits

	files []file
}

// firstFD is the first descriptor after stdin, stdout and stderr.
const firstFD = 3

type builder struct {
	Plan
	spec guest.Spec
	host Host
	mach wire.Machine
	bus  string         // the root bus of the machine
	boot map[string]int // bootindex of a device
	made map[string]bool
}

// Make plans a start. It refuses what would run the guest otherwise than its
// configuration says in a way that matters; what is merely ignored is listed
// by the API's guest.Unsupported.
func Make(s guest.Spec, h Host) (*Plan, error) {
	b := &builder{spec: s, host: h, made: map[string]bool{}}
	for key, value := range s.Config {
		if _, err := wire.Check(wire.QEMU, key, value); err != nil {
			return nil, fmt.Errorf("option %q: %w", key, err)
		}
	}
	for _, step := range []func() error{b.machine, b.processor, b.monitors, b.firmware, b.identity, b.display, b.serials,
		b.bootOrder, b.drives, b.nets} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	b.limits()
	return &b.Plan, nil
}

func (b *builder) add(args ...string) { b.Args = append(b.Args, args...) }

// device adds a device; pairs with an empty value are left out. Values are
// names of ours or were checked, commas are doubled all the same.
func (b *builder) device(model string, pairs ...string) { b.add("-device", list(model, pairs...)) }

func list(head string, pairs ...string) string {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			head += "," + pairs[i] + "=" + strings.ReplaceAll(pairs[i+1], ",", ",,")
		}
	}
	return head
}

// fd appends a file and returns its number in QEMU.
func (b *builder) fd(f file) int {
	b.files = append(b.files, f)
	return firstFD + len(b.files) - 1
}

// fdset gives a descriptor a name that QEMU can open: /dev/fdset/N.
func (b *builder) fdset(f file) string {
	n := strconv.Itoa(b.fd(f))
	b.add("-add-fd", "fd="+n+",set="+n+",opaque="+f.key)
	return "/dev/fdset/" + n
}

// blockdev adds a node of the block layer. JSON, because nested options and
// the null that forbids a backing file have no other spelling.
func (b *builder) blockdev(node map[string]any) {
	j, err := json.Marshal(node)
	if err != nil {
		panic(err) // strings, booleans and maps of them
	}
	b.add("-blockdev", string(j))
}

func (b *builder) on(key string, def bool) bool {
	v, ok := b.spec.Config[key]
	if !ok {
		return def
	}
	return v != "0"
}

func (b *builder) machine() error {
	var err error
	if b.mach, err = wire.ParseMachine(b.spec.Config["machine"]); err != nil {
		return err
	}
	b.bus = "pci.0"
	sleep := "PIIX4_PM"
	if b.mach.Q35 {
		b.bus, sleep = "pcie.0", "ICH9-LPC"
	}
	name := b.spec.Name
	if name == "" {
		name = "vm" + strconv.Itoa(b.spec.VMID)
	}
	b.add("-name", list("guest="+strings.ReplaceAll(name, ",", ",,"), "debug-threads", "on"), "-no-user-config", "-nodefaults", "-S")
	b.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	m := []string{"usb", "off", "dump-guest-core", "off", "hpet", "off"}
	if !b.on("acpi", true) {
		m = append(m, "acpi", "off")
	}
	if b.spec.Config["bios"] == "ovmf" {
		m = append(m, "pflash0", "firmware-code", "pflash1", "firmware-vars")
	}
	b.add("-machine", list(b.mach.Type, m...))
	// A suspended guest answers nothing and looks dead from outside.
	b.add("-global", sleep+".disable_s3=1", "-global", sleep+".disable_s4=1")
	b.add("-boot", "menu=on,strict=on,reboot-timeout=1000")
	b.Frozen = b.on("freeze", false)
	if !b.on("reboot", true) {
		b.add("-no-reboot")
	}
	return nil
}

// tbSize bounds the translated code that software emulation keeps, in MiB; by
// itself it takes up to an eighth of the host's memory.
const tbSize = 256

func (b *builder) processor() error {
	mem, err := wire.Memory(b.spec.Config["memory"])
	if err != nil {
		return err
	}
	b.Memory = int64(mem) << 20
	now, most, sockets, cores := wire.CPUs(b.spec.Config)
	b.CPUs, b.Accel = now, "tcg"
	if b.host.KVM && b.on("kvm", true) {
		b.Accel = "kvm"
		b.add("-accel", "kvm,device="+b.fdset(file{kind: kvmFile, key: "kvm"}))
	} else {
		b.add("-accel", "tcg,thread=multi,tb-size="+strconv.Itoa(tbSize))
	}
	model, err := cpuModel(b.spec.Config["cpu"], b.Accel)
	if err != nil {
		return err
	}
	b.add("-cpu", model)
	b.add("-smp", fmt.Sprintf("%d,sockets=%d,cores=%d,maxcpus=%d", now, sockets, cores, most))
	b.add("-m", "size="+strconv.Itoa(mem)+"M")
	return nil
}

// monitors are two, because QEMU serves one client on each: the daemon holds
// one for as long as it lives, `joistd stop-guests` takes the other.
func (b *builder) monitors() error {
	for _, id := range monitorNames {
		b.socket(id)
		b.add("-mon", "chardev="+id+",mode=control")
	}
	return nil
}

var monitorNames = []string{"qmp0", "qmp1"}

// socket adds a character device that listens on a socket which we made: QEMU
// never touches the folder that it lies in.
func (b *builder) socket(id string) {
	fd := b.fd(file{kind: listenFile, key: id})
	b.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, fd))
}

func (b *builder) identity() error {
	sm, err := wire.ParseSMBIOS(b.spec.Config["smbios1"])
	if err != nil {
		return err
	}
	b.add("-smbios", list("type=1", "uuid", sm.UUID, "manufacturer", sm.Manufacturer, "product", sm.Product,
		"version", sm.Version, "serial", sm.Serial, "sku", sm.SKU, "family", sm.Family))
	if id := b.spec.Config["vmgenid"]; len(id) == 36 {
		b.device("vmgenid", "guid", id)
	}
	rtc := "base=utc"
	switch date := b.spec.Config["startdate"]; {
	case date != "" && date != "now":
		rtc = "base=" + date
	case b.on("localtime", strings.HasPrefix(b.spec.Config["ostype"], "w")): // Windows
		rtc = "base=localtime"
	}
	b.add("-rtc", rtc+",driftfix=slew")
	return nil
}

func (b *builder) display() error {
	vga, err := wire.ParseVGA(b.spec.Config["vga"])
	if err != nil {
		return err
	}
	if vga.Serial() || vga.Type == "none" {
		b.add("-display", "none")
		return nil
	}
	// VNC is told its socket after the start, see attachVNC.
	b.VNC = true
	b.add("-vnc", "none")
	memory := ""
	if vga.Memory > 0 {
		memory = strconv.Itoa(vga.Memory)
	}
	at := []string{"id", "vga", "bus", b.bus, "addr", "0x2"}
	switch vga.Type {
	case "virtio":
		b.device("virtio-vga", at...)
	case "cirrus":
		b.device("cirrus-vga", append(at, "vgamem_mb", memory)...)
	case "vmware":
		b.device("vmware-svga", append(at, "vgamem_mb", memory)...)
	default:
		b.device("VGA", append(at, "vgamem_mb", memory)...)
	}
	if b.on("tablet", true) {
		// The place of the controller in a PIIX3; in a q35 that one is free.
		addr := "0x1.0x2"
		if b.mach.Q35 {
			addr = "0x3"
		}
		b.device("piix3-usb-uhci", "id", "uhci", "bus", b.bus, "addr", addr)
		b.device("usb-tablet", "id", "tablet", "bus", "uhci.0", "port", "1")
	}
	return nil
}

func (b *builder) serials() error {
	for i := range 4 {
		key := "serial" + strconv.Itoa(i)
		switch v := b.spec.Config[key]; v {
		case "":
		case "socket":
			b.socket(key)
			b.device("isa-serial", "chardev", key, "id", "port-"+key, "index", strconv.Itoa(i))
		default:
			return fmt.Errorf("option %q: a serial port of the host (%s) is not supported, use \"socket\"", key, v)
		}
	}
	if wire.AgentOn(b.spec.Config["agent"]) {
		b.socket("agent")
		b.device("virtio-serial-pci", "id", "channels", "bus", b.bus, "addr", "0x8")
		b.device("virtserialport", "chardev", "agent", "name", "org.qemu.guest_agent.0", "bus", "channels.0")
	}
	return nil
}

// limits bound what the machine may take of the host: its memory plus what
// QEMU itself needs (buffers, queues, screen, translated code; file pages are
// given back under pressure and need no room here).
func (b *builder) limits() {
	over := int64(384<<20) + b.Memory/32
	if b.Accel == "tcg" {
		over += tbSize << 20
	}
	weight := 100
	if n, err := strconv.Atoi(b.spec.Config["cpuunits"]); err == nil {
		weight = n
	}
	limit, _ := strconv.ParseFloat(b.spec.Config["cpulimit"], 64)
	b.Limits = guest.Limits{Memory: b.Memory + over, CPUs: limit, Weight: weight}
}

// sorted returns the configuration's keys of a family with their numbers.
func (b *builder) sorted(family string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(b.spec.Config)) {
		if n, ok := strings.CutPrefix(k, family); ok {
			if _, err := strconv.Atoi(n); err == nil {
				out = append(out, k)
			}
		}
	}
	slices.SortStableFunc(out, func(x, y string) int { return number(x, family) - number(y, family) })
	return out
}

func number(key, family string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(key, family))
	return n
}
