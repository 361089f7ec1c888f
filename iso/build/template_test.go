package build

import (
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"

	"joist/rootfs/tree"
)

func TestFolders(t *testing.T) {
	root := tree.New()
	for p, n := range map[string]*tree.Node{
		"/usr":       {Mode: fs.ModeDir | 0o755},
		"/root":      {Mode: fs.ModeDir | 0o700},
		"/tmp":       {Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		"/var/local": {Mode: fs.ModeDir | fs.ModeSetgid | 0o775, GID: 50},
		"/it's":      {Mode: fs.ModeDir | 0o755, UID: 1, GID: 2},
		"/root/file": {Mode: 0o600, UID: 1},
	} {
		if err := root.Set(p, n); err != nil {
			t.Fatal(err)
		}
	}
	want := `chown 1:2 '/it'\''s'
chmod 0700 '/root'
chmod 1777 '/tmp'
chown 0:50 '/var/local'
chmod 2775 '/var/local'
`
	if diff := cmp.Diff(want, folders(root)); diff != "" {
		t.Error(diff)
	}
}
