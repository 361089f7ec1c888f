package node

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"joist/installer/answer"
)

// TestAnswer: the installer's own reader finds nothing wrong with our answer.
func TestAnswer(t *testing.T) {
	a, findings := answer.Load(bytes.NewReader(Answer("node1.test.example", "correct horse battery", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7a0p4Uu3Pl0vHqkHqkYp0mXhVQJxq1o8c3cU1n7x5Q test")), "answer.toml")
	for _, f := range findings {
		t.Error(f)
	}
	if a.Global.Host() != "node1" || a.Global.RootPassword.Reveal() != "correct horse battery" || len(a.Disk.List) != 1 {
		t.Errorf("read %s", a)
	}
}

func TestFindISO(t *testing.T) {
	t.Setenv("JOIST_ISO", "/x.iso")
	if p, err := FindISO(); err != nil || p != "/x.iso" {
		t.Errorf("%q, %v", p, err)
	}
}

func TestFileSum(t *testing.T) {
	p := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(p, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := FileSum(p); err != nil || s != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("%q, %v", s, err)
	}
}
