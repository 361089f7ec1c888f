package plan

import (
	"fmt"
	"strconv"

	"joist/image/disk"
	"joist/installer/answer"
)

// Names of what the layouts are made of.
const (
	PoolName   = "rpool"
	ArrayName  = "joist"
	ArrayFile  = "/dev/md127" // the first that mdadm(8) gives to arrays without a number
	dataOffset = 16 * mib     // of an md member: superblock, bitmap, room for reshaping
)

// Array is the md mirror below the volume group.
type Array struct {
	UUID  string `json:"uuid"`
	Bytes int64  `json:"bytes"`
}

// Pool is a ZFS pool.
type Pool struct {
	RAID     string      `json:"raid"`
	Bytes    int64       `json:"bytes"` // usable, before ZFS's own share
	Options  [][2]string `json:"options"`
	Props    [][2]string `json:"properties"`
	Datasets []Dataset   `json:"datasets"`
	HostID   string      `json:"host_id"`
}

// Dataset is one file system of the pool.
type Dataset struct {
	Name  string      `json:"name"`
	Mount string      `json:"mount,omitempty"`
	Props [][2]string `json:"properties"`
}

// vdevs groups the devices as the layout asks for: `zpool create NAME` takes
// them so (zpoolconcepts(7)).
func vdevs(raid string, devices []string) []string {
	switch raid {
	case answer.RAID1:
		return append([]string{"mirror"}, devices...)
	case answer.RAID10:
		var out []string
		for i := 0; i+1 < len(devices); i += 2 {
			out = append(out, "mirror", devices[i], devices[i+1])
		}
		return out
	case answer.RAIDZ1, answer.RAIDZ2, answer.RAIDZ3:
		return append([]string{"raidz" + raid[len(raid)-1:]}, devices...)
	default:
		return devices
	}
}

// usable is what n devices of size bytes hold under a layout.
func usable(raid string, n, size int64) int64 {
	switch raid {
	case answer.RAID1:
		return size
	case answer.RAID10:
		return n / 2 * size
	case answer.RAIDZ1, answer.RAIDZ2, answer.RAIDZ3:
		parity := int64(raid[len(raid)-1] - '0')
		return (n - parity) * size
	default:
		return n * size
	}
}

// arc is what the answer grants ZFS of the memory, or arcMax.
func (p *Plan) arc(memory int64) int64 {
	if mb := p.Answer.Disk.ZFS.ArcMax; mb > 0 {
		return int64(mb) * mib
	}
	return arcMax(memory)
}

// arcMax is a tenth of the memory within 64 MiB and 16 GiB, and leaves 1 GiB.
func arcMax(memory int64) int64 {
	return max(min(memory/10, 16*gib, memory-gib)/mib*mib, 64*mib)
}

