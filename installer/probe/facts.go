// Package probe looks at a machine and says what it found: firmware, CPU,
// memory, disks, NICs, consoles and the medium it was booted from. It reads
// /sys, /proc, udev's database and the first bytes of disks below a root
// folder; it never writes, mounts, activates or assembles anything. Facts can
// be stored as JSON, so that a plan can be made elsewhere.
package probe

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"joist/image/disk"
)

// Facts is everything planning may know about a machine.
type Facts struct {
	Time     time.Time `json:"time"` // the machine's clock
	Firmware Firmware  `json:"firmware"`
	CPU      CPU       `json:"cpu"`
	Memory   Memory    `json:"memory"`
	Disks    []Disk    `json:"disks"`
	NICs     []NIC     `json:"nics"`
	Consoles []string  `json:"consoles"` // names below /dev, as console= named them
	// ConsoleArgs are the console= arguments themselves, which the installed
	// system is started with as well.
	ConsoleArgs []string `json:"console_args"`
	Medium      string   `json:"medium,omitempty"` // kernel name of the disk or drive booted from
	// InPlace is set when the system runs from a slot of a disk that it shall
	// make a node's, with all disks of that system; there is no medium then.
	InPlace *InPlace `json:"in_place,omitempty"`
	IOMMU   *IOMMU   `json:"iommu,omitempty"`
	TPM     string   `json:"tpm,omitempty"` // "2", "1", NoTPM, or "" when it is not known
	// Reference is another clock's time at Time, where one was asked.
	Reference *Reference `json:"reference,omitempty"`
	// NoReference says why one that should be there could not be asked.
	NoReference string `json:"no_reference,omitempty"`
	// Leases are what DHCP offers on the cards that have a link.
	Leases   []Lease  `json:"leases,omitempty"`
	DMI      DMI      `json:"dmi,omitzero"`
	ZFS      string   `json:"zfs,omitempty"` // Present or Absent in the running image, "" when it is not known
	Problems []string `json:"problems,omitempty"`
}

// InPlace is a system on disks with boot parts that stay.
type InPlace struct {
	Disk  string      `json:"disk"` // kernel name of the one that the system runs from
	Slot  string      `json:"slot"` // the running system's
	Table disk.Layout `json:"table"`
	// Further are the other disks of the system.
	Further []OwnDisk `json:"further,omitempty"`
	// Node is a disk of it that starts a node: all is done already, or was
	// never begun.
	Node string `json:"node,omitempty"`
}

// OwnDisk is a disk with its table.
type OwnDisk struct {
	Disk  string      `json:"disk"`
	Table disk.Layout `json:"table"`
}

// All are all disks of the system, the one that it runs from first.
func (p InPlace) All() []OwnDisk {
	return append([]OwnDisk{{p.Disk, p.Table}}, p.Further...)
}

// NoTPM is Facts.TPM of a machine without one.
const NoTPM = "none"

// Values of Facts.ZFS.
const (
	Present = "present"
	Absent  = "absent"
)

// IOMMU says whether devices can be passed to guests.
type IOMMU struct {
	Active bool   `json:"active"`
	Table  string `json:"table,omitempty"` // the firmware's description: "DMAR" or "IVRS"
}

// Reference is a time that somebody else gave.
type Reference struct {
	Time   time.Time `json:"time"`
	Source string    `json:"source"`
}

// DMI is what the firmware says the machine is (SMBIOS): keys "name",
// "serial", "sku", "uuid" and "asset_tag" as far as they are filled in.
type DMI struct {
	System    map[string]string `json:"system,omitempty"`
	Baseboard map[string]string `json:"baseboard,omitempty"`
	Chassis   map[string]string `json:"chassis,omitempty"`
}

// Lease is what DHCP says about the machine's name.
type Lease struct {
	Interface string `json:"interface"`
	Host      string `json:"host,omitempty"`
	Domain    string `json:"domain,omitempty"`
}

