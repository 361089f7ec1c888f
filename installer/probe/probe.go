package probe

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Machine is where to look: a root folder ("/" on a real machine), how to try
// KVM, how to ask a disk for its health (nil: not at all), and the clock.
type Machine struct {
	Root  string
	KVM   func(device string) error
	SMART func(device string) ([]byte, error) // smartctl's JSON
	Now   func() time.Time
}

// Real is the running machine.
func Real() Machine { return Machine{Root: "/", KVM: tryKVM, SMART: smartctl, Now: time.Now} }

// MediumDir is where stage 1 mounts what the machine was booted from.
const MediumDir = "/run/joist/medium"

// Facts looks at everything. It always returns what it could learn; what it
// could not is in Problems.
func (m Machine) Facts() Facts {
	f := Facts{Time: m.Now().UTC(), Firmware: m.firmware(), CPU: m.cpu(), Memory: m.memory()}
	f.Consoles, f.ConsoleArgs = m.consoles()
	f.IOMMU, f.TPM, f.ZFS, f.DMI = m.iommu(), m.tpm(), m.zfs(), m.dmi()
	problem := func(err error) {
		if err != nil {
			f.Problems = append(f.Problems, err.Error())
		}
	}
	mounts := m.mounts()
	for _, mt := range mounts {
		if mt.target == MediumDir {
			f.Medium = m.wholeDisk(mt.source)
		}
	}
	own, slot := m.bootMedium()
	if own != "" && slot == "" {
		f.Medium = m.wholeDisk(own)
	}
	var err error
	f.Disks, err = m.disks(f.Medium, mounts)
	problem(err)
	if slot != "" {
		problem(m.inPlace(&f, m.wholeDisk(own), slot))
	}
	f.Disks = mergePaths(f.Disks)
	m.OwnDisks(&f)
	for i := range f.Disks {
		if f.Disks[i].Health, err = m.health(f.Disks[i]); err != nil {
			problem(fmt.Errorf("ask disk %s for its health: %w", f.Disks[i].Name, err))
		}
	}
	f.NICs, err = m.NICs()
	problem(err)
	return f
}

func (m Machine) path(elem ...string) string {
	return filepath.Join(m.Root, filepath.Join(elem...))
}

// read returns a small file's content without the space around it, "" when
// there is none: in /sys a missing attribute means "does not apply".
func (m Machine) read(elem ...string) string {
	b, err := os.ReadFile(m.path(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), ""))
}

func (m Machine) number(elem ...string) int64 {
	n, _ := strconv.ParseInt(m.read(elem...), 10, 64)
	return n
}

func (m Machine) exists(elem ...string) bool {
	_, err := os.Stat(m.path(elem...))
	return err == nil
}

