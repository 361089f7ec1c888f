package netboot

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/image/boot"
)

var update = flag.Bool("update", false, "write the golden files")

func spec() Spec {
	hash := strings.Repeat("5", 64)
	f := boot.File{Size: 1, SHA256: hash}
	return Spec{Manifest: boot.Manifest{BuildID: "0123456789abcdef", Version: "1.2.3", Built: time.Unix(1, 0), Kernel: "6.12", VerityRoot: hash,
		Files: map[string]boot.File{boot.FileKernel: f, boot.FileInitrd: f, boot.FileSystem: f}}, Extra: []string{"intel_iommu=on"}}
}

func TestTexts(t *testing.T) {
	for name, make := range map[string]func(Spec) ([]byte, error){"boot.ipxe": Spec.IPXE, "grub.cfg": Spec.Grub} {
		got, err := make(spec())
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// What iPXE, GRUB or the kernel would take apart does not get into the texts.
func TestRefuses(t *testing.T) {
	for _, bad := range []string{"a b", "${net0/mac}", "a;b\nboot", `"x"`, "$root", "'", "", "a#b", "{", "|"} {
		s := spec()
		s.Extra = []string{bad}
		if _, err := s.IPXE(); err == nil {
			t.Errorf("boot.ipxe: %q was taken", bad)
		}
		if _, err := s.Grub(); err == nil {
			t.Errorf("grub.cfg: %q was taken", bad)
		}
	}
	s := spec()
	s.Manifest.BuildID = "x"
	if _, err := s.Grub(); err == nil {
		t.Error("a wrong build id was taken")
	}
}
