package bootdisk_test

import (
	"bytes"
	"context"
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
	"joist/system/bootdisk"
	"joist/system/bootdisk/bootdisktest"
)

const (
	first = "AAAAAAAA-1111-4111-8111-111111111111"
	twin  = "AAAAAAAA-1111-4111-8222-222222222222"
	other = "BBBBBBBB-1111-4222-8222-222222222222"
)

// rig is a machine with image files for disks.
type rig struct {
	bootdisk.System
	disks []bootdisk.Disk
	said  []string
}

func (r *rig) say(f string, a ...any) { r.said = append(r.said, fmt.Sprintf(f, a...)) }

func newRig(t *testing.T, ds ...bootdisk.Disk) *rig {
	t.Helper()
	r := &rig{disks: ds}
	r.System = bootdisktest.System(t, first, &r.disks)
	return r
}

func (r *rig) copies(t *testing.T) []bootdisk.Copy {
	t.Helper()
	cs, err := r.Inspect(t.Context(), true)
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
		if len(c.Lacks) > 0 || bootdisk.Compare(cs[0], c).Any() || c.Disk.Table.Marks() != 0 {
			t.Errorf("%s: lacks %q, differs %+v, marks %x", c.Disk.Name, c.Lacks, bootdisk.Compare(cs[0], c), c.Disk.Table.Marks())
		}
	}
}

