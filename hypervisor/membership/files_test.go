package membership

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// world is a folder as text: the files that count and what is in them.
func world(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		out = append(out, strings.TrimPrefix(p, dir+"/")+"="+strings.TrimSpace(string(b)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const newSettings = `{
  "cluster_id": "new",
  "heartbeat_ms": 0,
  "election_ms": 0
}`

// TestSwapAndBack: whatever step it was cut off at, swapping again ends at the
// new state and reverting at the old one.
func TestSwapAndBack(t *testing.T) {
	for _, before := range []string{"alone", "member"} {
		for _, to := range []string{"alone", "member"} {
			for done := range 4 { // steps before the cut
				fresh := func(t *testing.T) (folder, string) {
					dir := t.TempDir()
					f := folder{filepath.Join(dir, "cluster"), filepath.Join(dir, "etcd")}
					put(t, filepath.Join(f.store, "data"), "old")
					put(t, f.path(opFile), "op")
					if before == "member" {
						put(t, f.path(idDir, settingsFile), "old")
					}
					return f, world(t, dir)
				}
				steps := func(f folder) []func() error {
					return []func() error{
						func() error {
							if to == "alone" {
								return nil
							}
							return f.prepare(map[string][]byte{"x": []byte("new")}, settings{ClusterID: "new"})
						},
						f.swapStore, f.swapID,
						func() error { put(t, filepath.Join(f.store, "data"), "new"); return nil }, // what attaching does
					}
				}
				name := before + " to " + to
				t.Run(name, func(t *testing.T) {
					f, was := fresh(t)
					for _, s := range steps(f)[:done] {
						if err := s(); err != nil {
							t.Fatal(err)
						}
					}
					for range 2 {
						if err := f.revertStore(); err != nil {
							t.Fatal(err)
						}
						if err := f.revertID(); err != nil {
							t.Fatal(err)
						}
						if got := world(t, filepath.Dir(f.dir)); got != was {
							t.Errorf("cut after %d steps and reverted: %s, want %s", done, got, was)
						}
					}
				})
				t.Run(name, func(t *testing.T) {
					f, _ := fresh(t)
					all := steps(f)
					for _, s := range append(all[:done:done], all[min(done, 1):]...) {
						if err := s(); err != nil {
							t.Fatal(err)
						}
					}
					if err := f.clean(); err != nil {
						t.Fatal(err)
					}
					want := "cluster/op.json=op etcd/data=new"
					if to == "member" {
						want = "cluster/id/cluster.json=" + newSettings + " cluster/id/x=new " + want
					}
					if got := world(t, filepath.Dir(f.dir)); got != want {
						t.Errorf("cut after %d steps and gone on: %s, want %s", done, got, want)
					}
				})
			}
		}
	}
}
