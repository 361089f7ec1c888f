package bootdisk_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"joist/image/boot"
	"joist/image/disk"
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
	ds = append(ds, bootdisktest.Install(t, resetGUID[:35]+"2", b, boot.Fresh()))
	if err := s.StartInstaller(t.Context(), nil, true); !errors.Is(err, bootdisk.ErrMirror) {
		t.Errorf("a mirror: %v", err)
	}
}