// makeArray plans the mirror: its size is fixed here, so that the volumes are
// known to the byte.
func (p *Plan) makeArray(member int64) {
	p.Array = &Array{UUID: p.Identity.ArrayUUID(), Bytes: (member - dataOffset) / mib * mib}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// makePool plans pool and datasets. State has its space reserved: whatever
// fills the rest, the node goes on.
func (p *Plan) makePool(member int64) {
	z := p.Answer.Disk.ZFS
	n := int64(len(p.All()))
	size := usable(z.RAID, n, member)
	state := min(max(size/10, minState), maxState) / mib * mib
	p.Pool = &Pool{
		RAID: z.RAID, Bytes: size, HostID: p.Identity.HostID(),
		Options: [][2]string{{"ashift", strconv.Itoa(or(z.Ashift, 12))}, {"cachefile", "none"}},
		Props: [][2]string{{"compression", or(z.Compress, "on")}, {"checksum", or(z.Checksum, "on")}, {"copies", strconv.Itoa(or(z.Copies, 1))},
			{"atime", "on"}, {"relatime", "on"}, {"acltype", "posix"}, {"xattr", "sa"}, {"canmount", "off"}, {"mountpoint", "none"},
			{"sync", "disabled"}}, // until the pool is settled: a cut starts over anyway
		Datasets: []Dataset{
			{Name: "state", Mount: "/var", Props: [][2]string{{"canmount", "noauto"}, {"mountpoint", "legacy"}, {"reservation", strconv.FormatInt(state, 10)}}},
			{Name: "local", Mount: "/var/lib/vz", Props: [][2]string{{"canmount", "noauto"}, {"mountpoint", "legacy"}}},
			{Name: "data", Props: [][2]string{{"canmount", "off"}, {"mountpoint", "none"}}},
		},
	}
}

type (
	// CreateArray makes the md mirror. What is never written is never read, by
	// file system and thin pool alike, so that a fresh mirror needs no first
	// resync; a check may count differences in such places.
	CreateArray struct {
		File, UUID string
		Devices    []string // partitions
		Bytes      int64
	}
	// MkfsXFS makes an XFS file system on a volume.
	MkfsXFS struct{ Device, Label string }
	// CreatePool makes the ZFS pool with its datasets, mounted nowhere.
	CreatePool struct {
		Name    string
		Devices []string // partitions
		Pool    Pool
	}
	// AssembleArray starts the array of an installation that is kept.
	AssembleArray struct {
		File, UUID string
		Devices    []string
	}
	// ActivateGroup makes state and local of an installation that is kept
	// available, by the group's UUID, and checks them. Guests' volumes stay as
	// they are.
	ActivateGroup struct{ UUID string }
	// ImportPool opens the pool of an installation that is kept, by its GUID
	// and from these devices only.
	ImportPool struct {
		GUID, Name string
		Devices    []string
	}
	// SettlePool has the pool that was made write synchronously from here on, and
	// what was written be on its disks. One that is kept has its properties as it
	// had them.
	SettlePool struct {
		Name string
		Kept bool
	}
	// ClosePool exports the pool.
	ClosePool struct{ Name string }
	// StopArray lets go of the array.
	StopArray struct{ File string }
)

func (a CreateArray) Step() string   { return fmt.Sprintf("create mirror of %d disks", len(a.Devices)) }
func (a MkfsXFS) Step() string       { return fmt.Sprintf("format %s as xfs", a.Device) }
func (a CreatePool) Step() string    { return fmt.Sprintf("create pool %q", a.Name) }
func (a AssembleArray) Step() string { return "start the mirror that is kept" }
func (a ActivateGroup) Step() string { return "open the volume group that is kept" }
func (a ImportPool) Step() string    { return "open the pool that is kept" }
func (a SettlePool) Step() string    { return fmt.Sprintf("write out pool %q", a.Name) }
func (a ClosePool) Step() string     { return fmt.Sprintf("close pool %q", a.Name) }
func (a StopArray) Step() string     { return "stop mirror" }

func (CreateArray) action()   {}
func (MkfsXFS) action()       {}
func (CreatePool) action()    {}
func (AssembleArray) action() {}
func (ActivateGroup) action() {}
func (ImportPool) action()    {}
func (SettlePool) action()    {}
func (ClosePool) action()     {}
func (StopArray) action()     {}

// loadMD makes the number of the array usable, which nothing else asks for (md(4)).
func loadMD() []string { return []string{"modprobe", "-a", "md_mod", "raid1"} }

// Commands: mdadm(8). The size is in KiB and given, as is the offset, so that
// the array is as large as the plan says with any version of mdadm.
func (a CreateArray) Commands() [][]string {
	kib := func(n int64) string { return strconv.FormatInt(n>>10, 10) + "K" }
	return [][]string{loadMD(), append([]string{"mdadm", "--create", a.File, "--run", "--level=1", "--metadata=1.2", "--homehost=any", "--name=" + ArrayName,
		"--uuid=" + a.UUID, "--bitmap=internal", "--assume-clean", "--data-offset=" + kib(dataOffset), "--size=" + kib(a.Bytes),
		"--raid-devices=" + strconv.Itoa(len(a.Devices))}, a.Devices...)}
}

// Commands: mkfs.xfs(8).
func (a MkfsXFS) Commands() [][]string {
	return [][]string{{"mkfs.xfs", "-q", "-f", "-L", a.Label, a.Device}}
}

// Commands: zpool-create(8), zfs-create(8). Without -f: the devices were
// wiped, so that anything zpool objects to is a mistake of ours. The last one
// tells the pool's GUID.
func (a CreatePool) Commands() [][]string {
	create := []string{"zpool", "create"}
	for _, o := range a.Pool.Options {
		create = append(create, "-o", o[0]+"="+o[1])
	}
	for _, o := range a.Pool.Props {
		create = append(create, "-O", o[0]+"="+o[1])
	}
	out := [][]string{append(append(create, a.Name), vdevs(a.Pool.RAID, a.Devices)...)}
	for _, d := range a.Pool.Datasets {
		args := []string{"zfs", "create"}
		for _, o := range d.Props {
			args = append(args, "-o", o[0]+"="+o[1])
		}
		out = append(out, append(args, a.Name+"/"+d.Name))
	}
	return append(out, []string{"zpool", "get", "-H", "-o", "value", "guid", a.Name})
}

// Commands: mdadm(8). Only members with this UUID are taken; --run starts the
// array when one is missing.
func (a AssembleArray) Commands() [][]string {
	return [][]string{loadMD(), append([]string{"mdadm", "--assemble", a.File, "--run", "--uuid=" + a.UUID}, a.Devices...)}
}

// Commands: lvm(8), lvmsystemid is not used.
func (a ActivateGroup) Commands() [][]string {
	return [][]string{{"lvm", "lvchange", "-ay", "--select", "vg_uuid=" + a.UUID + " && (lv_name=state || lv_name=local)"}}
}

// Commands: zpool-import(8); -f, because the pool was last used by the
// installation that is replaced.
func (a ImportPool) Commands() [][]string {
	args := []string{"zpool", "import", "-N", "-f", "-o", "cachefile=none"}
	for _, d := range a.Devices {
		args = append(args, "-d", d)
	}
	return [][]string{append(args, a.GUID, a.Name)}
}

// Commands: zfs-set(8), zpool-sync(8).
func (a SettlePool) Commands() [][]string {
	sync := []string{"zpool", "sync", a.Name}
	if a.Kept {
		return [][]string{sync}
	}
	return [][]string{{"zfs", "set", "sync=standard", a.Name}, sync}
}

// Commands: zpool-export(8).
func (a ClosePool) Commands() [][]string { return [][]string{{"zpool", "export", a.Name}} }

// Commands: mdadm(8).
func (a StopArray) Commands() [][]string { return [][]string{{"mdadm", "--stop", a.File}} }

// typeRAID is the partition type of md members, typeZFS that of vdevs (the
// Discoverable Partitions list and OpenZFS).
const (
	typeRAID = "A19D880F-05FC-4D3B-A006-743F0F84911E"
	typeZFS  = "6A898CC3-1DD2-11B2-99A6-080020736631"
)

// dataType gives the data partition the type of its content.
func dataType(l *disk.Layout, typ string) {
	for i := range l.Partitions {
		if l.Partitions[i].Name == disk.NameData && typ != "" {
			l.Partitions[i].Type = typ
		}
	}
}
