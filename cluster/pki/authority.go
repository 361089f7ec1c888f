package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"joist/cluster/roster"
)

// SealKeySize is the length of the key that seals the authority's: AES-256.
const SealKeySize = 32

// Authority is the cluster's certificate authority with its key.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes the authority of a cluster. It can sign names below
// roster.Domain only, should anybody ever install it elsewhere.
func New(cluster string, now time.Time) (*Authority, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	self := &x509.Certificate{
		Subject:                     pkix.Name{CommonName: "Joist cluster " + cluster},
		NotBefore:                   now.Add(-Backdate).UTC().Truncate(time.Second),
		NotAfter:                    now.AddDate(authorityYears, 0, 0).UTC().Truncate(time.Second),
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true, // it signs nodes, not other authorities
		KeyUsage:                    x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{roster.Domain},
	}
	der, err := x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	return authority(der, key)
}

func authority(der []byte, key *ecdsa.PrivateKey) (*Authority, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	if !cert.IsCA || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("read certificate authority: certificate and key do not belong together")
	}
	return &Authority{cert, key}, nil
}

// Certificate is the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// CertPEM is the content of ca.crt.
func (a *Authority) CertPEM() []byte { return EncodeCert(a.cert.Raw) }

// Issue makes a node's certificate of its request, DER. It is valid for a
// year, but never longer than the authority itself.
func (a *Authority) Issue(csr []byte, node string, now time.Time) ([]byte, error) {
	pub, err := CheckRequest(csr, node)
	if err != nil {
		return nil, err
	}
	if now.Before(a.cert.NotBefore) || !now.Before(a.cert.NotAfter) {
		return nil, fmt.Errorf("issue certificate for %q: by this node's clock it is %s, the authority is valid from %s to %s", node,
			now.UTC().Format(time.RFC3339), a.cert.NotBefore.Format(time.RFC3339), a.cert.NotAfter.Format(time.RFC3339))
	}
	end := now.Add(nodeLife)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		Subject:               pkix.Name{CommonName: node},
		DNSNames:              []string{roster.PeerName(node)},
		NotBefore:             now.Add(-Backdate).UTC().Truncate(time.Second),
		NotAfter:              end.UTC().Truncate(time.Second),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %q: %w", node, err)
	}
	return der, nil
}

// NewSealKey makes a key for Seal.
func NewSealKey() []byte {
	k := make([]byte, SealKeySize)
	rand.Read(k) // never fails (crypto/rand)
	return k
}

// Seal encrypts the authority's key with AES-256-GCM, bound to its
// certificate: nonce and ciphertext.
func (a *Authority) Seal(sealKey []byte) ([]byte, error) {
	aead, err := sealer(sealKey)
	if err != nil {
		return nil, fmt.Errorf("seal authority's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("seal authority's key: %w", err)
	}
	return aead.Seal(nil, nil, der, a.cert.Raw), nil
}

// Unseal makes an authority of what Seal returned and its certificate.
func Unseal(sealed, sealKey []byte, cert *x509.Certificate) (*Authority, error) {
	aead, err := sealer(sealKey)
	if err != nil {
		return nil, fmt.Errorf("unseal authority's key: %w", err)
	}
	der, err := aead.Open(nil, nil, sealed, cert.Raw)
	if err != nil {
		return nil, errors.New("unseal authority's key: it was sealed with another key, for another certificate, or is damaged")
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("unseal authority's key: %w", err)
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("unseal authority's key: it is not ECDSA")
	}
	return authority(cert.Raw, ec)
}

func sealer(key []byte) (cipher.AEAD, error) {
	if len(key) != SealKeySize {
		return nil, fmt.Errorf("the sealing key has %d bytes, %d are needed", len(key), SealKeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
