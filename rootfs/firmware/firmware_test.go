package firmware

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io/fs"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"joist/rootfs/tree"
)

// module makes an ELF file that has nothing but a .modinfo section.
func module(t *testing.T, info string) tree.Source {
	t.Helper()
	const names = "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	h.Shoff = uint64(64 + len(info) + len(names))
	for _, v := range []any{h, []byte(info), []byte(names), elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(info)), Addralign: 1},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(info)), Size: uint64(len(names)), Addralign: 1},
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return tree.Bytes(b.Bytes())
}

func system(t *testing.T) *tree.Node {
	t.Helper()
	root := tree.New()
	set := func(p, origin string, n *tree.Node) {
		n.Origin = origin
		if err := root.Set(p, n); err != nil {
			t.Fatal(err)
		}
	}
	file := func(p, origin, text string) { set(p, origin, &tree.Node{Mode: 0o644, Data: tree.Bytes(text)}) }
	link := func(p, to string) { set(p, "firmware-a", &tree.Node{Mode: fs.ModeSymlink | 0o777, Target: to}) }
	for _, d := range []string{"intel", "intel/ice", "intel/ice/ddp", "nfp", "empty", "other"} {
		set(Dir+"/"+d, "firmware-a", &tree.Node{Mode: fs.ModeDir | 0o755})
	}
	file(Dir+"/intel/ice/ddp/ice-1.3.pkg", "firmware-a", "ddp")
	link(Dir+"/intel/ice/ddp/ice.pkg", "ice-1.3.pkg")
	link(Dir+"/intel/ice/ddp/unused.pkg", "ice-1.3.pkg")
	file(Dir+"/nfp/real-1.fw.zst", "firmware-a", "nfp one")
	link(Dir+"/netronome", "nfp")
	link(Dir+"/nfp/nic_1.fw.zst", "real-1.fw.zst")
	file(Dir+"/nfp/real-2.fw.zst", "firmware-a", "nobody's")
	file(Dir+"/empty/x.bin", "firmware-a", "nobody's")
	file(Dir+"/other/y.bin", "amd64-microcode", "of another package")
	file("/usr/share/doc/firmware-a/copyright", "firmware-a", "licence")
	const mods = "/usr/lib/modules/1/kernel/drivers/"
	for p, info := range map[string]string{
		"net/ice.ko": "license=GPL\x00firmware=intel/ice/ddp/ice.pkg\x00firmware=gone.bin\x00", "net/nfp.ko": "firmware=netronome/nic_*.fw\x00", "usb/x.ko": "firmware=empty/x.bin\x00",
	} {
		if err := root.AddFile(mods+p, 0o644, module(t, info)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestPrune(t *testing.T) {
	root := system(t)
	patterns, err := Declared(root, "/usr/lib/modules/1", func(f string) bool { return f != "kernel/drivers/usb/x.ko" })
	if diff := cmp.Diff([]string{"gone.bin", "intel/ice/ddp/ice.pkg", "netronome/nic_*.fw"}, patterns); diff != "" || err != nil {
		t.Fatal(err, diff)
	}
	kept, err := Prune(root, map[string]bool{"firmware-a": true}, append(patterns, "netronome/nic_1.fw"))
	if err != nil || kept != int64(len("ddp")+len("nfp one")) {
		t.Errorf("kept %d bytes, %v", kept, err)
	}
	var left []string
	root.Lookup(Dir).Walk(func(p string, n *tree.Node) error {
		left = append(left, p)
		return nil
	})
	want := []string{"/intel", "/intel/ice", "/intel/ice/ddp", "/intel/ice/ddp/ice-1.3.pkg", "/intel/ice/ddp/ice.pkg", "/netronome", "/nfp", "/nfp/nic_1.fw.zst", "/nfp/real-1.fw.zst", "/other", "/other/y.bin"}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Error(diff)
	}
	if b, err := root.Read(Dir + "/netronome/nic_1.fw.zst"); err != nil || string(b) != "nfp one" {
		t.Errorf("through the links: %q, %v", b, err)
	}
	if root.Lookup("/usr/share/doc/firmware-a/copyright") == nil {
		t.Error("the licence is gone")
	}
}

func TestRefuses(t *testing.T) {
	root := system(t)
	if _, err := Prune(root, nil, []string{"../../etc/shadow"}); err == nil {
		t.Error("a path out of the folder was followed")
	}
	if _, err := Declared(root, "/usr/lib/modules/2", nil); err == nil {
		t.Error("no modules were read")
	}
	if err := root.AddFile("/usr/lib/modules/1/bad.ko", 0o644, tree.Bytes("no ELF")); err != nil {
		t.Fatal(err)
	}
	if _, err := Declared(root, "/usr/lib/modules/1", func(string) bool { return true }); err == nil {
		t.Error("a damaged module was read")
	}
	if got := slices.Collect(prefixes("/a/bc")); !slices.Equal(got, []string{"/a", "/a/bc"}) {
		t.Errorf("prefixes are %q", got)
	}
}
