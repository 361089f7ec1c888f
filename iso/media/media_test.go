package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/image/boot"
	"joist/image/disk"
	"joist/internal/finding"
	"joist/iso/media/iso9660"
	"joist/rootfs/tree"
)

var update = flag.Bool("update", false, "rewrite golden files")

const build = "0123456789abcdef"

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// grubCore looks like GRUB's El Torito core where we look at it.
func grubCore() tree.Bytes {
	b := bytes.Repeat([]byte{0xab, 1, 2}, 20001)
	binary.LittleEndian.PutUint16(b[coreList+10:], coreSegment)
	return b
}

func hybridSector() tree.Bytes {
	b := bytes.Repeat([]byte{0x90}, lba)
	b[510], b[511] = 0x55, 0xaa
	return b
}

// spec is a medium with the paths of a real one.
func spec() Spec {
	s := Spec{
		VolumeID: "JOIST", Application: "JOIST 0.1.0 BUILD 0123456789ABCDEF", BIOS: "/boot/bios.img", EFI: "/efi.img", HybridMBR: hybridSector(),
		Date: time.Date(2026, 1, 2, 4, 4, 5, 0, time.FixedZone("east", 3600)), DiskGUID: "00112233-4455-6677-8899-AABBCCDDEEFF",
		Files: map[string]tree.Source{"/boot/bios.img": grubCore(), "/efi.img": tree.Bytes(bytes.Repeat([]byte("efi "), 20000))},
	}
	dir := "/joist/" + build
	for _, p := range []string{
		"/boot/vmlinuz", "/boot/initrd", "/boot/grub/grub.cfg", "/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grubx64.efi", "/EFI/BOOT/mmx64.efi", "/joist/answer.toml",
		dir + "/system.sqfs", dir + "/manifest.json", dir + "/boot/grub-boot.img", dir + "/boot/grub-core-disk.img", dir + "/boot/shimx64.efi", dir + "/boot/grubx64.efi", dir + "/boot/mmx64.efi",
	} {
		s.Files[p] = tree.Bytes(strings.Repeat(p, 300))
	}
	return s
}

// write makes the image in a file and returns its name.
func write(t *testing.T, s Spec) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "m.iso"))
	must(t, err)
	defer f.Close()
	must(t, Write(t.Context(), f, s))
	return f.Name()
}

// TestImage: the same twice, whatever the dates and places of the files, and
// every file where the plan says.
func TestImage(t *testing.T) {
	s := spec()
	one, err := os.ReadFile(write(t, s))
	must(t, err)
	dir := t.TempDir()
	for p, c := range s.Files {
		name := filepath.Join(dir, strings.ReplaceAll(p, "/", "_"))
		must(t, os.WriteFile(name, c.(tree.Bytes), 0o600), os.Chtimes(name, time.Unix(1e9, 0), time.Unix(1e9, 0)))
		s.Files[p], err = tree.FromFile(name)
		must(t, err)
	}
	s.Date = s.Date.UTC()
	two, err := os.ReadFile(write(t, s))
	must(t, err)
	if !bytes.Equal(one, two) {
		t.Error("two runs differ")
	}
	m, err := s.Plan()
	must(t, err)
	for p, c := range spec().Files {
		f, ok := m.Volume.Find(p)
		if !ok || p != s.BIOS && !bytes.HasPrefix(one[f.At:], c.(tree.Bytes)) {
			t.Errorf("%s is not where the plan says", p)
		}
	}
	if int64(len(one)) != m.Volume.Size || len(one)%iso9660.Sector != 0 {
		t.Errorf("the image has %d bytes, planned were %d", len(one), m.Volume.Size)
	}
}

// TestBIOS: sector 0 and the core know each other's place.
func TestBIOS(t *testing.T) {
	s := spec()
	b, err := os.ReadFile(write(t, s))
	must(t, err)
	m, err := s.Plan()
	must(t, err)
	le := binary.LittleEndian
	at := uint64(m.BIOS.At)
	if got := le.Uint64(b[hybridKernel:]); got != at/512+4 {
		t.Errorf("the boot sector loads sector %d, the core is at %d", got, at/512)
	}
	if b[0] != 0x90 || le.Uint16(b[510:]) != 0xaa55 || le.Uint32(b[440:]) != 0 {
		t.Error("the boot sector is not that of GRUB")
	}
	for i, want := range [][16]byte{
		{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0}, {0x80, 12: 1},
	} {
		if i == 0 {
			le.PutUint32(want[12:], uint32(len(b)/512-1))
		}
		if got := b[446+16*i:][:16]; !bytes.Equal(got, want[:]) {
			t.Errorf("entry %d of the boot sector is % x", i+1, got)
		}
	}
	core := b[at:][:len(grubCore())]
	if le.Uint64(core[coreList:]) != at/512+5 {
		t.Error("the core does not know where it goes on")
	}
	sum := uint32(0)
	for padded := append(slices.Clone(core[64:]), 0, 0, 0); len(padded) >= 4; padded = padded[4:] {
		sum += le.Uint32(padded)
	}
	if diff := cmp.Diff([]uint32{16, uint32(at / 2048), uint32(len(core)), sum}, []uint32{le.Uint32(core[8:]), le.Uint32(core[12:]), le.Uint32(core[16:]), le.Uint32(core[20:])}); diff != "" {
		t.Errorf("boot information table: %s", diff)
	}
	if !bytes.Equal(core[64:coreList], grubCore()[64:coreList]) || !bytes.Equal(core[coreList+8:], grubCore()[coreList+8:]) {
		t.Error("more of the core was changed")
	}
}

