package membership

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"
)

// open runs a Service of one node, d after now.
func open(t *testing.T, dir string, d time.Duration) (*Service, func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := Open(ctx, Options{Name: "n9", InstallationID: "0000000000000009", Version: "0.1.0", Dir: filepath.Join(dir, "cluster"),
		StoreDir: filepath.Join(dir, "etcd"), Hosts: filepath.Join(dir, "hosts"), PeerListen: "127.0.1.9:2380", APIPort: 18006,
		Addresses: func() []string { return []string{"127.0.1.9"} }, Interface: func() string { return "" }, NoSync: true,
		Now: func() time.Time { return time.Now().Add(d) }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s, func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestRenew: a certificate near its end is replaced by one that lasts, for the
// same key.
func TestRenew(t *testing.T) {
	dir := t.TempDir()
	s, end := open(t, dir, 0)
	if s.Clustered() {
		t.Error("a fresh node belongs to a cluster")
	}
	if err := s.Found(t.Context(), "lab"); err != nil {
		t.Fatal(err)
	}
	if err := s.Found(t.Context(), "other"); err != nil { // it is called lab all the same, see below
		t.Errorf("founding it again: %v", err)
	}
	end()
	for _, days := range []int{1, 300} {
		s, end := open(t, dir, time.Duration(days)*24*time.Hour)
		before, err := s.id.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		after, err := s.id.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		if renewed := after.NotAfter.After(before.NotAfter); renewed != (days == 300) {
			t.Errorf("after %d days: renewed %v, ends %s", days, renewed, after.NotAfter)
		}
		if string(after.RawSubjectPublicKeyInfo) != string(before.RawSubjectPublicKeyInfo) {
			t.Error("the key has changed")
		}
		if name := s.Cluster().Name; name != "lab" {
			t.Errorf("after %d days: cluster %q", days, name)
		}
		end()
	}
}