// Firmware modes.
const (
	BIOS = "bios"
	UEFI = "uefi"
)

// Firmware is how the machine was started.
type Firmware struct {
	Mode       string `json:"mode"`
	SecureBoot bool   `json:"secure_boot"`
	Bits       int    `json:"bits,omitempty"` // width of the UEFI firmware
	// Keys are the SHA-256 of the certificates that the kernel trusts for
	// modules under Secure Boot: firmware's db and shim's list.
	Keys []string `json:"keys,omitempty"`
}

// CPU says what runs guests.
type CPU struct {
	Vendor         string   `json:"vendor"`
	Model          string   `json:"model"`
	Count          int      `json:"count"`             // logical ones
	Cores          int      `json:"cores,omitempty"`   // of all sockets
	Sockets        int      `json:"sockets,omitempty"` //
	Flags          []string `json:"-"`
	Virtualisation string   `json:"virtualisation,omitempty"` // "vmx", "svm" or ""
	KVM            bool     `json:"kvm"`                      // /dev/kvm made a virtual machine
	KVMError       string   `json:"kvm_error,omitempty"`
	Lock           string   `json:"lock,omitempty"` // Off when firmware has switched it off, On when not, "" unknown
}

// Values of CPU.Lock and Memory.ECC.
const (
	On  = "on"
	Off = "off"
)

// Memory in bytes. Installed is the sum of what the firmware's map calls
// "System RAM", Total what the kernel has left of it (MemTotal).
type Memory struct {
	Installed int64  `json:"installed"`
	Total     int64  `json:"total"`
	ECC       string `json:"ecc,omitempty"` // On, Off, "" unknown
}

// Size returns the better known of the two.
func (m Memory) Size() int64 { return max(m.Installed, m.Total) }

// Disk is one whole disk.
type Disk struct {
	Name         string            `json:"name"`         // "sda"
	Size         int64             `json:"size"`         // bytes
	Sector       int               `json:"sector"`       // logical sector size in bytes
	Bus          string            `json:"bus"`          // "nvme", "usb", "virtio", "ata", "scsi", "mmc", "other"
	Model        string            `json:"model"`        //
	Serial       string            `json:"serial"`       //
	WWN          string            `json:"wwn"`          //
	Removable    bool              `json:"removable"`    //
	ReadOnly     bool              `json:"read_only"`    //
	Rotational   bool              `json:"rotational"`   //
	Medium       bool              `json:"medium"`       // booted from it
	InUse        []string          `json:"in_use"`       // what holds it: mount points, "swap", holders
	Contents     []Content         `json:"contents"`     // by signature
	Installation *Installation     `json:"installation"` // a system of ours
	Udev         map[string]string `json:"udev"`         // properties that filters match

	Paths  []string `json:"paths,omitempty"`   // further names of the same disk: multipath, dual port
	DataID string   `json:"data_id,omitempty"` // 16 hex digits that name what it holds, "" for nothing
	Health *Health  `json:"health,omitempty"`  // nil: it could not be asked

	// Memberships are of arrays and pools that it has a member of. Facts of an
	// earlier version have none.
	Memberships []Membership `json:"memberships,omitempty"`
}

// Health is what the disk's own monitoring says (SMART).
type Health struct {
	Failing  bool  `json:"failing"`           // its own verdict
	Wear     int   `json:"wear,omitempty"`    // per cent of the rated writes
	Pending  int64 `json:"pending,omitempty"` // sectors that cannot be read, media errors
	Replaced int64 `json:"replaced,omitempty"`
}

// Content is a signature on a disk or one of its partitions.
type Content struct {
	Where string `json:"where"`        // "sda", "sda1"
	Kind  string `json:"kind"`         // "gpt", "mbr", "lvm", "ext4", "iso9660", …
	Name  string `json:"name"`         // label, volume group, pool, array or partition name
	ID    string `json:"id,omitempty"` // UUID of the file system, group or array, GUID of the pool
}