// Whatever one disk lacks it gets from the other, and the one that counts is
// not written.
func TestReconcile(t *testing.T) {
	old, fresh := bootdisktest.NewBuild(t, "0011223344556677"), bootdisktest.NewBuild(t, "8899aabbccddeeff")
	zero := make([]byte, 1<<20)
	extended := old.Extend("one", bootdisktest.NewBuild(t, "aaaaaaaaaaaaaaaa")).Extend("two", fresh)
	for name, c := range map[string]struct {
		disks func() []bootdisk.Disk
		said  string
		fails string
	}{
		"alike": {func() []bootdisk.Disk {
			return []bootdisk.Disk{bootdisktest.Install(t, first, old, boot.Fresh()), bootdisktest.Install(t, twin, old, boot.Fresh())}
		}, "", ""},
		"nothing on it": {func() []bootdisk.Disk {
			return []bootdisk.Disk{bootdisktest.Install(t, first, old, boot.Fresh()), bootdisktest.Empty(t, twin)}
		}, "disk disk-8222: boot partition: ", ""},
		"tries of the one that runs": {func() []bootdisk.Disk {
			s, _ := boot.CountDown(boot.Fresh(), boot.A)
			return []bootdisk.Disk{bootdisktest.Install(t, first, old, s), bootdisktest.Install(t, twin, old, boot.Fresh())}
		}, "the state of its slots differs", ""},
		"the other is newer": {func() []bootdisk.Disk {
			d := bootdisktest.Install(t, first, old, boot.Fresh())
			return []bootdisk.Disk{d, bootdisktest.Install(t, twin, old, boot.MarkGood(boot.Fresh(), boot.A))}
		}, "disk disk-8111: the state of its slots differs", ""},
		"the one that runs is behind": {func() []bootdisk.Disk {
			return []bootdisk.Disk{bootdisktest.Install(t, first, old, boot.Fresh()), bootdisktest.Install(t, twin, fresh, boot.MarkGood(boot.Fresh(), boot.A))}
		}, "slot A holds another system", "start from the other disk"},
		"image damaged": {func() []bootdisk.Disk {
			d := bootdisktest.Install(t, twin, old, boot.Fresh())
			bootdisktest.Write(t, d, disk.NameSlotA, zero[:512], int64(len(old.Image))-4096)
			return []bootdisk.Disk{bootdisktest.Install(t, first, old, boot.Fresh()), d}
		}, "slot A: check image", ""},
		"alike with extensions": {func() []bootdisk.Disk {
			return []bootdisk.Disk{bootdisktest.Install(t, first, extended, boot.Fresh()), bootdisktest.Install(t, twin, extended, boot.Fresh())}
		}, "", ""},
		"extension damaged": {func() []bootdisk.Disk {
			d := bootdisktest.Install(t, twin, extended, boot.Fresh())
			bootdisktest.Write(t, d, disk.NameSlotA, zero[:512], int64(len(extended.Image))-4096)
			return []bootdisk.Disk{bootdisktest.Install(t, first, extended, boot.Fresh()), d}
		}, "slot A: extension at byte", ""},
		"nothing on it, extensions on the other": {func() []bootdisk.Disk {
			return []bootdisk.Disk{bootdisktest.Install(t, first, extended, boot.Fresh()), bootdisktest.Empty(t, twin)}
		}, "disk disk-8222: boot partition: ", ""},
		"boot code damaged": {func() []bootdisk.Disk {
			d := bootdisktest.Install(t, twin, old, boot.Fresh())
			bootdisktest.Write(t, d, disk.NameBIOS, zero, 0)
			return []bootdisk.Disk{bootdisktest.Install(t, first, old, boot.Fresh()), d}
		}, "BIOS boot code: read GRUB core", ""},
		"not finished": {func() []bootdisk.Disk {
			ds := []bootdisk.Disk{bootdisktest.Install(t, first, old, boot.Fresh()), bootdisktest.Install(t, twin, old, boot.Fresh())}
			for _, d := range ds {
				if err := bootdisk.Mark(d, disk.Unfinished); err != nil {
					t.Fatal(err)
				}
			}
			return ds
		}, "it is finished now", ""},
		"no disk is whole": {func() []bootdisk.Disk {
			return []bootdisk.Disk{bootdisktest.Empty(t, first), bootdisktest.Empty(t, twin)}
		}, "", "no disk has all of them"},
		"twins": {func() []bootdisk.Disk {
			return []bootdisk.Disk{bootdisktest.Install(t, first, old, boot.Fresh()), bootdisktest.Install(t, first, old, boot.Fresh())}
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
	b := bootdisktest.NewBuild(t, "0011223344556677")
	r := newRig(t, bootdisktest.Install(t, first, b, boot.Fresh()), bootdisktest.Empty(t, twin))
	whole := r.copies(t)[0]
	if err := r.Reconcile(t.Context(), r.say); err != nil {
		t.Fatal(err)
	}
	if d := bootdisk.Compare(whole, r.copies(t)[0]); d.Any() {
		t.Errorf("the disk that counts was changed: %+v", d)
	}
}

func TestMarkGood(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	r := newRig(t, bootdisktest.Install(t, first, b, boot.Fresh()), bootdisktest.Install(t, twin, b, boot.Fresh()))
	if err := r.MarkGood(t.Context(), r.say); err != nil || len(r.said) > 0 {
		t.Fatal(err, r.said)
	}
	want := boot.MarkGood(boot.Fresh(), boot.A)
	for _, c := range r.copies(t) {
		if c.State != want {
			t.Errorf("%s: %+v", c.Disk.Name, c.State)
		}
	}
	// again: nothing changes
	if err := r.MarkGood(t.Context(), r.say); err != nil || r.copies(t)[0].State != want {
		t.Error(err, r.copies(t)[0].State)
	}
	// a disk that cannot be written does not keep the slot on trial
	if err := r.Change(t.Context(), func(s boot.State) boot.State { return boot.Trial(s, boot.A) }, r.say); err != nil {
		t.Fatal(err)
	}
	r.disks = append(r.disks[:1], bootdisktest.Empty(t, twin))
	if err := r.MarkGood(t.Context(), r.say); err != nil {
		t.Error(err)
	}
	// one that is behind must not become the newest
	r.disks = []bootdisk.Disk{bootdisktest.Install(t, first, b, boot.Fresh()), bootdisktest.Install(t, twin, b, want)}
	if err := r.MarkGood(t.Context(), r.say); !errors.Is(err, bootdisk.ErrBehind) {
		t.Error(err)
	}
	if s, err := bootdisk.State(r.disks[0]); err != nil || s != boot.Fresh() {
		t.Errorf("%+v %v", s, err)
	}
}

func TestFamily(t *testing.T) {
	if !bootdisk.Family(first, strings.ToLower(twin)) || bootdisk.Family(first, other) || bootdisk.Family(first, "") {
		t.Error("families")
	}
	g, err := bootdisk.GUID(first, bytes.NewReader(make([]byte, 16)))
	if err != nil || !bootdisk.Family(first, g) || g == first {
		t.Errorf("%q %v", g, err)
	}
	if _, err := bootdisk.GUID("", bytes.NewReader(make([]byte, 16))); err == nil {
		t.Error("a disk of no system")
	}
}

// The entry of a disk is made where others of ours are, and nowhere else.
func TestEntries(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	r := newRig(t, bootdisktest.Install(t, first, b, boot.Fresh()), bootdisktest.Install(t, twin, b, boot.Fresh()))
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

// Firmware that lists a disk once more, in its own words, behind our entry does
// not have it made again at every start.
func TestEntriesBesideFirmwares(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	r := newRig(t, bootdisktest.Install(t, first, b, boot.Fresh()))
	r.EFI = t.TempDir()
	esp, err := r.disks[0].Table.Find(disk.NameESP)
	if err != nil {
		t.Fatal(err)
	}
	option, err := boot.LoadOption("UEFI OS", esp, 512, `\EFI\BOOT\BOOTX64.EFI`)
	if err == nil {
		err = errors.Join(r.Enlist(r.disks[0]), efivar.Set(r.EFI, option, 1, func(efivar.Entry) bool { return false }))
	}
	list, lerr := efivar.List(r.EFI)
	if err := errors.Join(err, lerr); err != nil || len(list) != 2 || list[1].Name != "UEFI OS" {
		t.Fatal(list, err)
	}
	if ds, err := r.Unlisted(r.copies(t)); err != nil || len(ds) > 0 {
		t.Errorf("%d disks without an entry, %v", len(ds), err)
	}
	if err := r.Reconcile(t.Context(), r.say); err != nil || len(r.said) > 0 {
		t.Error(r.said, err)
	}
}

// Whoever waits for somebody else's turn, or for a disk, gives up with its ctx.
func TestPatience(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	r := newRig(t, bootdisktest.Install(t, first, b, boot.Fresh()), bootdisktest.Install(t, twin, b, boot.Fresh()))
	held, free, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- r.Exclusive(t.Context(), func() error { close(held); <-free; return nil })
	}()
	<-held
	for name, try := range map[string]func(ctx context.Context) error{
		"mark good": func(ctx context.Context) error { return r.MarkGood(ctx, r.say) },
		"reconcile": func(ctx context.Context) error { return r.Reconcile(ctx, r.say) },
		"exclusive": func(ctx context.Context) error { return r.Exclusive(ctx, func() error { return nil }) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
		if err := try(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "lock boot parts") {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	time.AfterFunc(100*time.Millisecond, func() { close(free) })
	if err := r.MarkGood(t.Context(), r.say); err != nil {
		t.Errorf("once it is free: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if cs, err := r.Inspect(ctx, true); !errors.Is(err, context.Canceled) {
		t.Errorf("inspect: %d copies, %v", len(cs), err)
	}
	if c := bootdisk.Inspect(ctx, r.disks[0], true); len(c.Lacks) == 0 || len(c.Files) > 0 {
		t.Errorf("a disk is read after the end: %q", c.Lacks)
	}
	if err := r.MarkGood(ctx, r.say); !errors.Is(err, context.Canceled) {
		t.Errorf("mark good: %v", err)
	}
}

// A disk that is not the one that was looked up, or that is used, stays as it is.
func TestEraseRefuses(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	d := bootdisktest.Install(t, first, b, boot.Fresh())
	swapped := bootdisktest.Install(t, other, b, boot.Fresh())
	swapped.Table, swapped.Name = d.Table, d.Name
	used := d
	used.Parts = map[string]string{disk.NameSlotB: filepath.Join(t.TempDir(), "busy")}
	for want, x := range map[string]bootdisk.Disk{"has the GUID " + other: swapped, "open joist-b": used} {
		if err := bootdisk.Erase(x); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for guid, x := range map[string]bootdisk.Disk{first: d, other: swapped} {
		f, err := os.Open(x.Path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := disk.ReadTable(f, bootdisktest.Size, 512)
		f.Close()
		x.Table = l
		if c := bootdisk.Inspect(t.Context(), x, true); err != nil || l.DiskGUID != guid || len(c.Lacks) > 0 {
			t.Errorf("%s: %v, lacks %q", l.DiskGUID, err, c.Lacks)
		}
	}
	if err := bootdisk.Erase(d); err != nil {
		t.Error(err)
	}
}
