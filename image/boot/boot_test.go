package boot

import (
	"bytes"
	"encoding/binary"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"joist/image/disk"
	"joist/rootfs/tree"
)

var update = flag.Bool("update", false, "rewrite golden files")

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

func manifest() Manifest {
	m := Manifest{
		BuildID: "0123456789abcdef", Version: "0.1.0", Built: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		Kernel: "6.12.107+deb13-amd64", VerityRoot: strings.Repeat("ab", 32), Files: map[string]File{},
	}
	for i, n := range []string{FileKernel, FileInitrd, FileSystem} {
		m.Files[n] = File{Size: int64(i + 1), SHA256: strings.Repeat("0f", 32)}
	}
	return m
}

func slotBoot(s Slot) SlotBoot {
	return SlotBoot{Manifest: manifest(), Slot: s, DiskGUID: "00112233-4455-6677-8899-AABBCCDDEEFF", State: "lvm:abcdef-abcd-abcd-abcd-abcd-abcd-ABCDEF"}
}

func TestManifest(t *testing.T) {
	b, err := manifest().Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "manifest.json", b)
	got, err := DecodeManifest(b)
	want := manifest()
	want.Built = want.Built.Truncate(time.Second)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v", got, err)
	}
	for name, spoil := range map[string]func(*Manifest){
		"build id": func(m *Manifest) { m.BuildID = "../../../../../etc" },
		"version":  func(m *Manifest) { m.Version = "0.1'; halt" },
		"kernel":   func(m *Manifest) { m.Kernel = "" },
		"verity":   func(m *Manifest) { m.VerityRoot = strings.Repeat("AB", 32) },
		"built":    func(m *Manifest) { m.Built = time.Time{} },
		"files":    func(m *Manifest) { delete(m.Files, FileInitrd) },
	} {
		m := manifest()
		if spoil(&m); m.Validate() == nil {
			t.Errorf("a wrong %s was accepted", name)
		}
	}
}

func TestTexts(t *testing.T) {
	text := func(name string) func([]byte, error) {
		return func(b []byte, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, b)
		}
	}
	text("medium.cfg")(MediumMenu(Medium{BuildID: "0123456789abcdef", Version: "0.1.0", Verity: strings.Repeat("5", 64), Extra: []string{"quiet"}}))
	text("medium-stub.cfg")(MediumStub("0123456789abcdef"))
	text("disk.cfg")(DiskMenu(nil))
	text("disk-stub.cfg")(DiskStub(), nil)
	text("A.cfg")(SlotConfig(slotBoot(A)))
	other := slotBoot(B)
	other.Console, other.Extra = []string{"console=ttyS1,9600n8"}, []string{"intel_iommu=on", "pci=nomsi"}
	text("B.cfg")(SlotConfig(other))
	text("cores.txt")([]byte(strings.Join(MediumCore("medium.img"), " ")+"\n"+strings.Join(DiskCore("disk.img"), " ")+"\n"), nil)
}