// Installation is an installed system, known from its partition table alone.
type Installation struct {
	ID   string `json:"id"`   // first 16 hex digits of the disk's GUID
	GUID string `json:"guid"` // the disk's GUID
	ESP  string `json:"esp"`  // kernel name of the partition
	Data string `json:"data"` // kernel name of the partition

	// Unfinished: the disk is marked as one whose installation was not over.
	// Facts.Unfinished says whether that holds for the whole installation.
	Unfinished bool `json:"unfinished,omitempty"`
	KeepsData  bool `json:"keeps_data,omitempty"` // and it was to keep what is on the data partition

	// What the data partition holds, "" where it could not be read.
	Group string       `json:"group,omitempty"` // UUID of the volume group
	Array string       `json:"array,omitempty"` // UUID of the md array below it
	Pool  string       `json:"pool,omitempty"`  // GUID of the pool
	Table *disk.Layout `json:"table,omitempty"` // the partitions as they are
}

// NIC is one wired network interface with hardware behind it.
type NIC struct {
	Name    string            `json:"name"`
	MAC     string            `json:"mac"`
	Driver  string            `json:"driver"`
	Carrier string            `json:"carrier"`         // "up", "down", or "unknown" while the link is not enabled
	Speed   int               `json:"speed,omitempty"` // Mbit/s, 0 unknown
	Udev    map[string]string `json:"udev"`
}

// Describe is one line for a person.
func (d Disk) Describe() string {
	var s []string
	s = append(s, "/dev/"+d.Name, Bytes(d.Size))
	for _, v := range []string{d.Model, d.Serial} {
		if v != "" {
			s = append(s, v)
		}
	}
	if d.Bus != "" {
		s = append(s, d.Bus)
	}
	switch {
	case d.Medium:
		s = append(s, "(booted from it)")
	case d.Installation != nil && d.Installation.Unfinished:
		s = append(s, "(Joist installation "+d.Installation.ID+", not finished)")
	case d.Installation != nil:
		s = append(s, "(Joist installation "+d.Installation.ID+")")
	case len(d.Contents) > 0:
		s = append(s, "("+d.Contents[0].Kind+")")
	}
	return strings.Join(s, "  ")
}

// Bytes writes a size in the decimal units that disks are sold in.
func Bytes(n int64) string {
	switch {
	case n >= 1e12:
		return fmt.Sprintf("%.1f TB", float64(n)/1e12)
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	default:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
}

// Find returns the disk that a name belongs to, by any of its paths.
func (f Facts) Find(name string) (Disk, bool) {
	for _, d := range f.Disks {
		if d.Name == name || slices.Contains(d.Paths, name) {
			return d, true
		}
	}
	return Disk{}, false
}

// Copies are groups of disks with one identity: members of an installation have
// one each, a copy (dd) has that of its source.
func (f Facts) Copies() (groups [][]Disk) {
	for _, d := range f.Disks {
		if d.Installation == nil {
			continue
		}
		i := slices.IndexFunc(groups, func(g []Disk) bool { return strings.EqualFold(g[0].Installation.GUID, d.Installation.GUID) })
		if i < 0 {
			groups = append(groups, []Disk{d})
			continue
		}
		groups[i] = append(groups[i], d)
	}
	return slices.DeleteFunc(groups, func(g []Disk) bool { return len(g) < 2 })
}

// Unfinished says that the installation was cut off before it was over. Marks
// go from one disk after the other when all is done, so that one disk without
// a mark makes it a finished one; a copy of the disk says nothing about it.
func (f Facts) Unfinished(in Installation) bool {
	for _, d := range f.Disks {
		if d.Installation != nil && d.Installation.ID == in.ID && d.Installation.GUID != in.GUID && !d.Installation.Unfinished {
			return false
		}
	}
	return in.Unfinished
}
