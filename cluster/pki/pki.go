// Package pki is the cluster's own certificate authority and what its nodes
// prove with it: keys, requests, certificates and their verification. It
// computes only; who keeps which file is the daemon's affair.
//
// A certificate is an identity, not a right: what a node may do is decided by
// the roster, which names the key of each node. So there is no list of
// revoked certificates; removing a node from the roster is enough for every
// call. The store's own port takes any certificate of the cluster and turns
// away members that were removed.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"joist/cluster/roster"
)

const (
	// Backdate is how long before its making a certificate is valid already,
	// so that nodes whose clocks are behind accept it.
	Backdate = time.Hour
	// Skew is how far clocks may be apart at the far end of a certificate's
	// life, where nothing else helps.
	Skew = 10 * time.Minute

	authorityYears = 20
	nodeLife       = 365 * 24 * time.Hour
)

// NewKey makes a node's key: ECDSA on P-256, which every TLS stack has.
func NewKey() (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return k, nil
}

// EncodeKey returns a key as PEM (PKCS #8).
func EncodeKey(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// DecodeKey reads what EncodeKey wrote.
func DecodeKey(text []byte) (*ecdsa.PrivateKey, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != "PRIVATE KEY" {
		return nil, errors.New("read key: there is no PEM block PRIVATE KEY")
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("read key: it is not ECDSA on P-256")
	}
	return ec, nil
}

// EncodeCert returns a certificate as PEM.
func EncodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// DecodeCert reads the first certificate of a PEM text.
func DecodeCert(text []byte) (*x509.Certificate, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != "CERTIFICATE" {
		return nil, errors.New("read certificate: there is no PEM block CERTIFICATE")
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return c, nil
}

// NewRequest asks for a node's certificate: PKCS #10, DER.
func NewRequest(key *ecdsa.PrivateKey, node string) ([]byte, error) {
	if !roster.ValidName(node) {
		return nil, fmt.Errorf("make certificate request: %q cannot name a node", node)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: node},
		DNSNames: []string{roster.PeerName(node)},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}

// CheckRequest checks that a request is signed by its own key, that the key is
// of the kind we use and that it asks for the node's name and nothing else. It
// returns the key.
func CheckRequest(csr []byte, node string) (crypto.PublicKey, error) {
	r, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("read certificate request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check certificate request: %w", err)
	}
	if k, ok := r.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("check certificate request: its key is not ECDSA on P-256")
	}
	others := len(r.IPAddresses) + len(r.EmailAddresses) + len(r.URIs)
	if !roster.ValidName(node) || others > 0 || len(r.DNSNames) != 1 || r.DNSNames[0] != roster.PeerName(node) {
		return nil, fmt.Errorf("check certificate request: it must ask for the name %s and nothing else", roster.PeerName(node))
	}
	return r.PublicKey, nil
}

// KeySum names a public key: the SHA-256 of its SubjectPublicKeyInfo, hex.
func KeySum(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// Fingerprint is the SHA-256 of a certificate the way browsers show it:
// "AA:BB:…".
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	out := make([]string, len(sum))
	for i, b := range sum {
		out[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(out, ":")
}

// ParseFingerprint brings a fingerprint as people write it, with or without
// colons, in any case, into the form of Fingerprint.
func ParseFingerprint(s string) (string, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(s), ":", ""))
	if err != nil {
		return "", fmt.Errorf("fingerprint %q is not hexadecimal", s)
	}
	if len(b) != sha256.Size {
		return "", fmt.Errorf("fingerprint has %d bytes, a SHA-256 has %d", len(b), sha256.Size)
	}
	out := make([]string, len(b))
	for i, v := range b {
		out[i] = fmt.Sprintf("%02X", v)
	}
	return strings.Join(out, ":"), nil
}

// RenewDue reports whether two thirds of a certificate's life are over.
func RenewDue(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2))
}

// Peer is who a certificate says it belongs to.
type Peer struct {
	Node      string
	KeySHA256 string // to be compared with the roster's
}

// VerifyPeer checks the certificates that the other end of a connection
// showed, its own first, against the cluster's authority. Up to Skew beyond
// either end of its life a certificate still counts: clocks differ.
func VerifyPeer(chain []*x509.Certificate, authority *x509.Certificate, now time.Time) (Peer, error) {
	if len(chain) == 0 {
		return Peer{}, errors.New("verify peer: it showed no certificate")
	}
	leaf := chain[0]
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(), // the authority signs nodes itself
		CurrentTime:   lenient(leaf, authority, now),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Peer{}, fmt.Errorf("verify peer: %w", err)
	}
	if len(leaf.DNSNames) != 1 {
		return Peer{}, fmt.Errorf("verify peer: its certificate has %d names", len(leaf.DNSNames))
	}
	node, ok := strings.CutSuffix(leaf.DNSNames[0], "."+roster.Domain)
	if !ok || !roster.ValidName(node) {
		return Peer{}, fmt.Errorf("verify peer: %q is no node's name", leaf.DNSNames[0])
	}
	sum, err := KeySum(leaf.PublicKey)
	if err != nil {
		return Peer{}, fmt.Errorf("verify peer: %w", err)
	}
	return Peer{Node: node, KeySHA256: sum}, nil
}

// lenient moves now by at most Skew, if that brings it into the life of both
// certificates.
func lenient(leaf, authority *x509.Certificate, now time.Time) time.Time {
	from, to := leaf.NotBefore, leaf.NotAfter
	if authority.NotBefore.After(from) {
		from = authority.NotBefore
	}
	if authority.NotAfter.Before(to) {
		to = authority.NotAfter
	}
	switch {
	case now.Before(from) && !now.Add(Skew).Before(from):
		return from
	case now.After(to) && !now.Add(-Skew).After(to):
		return to
	}
	return now
}
