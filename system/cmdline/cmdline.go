// Package cmdline reads what the boot menu told the kernel: the mode the
// machine starts in, the image it starts from and the consoles it talks on.
// Values are checked here, before any of them reaches a path, a device-mapper
// table or an argument vector.
package cmdline

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// Mode is what the machine is started for.
type Mode string

// The modes of the boot menu.
const (
	Install Mode = "install" // run the installer from the medium
	Node    Mode = "node"    // run the installed system from a slot
	Rescue  Mode = "rescue"  // a shell, nothing assembled or mounted by itself
	Live    Mode = "live"    // like rescue, kept apart for media without an installer
)

// Options is the kernel command line as far as Joist is concerned.
type Options struct {
	Mode        Mode
	Build       string // 16 hex digits: the build whose files are looked for
	Slot        string // "A" or "B", empty when started from a medium
	Verity      string // root hash of the slot's dm-verity tree, 64 hex digits
	Disk        string // GPT GUID of the system disk, lower case
	StateVG     string // LVM VG UUID that holds the state volume, "" with ZFS
	Pool        string // GUID of the ZFS pool that holds it, "" with LVM
	Array       string // UUID of the md mirror below that group, as mdadm prints it; "" without one
	InPlace     bool   // joist.in-place=1: the system in the slot makes its own disks a node's, which it knows by a mark in the partition table
	Trial       bool   // the slot has not been marked good yet
	Answer      string // joist.answer=: where an unattended installation finds its answer
	AnswerPin   string // joist.answer-fingerprint=: SHA-256 of the answer server's certificate, 64 hex digits
	Image       string // joist.image=: http or https URL of system.sqfs; "" for a medium
	RAM         string // joist.ram=: "1" copies the medium to memory, "0" does not, "" where there is room
	BootMAC     string // BOOTIF=: hardware address of the card that the firmware started from
	Address     Address
	RescueMount bool   // joist.rescue=mount
	Keyboard    string // joist.keyboard=: layout, where nothing else says one
	Verbose     bool   // debug, loglevel= or ignore_loglevel: leave the kernel's messages alone
	Consoles    []string
	Params      map[string][]string // module name → "param=value", as modprobe(8) takes them from the command line
	Blacklist   []string            // module_blacklist=, modprobe.blacklist=

	badAddress error // of ip=, which matters only to who fetches
}

