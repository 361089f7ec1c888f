// Package plan turns facts and an answer into what an installation will do,
// to the byte, before anything is written. It is pure: the same facts, answer,
// image and identity give the same plan.
package plan

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/internal/finding"
)

// VGName is the volume group on the system disk.
const VGName = "joist"

// File is a file with a known size.
type File struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

// Image is what the medium brings: its manifest, and the loaders of its folder
// boot/ by name.
type Image struct {
	boot.Manifest
	Loaders map[string]int64 `json:"loaders"` // bytes
}

// Names of the loaders on the medium.
const (
	LoaderBoot = "grub-boot.img"      // boot sector for BIOS
	LoaderCore = "grub-core-disk.img" // core image for BIOS
	LoaderShim = "shimx64.efi"
	LoaderGrub = "grubx64.efi"
	LoaderMOK  = "mmx64.efi"
)

// LoaderNames lists them.
func LoaderNames() []string {
	return []string{LoaderBoot, LoaderCore, LoaderShim, LoaderGrub, LoaderMOK}
}

// Identity holds every random number of an installation.
type Identity struct {
	DiskGUID  string    `json:"disk_guid"`
	PartGUIDs [5]string `json:"part_guids"`
	MachineID string    `json:"machine_id"`
	ESPSerial uint32    `json:"esp_serial"`
}

// NewIdentity draws one from r, crypto/rand.Reader on a real machine.
func NewIdentity(r io.Reader) (Identity, error) {
	var id Identity
	var err error
	if id.DiskGUID, err = disk.NewGUID(r); err != nil {
		return id, err
	}
	for i := range id.PartGUIDs {
		if id.PartGUIDs[i], err = disk.NewGUID(r); err != nil {
			return id, err
		}
	}
	var b [20]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return id, fmt.Errorf("make machine id: %w", err)
	}
	// machine-id(5): a version 4 UUID without hyphens
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	id.MachineID = fmt.Sprintf("%x", b[:16])
	id.ESPSerial = uint32(b[16]) | uint32(b[17])<<8 | uint32(b[18])<<16 | uint32(b[19])<<24
	return id, nil
}

// Result says what the plan comes to.
type Result string

const (
	Install      Result = "install"
	BootExisting Result = "boot existing" // a system of ours is there and may not be replaced
)

// Plan is an installation, ready to be shown or applied.
type Plan struct {
	Time           time.Time           `json:"time"`
	Result         Result              `json:"result"`
	Existing       *probe.Installation `json:"existing,omitempty"` // on the target disk
	Disk           probe.Disk          `json:"disk"`
	NIC            probe.NIC           `json:"nic"`
	Firmware       probe.Firmware      `json:"firmware"`
	ConsoleArgs    []string            `json:"console_args"`
	InstallationID string              `json:"installation_id"`
	Identity       Identity            `json:"identity"`
	Image          Image               `json:"image"`
	Layout         disk.Layout         `json:"layout"`
	VGBytes        int64               `json:"vg_bytes"`
	Volumes        []Volume            `json:"volumes"`
	Actions        []Action            `json:"-"`
	Answer         answer.Answer       `json:"-"` // holds secrets
}

// Make plans. The findings hold preflight's with the answer's waivers applied;
// when one stops, the plan is not to be carried out.
func Make(f probe.Facts, a answer.Answer, img Image, id Identity) (Plan, finding.List) {
	p := Plan{Time: f.Time, Result: Install, Firmware: f.Firmware, ConsoleArgs: f.ConsoleArgs, Image: img, Identity: id, Answer: a}
	fs := preflight.Check(f)
	var ok bool
	if p.NIC, ok = chooseNIC(f, a, &fs); !ok {
		return p, waive(fs, a)
	}
	if p.Disk, ok = chooseDisk(f, a, &fs); !ok {
		return p, waive(fs, a)
	}
	fs = append(fs, preflight.Target(f, p.Disk)...)
	p.Existing = p.Disk.Installation
	if p.Existing != nil && !a.Install.Reinstall && a.Install.Installation != p.Existing.ID {
		p.Result = BootExisting
		fs.Notef("installation-found", "/dev/"+p.Disk.Name,
			"the disk holds installation %s; it is booted, not replaced. To replace it, set [joist.install] installation = %q or reinstall = true", p.Existing.ID, p.Existing.ID)
		return p, waive(fs, a)
	}
	foreignVG(f, p.Disk, &fs)
	p.InstallationID = probe.InstallationID(id.DiskGUID)
	if p.lay(&fs) {
		var err error
		if p.Actions, err = p.actions(); err != nil {
			fs.Stopf("medium-incomplete", "medium", "write the medium again and check its checksum", "%v", err)
		}
	}
	return p, waive(fs, a)
}