// firmware: /sys/firmware/efi exists after a UEFI start only. The SecureBoot
// variable is four bytes of attributes and one of value (UEFI 2.10, 3.3).
func (m Machine) firmware() Firmware {
	if !m.exists("sys/firmware/efi") {
		return Firmware{Mode: BIOS}
	}
	f := Firmware{Mode: UEFI, Bits: int(m.number("sys/firmware/efi/fw_platform_size"))}
	b, err := os.ReadFile(m.path("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
	f.SecureBoot = err == nil && len(b) == 5 && b[4] == 1
	f.Keys = m.moduleKeys()
	return f
}

func (m Machine) cpu() CPU {
	var c CPU
	b, _ := os.ReadFile(m.path("proc/cpuinfo"))
	cores, socket := map[string]bool{}, ""
	sockets := map[string]bool{}
	for l := range strings.SplitSeq(string(b), "\n") {
		k, v, ok := strings.Cut(l, ":")
		if !ok {
			continue
		}
		v = strings.TrimSpace(v)
		switch strings.TrimSpace(k) {
		case "processor":
			c.Count++
		case "vendor_id":
			c.Vendor = v
		case "model name":
			c.Model = v
		case "physical id":
			socket = v
			sockets[v] = true
		case "core id":
			cores[socket+" "+v] = true
		case "flags":
			c.Flags = strings.Fields(v)
		}
	}
	c.Cores, c.Sockets = max(len(cores), min(c.Count, 1)), max(len(sockets), min(c.Count, 1))
	for _, f := range c.Flags {
		if f == "vmx" || f == "svm" {
			c.Virtualisation = f
		}
	}
	if err := m.KVM(m.path("dev/kvm")); err != nil {
		c.KVMError = err.Error()
	} else {
		c.KVM = true
	}
	c.Lock = m.lock(c.Vendor)
	return c
}

// memory: MemTotal lacks what kernel and firmware keep, so the firmware's map
// (Documentation/ABI/testing/sysfs-firmware-memmap) is summed as well.
func (m Machine) memory() Memory {
	var out Memory
	for l := range strings.SplitSeq(m.read("proc/meminfo"), "\n") {
		if f := strings.Fields(l); len(f) >= 2 && f[0] == "MemTotal:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			out.Total = n << 10
		}
	}
	entries, _ := os.ReadDir(m.path("sys/firmware/memmap"))
	for _, e := range entries {
		dir := "sys/firmware/memmap/" + e.Name()
		if m.read(dir, "type") != "System RAM" {
			continue
		}
		start, err1 := strconv.ParseUint(m.read(dir, "start"), 0, 64)
		end, err2 := strconv.ParseUint(m.read(dir, "end"), 0, 64)
		if err1 == nil && err2 == nil && end >= start && end-start < 1<<60 {
			out.Installed += int64(end-start) + 1
		}
	}
	out.ECC = m.ecc()
	return out
}

// consoles are what the kernel was told to use, as its command line orders
// them; tty0 stands for the first virtual terminal.
func (m Machine) consoles() (out, args []string) {
	for _, a := range strings.Fields(m.read("proc/cmdline")) {
		v, ok := strings.CutPrefix(a, "console=")
		if !ok {
			continue
		}
		args = append(args, a)
		v, _, _ = strings.Cut(v, ",")
		if v == "tty0" {
			v = "tty1"
		}
		if v != "" && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	if len(out) == 0 {
		out = []string{"tty1"}
	}
	return out, args
}

type mount struct{ source, target string }

func (m Machine) mounts() []mount {
	var out []mount
	for l := range strings.SplitSeq(m.read("proc/self/mounts"), "\n") {
		if f := strings.Fields(l); len(f) >= 2 {
			out = append(out, mount{f[0], f[1]})
		}
	}
	return out
}

// udev returns the properties udev stored for a device: lines "E:KEY=VALUE"
// in /run/udev/data, named b<major>:<minor> or n<ifindex>.
func (m Machine) udev(id string) map[string]string {
	out := map[string]string{}
	b, err := os.ReadFile(m.path("run/udev/data", id))
	if err != nil {
		return out
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		if l, ok := strings.CutPrefix(sc.Text(), "E:"); ok {
			if k, v, ok := strings.Cut(l, "="); ok {
				out[k] = v
			}
		}
	}
	return out
}

// orDefault sets a property that udev did not, so that filters work in the
// same way without its database.
func orDefault(p map[string]string, key, v string) {
	if _, ok := p[key]; !ok && v != "" {
		p[key] = v
	}
}

// arphrdEther is ARPHRD_ETHER of <linux/if_arp.h>.
const arphrdEther = 1

// NICs lists the wired cards. Their links are known only while they are
// enabled, which is somebody else's to do.
func (m Machine) NICs() ([]NIC, error) {
	entries, err := os.ReadDir(m.path("sys/class/net"))
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var out []NIC
	for _, e := range entries {
		dir := "sys/class/net/" + e.Name()
		// bridges, bonds and the like have no device behind them; a radio
		// cannot carry a bridge
		if !m.exists(dir, "device") || m.number(dir, "type") != arphrdEther || m.exists(dir, "phy80211") || m.exists(dir, "wireless") {
			continue
		}
		n := NIC{Name: e.Name(), MAC: strings.ToLower(m.read(dir, "address")), Carrier: "unknown", Udev: m.udev("n" + m.read(dir, "ifindex"))}
		switch m.read(dir, "carrier") { // reading fails with EINVAL while the link is not enabled
		case "1":
			n.Carrier = "up"
		case "0":
			n.Carrier = "down"
		}
		n.Speed = max(int(m.number(dir, "speed")), 0) // -1 or unreadable while it is not known
		if t, err := os.Readlink(m.path(dir, "device/driver")); err == nil {
			n.Driver = filepath.Base(t)
		}
		orDefault(n.Udev, "INTERFACE", n.Name)
		orDefault(n.Udev, "ID_NET_DRIVER", n.Driver)
		orDefault(n.Udev, "ID_NET_NAME_MAC", "enx"+strings.ReplaceAll(n.MAC, ":", "")) // systemd.net-naming-scheme(7)
		out = append(out, n)
	}
	return out, nil
}
