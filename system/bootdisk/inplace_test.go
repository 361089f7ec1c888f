package bootdisk_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"joist/image/boot"
	"joist/image/disk"
	"joist/system/block"
	"joist/system/bootdisk"
	"joist/system/bootdisk/bootdisktest"
)

const resetGUID = "10000000-0000-4000-8000-000000000001"

// startsAs reads what the disk starts.
func startsAs(t *testing.T, d bootdisk.Disk) (args, answer string, marks uint64) {
	t.Helper()
	f, err := os.Open(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := disk.ReadTable(f, d.Bytes, 512)
	if err != nil {
		t.Fatal(err)
	}
	esp, err := l.Find(disk.NameESP)
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) []byte {
		x, err := disk.LocateFAT(offset{f, esp.Start}, path)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, x.Size)
		if _, err := f.ReadAt(b, esp.Start+x.Offset); err != nil {
			t.Fatal(err)
		}
		return b
	}
	args, err = boot.SlotArgs(read(boot.PathSlotConfig(boot.A)), boot.A)
	if err != nil {
		t.Fatal(err)
	}
	return args, strings.TrimRight(string(read(boot.PathAnswer)), "#"), l.Marks()
}

type offset struct {
	f    *os.File
	base int64
}

func (o offset) ReadAt(b []byte, off int64) (int, error) { return o.f.ReadAt(b, o.base+off) }

func TestStartInstaller(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0123456789abcdef")
	ds := []bootdisk.Disk{bootdisktest.Install(t, resetGUID, b, boot.Fresh())}
	s := bootdisktest.System(t, resetGUID, &ds)
	if err := s.StartInstaller(t.Context(), make([]byte, 64<<10), true); !errors.Is(err, bootdisk.ErrAnswerTooLarge) {
		t.Errorf("a large answer: %v", err)
	}
	if args, _, marks := startsAs(t, ds[0]); strings.Contains(args, "in-place") || marks != 0 {
		t.Errorf("what was refused has changed %q, marks %x", args, marks)
	}
	for keep, want := range map[bool]uint64{true: disk.Unfinished | disk.InPlace | disk.KeepsData, false: disk.Unfinished | disk.InPlace} {
		if err := s.StartInstaller(t.Context(), []byte("x = 1\n"), keep); err != nil {
			t.Fatal(err)
		}
		args, answer, marks := startsAs(t, ds[0])
		if !strings.HasSuffix(args, "joist.in-place=1") || strings.Contains(args, "joist.disk=") || answer != "x = 1\n" || marks != want {
			t.Errorf("keep %v: %q, answer %q, marks %x", keep, args, answer, marks)
		}
	}
	// nothing takes the mark away that the next start needs
	if err := s.Reconcile(t.Context(), t.Logf); err == nil {
		t.Error("boot parts that do not start a node are in order")
	}
	if _, _, marks := startsAs(t, ds[0]); marks&disk.InPlace == 0 {
		t.Error("the mark is gone")
	}
	// cut off where a node starts nevertheless, the answer goes at its start
	if err := s.ErasePlaces(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, answer, marks := startsAs(t, ds[0]); answer != "" || marks&disk.InPlace == 0 {
		t.Errorf("erased: answer %q, marks %x", answer, marks)
	}
}

// Each disk of a system starts the installer then, with its own answer; disks
// that are not in step are left as they are.
func TestStartInstallerMany(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0123456789abcdef")
	ds := []bootdisk.Disk{bootdisktest.Install(t, resetGUID, b, boot.Fresh()), bootdisktest.Install(t, resetGUID[:35]+"2", bootdisktest.NewBuild(t, "fedcba9876543210"), boot.Fresh())}
	ds[1].Name = "second"
	s := bootdisktest.System(t, resetGUID, &ds)
	node := func(when string) {
		t.Helper()
		for _, d := range ds {
			if args, answer, marks := startsAs(t, d); strings.Contains(args, "in-place") || answer != "" || marks != 0 {
				t.Errorf("%s: %s starts %q, answer %q, marks %x", when, d.Name, args, answer, marks)
			}
		}
	}
	if err := s.StartInstaller(t.Context(), []byte("x = 1\n"), true); !errors.Is(err, bootdisk.ErrNotAlike) || !strings.Contains(err.Error(), "second") {
		t.Errorf("disks that differ: %v", err)
	}
	node("refused")
	ds[1] = bootdisktest.Install(t, resetGUID[:35]+"2", b, boot.Fresh())
	if err := s.StartInstaller(t.Context(), make([]byte, 64<<10), true); !errors.Is(err, bootdisk.ErrAnswerTooLarge) {
		t.Errorf("a large answer: %v", err)
	}
	node("too large")
	for _, keep := range []bool{true, false} { // the second time from where the first was
		if err := s.StartInstaller(t.Context(), []byte("x = 1\n"), keep); err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			args, answer, marks := startsAs(t, d)
			if !strings.HasSuffix(args, "joist.in-place=1") || strings.Contains(args, "joist.disk=") || answer != "x = 1\n" || marks&disk.InPlace == 0 || keep != (marks&disk.KeepsData != 0) {
				t.Errorf("%s: %q, answer %q, marks %x", d.Name, args, answer, marks)
			}
		}
	}
	if err := s.Reconcile(t.Context(), t.Logf); err == nil {
		t.Error("boot parts that do not start a node are in order")
	}
	if args, _, marks := startsAs(t, ds[1]); marks&disk.InPlace == 0 || !strings.Contains(args, "in-place") {
		t.Errorf("reconciled: %q, marks %x", args, marks)
	}
	if got, _, err := s.Files(t.Context()); err != nil || len(got) != 2 || got[0].Table.DiskGUID != resetGUID {
		t.Errorf("%v %v", got, err)
	}
	// a cut before the last write: the disk that starts the node brings the other
	// one to its state
	ds[0] = bootdisktest.Install(t, resetGUID, b, boot.Fresh())
	if err := errors.Join(s.ErasePlaces(t.Context()), s.Reconcile(t.Context(), t.Logf)); err != nil {
		t.Fatal(err)
	}
	node("cut off")
}

