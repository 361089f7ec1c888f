package apply

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"joist/image/disk"
	"joist/installer/plan"
	"joist/installer/probe"
)

// block is what a model of a disk keeps together.
const block = 4096

// model is a disk in memory: the blocks that are not zero.
type model struct {
	name   string
	size   int64
	blocks map[int64][]byte
	power  *power
	facts  *probe.Disk // as long as nothing was written
}

// power lets so many writes through, the last of them torn. Each is a moment at
// which it might have gone.
type power struct {
	left   int
	rand   *rand.Rand
	moment func()
}

// written counts a write.
func (p *power) written() error {
	if p.moment != nil {
		p.moment()
	}
	if p.left <= 0 {
		return errCut
	}
	return nil
}

var errCut = errors.New("power cut")

func newModel(name string, p *power) *model {
	return &model{name: name, size: 25e9 / block * block, blocks: map[int64][]byte{}, power: p}
}

func (m *model) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) && off+int64(n) < m.size {
		at := off + int64(n)
		step := min(len(b)-n, int(block-at%block), int(m.size-at))
		if x, ok := m.blocks[at/block]; ok {
			copy(b[n:n+step], x[at%block:])
		} else {
			clear(b[n : n+step])
		}
		n += step
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m *model) WriteAt(b []byte, off int64) (int, error) {
	m.facts = nil
	m.power.left--
	switch {
	case m.power.left == 0:
		b = b[:m.power.rand.IntN(len(b)/512+1)*512] // sectors are written whole
	case m.power.left < 0:
		return 0, errCut
	}
	for n := 0; n < len(b); {
		at := off + int64(n)
		x := m.blocks[at/block]
		if x == nil {
			x = make([]byte, block)
			m.blocks[at/block] = x
		}
		n += copy(x[at%block:], b[n:])
	}
	return len(b), m.power.written()
}

// clear is a wipe. It counts as one write.
func (m *model) clear(r plan.Range) error {
	m.facts = nil
	for n, x := range m.blocks {
		from, to := max(r.Start-n*block, 0), min(r.Start+r.Bytes-n*block, block)
		if from < to {
			clear(x[from:to])
		}
	}
	m.power.left--
	return m.power.written()
}

