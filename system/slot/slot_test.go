package slot

import (
	"os"
	"path/filepath"
	"testing"

	"joist/image/boot"
)

func TestChangeFile(t *testing.T) {
	var e boot.Env
	if err := boot.Fresh().Store(&e); err != nil {
		t.Fatal(err)
	}
	if err := e.Set("other", "kept"); err != nil {
		t.Fatal(err)
	}
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "grubenv")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(name)
	good := func(s boot.State) boot.State { return boot.MarkGood(s, boot.A) }
	if err := ChangeFile(name, good); err != nil {
		t.Fatal(err)
	}
	s, err := ReadFile(name)
	if err != nil || !s.A.OK || s.A.Tries != 0 || s.Generation != boot.Fresh().Generation+1 {
		t.Errorf("got %+v, %v", s, err)
	}
	after, _ := os.Stat(name)
	if !os.SameFile(before, after) || after.Size() != boot.EnvSize {
		t.Error("the file was replaced")
	}
	b, _ = os.ReadFile(name)
	if d, err := boot.DecodeEnv(b); err != nil || d.Get("other") != "kept" {
		t.Errorf("another variable was lost: %v", err)
	}
	if err := os.WriteFile(name, []byte("broken"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ChangeFile(name, good); err == nil {
		t.Error("a broken block was written over")
	}
}
