package apply

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"runtime/debug"
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
	defer func() {
		for _, d := range m.disks {
			d.settle()
		}
	}()
	mirror := r.IntN(2) == 0
	adopt = r.IntN(4) == 0
	fs := []string{"ext4", "xfs", "zfs"}[r.IntN(3)]
	names, raid, zraid := `"vda"`, "single", "raid0"
	if mirror {
		names, raid, zraid = `"vda", "vdb"`, "raid1", "raid1"
	}
	text := modelAnswer + fmt.Sprintf("disk-setup = { filesystem = %q, disk-list = [%s] }\n", fs, names)
	old := fmt.Sprintf("joist.disk.raid = %q\n", raid)
	if fs == "zfs" {
		text, old = modelAnswer+fmt.Sprintf("disk-setup = { filesystem = \"zfs\", disk-list = [%s], zfs = { raid = %q } }\n", names, zraid), ""
	}
	load := func(more string) answer.Answer {
		a, fl := answer.Load(strings.NewReader(text+more), "answer.toml")
		if fl.Stops() {
			err = errors.Join(err, fl.Err())
		}
		return a
	}
	kind := r.IntN(7)
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
	case 6: // a pool without a table
		_, err := d.WriteAt(xdrPool(r.Uint64()|1), 16<<10)
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
// installation what the next start would do if the power went then, for some of
// the combinations of what is still in the caches of the disks: 100,000 cuts,
// 10,000 with -short. Sometimes it goes; the next starts have the same answer,
// until one comes to the end.
func TestCuts(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // much is made and little kept
	want := int64(100_000)
	if testing.Short() {
		want = 10_000
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
		w := watcher{r: r, a: a}
		m.power.moment = func() { bad = errors.Join(bad, w.moment(m)) }
		m.power.left = 1 + r.IntN(60)
		if try == 4 {
			m.power.left = 1 << 30
		}
		if p.Result == plan.Install {
			err = m.apply(p)
		}
		m.power.left, m.power.moment = 1<<30, nil
		cuts += w.cuts
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

// outcomes is how many combinations are drawn for a moment.
const outcomes = 12

// watcher asks at each moment of an installation what a power cut would leave.
type watcher struct {
	r     *rand.Rand
	a     answer.Answer
	cuts  int64
	known [][]probe.Disk // what was found before, and was good
}

func (w *watcher) moment(m *machineModel) error {
	drawn := map[string]bool{}
	for range outcomes {
		after, what := m.after(w.r)
		if drawn[what] {
			continue
		}
		drawn[what] = true
		w.cuts++
		if err := w.cut(after); err != nil {
			return fmt.Errorf("cut %d (%s): %w", w.cuts, what, err)
		}
	}
	return nil
}

func (w *watcher) cut(m *machineModel) error {
	for _, d := range m.disks {
		if err := m.complete(d); err != nil {
			return err
		}
	}
	f := m.facts()
	for _, k := range w.known {
		if reflect.DeepEqual(f.Disks, k) {
			return nil
		}
	}
	w.known = append(w.known, f.Disks)
	_, err := m.make(w.r, w.a)
	return err
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
	group, pool := uuid, ""
	if a.Disk.Filesystem == answer.ZFS {
		group, pool = "", fmt.Sprint(modelPool)
	}
	for _, name := range a.Disk.List {
		d, _ := f.Find(name)
		in := d.Installation
		x := m.disk("/dev/" + name)
		if in == nil || in.ID != p.Existing.ID || in.Group != group || in.Pool != pool || x.text(part(*in.Table, disk.NameESP).Start) != in.ID || x.text(0) != in.ID || m.complete(x) != nil {
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
