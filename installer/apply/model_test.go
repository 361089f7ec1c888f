package apply

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"joist/image/disk"
	"joist/installer/plan"
	"joist/installer/probe"
)

// block is what a model of a disk keeps together.
const block = 4096

// model is a disk in memory with a cache: what was written since the last flush
// may be lost, in any combination and in part.
type model struct {
	name   string
	size   int64
	blocks map[int64][]byte // what is read; those that are not zero
	fresh  map[int64]bool   // of those, not part of stable
	stable map[int64][]byte // what a power cut leaves in any case
	cache  []cached         // written since then
	power  *power
	facts  *probe.Disk // as long as nothing was written
}

// cached is a write that was not flushed; without data it is zeros.
type cached struct {
	off, length int64
	data        []byte
}

// power lets so many writes through. Each is a moment at which it might have
// gone.
type power struct {
	left   int
	rand   *rand.Rand
	moment func()
	disks  []*model
}

// written counts a write, and takes from the disks what luck wants when the
// power goes.
func (p *power) written() error {
	p.left--
	if p.left < 0 {
		return errCut
	}
	if p.moment != nil {
		p.moment()
	}
	if p.left > 0 {
		return nil
	}
	for _, d := range p.disks {
		x, _ := d.after(p.rand)
		d.blocks, d.facts = x.all(), nil
		d.settle()
	}
	return errCut
}

var errCut = errors.New("power cut")

func newModel(name string, p *power) *model {
	m := &model{name: name, size: 25e9 / block * block, blocks: map[int64][]byte{}, fresh: map[int64]bool{}, power: p}
	p.disks = append(p.disks, m)
	return m
}

// at is a block, nil where it is zero. One of an image after a cut is that of
// the disk unless it has its own.
func (m *model) at(n int64) []byte {
	if x, ok := m.blocks[n]; ok || m.fresh != nil {
		return x
	}
	return m.stable[n]
}

