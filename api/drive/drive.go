// Package drive is the wire form of what a guest stores on: the disks and CD
// drives of virtual machines (scsi0, virtio0, ide2, sata0, efidisk0) and the
// root and mount points of containers (rootfs, mp0).
package drive

import (
	"regexp"
	"strconv"
	"strings"

	"joist/api/guest/property"
)

// Bus is how a disk is attached.
type Bus string

const (
	IDE    Bus = "ide"
	SATA   Bus = "sata"
	SCSI   Bus = "scsi"
	VirtIO Bus = "virtio"
	EFI    Bus = "efidisk"
)

// Slots is how many drives each bus has.
var slots = map[Bus]int{IDE: 4, SATA: 6, SCSI: 31, VirtIO: 16, EFI: 1}

var keyRE = regexp.MustCompile(`^([a-z]+)(0|[1-9][0-9]?)$`)

// ParseKey splits "scsi0" and checks the number.
func ParseKey(key string) (bus Bus, n int, ok bool) {
	m := keyRE.FindStringSubmatch(key)
	if m == nil {
		return "", 0, false
	}
	n, _ = strconv.Atoi(m[2])
	return Bus(m[1]), n, n < slots[Bus(m[1])]
}

// Drive is the value of one drive key. Fields that are zero are not written.
type Drive struct {
	// Volume is a volume id, "none" (an empty CD drive), "cdrom" (the host's
	// drive), or, in requests, what Request takes apart.
	Volume   string
	CDROM    bool   // media=cdrom
	Size     int64  // bytes
	Format   string // raw, qcow2 …
	Cache    string // none, writethrough, writeback, directsync, unsafe
	AIO      string // native, threads, io_uring
	Discard  bool   // pass the guest's discards to the volume
	SSD      bool   // tell the guest that the medium does not rotate
	IOThread bool
	ReadOnly bool
	Serial   string
	Import   string // import-from, in requests only
	// Rest holds the properties that are kept and shown but mean nothing to
	// this package (backup, replicate, limits …), and those of the above that
	// were given with the value they have anyway: iothread=0 reads back.
	Rest property.Set
}

// known properties and which of them go to Rest. True means: accepted and
// without effect on this node yet.
var rest = map[string]bool{
	"backup": false, "replicate": false, "shared": false, "snapshot": true, "detect_zeroes": true, "werror": true, "rerror": true,
	"cyls": true, "heads": true, "secs": true, "trans": true, "model": true, "queues": true, "scsiblock": true, "wwn": true,
	"vendor": true, "product": true, "bps": true, "bps_rd": true, "bps_wr": true, "bps_max_length": true,
	"bps_rd_max_length": true, "bps_wr_max_length": true, "mbps": true, "mbps_max": true, "mbps_rd": true,
	"mbps_rd_max": true, "mbps_wr": true, "mbps_wr_max": true, "iops": true, "iops_max": true, "iops_max_length": true,
	"iops_rd": true, "iops_rd_max": true, "iops_rd_max_length": true, "iops_wr": true, "iops_wr_max": true,
	"iops_wr_max_length": true, "efitype": false, "pre-enrolled-keys": true, "ms-cert": true,
}

var (
	serialRE = regexp.MustCompile(`^[A-Za-z0-9_.:+%-]{1,60}$`)
	volumeRE = regexp.MustCompile(`^[A-Za-z0-9_./:+=~@-]{1,512}$`)
)

// Parse reads a drive. Its text says what is wrong as the API words it.
func Parse(s string) (Drive, error) {
	set, err := property.Parse(s, "file")
	if err != nil {
		return Drive{}, err
	}
	if v, ok := set["volume"]; ok { // the other name of the default key
		set["file"] = v
		delete(set, "volume")
	}
	d := Drive{Rest: property.Set{}}
	if err := set.Each(func(k, v string) error { return d.set(k, v, set) }); err != nil {
		return Drive{}, err
	}
	if d.Volume == "" {
		return Drive{}, property.Missing("file")
	}
	if !volumeRE.MatchString(d.Volume) || strings.HasPrefix(d.Volume, "-") {
		return Drive{}, property.Invalid("file", "unable to parse volume ID '%s'", d.Volume)
	}
	if d.Volume == "none" || d.Volume == "cdrom" {
		if m, ok := set["media"]; ok && m != "cdrom" {
			return Drive{}, property.Invalid("media", "'%s' is only for CD drives", d.Volume)
		}
		d.CDROM = true
	}
	return d, nil
}

