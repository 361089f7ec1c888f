// Package plan turns facts and an answer into what an installation will do,
// to the byte, before anything is written. It is pure: the same facts, answer,
// image and identity give the same plan.
package plan

import (
	"fmt"
	"io"
	"slices"
	"time"

	"joist/api/node"
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
	// ModuleKey is the SHA-256 of the certificate that signs the modules
	// which Debian does not, "" when there are none.
	ModuleKey string `json:"module_key,omitempty"`
	// Program is the medium's first-boot program, nil for none; Fetched the one
	// that was fetched because it runs before the node has a network.
	Program, Fetched []byte `json:"-"`
}

// Names of the loaders on the medium.
const (
	LoaderBoot = "grub-boot.img"      // boot sector for BIOS
	LoaderCore = "grub-core-disk.img" // core image for BIOS
	LoaderShim = "shimx64.efi"
	LoaderGrub = "grubx64.efi"
	LoaderMOK  = "mmx64.efi"
	ModuleCert = boot.ModuleCert // beside them: the certificate of ModuleKey, where there is one
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
	// HostKey is what the node's Ed25519 and ECDSA host keys are made of, RSAKey
	// the file of the third (NewRSAKey), nil when the node shall make it; secrets.
	HostKey [32]byte `json:"-"`
	RSAKey  []byte   `json:"-"`
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
	if _, err := io.ReadFull(r, id.HostKey[:]); err != nil {
		return id, fmt.Errorf("make host key: %w", err)
	}
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
	Bond           []probe.NIC         `json:"bond,omitempty"` // cards of the bond, NIC is the first
	Pins           []node.Card         `json:"pins,omitempty"` // the names that all cards have on the node
	Firmware       probe.Firmware      `json:"firmware"`
	ConsoleArgs    []string            `json:"console_args"`
	InstallationID string              `json:"installation_id"`
	Identity       Identity            `json:"identity"`
	Image          Image               `json:"image"`
	Layout         disk.Layout         `json:"layout"`
	VGBytes        int64               `json:"vg_bytes"`
	Volumes        []Volume            `json:"volumes"`
	Further        []Member            `json:"further,omitempty"`  // disks beside Disk, with Layout's shape
	Array          *Array              `json:"array,omitempty"`    // below the volume group
	Pool           *Pool               `json:"pool,omitempty"`     // in place of the volume group
	Adopt          *probe.Installation `json:"adopt,omitempty"`    // whose data is kept
	ArcMax         int64               `json:"arc_max,omitempty"`  // with ZFS: bytes of memory that it may cache in
	InPlace        *probe.InPlace      `json:"in_place,omitempty"` // the running system's own disks: their boot parts stay
	Checks         preflight.Report    `json:"-"`                  // what preflight found, waivers applied
	Actions        []Action            `json:"-"`
	Answer         answer.Answer       `json:"-"` // holds secrets
}

// Make plans. The findings hold preflight's with the answer's waivers applied;
// when one stops, the plan is not to be carried out. Of an answer that is wrong
// itself what is right is looked at, so that everything is said at once.
func Make(f probe.Facts, a answer.Answer, img Image, id Identity) (Plan, finding.List) {
	fs := preflight.Check(f)
	p := Plan{Time: f.Time, Result: Install, Firmware: f.Firmware, ConsoleArgs: f.ConsoleArgs, Image: img, Identity: id, Answer: a}
	p.make(f, &fs)
	if !a.Sound("joist.waive") {
		return p, fs
	}
	return p, waive(fs, a, p.Disk.Name != "")
}

