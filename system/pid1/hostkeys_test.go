package pid1

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"joist/api/node"
	"joist/internal/run"
)

// keygen plays ssh-keygen.
type keygen struct {
	made []string
	fail string
}

func (k *keygen) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	kind, name := c.Args[slices.Index(c.Args, "-t")+1], c.Args[len(c.Args)-1]
	if kind == k.fail {
		return nil, errors.New("no entropy")
	}
	if _, err := os.Stat(name); err == nil {
		return nil, errors.New("it asks whether to overwrite")
	}
	k.made = append(k.made, kind+" "+c.Args[slices.Index(c.Args, "-b")+1])
	return nil, errors.Join(os.WriteFile(name, []byte(kind), 0o600), os.WriteFile(name+".pub", nil, 0o644))
}

// What is missing is made, an empty file and what a cut left among it; a key that
// cannot be made does not keep the others away.
func TestMakeHostKeys(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, node.NodeDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{node.HostKeyFile: "kept", node.ECDSAKeyFile: "", node.RSAKeyFile + ".new": "half"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k := &keygen{fail: "ecdsa"}
	if err := makeHostKeys(t.Context(), k, root); err == nil || !strings.Contains(err.Error(), "ecdsa key: no entropy") {
		t.Error(err)
	}
	k.fail = ""
	for range 2 {
		if err := makeHostKeys(t.Context(), k, root); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(k.made, ", "); got != "rsa 3072, ecdsa 256" {
		t.Error(got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("%v %v", entries, err)
	}
	if b, _ := os.ReadFile(filepath.Join(root, node.HostKeyFile)); string(b) != "kept" {
		t.Errorf("%q", b)
	}
}
