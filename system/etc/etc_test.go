package etc

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/api/node"
)

var update = flag.Bool("update", false, "write golden files")

func render(t *testing.T, in Input) (string, []string) {
	t.Helper()
	files, problems := Render(in)
	var b strings.Builder
	for _, f := range files {
		if f.Link != "" {
			fmt.Fprintf(&b, "=== %s -> %s\n", f.Path, f.Link)
			continue
		}
		fmt.Fprintf(&b, "=== %s %04o\n%s", f.Path, f.Mode, f.Text)
	}
	return b.String(), problems
}

const shadowFile = "root:*:20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\n"

func TestGolden(t *testing.T) {
	for name, in := range map[string]Input{
		"node": {Node: node.Config{Name: "pve1", Domain: "example.org", Timezone: "Europe/Vienna", NTP: []string{"192.0.2.1", "ntp.example.org"}},
			MachineID: strings.Repeat("ab", 16), RootHash: "$y$j9T$abc$def/123.", HasKeys: true, Shadow: shadowFile, Version: "0.1.0"},
		"rescue": {MachineID: strings.Repeat("01", 16), Shadow: shadowFile, Version: "0.1.0"},
	} {
		got, problems := render(t, in)
		if len(problems) > 0 {
			t.Errorf("%s: %q", name, problems)
		}
		file := filepath.Join("testdata", name+".golden")
		if *update {
			os.MkdirAll("testdata", 0o755)
			os.WriteFile(file, []byte(got), 0o644)
		}
		want, _ := os.ReadFile(file)
		if got != string(want) {
			t.Errorf("%s differs from %s (run with -update and look):\n%s", name, file, got)
		}
	}
}

// gethostid(3) reads the number in the machine's own order.
func TestHostID(t *testing.T) {
	for id, want := range map[string]string{"01020304": "\x04\x03\x02\x01", "": "", "1234": "", "0102030z": ""} {
		files, problems := Render(Input{Node: node.Config{Storage: node.Storage{HostID: id}}})
		got := ""
		for _, f := range files {
			if f.Path == "hostid" {
				got = f.Text
			}
		}
		if got != want || (len(problems) > 0) != (id != "" && want == "") {
			t.Errorf("%q: %q, problems %q", id, got, problems)
		}
	}
}

func TestBadValuesNeverGetThrough(t *testing.T) {
	got, problems := render(t, Input{Node: node.Config{Name: "a b\nc", Domain: "x\ny", Timezone: "../../etc/passwd", NTP: []string{"a\nallow all"}},
		MachineID: "no", RootHash: "x:0:0", Shadow: shadowFile})
	if len(problems) != 6 {
		t.Errorf("%d problems: %q", len(problems), problems)
	}
	for _, bad := range []string{"a b", "passwd", "allow", "x:0:0"} {
		if strings.Contains(got, bad) {
			t.Errorf("%q got through:\n%s", bad, got)
		}
	}
}
