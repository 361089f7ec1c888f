package initramfs

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"joist/rootfs/tree"
)

var update = flag.Bool("update", false, "write testdata")

const kernel = "6.12-test"

// system is a tree with the modules of a very small kernel.
func system(t *testing.T) *tree.Node {
	t.Helper()
	root := tree.New()
	mods := "/usr/lib/modules/" + kernel + "/"
	for p, text := range map[string]string{
		mods + "kernel/drivers/nvme/host/nvme.ko":      module(t, "license=GPL", "firmware=nvme/a.bin", "alias=firmware=no"),
		mods + "kernel/drivers/nvme/host/nvme-core.ko": module(t, "firmware=nvme/a.bin", "firmware=nvme/*.img", "firmware=nvme/gone-*.img"),
		mods + "kernel/drivers/md/dm-verity.ko":        module(t),
		mods + "kernel/lib/reed_solomon.ko":            module(t, "firmware=absent.fw", "firmware=packed.fw", "firmware=absent.fw"),
		mods + "kernel/fs/isofs/isofs.ko":              module(t),
		mods + "kernel/drivers/net/tun.ko":             module(t, "firmware=not-in-the-initrd.bin"),
		"/usr/lib/firmware/nvme/a.bin":                 "firmware a",
		"/usr/lib/firmware/nvme/b.img":                 "firmware b",
		"/usr/lib/firmware/nvme/c.img.zst":             "firmware c",
		"/usr/lib/firmware/nvme/deep/d.img":            "not matched",
		"/usr/lib/firmware/packed.fw.xz":               "packed firmware",
		"/usr/lib/firmware/other.bin":                  "nobody's",
		mods + "modules.dep": "kernel/drivers/nvme/host/nvme.ko: kernel/drivers/nvme/host/nvme-core.ko\nkernel/drivers/nvme/host/nvme-core.ko:\n" +
			"kernel/drivers/md/dm-verity.ko: kernel/lib/reed_solomon.ko\nkernel/lib/reed_solomon.ko:\nkernel/fs/isofs/isofs.ko:\nkernel/drivers/net/tun.ko:\n",
		mods + "modules.alias":                                "# Aliases\nalias pci:v*sv*bc01sc08i02* nvme\nalias iso9660 isofs\nalias char-major-10-200 tun\n",
		mods + "modules.softdep":                              "# Soft\nsoftdep dm-verity pre: sha256\nsoftdep tun pre: x\n",
		mods + "modules.builtin":                              "kernel/fs/ext4/ext4.ko\n",
		mods + "modules.builtin.modinfo":                      "ext4.license=GPL\x00",
		mods + "modules.order":                                "kernel/fs/isofs/isofs.ko\nkernel/drivers/net/tun.ko\n",
		"/usr/lib/firmware/amd-ucode/microcode_amd.bin":       "AMD1",
		"/usr/lib/firmware/amd-ucode/microcode_amd_fam19.bin": "AMD2",
		"/usr/lib/firmware/amd-ucode/README":                  "text",
		"/usr/lib/firmware/intel-ucode/06-01-00":              "INTEL1",
		"/usr/lib/firmware/intel-ucode/06-01-01.initramfs":    "not this",
	} {
		if err := root.AddFile(p, 0o644, tree.Bytes(text)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// module makes an ELF file that has nothing but a .modinfo section.
func module(t *testing.T, info ...string) string {
	t.Helper()
	const names = "\x00.modinfo\x00.shstrtab\x00"
	text := strings.Join(info, "\x00") + "\x00"
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(64 + len(text) + len(names))}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	var b bytes.Buffer
	for _, v := range []any{h, []byte(text), []byte(names), elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(text))},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(text)), Size: uint64(len(names))},
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func pack(t *testing.T, sys *tree.Node) ([]byte, Parts) {
	t.Helper()
	var b bytes.Buffer
	parts, err := Write(&b, Spec{System: sys, Kernel: kernel, Init: []byte("init"), Build: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), parts
}

// list reads an archive back: a line for each record.
func list(t *testing.T, archive []byte) string {
	t.Helper()
	var b strings.Builder
	recs, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive)))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recs {
		if r.Name == cpio.Trailer {
			continue
		}
		body := ""
		if r.FileSize > 0 {
			c, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if err != nil {
				t.Fatal(err)
			}
			if body = fmt.Sprintf(" %q", c); bytes.HasPrefix(c, []byte(elf.ELFMAG)) {
				body = " (a module)"
			}
		}
		dev := ""
		if r.Rmajor != 0 {
			dev = fmt.Sprintf(" %d:%d", r.Rmajor, r.Rminor)
		}
		fmt.Fprintf(&b, "%06o %d:%d %s%s%s\n", r.Mode, r.UID, r.GID, r.Name, dev, body)
		if r.MTime != 0 {
			t.Errorf("%s has the time %d", r.Name, r.MTime)
		}
	}
	return b.String()
}

