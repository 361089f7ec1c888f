package initramfs

import (
	"bytes"
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
		mods + "kernel/drivers/nvme/host/nvme.ko.xz":      "nvme",
		mods + "kernel/drivers/nvme/host/nvme-core.ko.xz": "core",
		mods + "kernel/drivers/md/dm-verity.ko.xz":        "verity",
		mods + "kernel/lib/reed_solomon.ko.xz":            "rs",
		mods + "kernel/fs/isofs/isofs.ko.xz":              "isofs",
		mods + "kernel/drivers/net/tun.ko.xz":             "tun",
		mods + "modules.dep": "kernel/drivers/nvme/host/nvme.ko.xz: kernel/drivers/nvme/host/nvme-core.ko.xz\nkernel/drivers/nvme/host/nvme-core.ko.xz:\n" +
			"kernel/drivers/md/dm-verity.ko.xz: kernel/lib/reed_solomon.ko.xz\nkernel/lib/reed_solomon.ko.xz:\nkernel/fs/isofs/isofs.ko.xz:\nkernel/drivers/net/tun.ko.xz:\n",
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
			body = fmt.Sprintf(" %q", c)
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
		"kernel/lib/reed_solomon.ko.xz": "reed_solomon.ko.xz is named in modules.dep and missing",
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
}

func TestWanted(t *testing.T) {
	for file, want := range map[string]bool{
		"kernel/drivers/nvme/host/nvme.ko.xz": true, "kernel/drivers/md/dm-verity.ko.xz": true, "kernel/drivers/net/tun.ko.xz": false,
		"kernel/drivers/usb/storage/uas.ko": true, "kernel/drivers/usb/serial/usbserial.ko.xz": false,
	} {
		if Wanted(file) != want {
			t.Errorf("%s is wanted: %v", file, !want)
		}
	}
}
