package apply

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/answer"
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

// content is where the volume group lies on a disk.
func content(p plan.Plan, l disk.Layout) int64 {
	at := part(l, disk.NameData).Start
	if len(p.Further) > 0 {
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

func modelImage() plan.Image {
	h := strings.Repeat("0", 64)
	return plan.Image{
		Manifest: boot.Manifest{BuildID: "0011223344556677", Version: "0.1.0", Kernel: "6.12", VerityRoot: h, Built: time.Unix(1.7e9, 0),
			Files: map[string]boot.File{"vmlinuz": {Size: 1e5, SHA256: h}, "initrd": {Size: 1e5, SHA256: h}, "system.sqfs": {Size: 1e6, SHA256: h}}},
		Loaders: map[string]int64{plan.LoaderBoot: 512, plan.LoaderCore: 1e4, plan.LoaderShim: 1e4, plan.LoaderGrub: 1e4, plan.LoaderMOK: 1e4},
	}
}

const modelAnswer = `global = { keyboard = "de", country = "at", timezone = "UTC", fqdn = "n1.example.com", mailto = "a@example.com", root-password = "topsecret" }
`

// setUp draws disks with something on them and the answer that may replace it.
func setUp(r *rand.Rand) (m *machineModel, a answer.Answer, adopt bool, err error) {
	pw := &power{rand: r, left: 1 << 30}
	m = &machineModel{power: pw, img: modelImage(), disks: []*model{newModel("vda", pw), newModel("vdb", pw), newModel("vdc", pw)}}
	mirror := r.IntN(2) == 0
	adopt = r.IntN(4) == 0
	fs := []string{"ext4", "xfs"}[r.IntN(2)]
	names, raid := `"vda"`, "single"
	if mirror {
		names, raid = `"vda", "vdb"`, "raid1"
	}
	text := modelAnswer + fmt.Sprintf("disk-setup = { filesystem = %q, disk-list = [%s] }\n", fs, names)
	old := fmt.Sprintf("joist.disk.raid = %q\n", raid)
	load := func(more string) answer.Answer {
		a, fl := answer.Load(strings.NewReader(text+more), "answer.toml")
		if fl.Stops() {
			err = errors.Join(err, fl.Err())
		}
		return a
	}
	kind := r.IntN(6)
	if adopt || kind == 0 {
		p, perr := m.make(r, load(old))
		if err = errors.Join(err, perr, m.apply(p)); err != nil {
			return m, a, adopt, err
		}
		for _, x := range p.All() {
			err = errors.Join(err, m.disk("/dev/"+x.Disk.Name).put(content(p, x.Layout)+guests, "guests"))
		}
		may := "joist.install.reinstall = true\n"
		if r.IntN(2) == 0 {
			may = fmt.Sprintf("joist.install.installation = %q\n", p.InstallationID)
		}
		if adopt {
			may += "joist.disk.adopt = true\n"
		}
		a = load(old + may)
		return m, a, adopt, err
	}
	var ids []string
	for _, d := range m.disks {
		err = errors.Join(err, foreign(d, kind, r))
	}
	for _, d := range m.facts().Disks {
		if d.DataID != "" {
			ids = append(ids, fmt.Sprintf("%q", d.DataID))
		}
	}
	if len(ids) > 0 {
		old += "joist.disk.overwrite = [" + strings.Join(ids, ", ") + "]\n"
	}
	a = load(old)
	return m, a, false, err
}

// foreign writes something that is not ours; kind 1 is nothing.
func foreign(d *model, kind int, r *rand.Rand) error {
	switch kind {
	case 2: // a table of somebody else
		l, err := disk.Plan(disk.Request{Size: d.size, SectorSize: 512, DiskGUID: guid(r), PartGUIDs: [5]string{guid(r), guid(r), guid(r), guid(r), guid(r)}})
		for i := range l.Partitions {
			l.Partitions[i].Name = fmt.Sprintf("home%d", i)
		}
		return errors.Join(err, disk.WriteTable(d, l))
	case 3: // an old table
		b := make([]byte, 512)
		b[0], b[510], b[511] = byte(r.Uint32()|1), 0x55, 0xaa
		_, err := d.WriteAt(b, 0)
		return err
	case 4: // a file system without a table
		b := make([]byte, 4096)
		copy(b[1024+0x38:], "\x53\xef")
		b[1024+0x68] = byte(r.Uint32() | 1)
		_, err := d.WriteAt(b, 0)
		return err
	case 5: // LVM without a table
		_, err := d.WriteAt(label("Zzzzzz-0123-4567-89ab-cdef-0123-4567"+fmt.Sprint(10+r.IntN(80))), 0)
		return err
	}
	return nil
}

func guid(r *rand.Rand) string {
	b := make([]byte, 16)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	s, err := disk.NewGUID(bytes.NewReader(b))
	if err != nil {
		panic(err)
	}
	return s
}

// make plans as the next unattended start would.
func (m *machineModel) make(r *rand.Rand, a answer.Answer) (plan.Plan, error) {
	seed := make([]byte, 256)
	for i := range seed {
		seed[i] = byte(r.Uint32())
	}
	id, err := plan.NewIdentity(bytes.NewReader(seed))
	if err != nil {
		return plan.Plan{}, err
	}
	p, fl := plan.Make(m.facts(), a, m.img, id)
	if fl.Stops() {
		err = fmt.Errorf("a start says no: %v", fl)
	}
	return p, err
}

// TestCuts draws machines and answers and asks after each write of an
// installation what the next start would do if the power went then: 10,000
// times and more, 1,000 with -short. Sometimes it goes, with the write torn; the
// next starts have the same answer, until one comes to the end.
func TestCuts(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // much is made and little kept
	want := int64(10_000)
	if testing.Short() {
		want = 1000
	}
	var cuts atomic.Int64
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for cuts.Load() < want && !t.Failed() {
				n := next.Add(1)
				c, err := cutUp(n)
				if err != nil {
					t.Errorf("machine %d: %v", n, err)
				}
				cuts.Add(c)
			}
		})
	}
	wg.Wait()
}

