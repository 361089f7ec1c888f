package media

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/internal/run"
)

var update = flag.Bool("update", false, "rewrite golden files")

func spec() Spec {
	return Spec{
		VolumeID: "JOIST_0_1_0", BIOS: "/boot/grub/eltorito.img", EFI: "/efi.img", HybridMBR: "in/boot_hybrid.img",
		Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("east", 3600)), DiskGUID: "00112233-4455-6677-8899-AABBCCDDEEFF",
		Files: map[string]string{
			"/boot/grub/eltorito.img": "in/core.img", "/efi.img": "in/efi.img", "/boot/vmlinuz": "in/vmlinuz",
			"/joist/0123456789abcdef/system.sqfs": "in/system.sqfs",
		},
	}
}

func TestArgs(t *testing.T) {
	args, err := spec().Args("out.iso")
	if err != nil {
		t.Fatal(err)
	}
	got := []byte(strings.Join(args, "\n") + "\n")
	file := filepath.Join("testdata", "args.txt")
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
		t.Errorf("arguments differ, got:\n%s", got)
	}
}

func TestValidate(t *testing.T) {
	for name, spoil := range map[string]func(*Spec){
		"volume id":     func(s *Spec) { s.VolumeID = "-boot" },
		"guid":          func(s *Spec) { s.DiskGUID = "--help" },
		"date":          func(s *Spec) { s.Date = time.Time{} },
		"boot sector":   func(s *Spec) { s.HybridMBR = "" },
		"bios image":    func(s *Spec) { s.BIOS = "/other.img" },
		"efi image":     func(s *Spec) { delete(s.Files, s.EFI) },
		"climbing path": func(s *Spec) { s.Files["/a/../../b"] = "x" },
		"relative path": func(s *Spec) { s.Files["a"] = "x" },
		"deep path":     func(s *Spec) { s.Files["/1/2/3/4/5/6/7/8"] = "x" },
		"graft":         func(s *Spec) { s.Files["/a=b"] = "x" },
		"local graft":   func(s *Spec) { s.Files["/a"] = "x=y" },
		"no local":      func(s *Spec) { s.Files["/a"] = "" },
	} {
		s := spec()
		spoil(&s)
		if _, err := s.Args("x"); err == nil {
			t.Errorf("a wrong %s was accepted", name)
		}
	}
}

func TestWriteUsesTheRunner(t *testing.T) {
	r := &run.Script{Answer: func(c run.Cmd) ([]byte, error) {
		if c.Path != "xorriso" || !strings.Contains(strings.Join(c.Env, " "), "SOURCE_DATE_EPOCH=1767319445") {
			t.Errorf("ran %s with %q", c.Path, c.Env)
		}
		return nil, errors.New("disk full")
	}}
	err := Write(context.Background(), r, spec(), "out.iso")
	if err == nil || err.Error() != `write medium "out.iso": disk full` {
		t.Errorf("error %v", err)
	}
}

// The image that xorriso makes is the same twice, whatever the dates of the
// files, and its records name both boot images.
func TestImage(t *testing.T) {
	if _, err := exec.LookPath("xorriso"); err != nil {
		t.Skip("xorriso is not installed")
	}
	dir := t.TempDir()
	s := spec()
	s.HybridMBR = filepath.Join(dir, "mbr")
	write := func(name string, size int) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, bytes.Repeat([]byte{byte(size)}, size), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	write("mbr", 512)
	for p := range s.Files {
		s.Files[p] = write(filepath.Base(p), 1<<20+len(p))
	}
	var images [2][]byte
	for i := range images {
		out := filepath.Join(dir, "out.iso")
		os.Remove(out)
		if err := Write(context.Background(), run.OS{}, s, out); err != nil {
			t.Fatal(err)
		}
		images[i], _ = os.ReadFile(out)
		for _, local := range s.Files {
			if err := os.Chtimes(local, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
				t.Fatal(err)
			}
			os.Chmod(local, 0o600)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two runs differ")
	}
	img := images[0]
	if string(img[0x8001:0x8006]) != "CD001" || string(img[0x8801:0x8806]) != "CD001" || !strings.HasPrefix(string(img[0x8807:]), "EL TORITO SPECIFICATION") {
		t.Error("the descriptors are not where firmware looks for them")
	}
	if string(img[512:520]) != "EFI PART" || img[510] != 0x55 {
		t.Error("there is no partition table")
	}
}
