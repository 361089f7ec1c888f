package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"strings"
	"testing"
	"time"
)

var birth = time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)

func made(t *testing.T, now time.Time) *Authority {
	t.Helper()
	a, err := New("0123456789abcdef", now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issued(t *testing.T, a *Authority, node string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewRequest(key, node)
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.Issue(csr, node, now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

func TestVerifyPeer(t *testing.T) {
	a, other := made(t, birth), made(t, birth)
	cert, key := issued(t, a, "n1", birth)
	sum, err := KeySum(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := issued(t, other, "n1", birth)
	tests := []struct {
		name string
		cert *x509.Certificate
		now  time.Time
		bad  string
	}{
		{"at once", cert, birth, ""},
		{"ten minutes behind", cert, birth.Add(-10 * time.Minute), ""},
		{"an hour and ten minutes behind", cert, birth.Add(-Backdate - Skew), ""},
		{"further behind", cert, birth.Add(-Backdate - Skew - time.Second), "not yet valid"},
		{"ten minutes after its end", cert, cert.NotAfter.Add(Skew), ""},
		{"later", cert, cert.NotAfter.Add(Skew + time.Second), "expired"},
		{"another cluster", foreign, birth, "unknown authority"},
		{"the authority itself", a.Certificate(), birth, "verify peer"},
	}
	for _, tt := range tests {
		p, err := VerifyPeer([]*x509.Certificate{tt.cert}, a.Certificate(), tt.now)
		if tt.bad == "" && (err != nil || p.Node != "n1" || p.KeySHA256 != sum) {
			t.Errorf("%s: %+v %v", tt.name, p, err)
		}
		if tt.bad != "" && (err == nil || !strings.Contains(err.Error(), tt.bad)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := VerifyPeer(nil, a.Certificate(), birth); err == nil {
		t.Error("no certificate passes")
	}
}

// TestTLS lets two nodes whose clocks are ten minutes apart talk the way etcd
// does: with the standard verification only.
func TestTLS(t *testing.T) {
	a := made(t, birth)
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate())
	side := func(node string, now time.Time) *tls.Config {
		c, k := issued(t, a, node, birth)
		return &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{c.Raw}, PrivateKey: k}},
			RootCAs:      roots, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
			ServerName: "n1.joist.internal", Time: func() time.Time { return now },
		}
	}
	c, s := net.Pipe()
	server := tls.Server(s, side("n1", birth.Add(5*time.Minute)))
	client := tls.Client(c, side("n2", birth.Add(-5*time.Minute)))
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Errorf("client: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("server: %v", err)
	}
}

func TestIssue(t *testing.T) {
	a := made(t, birth)
	c, _ := issued(t, a, "n1", birth)
	if !c.NotBefore.Equal(birth.Add(-time.Hour)) || !c.NotAfter.Equal(birth.Add(nodeLife)) {
		t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
	}
	end := a.Certificate().NotAfter
	if late, _ := issued(t, a, "n1", end.Add(-time.Hour)); late.NotAfter.After(end) {
		t.Errorf("certificate outlives its authority: %v", late.NotAfter)
	}
	key, _ := NewKey()
	csr, _ := NewRequest(key, "n1")
	for _, now := range []time.Time{end, end.Add(time.Hour), birth.Add(-2 * time.Hour)} {
		if _, err := a.Issue(csr, "n1", now); err == nil {
			t.Errorf("issued at %v", now)
		}
	}
	if _, err := a.Issue(csr, "n2", birth); err == nil {
		t.Error("issued for another name")
	}
	if RenewDue(c, birth.Add(nodeLife/3*2-2*time.Hour)) || !RenewDue(c, birth.Add(nodeLife/3*2)) {
		t.Error("renewal is due at another time than after two thirds")
	}
}

func TestCheckRequest(t *testing.T) {
	good, _ := NewKey()
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	make := func(key any, edit func(*x509.CertificateRequest)) []byte {
		r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "n1"}, DNSNames: []string{"n1.joist.internal"}}
		if edit != nil {
			edit(r)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	if pub, err := CheckRequest(make(good, nil), "n1"); err != nil || !good.PublicKey.Equal(pub) {
		t.Fatalf("good request: %v", err)
	}
	damaged := make(good, nil)
	damaged[len(damaged)-1] ^= 1
	for name, csr := range map[string][]byte{
		"P-384":     make(p384, nil),
		"Ed25519":   make(ed, nil),
		"signature": damaged,
		"no name":   make(good, func(r *x509.CertificateRequest) { r.DNSNames = nil }),
		"two names": make(good, func(r *x509.CertificateRequest) { r.DNSNames = append(r.DNSNames, "n2.joist.internal") }),
		"address":   make(good, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }),
		"no DER":    []byte("x"),
	} {
		if _, err := CheckRequest(csr, "n1"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, n := range []string{"", "join", "N1", "a.b", "-a"} {
		if _, err := NewRequest(good, n); err == nil {
			t.Errorf("request for %q", n)
		}
	}
}

func TestSeal(t *testing.T) {
	a, other := made(t, birth), made(t, birth)
	key := NewSealKey()
	sealed, err := a.Seal(key)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Unseal(sealed, key, a.Certificate())
	if err != nil || !back.key.Equal(a.key) {
		t.Fatalf("unseal: %v", err)
	}
	if again, _ := a.Seal(key); bytes.Equal(again, sealed) {
		t.Error("sealed twice with one nonce")
	}
	damaged := bytes.Clone(sealed)
	damaged[20] ^= 1
	for name, try := range map[string]func() error{
		"other key":         func() error { _, err := Unseal(sealed, NewSealKey(), a.Certificate()); return err },
		"other certificate": func() error { _, err := Unseal(sealed, key, other.Certificate()); return err },
		"damaged":           func() error { _, err := Unseal(damaged, key, a.Certificate()); return err },
		"short key":         func() error { _, err := Unseal(sealed, key[:16], a.Certificate()); return err },
		"empty":             func() error { _, err := Unseal(nil, key, a.Certificate()); return err },
	} {
		if try() == nil {
			t.Errorf("%s: unsealed", name)
		}
	}
}

func TestText(t *testing.T) {
	a := made(t, birth)
	key, _ := NewKey()
	text, err := EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := DecodeKey(text); err != nil || !back.Equal(key) {
		t.Errorf("key: %v", err)
	}
	if c, err := DecodeCert(a.CertPEM()); err != nil || !c.Equal(a.Certificate()) {
		t.Errorf("certificate: %v", err)
	}
	if _, err := DecodeKey(a.CertPEM()); err == nil {
		t.Error("certificate read as key")
	}
	if _, err := DecodeCert(text); err == nil {
		t.Error("key read as certificate")
	}
	f := Fingerprint(a.Certificate().Raw)
	for _, s := range []string{f, strings.ToLower(f), strings.ReplaceAll(f, ":", ""), " " + f + "\n"} {
		if got, err := ParseFingerprint(s); err != nil || got != f {
			t.Errorf("%q: %q %v", s, got, err)
		}
	}
	for _, s := range []string{"", "AA:BB", f + ":00", "x" + f[1:]} {
		if _, err := ParseFingerprint(s); err == nil {
			t.Errorf("%q is no fingerprint", s)
		}
	}
}