// GRUB speaks on the line that the kernel speaks on, the last of several.
func TestSerial(t *testing.T) {
	for consoles, want := range map[string]string{
		"console=tty0":                                   "",
		"console=tty0 console=ttyS0,115200":              "serial --unit=0 --speed=115200;",
		"console=ttyS0,115200 console=ttyS1,57600n8":     "serial --unit=1 --speed=57600;",
		"console=ttyS2":                                  "serial --unit=2 --speed=9600;",
		"console=ttyS3,9600e7r console=tty0":             "serial --unit=3 --speed=9600 --word=7 --parity=even;",
		"console=ttyS1,38400o console=ttyS4,115200":      "serial --unit=1 --speed=38400 --parity=odd;",
		"console=ttyUSB0,115200 console=hvc0":            "",
		"console=ttyS0,115200;reboot console=ttyS00,300": "",
	} {
		list := strings.Fields(consoles)
		for what, make := range map[string]func() ([]byte, error){
			"disk": func() ([]byte, error) { return DiskMenu(list) },
			"medium": func() ([]byte, error) {
				return MediumMenu(Medium{BuildID: "0123456789abcdef", Version: "0.1.0", Verity: strings.Repeat("5", 64), Console: list})
			},
		} {
			text, err := make()
			if err != nil {
				t.Errorf("%s, %s: %v", what, consoles, err)
			}
			if has := strings.Contains(string(text), "serial"); has != (want != "") || !strings.Contains(string(text), want) {
				t.Errorf("%s: %s gives\n%.400s", what, consoles, text)
			}
		}
	}
	if _, err := MediumMenu(Medium{BuildID: "0123456789abcdef", Version: "0.1.0", Verity: strings.Repeat("5", 64), Console: []string{"console=ttyS0,1500000"}}); err == nil {
		t.Error("a menu was made for a speed that GRUB does not know")
	}
	// An installation does not fail for it.
	if text, err := DiskMenu([]string{"console=ttyS0,1500000"}); err != nil || strings.Contains(string(text), "serial") {
		t.Errorf("%v\n%.400s", err, text)
	}
}

func TestTextsRefuse(t *testing.T) {
	for name, spoil := range map[string]func(*SlotBoot){
		"slot":       func(b *SlotBoot) { b.Slot = "C" },
		"disk":       func(b *SlotBoot) { b.DiskGUID = "sda" },
		"state":      func(b *SlotBoot) { b.State = "lvm:x" },
		"quote":      func(b *SlotBoot) { b.Extra = []string{"a='b'"} },
		"blank":      func(b *SlotBoot) { b.Extra = []string{"a b"} },
		"expansion":  func(b *SlotBoot) { b.Console = []string{"console=$x"} },
		"next line":  func(b *SlotBoot) { b.Extra = []string{"a\nreboot"} },
		"empty word": func(b *SlotBoot) { b.Extra = []string{""} },
		"manifest":   func(b *SlotBoot) { b.Manifest.VerityRoot = "" },
	} {
		b := slotBoot(A)
		if spoil(&b); true {
			if _, err := SlotConfig(b); err == nil {
				t.Errorf("a wrong %s was accepted", name)
			}
		}
	}
	for _, m := range []Medium{{BuildID: "x", Version: "0.1.0"}, {BuildID: "0123456789abcdef", Version: "\""}, {BuildID: "0123456789abcdef", Version: "1", Verity: strings.Repeat("5", 64), Extra: []string{"}"}}, {BuildID: "0123456789abcdef", Version: "1"}} {
		if _, err := MediumMenu(m); err == nil {
			t.Errorf("%+v was accepted", m)
		}
	}
	if _, err := MediumStub(""); err == nil {
		t.Error("an empty build id was accepted")
	}
}

func TestEnv(t *testing.T) {
	e := &Env{}
	for _, v := range [][2]string{{"order", "A B"}, {"odd", "back\\slash\nand = #line"}, {"empty", ""}, {"order", "B A"}} {
		if err := e.Set(v[0], v[1]); err != nil {
			t.Fatal(err)
		}
	}
	b, err := e.Encode()
	if err != nil || len(b) != EnvSize {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	golden(t, "grubenv", b)
	got, err := DecodeEnv(b)
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("%+v %v", got, err)
	}
	// What grub-editenv of Debian writes.
	theirs := envHeader + "# WARNING: Do not edit this file by tools other than grub-editenv!!!\nA_try=2\n"
	theirs += strings.Repeat("#", EnvSize-len(theirs))
	if got, err := DecodeEnv([]byte(theirs)); err != nil || got.Get("A_try") != "2" || len(got.vars) != 1 {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range [][]byte{nil, b[1:], make([]byte, EnvSize)} {
		if _, err := DecodeEnv(bad); err == nil {
			t.Errorf("%.20q was accepted", bad)
		}
	}
	if e.Set("a-b", "") == nil || e.Set("", "") == nil || e.Set("a", "\x00") == nil {
		t.Error("a wrong variable was accepted")
	}
	e.Set("big", strings.Repeat("x", 1000))
	if _, err := e.Encode(); err == nil {
		t.Error("too large a block was written")
	}
}

func FuzzEnv(f *testing.F) {
	e := &Env{}
	e.Set("A_try", "3")
	e.Set("odd", "a\\\n#b")
	b, _ := e.Encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := DecodeEnv(b)
		if err != nil {
			return
		}
		out, err := e.Encode()
		if err != nil {
			return // quoting may need more room than a careless writer took
		}
		if again, err := DecodeEnv(out); err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%+v became %+v: %v", e, again, err)
		}
		DecodeState(e)
	})
}

