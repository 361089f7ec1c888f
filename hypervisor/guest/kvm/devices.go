package kvm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"joist/api/drive"
	wire "joist/api/guest"
	"joist/api/guest/property"
	"joist/api/net"
	"joist/hypervisor/guest"
)

// Places on the root bus. They are fixed per device, so that adding a disk
// does not move a network card in the guest. 0x0 and 0x1 are the chip set's
// (0x1f in a q35), 0x2 the screen, 0x3 USB in a q35, 0x8 the agent's channel.
const (
	slotSCSI       = 0x5 // controllers that are not one per disk: 0x5, 0x6; else the bridge of those that are
	slotAHCI       = 0x7
	slotVirtIO     = 0xa // virtio0 … virtio5
	slotNet        = 0x12
	slotBridgeNet  = 0x1d // net6 and above
	slotBridgeDisk = 0x1e // virtio6 and above
)

// bridge adds a PCI bridge once and returns the name of its bus.
func (b *builder) bridge(name string, slot int) string {
	if !b.made[name] {
		b.made[name] = true
		b.device("pci-bridge", "id", name, "chassis_nr", strconv.Itoa(slot), "bus", b.bus, "addr", hex(slot))
	}
	return name
}

func hex(n int) string { return fmt.Sprintf("0x%x", n) }

// bootOrder numbers the devices to boot from.
func (b *builder) bootOrder() error {
	order, err := wire.BootOrder(b.spec.Config["boot"])
	if err != nil {
		return err
	}
	set, err := property.Parse(b.spec.Config["boot"], "legacy")
	if err != nil {
		return err
	}
	if _, ok := set["order"]; !ok {
		letters := set["legacy"]
		if letters == "" {
			letters = "cdn"
		}
		order = b.legacyOrder(letters)
	}
	b.boot = map[string]int{}
	for i, dev := range order {
		b.boot[dev] = i + 1
	}
	return nil
}

func (b *builder) legacyOrder(letters string) []string {
	var disks, cds []string
	for _, family := range []string{"scsi", "virtio", "sata", "ide"} {
		for _, key := range b.sorted(family) {
			if d, err := drive.Parse(b.spec.Config[key]); err == nil && d.CDROM {
				cds = append(cds, key)
			} else {
				disks = append(disks, key)
			}
		}
	}
	if first := b.spec.Config["bootdisk"]; slices.Contains(disks, first) {
		disks = slices.Insert(slices.DeleteFunc(disks, func(k string) bool { return k == first }), 0, first)
	}
	var order []string
	for _, l := range letters {
		switch l {
		case 'c':
			order = append(order, disks...)
		case 'd':
			order = append(order, cds...)
		case 'n':
			order = append(order, b.sorted("net")...)
		}
	}
	return order
}

func (b *builder) bootIndex(key string) string {
	if n, ok := b.boot[key]; ok {
		return strconv.Itoa(n)
	}
	return ""
}

func (b *builder) drives() error {
	for _, family := range []string{"ide", "sata", "scsi", "virtio"} {
		for _, key := range b.sorted(family) {
			d, err := drive.Parse(b.spec.Config[key])
			if err == nil {
				err = b.drive(drive.Bus(family), number(key, family), key, d)
			}
			if err != nil {
				return fmt.Errorf("drive %q: %w", key, err)
			}
		}
	}
	return nil
}

// cacheModes: what the option cache means to the block layer and to the
// device, as in qemu(1), "cache=".
var cacheModes = map[string]struct{ direct, noFlush, writeCache bool }{
	"none":         {direct: true, writeCache: true},
	"writeback":    {writeCache: true},
	"writethrough": {},
	"directsync":   {direct: true},
	"unsafe":       {noFlush: true, writeCache: true},
}