// cutUp is one machine, drawn from n, up to the end of its installation.
func cutUp(n uint64) (cuts int64, err error) {
	r := rand.New(rand.NewPCG(n, 7))
	m, a, adopt, err := setUp(r)
	if err != nil {
		return 0, err
	}
	other := maps.Clone(m.disks[2].blocks)
	for try := range 5 {
		p, err := m.make(r, a)
		if err == nil && try == 0 && p.Result == plan.BootExisting {
			err = errors.New("nothing was installed, and something is started")
		}
		if err != nil {
			return cuts, err
		}
		var bad error
		var last []probe.Disk
		m.power.moment = func() {
			cuts++
			if f := m.facts(); bad == nil && !reflect.DeepEqual(f.Disks, last) {
				last = f.Disks
				_, bad = m.make(r, a)
			}
			for _, d := range m.disks {
				bad = errors.Join(bad, m.complete(d))
			}
		}
		m.power.left = 1 + r.IntN(60)
		if try == 4 {
			m.power.left = 1 << 30
		}
		if p.Result == plan.Install {
			err = m.apply(p)
		}
		m.power.left, m.power.moment = 1<<30, nil
		if bad != nil || err != nil && !errors.Is(err, errCut) {
			return cuts, fmt.Errorf("start %d: %w", try, errors.Join(bad, err))
		}
		if err == nil {
			break
		}
	}
	if !maps.EqualFunc(m.disks[2].blocks, other, bytes.Equal) {
		return cuts, errors.New("a disk that was not chosen has changed")
	}
	return cuts, m.finished(a, adopt)
}

// finished checks that every chosen disk starts one whole installation which
// the next start takes for one.
func (m *machineModel) finished(a answer.Answer, adopt bool) error {
	a.Install.Reinstall, a.Install.Installation, a.Disk.Adopt = false, "", false
	f := m.facts()
	p, err := m.make(m.power.rand, a)
	if err != nil {
		return err
	}
	if p.Result != plan.BootExisting || f.Unfinished(*p.Existing) {
		return fmt.Errorf("the next start would %s", p.Result)
	}
	for _, name := range a.Disk.List {
		d, _ := f.Find(name)
		in := d.Installation
		x := m.disk("/dev/" + name)
		if in == nil || in.ID != p.Existing.ID || in.Group != uuid || x.text(part(*in.Table, disk.NameESP).Start) != in.ID || x.text(0) != in.ID || m.complete(x) != nil {
			return fmt.Errorf("disk %s does not start by itself: %+v", name, in)
		}
		at := part(*in.Table, disk.NameData).Start + guests
		if in.Array != "" {
			at += modelOffset
		}
		if want := map[bool]string{true: "guests", false: "fresh"}[adopt]; x.text(at) != want {
			return fmt.Errorf("disk %s holds %q where %q should be", name, x.text(at), want)
		}
	}
	return nil
}