// waive applies [joist.waive]; a code that may not be waived, or that matches
// nothing, is said.
func waive(fs finding.List, a answer.Answer) finding.List {
	var codes []string
	for _, c := range a.Waive {
		if preflight.Waivable(c) {
			codes = append(codes, c)
			continue
		}
		fs.Stopf("waiver-not-possible", "joist.waive.codes", "remove it; docs/preflight.md lists what can be waived", "the finding %q cannot be waived", c)
	}
	out, unused := fs.Waive(codes)
	for _, c := range unused {
		out.Notef("waiver-unused", "joist.waive.codes", "nothing was found that %q would waive", c)
	}
	return out
}

// matches compares udev properties with a filter: any key or all of them.
func matches(filter, props map[string]string, all bool) bool {
	hits := 0
	for k, pattern := range filter {
		if v, ok := props[k]; ok && answer.Match(pattern, v) {
			hits++
		}
	}
	return hits > 0 && (!all || hits == len(filter))
}

func filterText(m map[string]string) string {
	var s []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		s = append(s, k+"="+m[k])
	}
	return strings.Join(s, " ")
}

func chooseDisk(f probe.Facts, a answer.Answer, fs *finding.List) (probe.Disk, bool) {
	if len(a.Disk.List) == 1 {
		name := strings.TrimPrefix(a.Disk.List[0], "/dev/")
		d, ok := f.Find(name)
		if !ok {
			fs.Stopf("disk-not-found", "disk-setup.disk-list", "this machine has: "+diskNames(f.Disks), "there is no disk %q", name)
		}
		return d, ok
	}
	var found []probe.Disk
	for _, d := range f.Disks {
		if !d.Medium && matches(a.Disk.Filter, d.Udev, a.Disk.FilterMatch == "all") {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], true
	case 0:
		fs.Stopf("disk-not-found", "disk-setup.filter", "this machine has: "+diskNames(f.Disks)+"; `joist-install check` shows their properties",
			"no disk matches %s", filterText(a.Disk.Filter))
	default:
		fs.Stopf("disk-ambiguous", "disk-setup.filter", "add a property that only one of them has, such as ID_SERIAL, and filter-match = \"all\"",
			"%d disks match %s: %s", len(found), filterText(a.Disk.Filter), diskNames(found))
	}
	return probe.Disk{}, false
}

func diskNames(ds []probe.Disk) string {
	var s []string
	for _, d := range ds {
		s = append(s, d.Name+" ("+probe.Bytes(d.Size)+")")
	}
	if len(s) == 0 {
		return "no disk"
	}
	return strings.Join(s, ", ")
}

func nicNames(ns []probe.NIC) string {
	var s []string
	for _, n := range ns {
		s = append(s, n.Name+" ("+n.MAC+")")
	}
	return strings.Join(s, ", ")
}

// chooseNIC takes the filter's one match. Without a filter (DHCP) the first
// NIC with a link is taken, else the first.
func chooseNIC(f probe.Facts, a answer.Answer, fs *finding.List) (probe.NIC, bool) {
	if len(f.NICs) == 0 {
		return probe.NIC{}, true // preflight has said it
	}
	if len(a.Network.Filter) > 0 {
		var found []probe.NIC
		for _, n := range f.NICs {
			if matches(a.Network.Filter, n.Udev, false) {
				found = append(found, n)
			}
		}
		switch len(found) {
		case 1:
			return found[0], true
		case 0:
			fs.Stopf("nic-not-found", "network.filter", "this machine has: "+nicNames(f.NICs), "no network card matches %s", filterText(a.Network.Filter))
		default:
			fs.Stopf("nic-ambiguous", "network.filter", "use a property that only one of them has, such as ID_NET_NAME_MAC",
				"%d network cards match %s: %s", len(found), filterText(a.Network.Filter), nicNames(found))
		}
		return probe.NIC{}, false
	}
	chosen, up := f.NICs[0], 0
	for _, n := range f.NICs {
		if n.Carrier == "up" {
			if up++; up == 1 {
				chosen = n
			}
		}
	}
	if len(f.NICs) > 1 && up != 1 {
		fs.Warnf("nic-guessed", "network", "name it: source = \"from-answer\" with a filter, or connect only this one",
			"there are %d network cards (%s); %s is taken for management", len(f.NICs), nicNames(f.NICs), chosen.Name)
	}
	return chosen, true
}