// The disk to start from is one of those that wait, if they are of one system.
func TestInPlaceOfOneSystem(t *testing.T) {
	b := bootdisktest.NewBuild(t, "0123456789abcdef")
	next := disk.NextSystem(disk.SystemOf(resetGUID))
	for name, c := range map[string]struct {
		guids []string
		want  string // of the device, or of the error
	}{
		"one":        {[]string{resetGUID}, "sda3"},
		"two":        {[]string{resetGUID, resetGUID[:35] + "2"}, "sda3"},
		"one is new": {[]string{next + resetGUID[len(next):], resetGUID[:35] + "2"}, "sda3"},
		"copies":     {[]string{resetGUID, resetGUID}, "copies of each other"},
		"strangers":  {[]string{resetGUID, "20000000-0000-4000-8000-000000000002"}, "not of one system"},
	} {
		var devs []block.Device
		for i, guid := range c.guids {
			d := bootdisktest.Install(t, guid, b, boot.Fresh())
			if err := bootdisk.Mark(d, disk.Unfinished|disk.InPlace); err != nil {
				t.Fatal(err)
			}
			whole := block.Device{Name: ".." + d.Path, Disk: ".." + d.Path, Bytes: d.Bytes, Sector: 512}
			devs = append(devs, whole, block.Device{Name: "sd" + string(rune('a'+i)) + "3", Disk: whole.Disk, Partition: 3, Bytes: 1})
		}
		got, err := bootdisk.InPlace(devs, t.TempDir(), disk.NameSlotA)
		if err == nil && got.Name != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v", name, got.Name, err)
		}
	}
}
