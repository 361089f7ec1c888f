package build

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"joist/internal/finding"
)

// loadSignKey reads a private key as `openssl genpkey -algorithm ed25519`
// writes it (PKCS #8 in PEM). A key is never made here: whoever signs has it.
func loadSignKey(name string) (ed25519.PrivateKey, error) {
	const hint = "make one with: openssl genpkey -algorithm ed25519 -out FILE"
	der, err := readPEM(name, "PRIVATE KEY", hint)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if k, ok := key.(ed25519.PrivateKey); ok && err == nil {
		return k, nil
	}
	return nil, keyError(name, hint, "it holds no Ed25519 private key")
}

// LoadPublicKey reads a key as `openssl pkey -pubout` writes it.
func LoadPublicKey(name string) (ed25519.PublicKey, error) {
	const hint = "take it out of the private key with: openssl pkey -in FILE -pubout"
	der, err := readPEM(name, "PUBLIC KEY", hint)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if k, ok := key.(ed25519.PublicKey); ok && err == nil {
		return k, nil
	}
	return nil, keyError(name, hint, "it holds no Ed25519 public key")
}

func readPEM(name, kind, hint string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read a key: %w", err)
	}
	p, _ := pem.Decode(text)
	if p == nil || p.Type != kind {
		return nil, keyError(name, hint, "it has no PEM block "+kind)
	}
	return p.Bytes, nil
}

// keyError never quotes the file: it may be a private key of another kind.
func keyError(name, hint, text string) error {
	var fl finding.List
	fl.Stopf("sign-key", name, hint, "%s", text)
	return fl.Err()
}
