package diskimage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"joist/image/disk"
	"joist/rootfs/tree"
)

// sample is a sparse image: pieces at odd places, and its end.
func sample(t *testing.T, size int64) (Image, *os.File) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	w := &recorder{File: f, size: size}
	r := rand.New(rand.NewPCG(1, 2))
	for _, at := range []int64{0, 3 << 20, 3<<20 + 70000, 513 << 20, size - 1000} {
		b := make([]byte, min(100_000, size-at))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if _, err := w.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.WriteAt(make([]byte, 10<<20), 100<<20); err != nil { // zeros are nothing
		t.Fatal(err)
	}
	return Image{ReaderAt: f, Size: size, Extents: w.extents()}, f
}

func sum(t *testing.T, r io.ReaderAt, size int64) [32]byte {
	t.Helper()
	h := sha256.New()
	if n, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil || n != size {
		t.Fatalf("%d of %d bytes, %v", n, size, err)
	}
	return [32]byte(h.Sum(nil))
}

// written puts what write makes into a file.
func written(t *testing.T, name string, m Image, write func(io.Writer, Image) error) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := write(f, m); err != nil {
		t.Fatal(err)
	}
	return f
}

// judge runs a program that knows the format too.
func judge(t *testing.T, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("JOIST_NEED_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %q: %v\n%s", name, args, err, out)
	}
}

func TestFormats(t *testing.T) {
	for _, size := range []int64{515<<20 + 512} {
		m, raw := sample(t, size)
		want := sum(t, raw, size)
		if !slices.IsSortedFunc(m.Extents, func(a, b Extent) int { return int(a.Offset - b.Offset) }) || m.Extents[len(m.Extents)-1].Offset+m.Extents[len(m.Extents)-1].Size != size {
			t.Errorf("extents %v", m.Extents)
		}

		qf := written(t, "q.qcow2", m, WriteQcow2)
		q, err := OpenQcow2(qf)
		if err != nil {
			t.Fatal(err)
		}
		if q.Size != size || sum(t, q, size) != want {
			t.Errorf("qcow2 of %d bytes does not read as the image", size)
		}
		if st, _ := qf.Stat(); st.Size() > 2<<20 {
			t.Errorf("qcow2 has %d bytes", st.Size())
		}

		zf := written(t, "z.raw.zst", m, WriteZstd)
		if _, err := zf.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if !IsZstd(zf) || IsZstd(qf) {
			t.Error("IsZstd is wrong")
		}
		to := written(t, "unpacked", m, func(io.Writer, Image) error { return nil })
		if n, err := Unpack(zf, to, func([]byte) bool { return true }); err != nil || n != size || sum(t, to, size) != want {
			t.Errorf("unpacked %d bytes, %v", n, err)
		}
		if _, err := zf.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if _, err := Unpack(zf, to, func([]byte) bool { return false }); !errors.Is(err, ErrNoImage) {
			t.Errorf("another file is an image: %v", err)
		}

		judge(t, "qemu-img", "check", qf.Name())
		judge(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw.Name(), qf.Name())
		judge(t, "zstd", "-q", "-t", zf.Name())
	}
}

func TestSame(t *testing.T) {
	m, _ := sample(t, 515<<20)
	again, _ := sample(t, 515<<20)
	for _, write := range []func(io.Writer, Image) error{WriteQcow2, WriteZstd} {
		var a, b bytes.Buffer
		if err := errors.Join(write(&a, m), write(&b, again)); err != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Errorf("two writes differ: %v", err)
		}
	}
}

func TestWrite(t *testing.T) {
	guids := [5]string{}
	for i := range guids {
		guids[i] = "00000000-0000-4000-8000-00000000000" + string(rune('1'+i))
	}
	for _, sector := range []int{512, 4096} {
		l, err := disk.PlanImage(disk.ImageRequest{SectorSize: sector, DiskGUID: "00000000-0000-4000-8000-000000000000", PartGUIDs: guids})
		if err != nil {
			t.Fatal(err)
		}
		l.SectorSize = sector
		esp, err := l.Find(disk.NameESP)
		if err != nil {
			t.Fatal(err)
		}
		core := make([]byte, 1024) // as grub-mkimage writes it: one more sector, to segment 0x820
		core[0x1fc], core[0x1fe], core[0x1ff] = 1, 0x20, 0x08
		img := make([]byte, 512)
		img[510], img[511], img[0x66] = 0x55, 0xaa, 0x90
		f, err := os.Create(filepath.Join(t.TempDir(), "raw"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		m, err := Write(f, Spec{Layout: l, System: tree.Bytes("system"), BootImg: img, Core: core,
			ESP: disk.FAT{Size: esp.Size, SectorSize: sector, Start: esp.Start, Label: "E", Files: []disk.File{{Path: "/a/b", Data: tree.Bytes("text")}}}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := disk.ReadTable(f, m.Size, sector)
		if err != nil || len(got.Partitions) != len(l.Partitions) || got.Marks() != disk.Unfinished|disk.InPlace {
			t.Errorf("%d: %+v %v", sector, got, err)
		}
		files, err := disk.ReadFAT(io.NewSectionReader(f, esp.Start, esp.Size))
		if err != nil || len(files) != 1 {
			t.Errorf("%d: %v %v", sector, files, err)
		}
		a, _ := l.Find(disk.NameSlotA)
		b := make([]byte, 6)
		if _, err := f.ReadAt(b, a.Start); err != nil || string(b) != "system" {
			t.Errorf("%d: slot begins with %q, %v", sector, b, err)
		}
		if _, err := Write(f, Spec{Layout: l, System: tooLarge{}, BootImg: img, Core: core, ESP: disk.FAT{Size: esp.Size, SectorSize: sector, Start: esp.Start, Label: "E"}}); err == nil {
			t.Error("a system that is too large is written")
		}
		judge(t, "sfdisk", "--json", f.Name())
	}
}

// tooLarge is a system that no slot holds.
type tooLarge struct{ tree.Bytes }

func (tooLarge) Size() int64 { return disk.SlotSize + 1 }