func TestMBR(t *testing.T) {
	img := make([]byte, 512)
	for i := range img {
		img[i] = byte(i)
	}
	img[0x66], img[510], img[511] = 0xeb, 0x55, 0xaa
	zero := disk.ProtectiveMBR(disk.Layout{SectorSize: 512, Size: 40 * disk.GiB})
	b, err := MBR(img, zero, 2048)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(img)
	copy(want[440:], zero[440:])
	binary.LittleEndian.PutUint64(want[0x5c:], 2048)
	want[0x66], want[0x67] = 0x90, 0x90
	if !bytes.Equal(b, want) {
		t.Errorf("got\n%x\nwant\n%x", b, want)
	}
	if _, err := MBR(img[:511], zero, 1); err == nil {
		t.Error("a short image was accepted")
	}
	if _, err := MBR(img, make([]byte, 512), 1); err == nil {
		t.Error("a disk without a table was accepted")
	}
}

func TestCore(t *testing.T) {
	core := make([]byte, 1500)
	core[0x1f4], core[0x1fc], core[0x1fe], core[0x1ff] = 2, 2, 0x20, 0x08
	b, err := Core(core, 2048, 1<<20)
	if err != nil || len(b) != 1536 || binary.LittleEndian.Uint64(b[0x1f4:]) != 2049 || b[0x1fc] != 2 {
		t.Errorf("%d bytes, list %x: %v", len(b), b[0x1f4:0x200], err)
	}
	if _, err := Core(core, 2048, 1024); err == nil {
		t.Error("a core larger than its partition was accepted")
	}
	core[0x1fc] = 5
	if _, err := Core(core, 2048, 1<<20); err == nil {
		t.Error("a core with another list was accepted")
	}
}

func TestVolumes(t *testing.T) {
	l := Loaders{Shim: tree.Bytes("shim"), Grub: tree.Bytes("grub"), MOK: tree.Bytes("mok")}
	part := disk.Partition{Start: 2 * disk.MiB, Size: 64 * disk.MiB}
	f, err := ESP{Loaders: l, Kernel: tree.Bytes("kernel"), Initrd: tree.Bytes("initrd"), Boot: slotBoot(A), State: Fresh()}.Volume(part, 512, 1)
	if err != nil {
		t.Fatal(err)
	}
	v, err := disk.PlanFAT(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/EFI/BOOT/BOOTX64.EFI", "/EFI/joist/shimx64.efi", "/EFI/joist/grubx64.efi", PathStub, PathMenu, PathEnv, PathSlotConfig(A), PathSlotFile(A, FileInitrd)} {
		if _, err := v.Offset(p); err != nil {
			t.Error(err)
		}
	}
	m, err := MediumImage("0123456789abcdef", l, time.Unix(0, 0), 1)
	if err != nil {
		t.Fatal(err)
	}
	if v, err = disk.PlanFAT(m); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Offset("/boot/grub/grub.cfg"); err != nil {
		t.Error(err)
	}
	if _, err := MediumImage("0123456789abcdef", Loaders{}, time.Unix(0, 0), 1); err == nil {
		t.Error("missing loaders were accepted")
	}
}