func (m *model) text(off int64) string {
	b := make([]byte, 64)
	if _, err := m.ReadAt(b, off); err != nil {
		return ""
	}
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

func (m *model) put(off int64, s string) error {
	_, err := m.WriteAt(append([]byte(s), make([]byte, 512-len(s))...), off)
	return err
}

// machineModel is disks, and what lies in volumes.
type machineModel struct {
	disks []*model
	power *power
	img   plan.Image
}

func (m *machineModel) facts() probe.Facts {
	f := probe.Facts{Firmware: probe.Firmware{Mode: probe.UEFI}, CPU: probe.CPU{Virtualisation: "svm", KVM: true}, Memory: probe.Memory{Total: 4 << 30},
		NICs: []probe.NIC{{Name: "eth0", MAC: "52:54:00:00:00:01", Carrier: "up"}}}
	for _, x := range m.disks {
		if x.facts == nil {
			x.facts = &probe.Disk{Name: x.name, Size: x.size, Sector: 512}
			probe.Contents(x, x.facts)
		}
		f.Disks = append(f.Disks, *x.facts)
	}
	return f
}

func (m *machineModel) disk(device string) *model {
	i := slices.IndexFunc(m.disks, func(d *model) bool { return device != "" && strings.HasPrefix(device, "/dev/"+d.name) })
	return m.disks[max(i, 0)]
}

func part(l disk.Layout, name string) disk.Partition {
	p, err := l.Find(name)
	if err != nil {
		panic(err)
	}
	return p
}

const modelOffset = 16 << 20 // where a mirror's content begins

// label is an LVM label whose metadata says that a group "joist" has the UUID.
func label(uuid string) []byte {
	b, le := make([]byte, 16384), binary.LittleEndian
	copy(b[512:], "LABELONE")
	le.PutUint32(b[512+20:], 32)
	copy(b[512+24:], "LVM2 001")
	pv := 512 + 32
	le.PutUint64(b[pv+40:], 1<<20) // data area
	le.PutUint64(b[pv+72:], 4096)  // metadata area, behind the end of the list
	copy(b[4096+4:], " LVM2 x[5A%r0N*>")
	le.PutUint64(b[4096+40:], 4096)
	copy(b[8192:], "joist {\nid = \""+uuid+"\"\n")
	return b
}

// superblock is that of a mirror of two, md 1.2.
func superblock(id string) []byte {
	b, le := make([]byte, 512), binary.LittleEndian
	le.PutUint32(b, 0xa92b4efc)
	le.PutUint32(b[4:], 1)
	hex := strings.ReplaceAll(id, ":", "")
	for i := range 16 {
		fmt.Sscanf(hex[2*i:2*i+2], "%02x", &b[16+i])
	}
	le.PutUint32(b[72:], 1)
	le.PutUint64(b[128:], modelOffset/512)
	return b
}

// content is where the volume group lies on a disk, or the pool.
func content(p plan.Plan, l disk.Layout) int64 {
	at := part(l, disk.NameData).Start
	if len(p.Further) > 0 && !p.ZFS() {
		at += modelOffset
	}
	return at
}

// seeded is where a model of the state volume says whose configuration it
// holds, guests where it keeps what an adoption must.
const (
	seeded = 32 << 20
	guests = 48 << 20
)

const modelPool = 4711 // GUID

// do carries out an action as far as its traces on the disks go.
func (m *machineModel) do(p plan.Plan, act plan.Action) error {
	each := func(f func(d *model, x plan.Member) error) error {
		for i, x := range p.All() {
			if err := f(m.disk("/dev/"+p.All()[i].Disk.Name), x); err != nil {
				return err
			}
		}
		return nil
	}
	switch act := act.(type) {
	case plan.Mark:
		return disk.WriteTable(m.disk(act.Device), act.Layout)
	case plan.Partition:
		return disk.WriteTable(m.disk(act.Device), act.Layout)
	case plan.Unmark:
		return disk.UpdateTable(m.disk(act.Device), act.Layout)
	case plan.Wipe:
		for _, r := range act.Ranges {
			if err := m.disk(act.Device).clear(r); err != nil {
				return err
			}
		}
		return nil
	case plan.CreateArray:
		return each(func(d *model, x plan.Member) error {
			_, err := d.WriteAt(superblock(act.UUID), part(x.Layout, disk.NameData).Start+4096)
			return err
		})
	case plan.CreateLVM:
		return each(func(d *model, x plan.Member) error {
			_, err := d.WriteAt(label(uuid), content(p, x.Layout))
			return errors.Join(err, d.put(content(p, x.Layout)+guests, "fresh"))
		})
	case plan.CreatePool:
		return each(func(d *model, x plan.Member) error {
			_, err := d.WriteAt(xdrPool(modelPool), content(p, x.Layout)+16<<10)
			return errors.Join(err, d.put(content(p, x.Layout)+guests, "fresh"))
		})
	case plan.Seed:
		return each(func(d *model, x plan.Member) error { return d.put(content(p, x.Layout)+seeded, p.InstallationID) })
	case plan.WriteSlot:
		return m.disk(act.Device).put(act.Partition.Start, p.InstallationID)
	case plan.FormatESP:
		return m.disk(act.Device).put(act.Partition.Start, p.InstallationID)
	case plan.InstallBIOSBoot:
		b := make([]byte, 440)
		copy(b, p.InstallationID)
		_, err := m.disk(act.Device).WriteAt(b, 0)
		return err
	}
	return nil
}

func (m *machineModel) apply(p plan.Plan) error {
	for _, act := range p.Actions {
		if err := m.do(p, act); err != nil {
			return err
		}
	}
	return nil
}

// complete is an error where a disk starts what is not a whole installation.
func (m *machineModel) complete(d *model) error {
	l, err := disk.ReadTable(d, d.size, 512)
	if err != nil || l.Partitions[0].Name != disk.NameBIOS {
		return nil
	}
	id := probe.InstallationID(l.DiskGUID)
	if d.text(part(l, disk.NameESP).Start) != id {
		return nil // the loader finds nothing
	}
	data := part(l, disk.NameData).Start
	if d.text(part(l, disk.NameSlotA).Start) != id || d.text(data+seeded) != id && d.text(data+modelOffset+seeded) != id {
		return fmt.Errorf("disk %s starts an installation that is not whole", d.name)
	}
	return nil
}
