// Package cert makes and keeps the certificate that the API serves until a
// cluster or a person gives the node another one.
package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"joist/api/node"
)

// Names of the files below node.TLSDir.
const (
	certFile = "node.crt"
	keyFile  = "node.key"
)

// The life of a certificate. 825 days is the longest that all TLS clients
// accept (CA/Browser Forum ballot 193).
const (
	life    = 825 * 24 * time.Hour
	renewIn = 30 * 24 * time.Hour
)

// Subject is whom a certificate is for.
type Subject struct {
	Name      string // host name
	FQDN      string
	Addresses []net.IP
}

// Ensure returns the certificate in dir. It makes a self-signed one when there
// is none, when it cannot be read or when it ends soon. A change of addresses
// alone keeps it: clients know a self-signed certificate by its fingerprint.
func Ensure(dir string, s Subject, now time.Time) (tls.Certificate, error) {
	if c, err := load(dir); err == nil && now.Add(renewIn).Before(c.Leaf.NotAfter) {
		return c, nil
	}
	if err := create(dir, s, now); err != nil {
		return tls.Certificate{}, fmt.Errorf("create certificate: %w", err)
	}
	c, err := load(dir)
	if err != nil {
		return c, fmt.Errorf("read certificate: %w", err)
	}
	return c, nil
}

func load(dir string) (tls.Certificate, error) {
	return tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile))
}

// create writes the key before the certificate: a crash in between leaves a
// pair that does not match and is made anew. ECDSA on P-256 is what every
// client of the last decade can do; many cannot do Ed25519.
func create(dir string, s Subject, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	names := []string{"localhost"}
	for _, n := range []string{s.Name, s.FQDN} {
		if n != "" && n != names[len(names)-1] {
			names = append(names, n)
		}
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[len(names)-1], Organization: []string{"Joist node"}},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(life), // clocks differ
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, DNSNames: names,
		IPAddresses: append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, s.Addresses...),
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := node.WriteFile(filepath.Join(dir, keyFile), 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})); err != nil {
		return err
	}
	return node.WriteFile(filepath.Join(dir, certFile), 0o644, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Fingerprint is the SHA-256 of a certificate in the form AA:BB:….
func Fingerprint(c tls.Certificate) string {
	sum := sha256.Sum256(c.Certificate[0])
	s := make([]string, 0, len(sum))
	for _, b := range sum {
		s = append(s, fmt.Sprintf("%02X", b))
	}
	return strings.Join(s, ":")
}
