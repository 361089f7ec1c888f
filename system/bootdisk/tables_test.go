package bootdisk_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"joist/image/boot"
	"joist/image/disk"
	"joist/system/bootdisk"
	"joist/system/bootdisk/bootdisktest"
)

// spoil writes zeros onto the disk itself.
func spoil(t *testing.T, d bootdisk.Disk, at, n int64) {
	t.Helper()
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(make([]byte, n), at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// retable writes another table's backup, of the same system.
func retable(t *testing.T, d bootdisk.Disk) {
	t.Helper()
	keep := make([]byte, disk.MiB)
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.ReadAt(keep, 0)
	l := d.Table
	l.Partitions = l.Partitions[:4]
	err = errors.Join(err, disk.UpdateTable(f, l))
	_, werr := f.WriteAt(keep, 0)
	if err := errors.Join(err, werr, f.Close()); err != nil {
		t.Fatal(err)
	}
}

const primary, protective, backup = "the primary partition table is missing", "the protective MBR is damaged", "the backup partition table is missing"

// The tables of each disk are mended from its own: of the one that counts and of
// one that is alone, too.
func TestReconcileMendsTables(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	for name, c := range map[string]struct {
		disks  []string
		damage int // index of the disk
		at, n  int64
		said   string
		starts bool
	}{
		"primary of the other":           {[]string{first, twin}, 1, 512, 33 * 512, primary, false},
		"primary of the one that counts": {[]string{first, twin}, 0, 512, 33 * 512, primary, false},
		"backup of the one that counts":  {[]string{first, twin}, 0, bootdisktest.Size - 512, 512, backup, true},
		"primary, alone":                 {[]string{first}, 0, 512, 33 * 512, primary, false},
		"backup, alone":                  {[]string{first}, 0, bootdisktest.Size - 512, 512, backup, true},
		"MBR, alone":                     {[]string{first}, 0, 446, 64, protective, false},
		"sector 0 of the other":          {[]string{first, twin}, 1, 0, 512, protective, false},
		"its whole first MiB":            {[]string{first, twin}, 1, 0, disk.MiB, primary + "; " + protective, false},
	} {
		t.Run(name, func(t *testing.T) {
			var ds []bootdisk.Disk
			for _, guid := range c.disks {
				ds = append(ds, bootdisktest.Install(t, guid, b, boot.Fresh()))
			}
			r := newRig(t, ds...)
			spoil(t, ds[c.damage], c.at, c.n)
			was := r.copies(t)[c.damage]
			if said := strings.Join(was.Faults(), "; "); !strings.HasPrefix(said, c.said) || was.Starts() != c.starts || !bootdisk.Compare(was, was).Table {
				t.Errorf("seen: %q, starts %v", said, was.Starts())
			}
			if err := r.Reconcile(t.Context(), r.say); err != nil || len(r.said) == 0 || !strings.Contains(r.said[0], "disk "+ds[c.damage].Name+": "+c.said) {
				t.Fatal(r.said, err)
			}
			r.alike(t)
			for _, x := range r.copies(t) {
				if !x.Starts() {
					t.Errorf("%s does not start: %q", x.Disk.Name, x.Faults())
				}
			}
			r.said = nil
			if err := r.Reconcile(t.Context(), r.say); err != nil || len(r.said) > 0 {
				t.Errorf("the second time: %q %v", r.said, err)
			}
		})
	}
}

// A disk whose tables are both valid and say different things stays as it is,
// whatever else is wrong with it.
func TestReconcileLeavesOtherTables(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	for name, c := range map[string]struct {
		other  bool // another disk is there
		damage func(d bootdisk.Disk)
		want   error
	}{
		"differ":          {true, func(d bootdisk.Disk) { retable(t, d) }, disk.ErrTablesDiffer},
		"differ, alone":   {false, func(d bootdisk.Disk) { retable(t, d) }, disk.ErrTablesDiffer},
		"differ, no boot": {true, func(d bootdisk.Disk) { retable(t, d); spoil(t, d, disk.MiB, disk.MiB) }, disk.ErrTablesDiffer},
	} {
		t.Run(name, func(t *testing.T) {
			d := bootdisktest.Install(t, first, b, boot.Fresh())
			ds := []bootdisk.Disk{d}
			if c.other {
				ds = append(ds, bootdisktest.Install(t, twin, b, boot.Fresh()))
			}
			r := newRig(t, ds...)
			if err := bootdisk.Mark(d, disk.Unfinished); err != nil {
				t.Fatal(err)
			}
			d.Table = d.Table.Marked(disk.Unfinished)
			c.damage(d)
			before := ends(t, d)
			if err := r.Reconcile(t.Context(), r.say); !errors.Is(err, c.want) || !strings.Contains(err.Error(), "nothing is written on it") {
				t.Errorf("%q %v", r.said, err)
			}
			if err := bootdisk.Mark(d, 0); !errors.Is(err, c.want) {
				t.Errorf("marked: %v", err)
			}
			if !slices.Equal(before, ends(t, d)) {
				t.Error("the disk was written to")
			}
		})
	}
}

// ends is what lies around the partitions, and the boot code.
func ends(t *testing.T, d bootdisk.Disk) []byte {
	t.Helper()
	f, err := os.Open(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 3*disk.MiB)
	_, err = f.ReadAt(b[:2*disk.MiB], 0)
	_, eerr := f.ReadAt(b[2*disk.MiB:], d.Bytes-disk.MiB)
	if err := errors.Join(err, eerr); err != nil {
		t.Fatal(err)
	}
	return b
}

// A disk that is another one by now is not mended.
func TestMendFindsTheDiskAgain(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0011223344556677")
	d := bootdisktest.Install(t, other, b, boot.Fresh())
	spoil(t, d, 512, 512)
	d.Table.DiskGUID = first
	before := ends(t, d)
	if err := bootdisk.Mend(d); err == nil || !strings.Contains(err.Error(), other) || !slices.Equal(before, ends(t, d)) {
		t.Error(err)
	}
}
