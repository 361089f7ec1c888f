package apply

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/image/boot"
	"joist/image/boot/efivar"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/host"
)

// The request is in shim's two variables, with the attributes that MokManager
// wants, and the hash is that of the password that is shown.
func TestAskForKey(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	h := &host.Host{Root: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	put := func(name string, b []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(h.Path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.Path(name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := AskForKey(h, "0123456789abcdef"); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("a medium without a certificate: %v", err)
	}
	der := filepath.Join(probe.MediumDir, "joist/0123456789abcdef/boot", plan.ModuleCert)
	put(der, []byte("no certificate"))
	if _, err := AskForKey(h, "0123456789abcdef"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a damaged certificate: %v", err)
	}
	put(der, cert)
	put(efivar.Dir+"/MokNew-605dab50-e046-4300-abb6-3dd810dd8b23", bytes.Repeat([]byte("an older request"), 500))
	password, err := AskForKey(h, "0123456789abcdef")
	if err != nil || len(password) != 8 || strings.Trim(password, "0123456789") != "" {
		t.Fatalf("%q, %v", password, err)
	}
	list, auth, err := boot.MokRequest(cert, password)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"MokNew": list, "MokAuth": auth} {
		b, err := os.ReadFile(h.Path(efivar.Dir, name+"-605dab50-e046-4300-abb6-3dd810dd8b23"))
		if err != nil || !bytes.HasPrefix(b, append([]byte{7, 0, 0, 0}, want...)) {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
}