func TestBootOrder(t *testing.T) {
	for _, c := range []struct {
		old, want string
		at        int
	}{{"", "N.", 0}, {"", "N.", 1}, {"a.b.", "N.a.b.", 0}, {"a.b.", "a.N.b.", 1}, {"a.N.", "N.a.", 0}, {"N.a.", "a.N.", 1}, {"a.b", "N.a.", 0}} {
		if got := BootOrder([]byte(c.old), '.'<<8|'N', c.at); string(got) != c.want {
			t.Errorf("%q at %d: %q", c.old, c.at, got)
		}
	}
	if got := WithoutEntry([]byte("a.N.b."), '.'<<8|'N'); string(got) != "a.b." {
		t.Errorf("%q", got)
	}
}

func TestLoadOption(t *testing.T) {
	p := disk.Partition{Number: 2, Start: 2 << 20, Size: 1 << 30, GUID: "00112233-4455-6677-8899-AABBCCDDEEFF"}
	b, err := LoadOption(EntryName(1), p, 512, PathLoader)
	if err != nil {
		t.Fatal(err)
	}
	if name, guid := ReadOption(b); name != "Joist, disk 2" || guid != p.GUID || !OurEntry(name) || OurEntry("Joistick") {
		t.Errorf("%q %q", name, guid)
	}
	for n := range len(b) { // what firmware keeps may be cut
		ReadOption(b[:n])
	}
	if _, err := LoadOption("x", disk.Partition{GUID: "nothing"}, 512, PathLoader); err == nil {
		t.Error("an entry for no partition")
	}
}

// What is on one disk can be put on another.
func TestBIOSFromAnotherDisk(t *testing.T) {
	img, core := make([]byte, 512), make([]byte, 1500)
	img[0x66], img[510], img[511] = 0xeb, 0x55, 0xaa
	core[0x1f4], core[0x1fc], core[0x1fe], core[0x1ff] = 2, 2, 0x20, 0x08
	first, err := Core(core, 2048, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	zero := disk.ProtectiveMBR(disk.Layout{SectorSize: 512, Size: 40 * disk.GiB})
	mbr, err := MBR(img, zero, 2048)
	if err != nil {
		t.Fatal(err)
	}
	read, err := ReadCore(bytes.NewReader(append(first, make([]byte, 9000)...)), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Core(read, 4096, 1<<20)
	if err != nil || binary.LittleEndian.Uint64(second[0x1f4:]) != 4097 || !bytes.Equal(second[0x200:], first[0x200:]) {
		t.Errorf("core: %v", err)
	}
	if again, err := MBR(mbr, zero, 2048); err != nil || !bytes.Equal(again, mbr) {
		t.Errorf("boot sector: %v", err)
	}
	if _, err := MBR(zero, zero, 2048); err == nil {
		t.Error("a sector without boot code was taken for it")
	}
	if _, err := ReadCore(bytes.NewReader(make([]byte, 1<<20)), 1<<20); err == nil {
		t.Error("an empty partition holds a core")
	}
}

func TestSlotConfigOfAnotherDisk(t *testing.T) {
	conf, err := SlotConfig(slotBoot(A))
	if err != nil {
		t.Fatal(err)
	}
	const guid = "FFFFFFFF-0000-4000-8000-000000000001"
	other := slotBoot(A)
	other.DiskGUID = guid
	want, err := SlotConfig(other)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OnDisk(conf, guid); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s (%v)", got, err)
	}
	args, err := SlotArgs(conf, A)
	if list, _ := slotBoot(A).Args(); err != nil || args != strings.Join(list, " ") {
		t.Errorf("%q (%v)", args, err)
	}
	if _, err := SlotArgs(conf, B); err == nil {
		t.Error("the other slot has arguments")
	}
	if _, err := OnDisk([]byte("set A_args='x'"), guid); err == nil {
		t.Error("a configuration without a disk was changed")
	}
	if _, err := OnDisk(conf, "$1"); err == nil {
		t.Error("no GUID was taken for one")
	}
}
