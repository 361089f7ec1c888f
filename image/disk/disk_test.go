package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/rootfs/tree"
)

var update = flag.Bool("update", false, "rewrite golden files")

func request(size int64, sector int) Request {
	r := Request{Size: size, SectorSize: sector, DiskGUID: "00112233-4455-6677-8899-AABBCCDDEEFF"}
	for i := range r.PartGUIDs {
		r.PartGUIDs[i] = fmt.Sprintf("00112233-4455-6677-8899-AABBCCDDEE0%d", i)
	}
	return r
}

func mustPlan(t testing.TB, r Request) Layout {
	t.Helper()
	l, err := Plan(r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name        string
		size, limit int64
		sector      int
		esp, data   int64 // MiB
		err         string
	}{
		{name: "20 GiB", size: 20 * GiB, sector: 512, esp: 512, data: 20*1024 - 2 - 512 - 4096 - 1},
		{name: "below 32 GB", size: SmallDisk - 512, sector: 512, esp: 512, data: 30517 - 2 - 512 - 4096},
		{name: "32 GB", size: SmallDisk, sector: 512, esp: 1024, data: 30517 - 2 - 1024 - 4096},
		{name: "4Kn", size: 100 * GiB, sector: 4096, esp: 1024, data: 100*1024 - 2 - 1024 - 4096 - 1},
		{name: "odd size", size: 100*GiB + 1234567, sector: 512, esp: 1024, data: 100*1024 - 2 - 1024 - 4096 + 1},
		{name: "hdsize", size: 1000 * GiB, limit: 64 * GiB, sector: 512, esp: 1024, data: 64*1024 - 2 - 1024 - 4096},
		{name: "hdsize beyond the disk", size: 40 * GiB, limit: 64 * GiB, sector: 512, esp: 1024, data: 40*1024 - 2 - 1024 - 4096 - 1},
		{name: "small hdsize", size: 1000 * GiB, limit: 16 * GiB, sector: 512, esp: 512, data: 16*1024 - 2 - 512 - 4096},
		{name: "too small", size: 5 * GiB, sector: 512, err: "at least 5634 MiB are needed"},
		{name: "nothing", size: 0, sector: 512, err: "0 MiB are usable"},
		{name: "sectors of 520", size: 20 * GiB, sector: 520, err: "520"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request(c.size, c.sector)
			r.Limit = c.limit
			l, err := Plan(r)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Partitions[1].Size / MiB; got != c.esp {
				t.Errorf("ESP has %d MiB, want %d", got, c.esp)
			}
			if got := l.Partitions[4].Size / MiB; got != c.data {
				t.Errorf("data has %d MiB, want %d", got, c.data)
			}
			for _, p := range l.Partitions {
				if p.Start%Align != 0 || p.Size%Align != 0 {
					t.Errorf("partition %s is not aligned", p.Name)
				}
			}
		})
	}
}

func TestLayoutGolden(t *testing.T) {
	got, _ := json.MarshalIndent(mustPlan(t, request(64*GiB, 512)), "", "\t")
	golden(t, "layout.json", append(got, '\n'))
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs, got:\n%s", name, got)
	}
}

// image is a sparse file of the given size.
func image(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

// tool runs an outside checker, or skips the test where it is missing.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path = "/usr/sbin/" + name; !exists(path) {
			t.Skipf("%s is not installed", name)
		}
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

func TestTableRoundTrip(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		l := mustPlan(t, request(40*GiB, sector))
		f := image(t, l.Size)
		if err := WriteTable(f, l); err != nil {
			t.Fatal(err)
		}
		for _, given := range []int{0, sector} {
			got, err := ReadTable(f, l.Size, given)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got) != fmt.Sprint(l) {
				t.Errorf("read\n%v\nwrote\n%v", got, l)
			}
		}
		if p, err := l.Find(NameSlotB); err != nil || p.Number != 4 {
			t.Errorf("slot B: %v %v", p, err)
		}
		// Each damage to the primary is healed by the backup; both gone is an error.
		for _, at := range []int64{0, 20, 60, int64(sector) + 40} {
			b := []byte{0}
			f.ReadAt(b, int64(sector)+at)
			f.WriteAt([]byte{b[0] ^ 0xff}, int64(sector)+at)
			if got, err := ReadTable(f, l.Size, 0); err != nil || len(got.Partitions) != 5 {
				t.Errorf("damage at %d: %v", at, err)
			}
			f.WriteAt(b, int64(sector)+at)
		}
		f.WriteAt(make([]byte, 8), int64(sector))
		f.WriteAt(make([]byte, 8), l.Size-int64(sector))
		if _, err := ReadTable(f, l.Size, 0); !errors.Is(err, ErrNoTable) {
			t.Errorf("no headers: %v", err)
		}
	}
}

