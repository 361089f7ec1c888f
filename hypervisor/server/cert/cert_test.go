package cert

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestEnsure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	s := Subject{Name: "n1", FQDN: "n1.example.org", Addresses: []net.IP{net.IPv4(192, 0, 2, 10)}}
	now := time.Now()
	first, err := Ensure(dir, s, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n1", "n1.example.org", "localhost", "192.0.2.10", "127.0.0.1", "::1"} {
		if err := first.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if fi, _ := os.Stat(filepath.Join(dir, keyFile)); fi.Mode().Perm() != 0o600 {
		t.Errorf("key has mode %v", fi.Mode())
	}
	tests := []struct {
		name string
		do   func()
		at   time.Time
		same bool
	}{
		{"kept", func() {}, now.Add(time.Hour), true},
		{"near its end", func() {}, now.Add(life - time.Hour), false},
		{"damaged", func() { os.WriteFile(filepath.Join(dir, certFile), []byte("x"), 0o644) }, now, false},
		{"key lost", func() { os.Remove(filepath.Join(dir, keyFile)) }, now, false},
	}
	for _, tt := range tests {
		before, err := Ensure(dir, s, now)
		if err != nil {
			t.Fatal(err)
		}
		tt.do()
		c, err := Ensure(dir, s, tt.at)
		if err != nil {
			t.Fatal(tt.name, err)
		}
		if same := Fingerprint(c) == Fingerprint(before); same != tt.same {
			t.Errorf("%s: same %v", tt.name, same)
		}
	}
}
