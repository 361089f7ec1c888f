package bootdisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/image/boot"
	"joist/image/boot/efivar"
	"joist/image/disk"
	"joist/image/verity"
)

const (
	first = "AAAAAAAA-1111-4111-8111-111111111111"
	twin  = "AAAAAAAA-1111-4111-8222-222222222222"
	other = "BBBBBBBB-1111-4222-8222-222222222222"
	group = "AbCdEf-0123-4567-89ab-cdef-0123-456789"
)

// built is a build: an image with its hash tree, and its name in the menu.
type built struct {
	id    string
	image []byte
	root  string
}

func build(t *testing.T, id string) built {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	data := bytes.Repeat([]byte(id), 20_480)
	copy(data, "hsqs")
	binary.LittleEndian.PutUint64(data[40:], uint64(len(data)))
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root, _, err := verity.Append(f, int64(len(data)), []byte("salt"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return built{id, image, root}
}

// rig is a machine with image files for disks.
type rig struct {
	System
	disks []Disk
	said  []string
}

func (r *rig) say(f string, a ...any) { r.said = append(r.said, fmt.Sprintf(f, a...)) }

func newRig(t *testing.T, ds ...Disk) *rig {
	t.Helper()
	r := &rig{disks: ds}
	r.System = System{GUID: first, Slot: boot.A, Lock: filepath.Join(t.TempDir(), "lock"), Disks: func() ([]Disk, error) {
		var out []Disk
		for _, d := range r.disks { // as they are now
			f, err := os.Open(d.Path)
			if err != nil {
				return nil, err
			}
			d.Table, err = disk.ReadTable(f, d.Bytes, 512)
			f.Close()
			if err != nil {
				return nil, err
			}
			out = append(out, d)
		}
		return out, nil
	}}
	return r
}

func guids(disk string) (out [5]string) {
	for i := range out {
		out[i] = fmt.Sprintf("%s%d", disk[:35], i+2)
	}
	return out
}

// empty is a disk with a table and nothing else.
func empty(t *testing.T, guid string) Disk {
	t.Helper()
	const size = 8 << 30
	l, err := disk.Plan(disk.Request{Size: size, SectorSize: 512, DiskGUID: guid, PartGUIDs: guids(guid)})
	if err != nil {
		t.Fatal(err)
	}
	d := Disk{Name: "disk-" + guid[19:23], Path: filepath.Join(t.TempDir(), "disk"), Bytes: size, Table: l}
	f, err := os.Create(d.Path)
	if err == nil {
		err = errors.Join(f.Truncate(size), disk.WriteTable(f, l), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// install writes what the installer writes.
func install(t *testing.T, guid string, b built, s boot.State) Disk {
	t.Helper()
	d := empty(t, guid)
	p, err := d.open(disk.NameSlotA, true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.WriteAt(b.image, 0)
	if err := errors.Join(err, p.Close()); err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("0", 64)
	file := boot.File{Size: 1, SHA256: sum}
	m := boot.Manifest{BuildID: b.id, Version: "1", Built: time.Unix(1_800_000_000, 0), Kernel: "6", VerityRoot: b.root,
		Files: map[string]boot.File{boot.FileKernel: file, boot.FileInitrd: file, boot.FileSystem: file}}
	big := content(bytes.Repeat([]byte("kernel "+b.id), 30_000))
	esp := boot.ESP{Loaders: boot.Loaders{Shim: content("shim"), Grub: content("grub"), MOK: content("mok")}, Kernel: big, Initrd: big, State: s,
		Boot: boot.SlotBoot{Manifest: m, Slot: boot.A, DiskGUID: guid, State: "lvm:" + group}}
	part, err := d.Table.Find(disk.NameESP)
	if err != nil {
		t.Fatal(err)
	}
	fat, err := esp.Volume(part, 512, 7)
	if err != nil {
		t.Fatal(err)
	}
	v, err := disk.PlanFAT(fat)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = d.open(disk.NameESP, true); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(v.Write(p), p.Close()); err != nil {
		t.Fatal(err)
	}
	img, core := make([]byte, 512), make([]byte, 1500)
	img[0x66], img[510], img[511] = 0xeb, 0x55, 0xaa
	core[0x1f4], core[0x1fc], core[0x1fe], core[0x1ff] = 2, 2, 0x20, 0x08
	f, err := d.disk(true)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = d.open(disk.NameBIOS, true); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(boot.WriteBIOS(f, p, disk.MiB, disk.MiB, img, core), p.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return d
}

func (r *rig) copies(t *testing.T) []Copy {
	t.Helper()
	cs, err := r.Inspect(true)
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

// alike wants all disks to start the same system.
func (r *rig) alike(t *testing.T) {
	t.Helper()
	cs := r.copies(t)
	for _, c := range cs {
		if len(c.Lacks) > 0 || Compare(cs[0], c).Any() || c.Disk.Table.Marks() != 0 {
			t.Errorf("%s: lacks %q, differs %+v, marks %x", c.Disk.Name, c.Lacks, Compare(cs[0], c), c.Disk.Table.Marks())
		}
	}
}

func write(t *testing.T, d Disk, name string, b []byte, at int64) {
	t.Helper()
	p, err := d.open(name, true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.WriteAt(b, at)
	if err := errors.Join(err, p.Close()); err != nil {
		t.Fatal(err)
	}
}

// Whatever one disk lacks it gets from the other, and the one that counts is
// not written.
func TestReconcile(t *testing.T) {
	old, fresh := build(t, "0011223344556677"), build(t, "8899aabbccddeeff")
	zero := make([]byte, 1<<20)
	for name, c := range map[string]struct {
		disks func() []Disk
		said  string
		fails string
	}{
		"alike": {func() []Disk {
			return []Disk{install(t, first, old, boot.Fresh()), install(t, twin, old, boot.Fresh())}
		}, "", ""},
		"nothing on it": {func() []Disk { return []Disk{install(t, first, old, boot.Fresh()), empty(t, twin)} }, "disk disk-8222: boot partition: ", ""},
		"tries of the one that runs": {func() []Disk {
			s, _ := boot.CountDown(boot.Fresh(), boot.A)
			return []Disk{install(t, first, old, s), install(t, twin, old, boot.Fresh())}
		}, "the state of its slots differs", ""},
		"the other is newer": {func() []Disk {
			d := install(t, first, old, boot.Fresh())
			return []Disk{d, install(t, twin, old, boot.MarkGood(boot.Fresh(), boot.A))}
		}, "disk disk-8111: the state of its slots differs", ""},
		"the one that runs is behind": {func() []Disk {
			return []Disk{install(t, first, old, boot.Fresh()), install(t, twin, fresh, boot.MarkGood(boot.Fresh(), boot.A))}
		}, "slot A holds another system", "start from the other disk"},
		"image damaged": {func() []Disk {
			d := install(t, twin, old, boot.Fresh())
			write(t, d, disk.NameSlotA, zero[:512], int64(len(old.image))-4096)
			return []Disk{install(t, first, old, boot.Fresh()), d}
		}, "slot A: check image", ""},
		"boot code damaged": {func() []Disk {
			d := install(t, twin, old, boot.Fresh())
			write(t, d, disk.NameBIOS, zero, 0)
			return []Disk{install(t, first, old, boot.Fresh()), d}
		}, "BIOS boot code: read GRUB core", ""},
		"not finished": {func() []Disk {
			ds := []Disk{install(t, first, old, boot.Fresh()), install(t, twin, old, boot.Fresh())}
			for _, d := range ds {
				if err := Mark(d, disk.Unfinished); err != nil {
					t.Fatal(err)
				}
			}
			return ds
		}, "it is finished now", ""},
		"no disk is whole": {func() []Disk { return []Disk{empty(t, first), empty(t, twin)} }, "", "no disk has all of them"},
		"twins": {func() []Disk {
			return []Disk{install(t, first, old, boot.Fresh()), install(t, first, old, boot.Fresh())}
		}, "", "one is a copy of the other"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.disks()...)
			err := r.Reconcile(t.Context(), r.say)
			if said := strings.Join(r.said, "\n"); !strings.Contains(said, c.said) || (said == "") != (c.said == "") {
				t.Errorf("said %q, want %q", said, c.said)
			}
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("got %v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			r.alike(t)
			r.said = nil
			if err := r.Reconcile(t.Context(), r.say); err != nil || len(r.said) > 0 {
				t.Errorf("the second time: %q %v", r.said, err)
			}
		})
	}
}

// There is always a disk that starts: the one that is copied is only read.
func TestReconcileKeepsSource(t *testing.T) {
	b := build(t, "0011223344556677")
	r := newRig(t, install(t, first, b, boot.Fresh()), empty(t, twin))
	whole := r.copies(t)[0]
	if err := r.Reconcile(t.Context(), r.say); err != nil {
		t.Fatal(err)
	}
	if d := Compare(whole, r.copies(t)[0]); d.Any() {
		t.Errorf("the disk that counts was changed: %+v", d)
	}
}

func TestMarkGood(t *testing.T) {
	b := build(t, "0011223344556677")
	r := newRig(t, install(t, first, b, boot.Fresh()), install(t, twin, b, boot.Fresh()))
	if err := r.MarkGood(r.say); err != nil || len(r.said) > 0 {
		t.Fatal(err, r.said)
	}
	want := boot.MarkGood(boot.Fresh(), boot.A)
	for _, c := range r.copies(t) {
		if c.State != want {
			t.Errorf("%s: %+v", c.Disk.Name, c.State)
		}
	}
	// again: nothing changes
	if err := r.MarkGood(r.say); err != nil || r.copies(t)[0].State != want {
		t.Error(err, r.copies(t)[0].State)
	}
	// a disk that cannot be written does not keep the slot on trial
	if err := writeState(r.disks[0], boot.Trial(want, boot.A)); err != nil {
		t.Fatal(err)
	}
	r.disks = append(r.disks[:1], empty(t, twin))
	if err := r.MarkGood(r.say); err != nil {
		t.Error(err)
	}
	// one that is behind must not become the newest
	r.disks = []Disk{install(t, first, b, boot.Fresh()), install(t, twin, b, want)}
	if err := r.MarkGood(r.say); !errors.Is(err, ErrBehind) {
		t.Error(err)
	}
	if s, err := State(r.disks[0]); err != nil || s != boot.Fresh() {
		t.Errorf("%+v %v", s, err)
	}
}

func TestFamily(t *testing.T) {
	if !Family(first, strings.ToLower(twin)) || Family(first, other) || Family(first, "") {
		t.Error("families")
	}
	g, err := GUID(first, bytes.NewReader(make([]byte, 16)))
	if err != nil || !Family(first, g) || g == first {
		t.Errorf("%q %v", g, err)
	}
	if _, err := GUID("", bytes.NewReader(make([]byte, 16))); err == nil {
		t.Error("a disk of no system")
	}
}

// The entry of a disk is made where others of ours are, and nowhere else.
func TestEntries(t *testing.T) {
	b := build(t, "0011223344556677")
	r := newRig(t, install(t, first, b, boot.Fresh()), install(t, twin, b, boot.Fresh()))
	r.EFI = t.TempDir()
	if err := r.Reconcile(t.Context(), r.say); err != nil || len(r.said) > 0 {
		t.Fatal(err, r.said)
	}
	foreign := disk.Partition{Number: 1, Start: 1 << 20, Size: 1 << 20, GUID: other}
	option, err := boot.LoadOption("Debian", foreign, 512, `\x.efi`)
	if err == nil {
		err = errors.Join(efivar.Set(r.EFI, option, 0, func(efivar.Entry) bool { return false }), r.Enlist(r.disks[1]))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Reconcile(t.Context(), r.say); err != nil || len(r.said) != 1 {
		t.Fatal(err, r.said)
	}
	names := func() string {
		list, err := efivar.List(r.EFI)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range list {
			out = append(out, e.Name+" "+e.Partition[:8]+e.Partition[18:23])
		}
		return strings.Join(out, ", ")
	}
	if got := names(); got != "Debian BBBBBBBB-8222, Joist AAAAAAAA-8222, Joist, disk 2 AAAAAAAA-8111" {
		t.Error(got)
	}
	gone, err := r.disks[1].Table.Find(disk.NameESP)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Delist(func(p string) bool { return p == gone.GUID || p == other }); err != nil {
		t.Fatal(err)
	}
	if got := names(); got != "Debian BBBBBBBB-8222, Joist, disk 2 AAAAAAAA-8111" {
		t.Error(got)
	}
	// efivarfs takes a variable as long as it was written; a file keeps its end
	order, err := os.ReadFile(filepath.Join(r.EFI, "BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
	if err != nil || !bytes.Equal(order[4:8], []byte{2, 0, 0, 0}) {
		t.Errorf("% x %v", order, err)
	}
}