func (p *Plan) make(f probe.Facts, fs *finding.List) {
	refuse(p.Answer, fs)
	if p.Answer.Sound("first-boot") && p.Answer.Readable() {
		program(p.Answer.FirstBoot, p.Image, fs)
	}
	known := p.network(f, fs)
	ds, ok := p.disks(f, fs)
	if len(ds) == 0 {
		return
	}
	p.Disk, p.Checks = ds[0], preflight.MakeReport(f, ds, used(ds, p.Answer), p.Answer.Waive)
	for _, d := range ds {
		*fs = append(*fs, p.target(f, d)...)
	}
	if !ok {
		p.content(f, ds, fs)
		return
	}
	*fs = append(*fs, preflight.Members(f, used(ds, p.Answer))...)
	clear, more := true, finding.List(nil)
	if p.InPlace == nil {
		clear = p.copies(f, ds, &more) && p.Answer.Sound("joist.install") && p.existing(f, ds, &more)
	}
	if p.Result == BootExisting && !(known && p.Answer.Right()) { // it is not booted by such an answer
		p.Result = Install
		return
	}
	if *fs = append(*fs, more...); p.Result == BootExisting {
		return
	}
	p.content(f, ds, fs)
	p.InstallationID = probe.InstallationID(p.Identity.DiskGUID)
	if !p.Answer.Sound("disk-setup", "joist.disk") || !p.Answer.Readable() || p.Answer.Disk.Filesystem == answer.Btrfs || p.Answer.Disk.Adopt && !clear {
		return
	}
	if p.lay(f, ds, fs) && clear && known && p.Answer.Right() {
		var err error
		if p.Actions, err = p.actions(); err != nil {
			fs.Stopf("medium-incomplete", "medium", "write the medium again and check its checksum", "%v", err)
		}
	}
}

// content looks at what is on the disks beside installations, and whether the
// file system can be made on them.
func (p *Plan) content(f probe.Facts, ds []probe.Disk, fs *finding.List) {
	zfsReady(f, p.Answer, p.Image, fs)
	foreign(f, ds, fs)
	if p.InPlace == nil && p.Answer.Sound("joist.disk.overwrite") {
		p.otherData(ds, fs)
	}
}

// network chooses the cards and what depends on them.
func (p *Plan) network(f probe.Facts, fs *finding.List) (known bool) {
	a := p.Answer
	if !a.Sound("network", "joist.network") || !a.Readable() || a.Network.Source == "" && a.Disk.Filesystem == "" {
		return false
	}
	known = p.chooseCards(f, fs)
	p.pin(f, fs)
	if known && a.Sound("global.fqdn") {
		hostName(f, p.NIC, &p.Answer, fs)
	}
	return known
}

// disks finds those that the answer means. ok says that they are all there, and
// as many as the layout takes.
func (p *Plan) disks(f probe.Facts, fs *finding.List) (ds []probe.Disk, ok bool) {
	a := p.Answer
	layout := a.Disk.Filesystem != answer.Btrfs && a.Sound("disk-setup.filesystem", "disk-setup.zfs.raid", "joist.disk.raid", "joist.disk.adopt") && a.Readable()
	if p.InPlace = f.InPlace; p.InPlace != nil {
		p.kept(f)
		return p.ownDisks(f, layout, fs)
	}
	if !a.Sound("disk-setup.disk-list", "disk-setup.filter", "disk-setup.filter-match") {
		return nil, false
	}
	if len(a.Disk.List) == 0 && len(a.Disk.Filter) == 0 { // said already
		return nil, false
	}
	return chooseDisks(f, a, layout, fs)
}

// waive applies [joist.waive]; a code that may not be waived, or that matches
// nothing where all was looked at, is said.
func waive(fs finding.List, a answer.Answer, all bool) finding.List {
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
		if all {
			out.Notef("waiver-unused", "joist.waive.codes", "nothing was found that %q would waive", c)
		}
	}
	return out
}

// lay computes partitions, and what the data partitions are made into.
func (p *Plan) lay(f probe.Facts, ds []probe.Disk, fs *finding.List) bool {
	if p.Answer.Disk.Filesystem == answer.ZFS {
		p.ArcMax = p.arc(f.Memory.Size())
	}
	if p.Answer.Disk.Adopt {
		return p.adopt(f, ds, fs) && p.fits(fs)
	}
	ok := p.hdSizeFits(ds, fs)
	limit := share(ds, p.Answer)
	if !ok { // the rest is looked at as without it
		a := p.Answer
		a.Disk.HDSize, a.Disk.ZFS.HDSize = nil, nil
		limit = share(ds, a)
	}
	if !p.partition(ds, limit, fs) {
		return false
	}
	data, err := p.Layout.Find(disk.NameData)
	if err != nil {
		fs.Stopf("disk-layout", "/dev/"+p.Disk.Name, "use another disk", "%v", err)
		return false
	}
	if p.Answer.Disk.Filesystem == answer.ZFS {
		p.makePool(data.Size)
		if p.Pool.RAID == answer.RAID0 && len(ds) > 1 {
			fs.Warnf("pool-without-redundancy", "disk-setup.zfs.raid", "use raid1, raid10 or raidz", "the pool is spread over %d disks; when one fails all data is lost", len(ds))
		}
		return p.fits(fs) && ok
	}
	size := data.Size
	if len(ds) > 1 {
		p.makeArray(data.Size)
		size = p.Array.Bytes
	}
	ok = p.group(size, limit, fs) && ok
	return p.fits(fs) && ok
}