// cut is a disk that loses power after so many writes.
type cut struct {
	*os.File
	left int
}

var errCut = errors.New("power cut")

func (c *cut) WriteAt(b []byte, at int64) (int, error) {
	if c.left--; c.left < 0 {
		n, _ := c.File.WriteAt(b[:len(b)/2/512*512], at) // torn
		return n, errCut
	}
	return c.File.WriteAt(b, at)
}

func (c *cut) Sync() error { return nil }

// TestTableSurvivesCuts: after any cut the table is the old or the new one,
// and what a disk without one began with is there until the new one is.
func TestTableSurvivesCuts(t *testing.T) {
	old := mustPlan(t, request(40*GiB, 512))
	fresh := old.Marked(Unfinished)
	fresh.DiskGUID = "ABABABAB-ABAB-4BAB-ABAB-ABABABABABAB"
	for _, first := range []bool{false, true} {
		for left := range 3 {
			f := image(t, old.Size)
			if _, err := f.WriteAt([]byte("what was there"), 0); err != nil {
				t.Fatal(err)
			}
			if first {
				if err := UpdateTable(f, old); err != nil {
					t.Fatal(err)
				}
			}
			if err := WriteTable(&cut{f, left}, fresh); !errors.Is(err, errCut) {
				t.Fatal(err)
			}
			got, err := ReadTable(f, old.Size, 512)
			head := make([]byte, 14)
			if _, rerr := f.ReadAt(head, 0); rerr != nil {
				t.Fatal(rerr)
			}
			switch {
			case first && err == nil && (got.DiskGUID == old.DiskGUID || got.Marks() == Unfinished):
			case !first && left == 0 && errors.Is(err, ErrNoTable) && string(head) == "what was there":
			case !first && left > 0 && err == nil && got.Marks() == Unfinished:
			default:
				t.Errorf("table before: %v, cut after %d writes: %v, disk %s, it begins with %q", first, left, err, got.DiskGUID, head)
			}
		}
	}
}

func TestMarks(t *testing.T) {
	l := mustPlan(t, request(40*GiB, 512))
	l.Partitions[1].Attributes = 1
	m := l.Marked(Unfinished | KeepsData)
	if l.Marks() != 0 || m.Marks() != Unfinished|KeepsData || m.Marked(Unfinished).Marks() != Unfinished || fmt.Sprint(m.Marked(0)) != fmt.Sprint(l) {
		t.Errorf("%v\n%v", l, m)
	}
	f := image(t, l.Size)
	if err := WriteTable(f, m); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("boot code"), 0); err != nil {
		t.Fatal(err)
	}
	if err := UpdateTable(f, m.Marked(0)); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 9)
	if got, err := ReadTable(f, l.Size, 512); err != nil || got.Marks() != 0 || got.Partitions[1].Attributes != 1 {
		t.Errorf("%v %v", got, err)
	}
	if _, err := f.ReadAt(head, 0); err != nil || string(head) != "boot code" {
		t.Errorf("sector 0 holds %q (%v)", head, err)
	}
}

func TestFindRefusesTwins(t *testing.T) {
	l := mustPlan(t, request(40*GiB, 512))
	l.Partitions[4].Name = NameSlotA
	if _, err := l.Find(NameSlotA); err == nil {
		t.Error("two partitions of one name were accepted")
	}
	if _, err := l.Find(NameData); err == nil {
		t.Error("a missing partition was found")
	}
}