func (b *builder) drive(bus drive.Bus, n int, key string, d drive.Drive) error {
	if d.Volume == "cdrom" {
		return fmt.Errorf("the host's own CD drive is not supported")
	}
	node, cache := "", d.Cache
	if cache == "" {
		cache = "none"
		if d.CDROM {
			cache = "writeback" // an image that many guests read belongs in the page cache
		}
	}
	if !d.Empty() {
		v, ok := b.spec.Volumes[key]
		if !ok {
			return fmt.Errorf("volume %q was not activated", d.Volume)
		}
		if d.Format != "" && v.Format != d.Format {
			return fmt.Errorf("volume %q is %s, the configuration says %s", v.ID, v.Format, d.Format)
		}
		node = "drive-" + key
		if err := b.nodes(key, node, v, d, cache); err != nil {
			return err
		}
	}
	props := []string{"id", key, "drive", node, "bootindex", b.bootIndex(key), "serial", d.Serial}
	if node != "" && !d.CDROM {
		props = append(props, "write-cache", map[bool]string{true: "on", false: "off"}[cacheModes[cache].writeCache])
	}
	kind := map[bool]string{true: "cd", false: "hd"}[d.CDROM]
	if d.SSD && !d.CDROM && bus != drive.VirtIO {
		props = append(props, "rotation_rate", "1") // SBC-4: 1 is "non-rotating"
	}
	switch bus {
	case drive.IDE:
		if b.mach.Q35 {
			b.device("ide-"+kind, append(props, "bus", "ide."+strconv.Itoa(n))...)
		} else {
			b.device("ide-"+kind, append(props, "bus", "ide."+strconv.Itoa(n/2), "unit", strconv.Itoa(n%2))...)
		}
	case drive.SATA:
		if !b.made["ahci0"] {
			b.made["ahci0"] = true
			b.device("ahci", "id", "ahci0", "bus", b.bus, "addr", hex(slotAHCI))
		}
		b.device("ide-"+kind, append(props, "bus", "ahci0."+strconv.Itoa(n))...)
	case drive.SCSI:
		at, err := b.scsiPlace(n, d.IOThread)
		if err != nil {
			return err
		}
		b.device("scsi-"+kind, append(props, at...)...)
	case drive.VirtIO:
		return b.virtioDisk(n, key, d, props)
	}
	return nil
}

// nodes adds the two block nodes of a volume: the file, and the format on it,
// which is declared and never guessed.
func (b *builder) nodes(key, node string, v guest.Volume, d drive.Drive, cache string) error {
	mode := cacheModes[cache]
	aio := d.AIO
	switch {
	case aio == "" && d.CDROM:
		aio = "threads"
	case aio == "":
		aio = "io_uring"
	case aio == "native" && !mode.direct:
		return fmt.Errorf("aio=native needs cache=none or cache=directsync")
	}
	readOnly := v.ReadOnly || d.ReadOnly || d.CDROM
	block := strings.HasPrefix(v.Path, "/dev/")
	set := b.fdset(file{kind: volumeFile, key: key, path: v.Path, format: v.Format, block: block, readOnly: readOnly, direct: mode.direct})
	discard := map[bool]string{true: "unmap", false: "ignore"}[d.Discard]
	common := func(m map[string]any) map[string]any {
		m["read-only"], m["discard"] = readOnly, discard
		m["cache"] = map[string]bool{"direct": mode.direct, "no-flush": mode.noFlush}
		return m
	}
	b.blockdev(common(map[string]any{
		"driver": map[bool]string{true: "host_device", false: "file"}[block], "node-name": "file-" + key,
		"filename": set, "aio": aio, "auto-read-only": false,
	}))
	format := common(map[string]any{"driver": v.Format, "node-name": node, "file": "file-" + key})
	switch v.Format {
	case "raw":
	case "qcow2":
		format["backing"] = nil
	default:
		return fmt.Errorf("format %q of volume %q is not supported", v.Format, v.ID)
	}
	b.blockdev(format)
	return nil
}

func (b *builder) virtioDisk(n int, key string, d drive.Drive, props []string) error {
	if d.CDROM {
		return fmt.Errorf("a virtio device cannot be a CD drive")
	}
	bus, addr := b.bus, hex(slotVirtIO+n)
	if n >= 6 {
		bus, addr = b.bridge("bridge-virtio", slotBridgeDisk), hex(n-5)
	}
	if d.IOThread {
		props = append(props, "iothread", b.iothread(key))
	}
	b.device("virtio-blk-pci", append(props, "bus", bus, "addr", addr)...)
	return nil
}

func (b *builder) iothread(key string) string {
	id := "iothread-" + key
	b.add("-object", "iothread,id="+id)
	return id
}

// controllers of the option scsihw and how many disks each takes.
var controllers = map[string]struct {
	model string
	disks int
}{
	"":                   {"lsi53c895a", 7},
	"lsi":                {"lsi53c895a", 7},
	"lsi53c810":          {"lsi53c810", 7},
	"megasas":            {"megasas", 31},
	"pvscsi":             {"pvscsi", 31},
	"virtio-scsi-pci":    {"virtio-scsi-pci", 31},
	"virtio-scsi-single": {"virtio-scsi-pci", 1},
}

