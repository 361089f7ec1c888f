package build

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/rootfs/deb"
	"joist/rootfs/lock"
	"joist/rootfs/tree"
)

func TestPool(t *testing.T) {
	src := t.TempDir()
	put(t, filepath.Join(src, "joist.lock"), "lock")
	p := lock.Package{Name: "x", SHA256: strings.Repeat("a", 64)}
	long := "go/example.com/" + strings.Repeat("m", 120) + "/@v/v1.0.0.mod"
	files := map[string]tree.Source{poolLock: tree.Bytes("lock"), deb.PoolName(p): tree.Bytes("a package"), long: tree.Bytes("module m")}
	var one, two bytes.Buffer
	for _, w := range []*bytes.Buffer{&one, &two} {
		if err := writePool(t.Context(), w, files); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two pools of one input differ")
	}
	name := filepath.Join(src, "pool.tar")
	put(t, name, one.String())
	pool, err := deb.OpenPool(name)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	r, err := pool.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "a package" {
		t.Errorf("the package is %q, %v", b, err)
	}
	if _, err := pool.Open(lock.Package{SHA256: strings.Repeat("b", 64)}); !os.IsNotExist(err) {
		t.Errorf("a package that is not there: %v", err)
	}

	b := &Builder{o: Options{Source: src, Pool: name}, work: t.TempDir(), pool: pool}
	if err := b.usePool(); err != nil {
		t.Fatal(err)
	}
	if c, err := os.ReadFile(filepath.Join(b.work, "goproxy", strings.TrimPrefix(long, "go/"))); err != nil || string(c) != "module m" {
		t.Errorf("the module is %q, %v", c, err)
	}
	put(t, filepath.Join(src, "joist.lock"), "another")
	if err := b.usePool(); err == nil || !strings.Contains(err.Error(), "pool-differs") {
		t.Errorf("a pool of another lock: %v", err)
	}
	put(t, name, one.String()[:700])
	if _, err := deb.OpenPool(name); err == nil {
		t.Error("a pool that was cut off was opened")
	}
}

func TestEscapeModule(t *testing.T) {
	if got := escapeModule("github.com/BurntSushi/toml"); got != "github.com/!burnt!sushi/toml" {
		t.Error(got)
	}
}