func TestTableAcceptedBySgdisk(t *testing.T) {
	l := mustPlan(t, request(40*GiB+777*512, 512))
	f := image(t, l.Size)
	if err := WriteTable(f, l); err != nil {
		t.Fatal(err)
	}
	out := tool(t, "sgdisk", "-v", "-p", f.Name())
	if !strings.Contains(out, "No problems found") || strings.Contains(strings.ToLower(out), "caution") {
		t.Errorf("sgdisk says:\n%s", out)
	}
	for _, p := range l.Partitions {
		if !strings.Contains(out, p.Name) {
			t.Errorf("sgdisk does not list %s", p.Name)
		}
	}
}

func TestGUID(t *testing.T) {
	id, err := NewGUID(bytes.NewReader(bytes.Repeat([]byte{0xab}, 16)))
	if err != nil || id != "ABABABAB-ABAB-4BAB-ABAB-ABABABABABAB" {
		t.Errorf("%s %v", id, err)
	}
	for _, bad := range []string{"", "x", "00112233-4455-6677-8899-AABBCCDDEEF", "00112233-4455-6677-8899-AABBCCDDEE-F", "0011223g-4455-6677-8899-AABBCCDDEEFF"} {
		if _, err := parseGUID(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzReadTable(f *testing.F) {
	l := mustPlan(f, request(6*GiB, 512))
	var m sparse
	if err := WriteTable(&m, l); err != nil {
		f.Fatal(err)
	}
	f.Add(m.head(48 << 10))
	f.Fuzz(func(t *testing.T, b []byte) {
		size := max(int64(len(b)), 1<<20)
		l, err := ReadTable(bytes.NewReader(b), size, 0)
		if err != nil {
			return
		}
		for _, p := range l.Partitions {
			if p.Start < 0 || p.Size <= 0 || p.End() > size {
				t.Fatalf("partition %+v lies outside %d bytes", p, size)
			}
		}
	})
}

// sparse keeps what is written at the head of a disk.
type sparse struct{ b []byte }

func (s *sparse) WriteAt(p []byte, at int64) (int, error) {
	if at < 1<<20 {
		if n := int(at) + len(p); n > len(s.b) {
			s.b = append(s.b, make([]byte, n-len(s.b))...)
		}
		copy(s.b[at:], p)
	}
	return len(p), nil
}

func (s *sparse) head(n int) []byte { return append(s.b, make([]byte, n)...)[:n] }

func random(n int, seed uint64) tree.Bytes {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func spec(size int64, sector int) FAT {
	f := FAT{Size: size, SectorSize: sector, Label: "JOIST-ESP", Serial: 0x12345678, Start: 2 * MiB,
		Time: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)}
	add := func(p string, d tree.Bytes) { f.Files = append(f.Files, File{p, d}) }
	add("/EFI/BOOT/BOOTX64.EFI", random(1_000_001, 1))
	add("/EFI/BOOT/grubx64.efi", random(2_300_000, 2))
	add("/EFI/debian/grub.cfg", tree.Bytes("configfile\n"))
	add("/joist/grubenv", random(1024, 3))
	add("/joist/A/vmlinuz", random(4096, 4))
	add("/joist/empty", nil)
	add("/joist/A/ein langer Name mit Umläuten äöü.txt", tree.Bytes("long"))
	add("/joist/A/ein langer Name, noch einer.txt", tree.Bytes("long too"))
	for i := range 150 {
		add(fmt.Sprintf("/many/a file with a rather long name, number %d", i), tree.Bytes(fmt.Sprint(i)))
	}
	return f
}

func TestFATAcceptedByTools(t *testing.T) {
	for _, c := range []struct {
		size   int64
		sector int
		bits   int
	}{
		{8 * MiB, 512, 16}, {32 * MiB, 512, 16}, {33 * MiB, 512, 32}, {40 * MiB, 512, 32}, {64 * MiB, 512, 32}, {100 * MiB, 512, 32}, {259 * MiB, 512, 32},
		{SmallESP, 512, 32}, {ESPSize, 512, 32}, {ESPSize, 4096, 32}, {SmallESP, 4096, 32}, {100 * MiB, 4096, 16}, {8*MiB + 512*7, 512, 16},
	} {
		t.Run(fmt.Sprintf("%dK-%d", c.size/1024, c.sector), func(t *testing.T) {
			v, err := PlanFAT(spec(c.size, c.sector))
			if err != nil {
				t.Fatal(err)
			}
			if v.bits != c.bits {
				t.Errorf("FAT%d, want FAT%d", v.bits, c.bits)
			}
			f := image(t, c.size)
			if err := v.Write(f); err != nil {
				t.Fatal(err)
			}
			for _, x := range v.spec.Files {
				checkFile(t, v, f, x)
			}
			out := tool(t, "fsck.fat", "-n", "-v", f.Name())
			for _, bad := range []string{"Free cluster", "Invalid", "wrong", "differ", "Auto-correct", "Bad", "Performing changes"} {
				if strings.Contains(out, bad) {
					t.Errorf("fsck.fat says:\n%s", out)
				}
			}
			if c.sector == 512 {
				if out := tool(t, "mtype", "-i", f.Name(), "::/joist/A/ein langer Name, noch einer.txt"); out != "long too" {
					t.Errorf("mtype says %q", out)
				}
				if out := tool(t, "mdir", "-i", f.Name(), "::/EFI/BOOT"); !strings.Contains(out, "2026-01-02") || !strings.Contains(out, "grubx64.efi") {
					t.Errorf("mdir says:\n%s", out)
				}
			}
		})
	}
}

// checkFile compares content and both ways to its place.
func checkFile(t *testing.T, v *Volume, f *os.File, x File) {
	t.Helper()
	want := x.Data.(tree.Bytes)
	if len(want) == 0 {
		if _, err := v.Offset(x.Path); err == nil {
			t.Errorf("%s is empty and has an offset", x.Path)
		}
		return
	}
	at, err := v.Offset(x.Path)
	if err != nil {
		t.Fatal(err)
	}
	e, err := LocateFAT(f, x.Path)
	if err != nil || e != (Extent{at, int64(len(want))}) {
		t.Errorf("%s: planned at %d, found %+v: %v", x.Path, at, e, err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, at); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: other content (%v)", x.Path, err)
	}
}

func TestFATSameBytes(t *testing.T) {
	var sums [2][]byte
	for i := range sums {
		s := spec(8*MiB, 512)
		if i == 1 { // the order of the list does not matter
			for a, b := 0, len(s.Files)-1; a < b; a, b = a+1, b-1 {
				s.Files[a], s.Files[b] = s.Files[b], s.Files[a]
			}
		}
		v, err := PlanFAT(s)
		if err != nil {
			t.Fatal(err)
		}
		f := image(t, s.Size)
		if err := v.Write(f); err != nil {
			t.Fatal(err)
		}
		sums[i], _ = os.ReadFile(f.Name())
	}
	if !bytes.Equal(sums[0], sums[1]) {
		t.Error("two runs differ")
	}
}

type liar struct{ tree.Bytes }

func (liar) Size() int64 { return 3 }

func TestFATRefuses(t *testing.T) {
	file := func(p string) []File { return []File{{p, tree.Bytes("x")}} }
	for _, c := range []struct {
		name string
		f    FAT
		err  string
	}{
		{"size", FAT{Size: MiB, SectorSize: 512, Label: "X"}, "too few"},
		{"sector", FAT{Size: 8 * MiB, SectorSize: 1024, Label: "X"}, "1024"},
		{"label", FAT{Size: 8 * MiB, SectorSize: 512, Label: "joist"}, "label"},
		{"name", FAT{Size: 8 * MiB, SectorSize: 512, Label: "X", Files: file("/a:b")}, "character"},
		{"dots", FAT{Size: 8 * MiB, SectorSize: 512, Label: "X", Files: file("/a/../b")}, "not a file name"},
		{"twins", FAT{Size: 8 * MiB, SectorSize: 512, Label: "X", Files: append(file("/a"), file("/A")...)}, "same name"},
		{"file in file", FAT{Size: 8 * MiB, SectorSize: 512, Label: "X", Files: append(file("/a"), file("/a/b")...)}, "same name"},
		{"full", FAT{Size: 3 * MiB, SectorSize: 512, Label: "X", Files: []File{{"/a", random(4<<20, 1)}}}, "holds"},
	} {
		if _, err := PlanFAT(c.f); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.err)
		}
	}
	for _, content := range []string{"four", "ab"} {
		v, err := PlanFAT(FAT{Size: 8 * MiB, SectorSize: 512, Label: "X", Files: []File{{"/a", liar{tree.Bytes(content)}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Write(image(t, 8*MiB)); err == nil {
			t.Errorf("content %q of announced size 3 was written", content)
		}
	}
}

// A volume is made anew from what another one holds.
func TestReadFAT(t *testing.T) {
	for _, size := range []int64{64 * MiB, 16 * MiB} {
		f := spec(size, 512)
		var images [2]bytes.Buffer
		for i := range images {
			v, err := PlanFAT(f)
			if err != nil {
				t.Fatal(err)
			}
			out := image(t, size)
			if err := v.Write(out); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(&images[i], io.NewSectionReader(out, 0, size)); err != nil {
				t.Fatal(err)
			}
			if f.Files, err = ReadFAT(bytes.NewReader(images[i].Bytes())); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(images[0].Bytes(), images[1].Bytes()) {
			t.Errorf("%d MiB: the copy differs", size/MiB)
		}
	}
}

// Folders that are reached twice are refused before they multiply.
func TestReadFATFoldersTwice(t *testing.T) {
	const levels = 11
	f := FAT{Size: 64 * MiB, SectorSize: 512, Label: "X"}
	for i := range levels {
		f.Files = append(f.Files, File{strings.Repeat("/0", i) + "/1/x", tree.Bytes("1")})
	}
	f.Files = append(f.Files, File{strings.Repeat("/0", levels) + "/x", tree.Bytes("1")})
	v, err := PlanFAT(f)
	if err != nil {
		t.Fatal(err)
	}
	out := image(t, f.Size)
	if err := v.Write(out); err != nil {
		t.Fatal(err)
	}
	if list, err := ReadFAT(out); err != nil || len(list) != levels+1 {
		t.Fatal(len(list), err)
	}
	r, err := openFAT(out)
	if err != nil {
		t.Fatal(err)
	}
	// in each folder, 1 becomes another name of 0: 2^11 ways to the last one
	for at := r.rootAt; at != 0; {
		dir, err := r.read([]int64{at})
		if err != nil {
			t.Fatal(err)
		}
		down, _ := findEntry(dir, "0")
		for i := 0; i < len(dir) && dir[i] != 0; i += direntSize {
			if dir[i] == '1' && dir[i+11] == 0x10 {
				binary.LittleEndian.PutUint16(dir[i+26:], uint16(down.cluster))
				binary.LittleEndian.PutUint16(dir[i+20:], uint16(down.cluster>>16))
			}
		}
		if _, err := out.WriteAt(dir, r.offset(at)); err != nil {
			t.Fatal(err)
		}
		at = down.cluster
	}
	reads := &counter{ReaderAt: out}
	if _, err := ReadFAT(reads); err == nil || !strings.Contains(err.Error(), "shares its clusters") || reads.n > 100 {
		t.Errorf("%v after %d reads", err, reads.n)
	}
}

// counter counts reads.
type counter struct {
	io.ReaderAt
	n int
}

func (c *counter) ReadAt(b []byte, off int64) (int, error) {
	c.n++
	return c.ReaderAt.ReadAt(b, off)
}

func FuzzLocateFAT(f *testing.F) {
	v, err := PlanFAT(FAT{Size: 3 * MiB, SectorSize: 512, Label: "X", Files: []File{{"/joist/grubenv", tree.Bytes("0123456789")}}})
	if err != nil {
		f.Fatal(err)
	}
	var m sparse
	if err := v.Write(&m); err != nil {
		f.Fatal(err)
	}
	f.Add(m.head(64 << 10))
	f.Fuzz(func(t *testing.T, b []byte) {
		LocateFAT(bytes.NewReader(b), "/joist/grubenv")
	})
}

func BenchmarkFAT(b *testing.B) {
	s := FAT{Size: ESPSize, SectorSize: 512, Label: "X", Files: []File{{"/a", random(100<<20, 1)}}}
	f := image(b, s.Size)
	b.SetBytes(100 << 20)
	for b.Loop() {
		v, err := PlanFAT(s)
		if err == nil {
			err = v.Write(f)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
