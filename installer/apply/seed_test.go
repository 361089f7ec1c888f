package apply

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/api/node"
	"joist/installer/plan"
)

// What an earlier installation was asked and has not done does not reach the one
// that keeps its data; the rest of the state does.
func TestSeedOverKeptData(t *testing.T) {
	asked := []string{node.FirstBootFile, node.ProgramFile, node.JoinFile}
	for name, c := range map[string]struct {
		files []plan.SeedFile
		left  string
	}{
		"nothing is asked": {[]plan.SeedFile{{Path: node.ConfigFile, Mode: 0o644, Data: []byte("new")}}, ""},
		"a program is":     {[]plan.SeedFile{{Path: node.FirstBootFile, Mode: 0o600, Data: []byte("new")}}, node.FirstBootFile},
		"a join is":        {[]plan.SeedFile{{Path: node.JoinFile, Mode: 0o600, Data: []byte("new")}}, node.JoinFile},
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			at := func(name string) string { return filepath.Join(state, strings.TrimPrefix(name, "/var")) }
			kept := node.StateDir + "/guests/100"
			for _, name := range append([]string{kept, node.FirstBootState, node.HostIDFile}, asked...) {
				if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(at(name), []byte("old"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			files := append(c.files, plan.SeedFile{Path: node.HostIDFile, Mode: 0o444, Data: []byte("new")})
			if err := writeSeed(state, files, []string{node.HostIDFile}); err != nil {
				t.Fatal(err)
			}
			for _, name := range asked {
				want := map[bool]string{true: "new"}[name == c.left]
				if b, _ := os.ReadFile(at(name)); string(b) != want {
					t.Errorf("%s: %q, want %q", name, b, want)
				}
			}
			for _, name := range []string{kept, node.FirstBootState, node.HostIDFile} {
				if b, err := os.ReadFile(at(name)); err != nil || string(b) != "old" {
					t.Errorf("%s: %q %v", name, b, err)
				}
			}
		})
	}
}