var (
	hex16 = regexp.MustCompile(`^[0-9a-f]{16}$`)
	hex64 = regexp.MustCompile(`^[0-9a-f]{64}$`)
	guid  = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	// LVM UUIDs are 32 characters of [0-9a-zA-Z] in groups 6-4-4-4-4-4-6.
	vgUUID = regexp.MustCompile(`^[0-9a-zA-Z]{6}(-[0-9a-zA-Z]{4}){5}-[0-9a-zA-Z]{6}$`)
	pool   = regexp.MustCompile(`^[0-9]{1,20}$`)
	array  = regexp.MustCompile(`^[0-9a-f]{8}(:[0-9a-f]{8}){3}$`)
	layout = regexp.MustCompile(`^[a-z]{2}(-[a-z]{2})?$`)
	tty    = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9/]{0,30}$`)
	// As PXELINUX writes it, with the hardware type before it, or as GRUB has it.
	bootIf = regexp.MustCompile(`^(?:01-)?([0-9a-f]{2}(?:[-:][0-9a-f]{2}){5})$`)
	modArg = regexp.MustCompile(`^([a-zA-Z][a-zA-Z0-9_-]*)\.([a-zA-Z][a-zA-Z0-9_]*(=.*)?)$`)
)

// Read parses the command line of the running kernel.
func Read() (Options, error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return Options{Mode: Rescue}, fmt.Errorf("read kernel command line: %w", err)
	}
	return Parse(string(b))
}

// Parse reads a command line. What could be understood is returned with the
// error as well, so that the mode decides how the error is shown.
func Parse(line string) (Options, error) {
	o := Options{Mode: Rescue, Params: map[string][]string{}}
	var bad []string
	for _, w := range words(line) {
		key, val, _ := strings.Cut(w, "=")
		switch {
		case key == "--": // the rest is init's own (kernel-parameters.txt)
			return o, asError(append(bad, o.missing()...))
		case strings.HasPrefix(key, "joist."):
			if msg := o.set(strings.TrimPrefix(key, "joist."), val); msg != "" {
				bad = append(bad, msg)
			}
		case key == "console":
			name, _, _ := strings.Cut(val, ",")
			if tty.MatchString(name) {
				o.Consoles = append(o.Consoles, name)
			}
		case key == "ip":
			a, err := ParseAddress(val)
			o.Address, o.badAddress = a, err
		case key == "BOOTIF":
			if m := bootIf.FindStringSubmatch(strings.ToLower(val)); m != nil {
				o.BootMAC = strings.ReplaceAll(m[1], "-", ":")
			}
		case key == "debug", key == "loglevel", key == "ignore_loglevel":
			o.Verbose = true
		case key == "module_blacklist", key == "modprobe.blacklist":
			o.Blacklist = append(o.Blacklist, strings.Split(val, ",")...)
		default:
			if m := modArg.FindStringSubmatch(w); m != nil {
				name := strings.ReplaceAll(m[1], "-", "_")
				o.Params[name] = append(o.Params[name], m[2])
			}
		}
	}
	return o, asError(append(bad, o.missing()...))
}

// set takes one joist.* value; its answer is what is wrong with it.
func (o *Options) set(key, val string) string {
	checked := func(dst *string, re *regexp.Regexp, v string) string {
		if !re.MatchString(v) {
			return fmt.Sprintf("joist.%s=%q is not of the form %s", key, val, re)
		}
		*dst = v
		return ""
	}
	switch key {
	case "mode":
		switch m := Mode(val); m {
		case Install, Node, Rescue, Live:
			o.Mode = m
		default:
			return fmt.Sprintf("joist.mode=%q is none of install, node, rescue, live", val)
		}
	case "build":
		return checked(&o.Build, hex16, strings.ToLower(val))
	case "slot":
		if val != "A" && val != "B" {
			return fmt.Sprintf("joist.slot=%q is neither A nor B", val)
		}
		o.Slot = val
	case "verity":
		return checked(&o.Verity, hex64, strings.ToLower(val))
	case "disk":
		return checked(&o.Disk, guid, strings.ToLower(val))
	case "state":
		if vg, ok := strings.CutPrefix(val, "lvm:"); ok {
			return checked(&o.StateVG, vgUUID, vg)
		}
		if guid, ok := strings.CutPrefix(val, "zfs:"); ok {
			return checked(&o.Pool, pool, guid)
		}
		return fmt.Sprintf("joist.state=%q starts with neither lvm: nor zfs:", val)
	case "md":
		return checked(&o.Array, array, strings.ToLower(val))
	case "image":
		u, err := url.Parse(val)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.HasSuffix(u.Path, "/") || u.Path == "" {
			return "joist.image= is not the URL of a file by http or https" // it may hold a password: not quoted
		}
		o.Image = val
	case "ram":
		if val != "0" && val != "1" {
			return fmt.Sprintf("joist.ram=%q is neither 0 nor 1", val)
		}
		o.RAM = val
	case "in-place":
		o.InPlace = val == "1"
	case "trial":
		o.Trial = val == "1"
	case "answer":
		o.Answer = val
	case "answer-fingerprint":
		return checked(&o.AnswerPin, hex64, strings.ToLower(strings.ReplaceAll(val, ":", "")))
	case "keyboard":
		if layout.MatchString(val) { // no reason not to start
			o.Keyboard = val
		}
	case "rescue":
		o.RescueMount = val == "mount"
	}
	return "" // keys of later releases are not an error: an old slot must start under a newer menu
}

// missing says what the chosen way of starting needs and the line lacks.
func (o *Options) missing() (bad []string) {
	if o.InPlace && o.Mode == Node { // a menu that starts nodes, of a disk that is none yet
		o.Mode = Install
	}
	need := func(name, val string) {
		if val == "" {
			bad = append(bad, "joist."+name+"= is missing")
		}
	}
	if !o.FromSlot() {
		need("build", o.Build)
		if o.Image != "" && o.badAddress != nil {
			bad = append(bad, o.badAddress.Error())
		}
		return bad
	}
	if o.Image != "" {
		bad = append(bad, "joist.image= does not go with a slot")
	}
	need("slot", o.Slot)
	need("verity", o.Verity)
	if !o.InPlace {
		need("disk", o.Disk)
	}
	if o.Mode == Node {
		need("state", o.StateVG+o.Pool)
	}
	return bad
}

// FromSlot reports whether the system image is in a slot of the system disk
// (otherwise it is a file of the medium).
func (o Options) FromSlot() bool { return o.Mode == Node || o.Slot != "" }

// Partition is the GPT name of the slot's partition.
func (o Options) Partition() string { return "joist-" + strings.ToLower(o.Slot) }

func asError(bad []string) error {
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("kernel command line: %s", strings.Join(bad, "; "))
}

// words splits at blanks outside double quotes, which are dropped, as the
// kernel's next_arg() does.
func words(line string) (out []string) {
	var w strings.Builder
	quoted, some := false, false
	for _, r := range strings.TrimSpace(line) {
		switch {
		case r == '"':
			quoted, some = !quoted, true
		case !quoted && (r == ' ' || r == '\t' || r == '\n'):
			if some {
				out = append(out, w.String())
			}
			w.Reset()
			some = false
		default:
			w.WriteRune(r)
			some = true
		}
	}
	if some {
		out = append(out, w.String())
	}
	return out
}
