package build

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"joist/rootfs/policy"
)

var update = flag.Bool("update", false, "write testdata")

// TestConfigFindings shows what a person sees for each mistake.
func TestConfigFindings(t *testing.T) {
	files, err := filepath.Glob("testdata/config/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			_, _, fl := LoadConfig(f)
			var b strings.Builder
			fl.Write(&b)
			got := b.String()
			golden := strings.TrimSuffix(f, ".toml") + ".txt"
			if *update {
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
		})
	}
}

func TestConfigDefaults(t *testing.T) {
	c, _, fl := LoadConfig(filepath.Join(t.TempDir(), "absent.toml"))
	if diff := cmp.Diff(Defaults(), c); diff != "" || len(fl) != 0 {
		t.Errorf("no file: %v\n%s", fl, diff)
	}
	// The file in the tree says nothing else than the defaults.
	c, _, fl = LoadConfig("../../joist.toml")
	if diff := cmp.Diff(Defaults(), c); diff != "" || len(fl) != 0 {
		t.Errorf("joist.toml: %v\n%s", fl, diff)
	}
	if _, _, fl := LoadConfig(t.TempDir()); !fl.Stops() {
		t.Error("a folder was read as a configuration")
	}
}

func TestWants(t *testing.T) {
	c := Defaults()
	before := c.resolveDigest()
	c.Packages.Add, c.Packages.Drop = []string{"htop"}, []string{"nano", "mdadm"}
	wants, excluded := c.wants()
	all := " " + strings.Join(wants, " ") + " "
	if !strings.Contains(all, " htop ") || strings.Contains(all, " nano ") || excluded["nano"] == "" || excluded["perl"] == "" {
		t.Errorf("wants %v", wants)
	}
	if c.resolveDigest() == before {
		t.Error("other packages do not make another lock")
	}
	c = Defaults()
	c.Image.Compression, c.Image.Firmware = 3, policy.FirmwareNone
	if c.resolveDigest() != before {
		t.Error("compression or firmware makes another lock")
	}
}

// FuzzConfig: whatever the file, there are findings and no panic.
func FuzzConfig(f *testing.F) {
	for _, s := range []string{"version = \"1.2.3\"\n[image]\nkernel-args = \"quiet\"\n", "a.b.\"c d\" = 1\n[[x]]\ny=1", "[image", "\x00", "image = {compression = 99}", "[[files]]\nsource = \"x\"\n[[files]]\ntarget = 1", "files = [{source = \"a\", target = \"/b\"}, # c\n 3]\nssh-keys = [[\"x\"], \"y\"]"} {
		f.Add(s)
	}
	name := filepath.Join(f.TempDir(), "joist.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		LoadConfig(name)
	})
}