// TestTable: primary and backup say the same, and leave no room inside the
// file system.
func TestTable(t *testing.T) {
	s := spec()
	name := write(t, s)
	b, err := os.ReadFile(name)
	must(t, err)
	m, err := s.Plan()
	must(t, err)
	got, err := disk.ReadTable(bytes.NewReader(b), int64(len(b)), 512)
	must(t, err)
	want := m.Table
	want.DiskGUID = strings.ToUpper(want.DiskGUID)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	efi, _ := m.Volume.Find(s.EFI)
	if p := got.Partitions[1]; p.Type != disk.TypeESP || p.Start != efi.At || p.Size != sectorsUp(efi.Data.Size()) {
		t.Errorf("the EFI partition is %+v, the EFI image lies at %d", p, efi.At)
	}
	end := int64(iso9660.SystemArea)
	for _, p := range got.Partitions {
		if p.Start != end {
			t.Errorf("there is room before %q", p.Name)
		}
		end = p.End()
	}
	if end != int64(len(b))-tail {
		t.Errorf("there is room behind the last partition")
	}
	clear(b[512:1024])
	if again, err := disk.ReadTable(bytes.NewReader(b), int64(len(b)), 512); err != nil || !cmp.Equal(again, got) {
		t.Errorf("the backup says %v, %v", again, err)
	}
}

func TestCheck(t *testing.T) {
	if fl := spec().Check(); len(fl) > 0 {
		t.Errorf("a good medium: %v", fl)
	}
	for name, c := range map[string]struct {
		spoil func(*Spec)
		want  string
	}{
		"volume id":     {func(s *Spec) { s.VolumeID = "-boot" }, "medium-volume"},
		"application":   {func(s *Spec) { s.Application = "joist" }, "medium-application"},
		"guid":          {func(s *Spec) { s.DiskGUID = "--help" }, "medium-guid"},
		"date":          {func(s *Spec) { s.Date = time.Time{} }, "medium-date"},
		"boot sector":   {func(s *Spec) { s.HybridMBR = nil }, "medium-boot"},
		"bios image":    {func(s *Spec) { s.BIOS = "/other.img" }, "medium-boot /other.img"},
		"efi image":     {func(s *Spec) { delete(s.Files, s.EFI) }, "medium-boot /efi.img"},
		"empty image":   {func(s *Spec) { s.Files[s.EFI] = tree.Bytes{} }, "medium-boot /efi.img"},
		"one image":     {func(s *Spec) { s.EFI = s.BIOS }, "medium-boot /boot/bios.img"},
		"climbing path": {func(s *Spec) { s.Files["/a/../../b"] = tree.Bytes{} }, "medium-name /a/../../b"},
		"relative path": {func(s *Spec) { s.Files["a"] = tree.Bytes{} }, "medium-name a"},
		"deep path":     {func(s *Spec) { s.Files["/1/2/3/4/5/6/7/8/9"] = tree.Bytes{} }, "medium-name /1/2/3/4/5/6/7/8/9"},
		"colon":         {func(s *Spec) { s.Files["/a:b"] = tree.Bytes{} }, "medium-name /a:b"},
		"last dot":      {func(s *Spec) { s.Files["/a./b"] = tree.Bytes{} }, "medium-name /a./b"},
		"device":        {func(s *Spec) { s.Files["/boot/Con.txt"] = tree.Bytes{} }, "medium-name /boot/Con.txt"},
		"not a device":  {func(s *Spec) { s.Files["/boot/console"] = tree.Bytes{} }, ""},
		"no content":    {func(s *Spec) { s.Files["/a"] = nil }, "medium-content /a"},
		"large":         {func(s *Spec) { s.Files["/a"] = tree.File{Bytes: 1 << 32} }, "medium-large /a"},
		"just fits":     {func(s *Spec) { s.Files["/a"] = tree.File{Bytes: 1<<32 - 1} }, ""},
		"same file":     {func(s *Spec) { s.Files["/Boot/vmlinuz"] = tree.Bytes{} }, "medium-clash /boot/bios.img medium-clash /boot/grub/grub.cfg medium-clash /boot/initrd medium-clash /boot/vmlinuz"},
		"same name":     {func(s *Spec) { s.Files["/efi/boot/x"] = tree.Bytes{} }, "medium-clash /efi/boot/x"},
		"file as dir":   {func(s *Spec) { s.Files["/efi.img/x"] = tree.Bytes{} }, "medium-clash /efi.img/x"},
	} {
		s := spec()
		c.spoil(&s)
		fl := s.Check()
		var got []string
		for _, f := range fl {
			got = append(got, strings.TrimSpace(f.Code+" "+f.Path))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: %q, want %q", name, g, c.want)
		}
		var e *finding.Error
		if _, err := s.Plan(); fl.Stops() && !errors.As(err, &e) {
			t.Errorf("%s: planned: %v", name, err)
		}
	}
}