func (m *model) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) && off+int64(n) < m.size {
		at := off + int64(n)
		step := min(len(b)-n, int(block-at%block), int(m.size-at))
		if x := m.at(at / block); x != nil {
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

// change writes a part of c and leaves alone those that stable has too.
func (m *model) change(c cached, from, to int64) {
	for n := (c.off + from) / block; n*block < c.off+to; n++ {
		old := m.at(n)
		if old == nil && c.data == nil {
			n = max(n, m.next(n, c.off+to)-1)
			continue
		}
		x := old
		if _, own := m.blocks[n]; x == nil || !own || m.fresh != nil && !m.fresh[n] {
			x = make([]byte, block)
			copy(x, old)
			m.blocks[n] = x
			if m.fresh != nil {
				m.fresh[n] = true
			}
		}
		first, end := max(c.off+from, n*block), min(c.off+to, (n+1)*block)
		if c.data == nil {
			clear(x[first-n*block : end-n*block])
		} else {
			copy(x[first-n*block:end-n*block], c.data[first-c.off:])
		}
	}
}

// next is the next block after n that holds anything, or the end.
func (m *model) next(n, end int64) int64 {
	last := (end + block - 1) / block
	for n++; n < last && m.at(n) == nil; n++ {
	}
	return n
}

func (m *model) write(c cached) error {
	if m.power.left <= 0 {
		return errCut
	}
	m.facts = nil
	m.cache = append(m.cache, c)
	m.change(c, 0, c.length)
	return m.power.written()
}

func (m *model) WriteAt(b []byte, off int64) (int, error) {
	return len(b), m.write(cached{off, int64(len(b)), slices.Clone(b)})
}

// clear is a wipe. It counts as one write.
func (m *model) clear(r plan.Range) error { return m.write(cached{off: r.Start, length: r.Bytes}) }

// Sync is a flush.
func (m *model) Sync() error {
	if m.power.left <= 0 {
		return errCut
	}
	m.settle()
	return nil
}

func (m *model) settle() {
	m.stable, m.cache = maps.Clone(m.blocks), nil
	clear(m.fresh)
}

// after is an image of the disk after a power cut now, and what became of the
// writes that were not flushed: each is lost, there, or there in part.
func (m *model) after(r *rand.Rand) (*model, string) {
	if len(m.cache) == 0 {
		return m, ""
	}
	x := &model{name: m.name, size: m.size, blocks: map[int64][]byte{}, stable: m.stable}
	var what []byte
	for _, c := range m.cache {
		luck := r.IntN(5)
		n := c.length / 512
		switch {
		case luck < 2:
			what = append(what, '-')
			continue
		case luck < 4 || n < 2:
			what = append(what, '+')
			x.change(c, 0, c.length)
			continue
		}
		cut := 1 + r.Int64N(n-1) // sectors are written whole
		if r.IntN(2) == 0 {
			what = fmt.Appendf(what, "<%d", cut)
			x.change(c, 0, cut*512)
		} else {
			what = fmt.Appendf(what, ">%d", cut)
			x.change(c, cut*512, c.length)
		}
	}
	return x, string(what)
}

// all are the blocks of an image.
func (m *model) all() map[int64][]byte {
	if m.fresh != nil {
		return m.blocks
	}
	out := maps.Clone(m.stable)
	maps.Copy(out, m.blocks)
	return out
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
		f.Disks = append(f.Disks, *x.look())
	}
	return f
}

// look is what a start finds on the disk.
func (m *model) look() *probe.Disk {
	if m.facts == nil {
		m.facts = &probe.Disk{Name: m.name, Size: m.size, Sector: 512}
		probe.Contents(m, m.facts)
	}
	return m.facts
}

// after is the machine after a power cut now.
func (m *machineModel) after(r *rand.Rand) (*machineModel, string) {
	x, all := &machineModel{img: m.img}, ""
	for _, d := range m.disks {
		after, what := d.after(r)
		x.disks = append(x.disks, after)
		all += what + "/"
	}
	return x, all
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
// holds, guests where it keeps what an adoption must, pooled where a model of a
// pool says whether it writes synchronously.
const (
	seeded = 32 << 20
	guests = 48 << 20
	pooled = 56 << 20

	unsafePool = "sync=disabled"
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
		return flushed(m.disk(act.Device), disk.WriteTable(m.disk(act.Device), act.Layout))
	case plan.Partition:
		return flushed(m.disk(act.Device), disk.WriteTable(m.disk(act.Device), act.Layout))
	case plan.Unmark:
		return flushed(m.disk(act.Device), disk.UpdateTable(m.disk(act.Device), act.Layout))
	case plan.Wipe:
		for _, r := range act.Ranges {
			if err := m.disk(act.Device).clear(r); err != nil {
				return err
			}
		}
		return m.disk(act.Device).Sync()
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
			return errors.Join(err, d.put(content(p, x.Layout)+guests, "fresh"), d.put(content(p, x.Layout)+pooled, unsafePool))
		})
	case plan.SettlePool:
		return each(func(d *model, x plan.Member) error {
			return flushed(d, d.put(content(p, x.Layout)+pooled, "settled"))
		})
	case plan.Seed:
		return each(func(d *model, x plan.Member) error {
			return flushed(d, d.put(content(p, x.Layout)+seeded, p.InstallationID)) // by unmounting
		})
	case plan.WriteSlot:
		return flushed(m.disk(act.Device), m.disk(act.Device).put(act.Partition.Start, p.InstallationID))
	case plan.FormatESP:
		return flushed(m.disk(act.Device), m.disk(act.Device).put(act.Partition.Start, p.InstallationID))
	case plan.InstallBIOSBoot:
		b := make([]byte, 440)
		copy(b, p.InstallationID)
		_, err := m.disk(act.Device).WriteAt(b, 0)
		return flushed(m.disk(act.Device), err)
	case plan.Finish:
		return each(func(d *model, _ plan.Member) error { return d.Sync() })
	}
	return nil
}

// flushed is how apply ends its own steps; tools of others may leave theirs in
// the disk's cache.
func flushed(d *model, err error) error {
	if err != nil {
		return err
	}
	return d.Sync()
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
	if d.text(data+pooled) == unsafePool {
		return fmt.Errorf("disk %s starts from a pool that writes nothing synchronously", d.name)
	}
	return nil
}