// scsiPlace adds the controller of scsi<n> if it is not there yet and returns
// the disk's place on it.
func (b *builder) scsiPlace(n int, iothread bool) ([]string, error) {
	hw := b.spec.Config["scsihw"]
	c := controllers[hw]
	id := "scsihw" + strconv.Itoa(n/c.disks)
	bus, addr := b.bus, hex(slotSCSI+n/c.disks)
	if c.disks == 1 {
		bus, addr = b.bridge("bridge-scsi", slotSCSI), hex(n+1)
	}
	if n/c.disks > 1 && c.disks == 7 {
		return nil, fmt.Errorf("controller %q takes disks up to scsi13, use virtio-scsi-single", hw)
	}
	if !b.made[id] {
		b.made[id] = true
		props := []string{"id", id, "bus", bus, "addr", addr}
		if iothread && c.disks == 1 {
			props = append(props, "iothread", b.iothread("scsi"+strconv.Itoa(n)))
		}
		b.device(c.model, props...)
	}
	switch {
	case c.disks == 7:
		return []string{"bus", id + ".0", "scsi-id", strconv.Itoa(n % 7), "lun", "0"}, nil
	case hw == "virtio-scsi-pci" || hw == "virtio-scsi-single":
		return []string{"bus", id + ".0", "channel", "0", "scsi-id", "0", "lun", strconv.Itoa(n)}, nil
	default:
		return []string{"bus", id + ".0", "scsi-id", strconv.Itoa(n), "lun", "0"}, nil
	}
}

func (b *builder) nets() error {
	for _, key := range b.sorted("net") {
		n, err := net.Parse(b.spec.Config[key])
		if err == nil {
			err = b.net(key, number(key, "net"), n)
		}
		if err != nil {
			return fmt.Errorf("network card %q: %w", key, err)
		}
	}
	return nil
}

func (b *builder) net(key string, i int, n net.Net) error {
	switch {
	case n.MAC == nil:
		return fmt.Errorf("it has no MAC address")
	case n.Bridge == "":
		// QEMU's own network would let the guest reach the host's loopback.
		return fmt.Errorf("it names no bridge")
	case n.Tag > 0 || n.Rest["trunks"] != "":
		return fmt.Errorf("VLANs are not supported yet; without its tag the guest would be on the wrong network")
	}
	tap := fmt.Sprintf("tap%di%d", b.spec.VMID, i)
	b.Links = append(b.Links, tap)
	fd := b.fd(file{kind: tapFile, key: key, path: tap, bridge: n.Bridge, mac: n.MAC})
	backend := []string{"id", "host-" + key, "fd", strconv.Itoa(fd)}
	model := n.Model
	mtu := ""
	if n.Model == "virtio" {
		model = "virtio-net-pci"
		if b.host.VHost {
			backend = append(backend, "vhost", "on", "vhostfd", strconv.Itoa(b.fd(file{kind: vhostFile, key: key})))
		}
		if n.MTU > 1 {
			mtu = strconv.Itoa(n.MTU)
		}
	}
	b.add("-netdev", list("tap", backend...))
	bus, addr := b.bus, hex(slotNet+i)
	if i >= 6 {
		bus, addr = b.bridge("bridge-net", slotBridgeNet), hex(i-5)
	}
	if n.Model == "ne2k_isa" {
		bus, addr = "", ""
	}
	b.device(model, "id", key, "mac", n.MAC.String(), "netdev", "host-"+key, "bus", bus, "addr", addr,
		"host_mtu", mtu, "bootindex", b.bootIndex(key))
	if n.LinkDown {
		b.LinkDown = append(b.LinkDown, key)
	}
	return nil
}

// varsSize is what Debian's OVMF_VARS_4M.fd takes; a volume is larger, and a
// flash chip must have exactly the size that the firmware was built for.
const varsSize = 540672

func (b *builder) firmware() error {
	if b.spec.Config["bios"] != "ovmf" {
		return nil
	}
	b.blockdev(map[string]any{"driver": "file", "node-name": "file-firmware-code", "read-only": true,
		"filename": b.host.Firmware + "/OVMF_CODE_4M.fd"})
	b.blockdev(map[string]any{"driver": "raw", "node-name": "firmware-code", "read-only": true, "file": "file-firmware-code"})
	vars := file{kind: varsFile, key: "efidisk0", format: "raw"}
	driver := "file"
	if conf, ok := b.spec.Config["efidisk0"]; ok {
		d, err := drive.Parse(conf)
		if err != nil {
			return fmt.Errorf("drive \"efidisk0\": %w", err)
		}
		v, ok := b.spec.Volumes["efidisk0"]
		switch {
		case !ok:
			return fmt.Errorf("drive \"efidisk0\": volume %q was not activated", d.Volume)
		case v.Format != "raw":
			return fmt.Errorf("drive \"efidisk0\": format %q is not supported for UEFI variables", v.Format)
		}
		vars.path, vars.block = v.Path, strings.HasPrefix(v.Path, "/dev/")
	}
	if vars.block {
		driver = "host_device"
	}
	b.blockdev(map[string]any{"driver": driver, "node-name": "file-firmware-vars", "filename": b.fdset(vars), "auto-read-only": false})
	b.blockdev(map[string]any{"driver": "raw", "node-name": "firmware-vars", "file": "file-firmware-vars", "offset": 0, "size": varsSize})
	return nil
}