// TestWrongImages: what is not GRUB's is not patched.
func TestWrongImages(t *testing.T) {
	for name, spoil := range map[string]func(*Spec){
		"core":   func(s *Spec) { s.Files[s.BIOS] = make(tree.Bytes, 5000) },
		"small":  func(s *Spec) { s.Files[s.BIOS] = make(tree.Bytes, 100) },
		"large":  func(s *Spec) { s.Files[s.BIOS] = make(tree.Bytes, 2<<20) },
		"sector": func(s *Spec) { s.HybridMBR = make(tree.Bytes, 512) },
		"gone":   func(s *Spec) { s.Files["/a"] = tree.File{Path: "/nonexistent", Bytes: 1} },
	} {
		s := spec()
		spoil(&s)
		f, err := os.Create(filepath.Join(t.TempDir(), "m.iso"))
		must(t, err)
		if err := Write(t.Context(), f, s); err == nil {
			t.Errorf("%s: written", name)
		}
		f.Close()
	}
}

// liar is content that is no file, of which size is not the truth.
type liar struct {
	tree.Bytes
	size int64
}

func (l liar) Size() int64 { return l.size }

func TestChangedWhileRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(name, make([]byte, 100), 0o600))
	for _, c := range []tree.Source{
		tree.File{Path: name, Bytes: 99}, tree.File{Path: name, Bytes: 101}, liar{make(tree.Bytes, 100), 99}, liar{make(tree.Bytes, 100), 101},
	} {
		s := spec()
		s.Files["/a"] = c
		f, err := os.Create(filepath.Join(t.TempDir(), "m.iso"))
		must(t, err)
		if err := Write(t.Context(), f, s); !errors.Is(err, errChanged) {
			t.Errorf("%d bytes instead of 100: %v", c.Size(), err)
		}
		f.Close()
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f, err := os.Create(filepath.Join(t.TempDir(), "m.iso"))
	must(t, err)
	defer f.Close()
	if err := Write(ctx, f, spec()); !errors.Is(err, context.Canceled) {
		t.Errorf("written all the same: %v", err)
	}
}

// TestHoles: content arrives whole, and what is empty in it takes no room.
func TestHoles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "holes")
	in, err := os.Create(name)
	must(t, err)
	for _, at := range []int64{0, 1 << 20, 5<<20 + 7} {
		_, err := in.WriteAt([]byte(fmt.Sprintf("at %d", at)), at)
		must(t, err)
	}
	must(t, in.Truncate(64<<20+1), in.Close())
	src, err := tree.FromFile(name)
	must(t, err)
	s := spec()
	s.Files["/holes"] = src
	out, err := os.Open(write(t, s))
	must(t, err)
	defer out.Close()
	m, err := s.Plan()
	must(t, err)
	f, _ := m.Volume.Find("/holes")
	want, err := os.ReadFile(name)
	must(t, err)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(io.NewSectionReader(out, f.At, int64(len(want))), got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the content differs: %v", err)
	}
	if a, b := blocks(t, name), blocks(t, out.Name()); a < 1<<20 && b > 8<<20 {
		t.Errorf("%d bytes of data became %d", a, b)
	}
}

var reMenuPath = regexp.MustCompile(`(?m)(?:^ *linux |^ *initrd |=)(/[a-z0-9/.]+)`)

// TestPlainFiles: the files alone, on a FAT volume, are a medium for UEFI: the
// loader where firmware looks for it, the next one beside it, the menu below
// GRUB's prefix, and what the menu names in its place.
func TestPlainFiles(t *testing.T) {
	s := spec()
	menu, err := boot.MediumMenu(boot.Medium{BuildID: build, Version: "0.1.0", Verity: strings.Repeat("5", 64)})
	must(t, err)
	paths := []string{"/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grubx64.efi", "/EFI/BOOT/mmx64.efi", "/boot/grub/grub.cfg"}
	for _, m := range reMenuPath.FindAllSubmatch(menu, -1) {
		paths = append(paths, string(m[1]))
	}
	if !slices.Contains(paths, "/boot/initrd") || !slices.Contains(paths, "/joist/"+build+"/system.sqfs") {
		t.Errorf("the menu names only %v", paths)
	}
	v := disk.FAT{Size: 64 << 20, SectorSize: 512, Label: "STICK", Time: s.Date}
	for _, p := range slices.Sorted(maps.Keys(s.Files)) {
		v.Files = append(v.Files, disk.File{Path: p, Data: s.Files[p]})
	}
	if _, err := disk.PlanFAT(v); err != nil {
		t.Errorf("a FAT volume cannot hold the files: %v", err)
	}
	for _, p := range paths {
		if s.Files[p] == nil {
			t.Errorf("%s is missing", p)
		}
	}
}