// TestWrite: microcode comes first and uncompressed, then everything else.
func TestWrite(t *testing.T) {
	image, parts := pack(t, system(t))
	again, _ := pack(t, system(t))
	if !bytes.Equal(image, again) {
		t.Error("two initrds of equal trees differ")
	}
	if diff := cmp.Diff([]string{"nvme_core: nvme/gone-*.img", "reed_solomon: absent.fw"}, parts.NoFirmware); diff != "" {
		t.Error(diff)
	}
	if want := int64(len("firmware a" + "firmware b" + "firmware c" + "packed firmware")); parts.Firmware != want {
		t.Errorf("firmware has %d bytes, want %d", parts.Firmware, want)
	}
	if parts.Microcode%512 != 0 || parts.Total != int64(len(image)) || parts.Init != 4 || parts.Modules <= 0 {
		t.Errorf("parts are %+v of %d bytes", parts, len(image))
	}
	z, err := zstd.NewReader(bytes.NewReader(image[parts.Microcode:]))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	main, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	got := "# microcode\n" + list(t, image[:parts.Microcode]) + "# main\n" + list(t, main)
	const golden = "testdata/list.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

func TestWriteRefuses(t *testing.T) {
	for what, remove := range map[string]string{
		"modules.dep": "read the modules' dependencies", "modules.alias": "read the modules' index",
		"kernel/lib/reed_solomon.ko": "reed_solomon.ko is named in modules.dep and missing",
	} {
		sys := system(t)
		sys.Remove("/usr/lib/modules/" + kernel + "/" + what)
		if _, err := Write(io.Discard, Spec{System: sys, Kernel: kernel}); err == nil || !strings.Contains(err.Error(), remove) {
			t.Errorf("without %s: %v", what, err)
		}
	}
	sys := system(t)
	sys.Remove("/usr/lib/firmware/intel-ucode/06-01-00")
	if _, err := Write(io.Discard, Spec{System: sys, Kernel: kernel}); err == nil || !strings.Contains(err.Error(), "no microcode") {
		t.Errorf("a folder without microcode: %v", err)
	}
	// No microcode at all is a choice of joist.toml.
	sys.Remove("/usr/lib/firmware")
	if _, parts := pack(t, sys); parts.Microcode != 0 {
		t.Errorf("parts are %+v", parts)
	}
	for text, want := range map[string]string{
		"text": "nvme.ko says of itself", module(t, "firmware=/etc/shadow"): "no path below", module(t, "firmware=../x*"): "no path below", module(t, "firmware=[x"): "syntax error",
	} {
		sys := system(t)
		if err := sys.AddFile("/usr/lib/modules/"+kernel+"/kernel/drivers/nvme/host/nvme.ko", 0o644, tree.Bytes(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := Write(io.Discard, Spec{System: sys, Kernel: kernel}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error is %v, want %q in it", text, err, want)
		}
	}
}

func TestWanted(t *testing.T) {
	for file, want := range map[string]bool{
		"kernel/drivers/nvme/host/nvme.ko": true, "kernel/drivers/md/dm-verity.ko": true, "kernel/drivers/net/tun.ko": false,
		"kernel/drivers/usb/storage/uas.ko": true, "kernel/drivers/usb/serial/usbserial.ko": false,
	} {
		if Wanted(file) != want {
			t.Errorf("%s is wanted: %v", file, !want)
		}
	}
}

// TestWriteNet: the archive behind the initrd has what that one lacks, and
// indexes of both.
func TestWriteNet(t *testing.T) {
	sys := system(t)
	mods := "/usr/lib/modules/" + kernel + "/"
	deps, err := sys.Read(mods + "modules.dep")
	if err != nil {
		t.Fatal(err)
	}
	for p, text := range map[string]string{
		mods + "kernel/drivers/net/ethernet/broadcom/tg3.ko": module(t, "firmware=tigon/tg3.bin"),
		mods + "kernel/drivers/net/phy/libphy.ko":            module(t),
		mods + "modules.dep":                                 string(deps) + "kernel/drivers/net/ethernet/broadcom/tg3.ko: kernel/drivers/net/phy/libphy.ko\nkernel/drivers/net/phy/libphy.ko:\n",
		"/usr/lib/firmware/tigon/tg3.bin":                    "firmware of a card",
	} {
		if err := sys.AddFile(p, 0o644, tree.Bytes(text)); err != nil {
			t.Fatal(err)
		}
	}
	var b, again bytes.Buffer
	net := NetSpec{System: sys, Kernel: kernel, Files: map[string][]byte{"/netboot.json": []byte("{}"), "/etc/a": []byte("a"), "/etc/b": []byte("b")}}
	if _, err := WriteNet(&again, net); err != nil {
		t.Fatal(err)
	}
	parts, err := WriteNet(&b, net)
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("two archives of one tree differ")
	}
	if err != nil || parts.Total != int64(b.Len()) || parts.Firmware != int64(len("firmware of a card")) {
		t.Fatalf("%+v, %v", parts, err)
	}
	z, err := zstd.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	archive, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	got := list(t, archive)
	for text, want := range map[string]bool{
		"ethernet/broadcom/tg3.ko (a module)": true, "phy/libphy.ko (a module)": true, "lib/firmware/tigon/tg3.bin": true, "netboot.json": true,
		"nvme.ko (a module)": false, "tun.ko (a module)": false, "init \"": false, "alias pci:v*sv*bc01sc08i02* nvme": true, "kernel/drivers/net/tun.ko:": false,
	} {
		if strings.Contains(got, text) != want {
			t.Errorf("%q is there: %v\n%s", text, !want, got)
		}
	}
}