// hdSizeFits checks hdsize against the disks.
func (p *Plan) hdSizeFits(ds []probe.Disk, fs *finding.List) bool {
	hd, key := hdSize(p.Answer.Disk), "disk-setup.lvm.hdsize"
	if p.Answer.Disk.Filesystem == answer.ZFS {
		key = "disk-setup.zfs.hdsize"
	}
	if hd == nil {
		return true
	}
	if *hd < preflight.MinDisk {
		fs.Stopf("hdsize-too-small", key, "use 19 or more, or leave it out", "hdsize is %.2f GiB, the system needs 20 GB", float64(*hd)/float64(gib))
		return false
	}
	ok := true
	for _, d := range ds {
		if *hd > d.Size {
			fs.Stopf("hdsize-too-large", key, "leave it out to use the whole disk", "hdsize is larger than the disk %s", d.Name)
			ok = false
		}
	}
	return ok
}

// partition lays out every disk in the same shape.
func (p *Plan) partition(ds []probe.Disk, limit int64, fs *finding.List) bool {
	typ := ""
	switch {
	case p.Answer.Disk.Filesystem == answer.ZFS:
		typ = typeZFS
	case len(ds) > 1:
		typ = typeRAID
	}
	for i, d := range ds {
		guid, parts, err := p.Identity.Member(i)
		var l disk.Layout
		switch {
		case err != nil:
		case p.InPlace != nil:
			l, err = p.InPlace.All()[i].Table.Grow(disk.GrowRequest{Size: d.Size, Limit: limit, DiskGUID: guid, PartGUIDs: parts})
		default:
			l, err = disk.Plan(disk.Request{Size: d.Size, SectorSize: d.Sector, Limit: limit, DiskGUID: guid, PartGUIDs: parts})
		}
		if err != nil {
			fs.Stopf("disk-layout", "/dev/"+d.Name, p.otherDisk(), "%v", err)
			return false
		}
		dataType(&l, typ)
		p.place(i, d, l)
	}
	p.even()
	return true
}

// place enters the n-th disk.
func (p *Plan) place(n int, d probe.Disk, l disk.Layout) {
	if n == 0 {
		p.Layout = l
		return
	}
	p.Further = append(p.Further, Member{Disk: d, Layout: l})
}

// even gives all data partitions the size of the smallest: the smallest disk
// keeps its last MiB for the table, which a larger one need not.
func (p *Plan) even() {
	last := len(p.Layout.Partitions) - 1
	small := p.Layout.Partitions[last].Size
	for _, m := range p.Further {
		small = min(small, m.Layout.Partitions[last].Size)
	}
	p.Layout.Partitions[last].Size = small
	for i := range p.Further {
		p.Further[i].Layout.Partitions[last].Size = small
	}
}

// group divides a volume group on a partition or array of size bytes.
func (p *Plan) group(size, limit int64, fs *finding.List) bool {
	d, where := p.Answer.Disk, "/dev/"+p.Disk.Name
	hd := p.Disk.Size
	if limit > 0 {
		hd = min(hd, limit)
	}
	ok := true
	if swap := value(d.SwapSize, 0); swap > hd/2 {
		fs.Stopf("swap-too-large", "disk-setup.lvm.swapsize", "use less than half of the disk", "swapsize is more than half of the disk")
		d.SwapSize, ok = nil, false // the other sizes are looked at as without it
	}
	// LVM's header and metadata take the first MiB of the partition
	p.VGBytes = whole(size - mib)
	p.Volumes = sizes(p.VGBytes, hd, d)
	if !slices.ContainsFunc(p.Volumes, func(v Volume) bool { return v.Use == "thin-pool" }) {
		fs.Warnf("no-thin-pool", where, "leave maxvz, minfree and swapsize to the formulas or use a larger disk; without a pool guests' disks need another storage",
			"no room is left for the thin pool \"data\"")
	}
	for _, v := range p.Volumes {
		if v.Bytes <= 0 || v.Mount != "" && v.Bytes < gib {
			fs.Stopf("volume-too-small", where, "leave the lvm sizes to the formulas or use a larger disk", "volume %q would have %d bytes", v.Name, v.Bytes)
			ok = false
		}
	}
	return ok
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