// foreignVG: two volume groups of one name make every later command ambiguous.
func foreignVG(f probe.Facts, target probe.Disk, fs *finding.List) {
	for _, d := range f.Disks {
		for _, c := range d.Contents {
			if d.Name != target.Name && c.Kind == "lvm" && c.Name == VGName {
				fs.Stopf("vg-name-taken", "/dev/"+c.Where, "detach that disk, or rename its volume group (vgrename) or wipe it from the rescue shell",
					"another disk holds a volume group named %q", VGName)
			}
		}
	}
}

// lay computes partitions and volumes.
func (p *Plan) lay(fs *finding.List) bool {
	d := p.Answer.Disk
	where := "/dev/" + p.Disk.Name
	if d.HDSize != nil && *d.HDSize < preflight.MinDisk {
		fs.Stopf("hdsize-too-small", "disk-setup.lvm.hdsize", "use 19 or more, or leave it out", "hdsize is %.2f GiB, the system needs 20 GB", float64(*d.HDSize)/float64(gib))
		return false
	}
	if d.HDSize != nil && *d.HDSize > p.Disk.Size {
		fs.Stopf("hdsize-too-large", "disk-setup.lvm.hdsize", "leave it out to use the whole disk", "hdsize is larger than the disk")
		return false
	}
	l, err := disk.Plan(disk.Request{Size: p.Disk.Size, SectorSize: p.Disk.Sector, Limit: value(d.HDSize, 0),
		DiskGUID: p.Identity.DiskGUID, PartGUIDs: p.Identity.PartGUIDs})
	if err != nil {
		fs.Stopf("disk-layout", where, "use another disk", "%v", err)
		return false
	}
	p.Layout = l
	data, err := l.Find(disk.NameData)
	if err != nil {
		fs.Stopf("disk-layout", where, "use another disk", "%v", err)
		return false
	}
	hd := min(value(d.HDSize, p.Disk.Size), p.Disk.Size)
	if swap := value(d.SwapSize, 0); swap > hd/2 {
		fs.Stopf("swap-too-large", "disk-setup.lvm.swapsize", "use less than half of the disk", "swapsize is more than half of the disk")
		return false
	}
	// LVM's header and metadata take the first MiB of the partition
	p.VGBytes = whole(data.Size - mib)
	p.Volumes = sizes(p.VGBytes, hd, d)
	if !slices.ContainsFunc(p.Volumes, func(v Volume) bool { return v.Use == "thin-pool" }) {
		fs.Warnf("no-thin-pool", where, "leave maxvz, minfree and swapsize to the formulas or use a larger disk; without a pool guests' disks need another storage",
			"no room is left for the thin pool \"data\"")
	}
	ok := true
	for _, v := range p.Volumes {
		if v.Bytes <= 0 || v.Use == "ext4" && v.Bytes < gib {
			fs.Stopf("volume-too-small", where, "leave the lvm sizes to the formulas or use a larger disk", "volume %q would have %d bytes", v.Name, v.Bytes)
			ok = false
		}
	}
	return ok && p.fits(fs)
}

// fits checks that the image goes into its slot and twice onto the ESP.
func (p *Plan) fits(fs *finding.List) bool {
	ok := true
	if n := p.Image.Files[boot.FileSystem].Size; n > disk.SlotSize {
		fs.Stopf("image-too-large", "medium", "build a smaller image", "system.sqfs has %d bytes, a slot %d", n, disk.SlotSize)
		ok = false
	}
	esp, err := p.Layout.Find(disk.NameESP)
	need := 2 * (p.Image.Files[boot.FileKernel].Size + p.Image.Files[boot.FileInitrd].Size)
	for _, l := range p.Image.Loaders {
		need += 2 * l
	}
	if err != nil || need > esp.Size-8*mib {
		fs.Stopf("image-too-large", "medium", "use a larger disk or build a smaller image", "two kernels and initrds with loaders have %d bytes, the ESP %d", need, esp.Size)
		ok = false
	}
	return ok
}