func (d *Drive) set(k, v string, all property.Set) (err error) {
	switch k {
	case "file":
		d.Volume = v
	case "media":
		err = all.Enum(k, "disk", "cdrom")
		if d.CDROM = v == "cdrom"; !d.CDROM {
			d.Rest[k] = v
		}
	case "size":
		if d.Size, err = property.ParseSize(v); err != nil {
			err = property.Invalid(k, "%w", err)
		}
	case "format":
		err = all.Enum(k, "raw", "qcow", "qed", "qcow2", "vmdk", "cloop")
		d.Format = v
	case "cache":
		err = all.Enum(k, "none", "writethrough", "writeback", "unsafe", "directsync")
		d.Cache = v
	case "aio":
		err = all.Enum(k, "native", "threads", "io_uring")
		d.AIO = v
	case "discard":
		err = all.Enum(k, "ignore", "on")
		if d.Discard = v == "on"; !d.Discard {
			d.Rest[k] = v
		}
	case "ssd":
		d.SSD, err = all.Flag(k, d.Rest)
	case "iothread":
		d.IOThread, err = all.Flag(k, d.Rest)
	case "ro":
		d.ReadOnly, err = all.Flag(k, d.Rest)
	case "serial":
		if d.Serial = v; !serialRE.MatchString(v) {
			err = property.Invalid(k, "value does not match the regex pattern")
		}
	case "import-from":
		if d.Import = v; !volumeRE.MatchString(v) {
			err = property.Invalid(k, "unable to parse volume ID '%s'", v)
		}
	default:
		if _, ok := rest[k]; !ok {
			return property.Unknown(k)
		}
		d.Rest[k] = v
	}
	return err
}

// String is the drive as a configuration holds it.
func (d Drive) String() string {
	s := d.Rest.Clone()
	put := func(k, v string) {
		if v != "" {
			s[k] = v
		}
	}
	put("file", d.Volume)
	if d.CDROM {
		put("media", "cdrom")
	}
	if d.Size > 0 {
		put("size", property.FormatSize(d.Size))
	}
	if d.Discard {
		put("discard", "on")
	}
	put("format", d.Format)
	put("cache", d.Cache)
	put("aio", d.AIO)
	put("serial", d.Serial)
	put("import-from", d.Import)
	for k, b := range map[string]bool{"ssd": d.SSD, "iothread": d.IOThread, "ro": d.ReadOnly} {
		if b {
			put(k, "1")
		}
	}
	return s.Format("file")
}

// Empty reports whether the drive names no volume of a storage.
func (d Drive) Empty() bool { return d.Volume == "none" || d.Volume == "cdrom" }

// Unsupported names the properties that are kept without effect.
func (d Drive) Unsupported() []string {
	var out []string
	for k, v := range d.Rest {
		if rest[k] && v != "0" {
			out = append(out, k)
		}
	}
	if d.Volume == "cdrom" {
		out = append(out, "cdrom (the host's drive)")
	}
	return out
}

var requestRE = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9._-]*):([0-9]{1,9}(?:\.[0-9]{1,6})?|cloudinit)$`)

// Request is what "STORAGE:8" or "STORAGE:cloudinit" asks for.
type Request struct {
	Storage   string
	Size      int64 // bytes; the number is gibibytes
	CloudInit bool
}

// ParseRequest reports whether a volume's text asks for a new volume instead
// of naming one.
func ParseRequest(volume string) (Request, bool) {
	m := requestRE.FindStringSubmatch(volume)
	if m == nil {
		return Request{}, false
	}
	if m[2] == "cloudinit" {
		return Request{Storage: m[1], CloudInit: true}, true
	}
	gib, err := strconv.ParseFloat(m[2], 64)
	if err != nil || gib > 1<<20 {
		return Request{}, false
	}
	return Request{Storage: m[1], Size: int64(gib * (1 << 30))}, true
}
