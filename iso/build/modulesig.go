package build

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"

	"joist/internal/finding"
)

// moduleSigner signs the kernel modules that Debian did not.
type moduleSigner struct {
	cert []byte            // DER
	key  *rsa.PrivateKey   // nil where the signatures are known
	made map[string][]byte // module → its signature
}

const moduleKeyHint = "make key and certificate in one file with: openssl req -x509 -newkey rsa:2048 -noenc -days 3650 -subj '/CN=Module signing/' -keyout FILE -out FILE.crt && cat FILE.crt >> FILE"

// loadModuleKey reads a private key and its certificate from one PEM file, as
// the kernel's certs/signing_key.pem has them. The key is RSA: shim, into
// whose list the certificate is enrolled, takes no other.
func loadModuleKey(name string) (*moduleSigner, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the module key: %w", err)
	}
	var s moduleSigner
	var cert *x509.Certificate
	for p, rest := pem.Decode(text); p != nil; p, rest = pem.Decode(rest) {
		switch p.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(p.Bytes)
			if err != nil {
				return nil, moduleKeyError(name, "its private key cannot be read")
			}
			s.key, _ = key.(*rsa.PrivateKey)
		case "CERTIFICATE":
			if cert, err = x509.ParseCertificate(p.Bytes); err != nil {
				return nil, moduleKeyError(name, "its certificate cannot be read")
			}
		}
	}
	switch {
	case s.key == nil:
		return nil, moduleKeyError(name, "it holds no RSA private key (PEM block PRIVATE KEY)")
	case s.key.N.BitLen() < 2048 || s.key.N.BitLen() > 4096:
		return nil, moduleKeyError(name, "its key has %d bits; shim and the kernel take 2048 to 4096", s.key.N.BitLen())
	case cert == nil:
		return nil, moduleKeyError(name, "it holds no certificate (PEM block CERTIFICATE)")
	case !s.key.PublicKey.Equal(cert.PublicKey):
		return nil, moduleKeyError(name, "its certificate is that of another key")
	}
	s.cert = cert.Raw
	return &s, nil
}

// moduleKeyError never quotes the file, which holds a private key.
func moduleKeyError(name, format string, args ...any) error {
	var fl finding.List
	fl.Stopf("module-key", name, moduleKeyHint, format, args...)
	return fl.Err()
}

// sign returns a module with its signature behind it.
func (s *moduleSigner) sign(name string, module []byte) ([]byte, error) {
	if s.key != nil {
		sig, err := s.message(module)
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", name, err)
		}
		if s.made == nil {
			s.made = map[string][]byte{}
		}
		s.made[name] = sig
	}
	sig, ok := s.made[name]
	if !ok {
		return nil, fmt.Errorf("sign %s: the manifest has no signature of it", name)
	}
	return appendSignature(module, sig), nil
}

// appendSignature puts a signature behind a module: struct module_signature
// and the mark of include/linux/module_signature.h.
func appendSignature(module, sig []byte) []byte {
	const pkcs7 = 2 // PKEY_ID_PKCS7; all else of the struct is zero then
	end := make([]byte, 12)
	end[2] = pkcs7
	binary.BigEndian.PutUint32(end[8:], uint32(len(sig)))
	return bytes.Join([][]byte{module, sig, end, []byte("~Module signature appended~\n")}, nil)
}

// The parts of a signature that is kept apart from what it signs (RFC 5652,
// sections 3 and 5), as scripts/sign-file of the kernel makes it: no
// certificate and no signed attributes, so that it depends on module and key
// alone. RSA with PKCS #1 v1.5 has no chance in it either.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content signedData `asn1:"explicit,tag:0"`
	}
	signedData struct {
		Version int
		Digests []pkix.AlgorithmIdentifier `asn1:"set"`
		Content struct{ Type asn1.ObjectIdentifier }
		Signers []signerInfo `asn1:"set"`
	}
	signerInfo struct {
		Version int
		By      struct {
			Issuer asn1.RawValue
			Serial *big.Int
		}
		Digest    pkix.AlgorithmIdentifier
		Algorithm pkix.AlgorithmIdentifier
		Signature []byte
	}
)

var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidSHA256     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

func (s *moduleSigner) message(module []byte) ([]byte, error) {
	cert, err := x509.ParseCertificate(s.cert)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(module)
	raw, err := rsa.SignPKCS1v15(nil, s.key, crypto.SHA256, sum[:])
	if err != nil {
		return nil, err
	}
	digest := pkix.AlgorithmIdentifier{Algorithm: oidSHA256}
	by := signerInfo{Version: 1, Digest: digest, Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue}, Signature: raw}
	by.By.Issuer, by.By.Serial = asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber
	d := signedData{Version: 1, Digests: []pkix.AlgorithmIdentifier{digest}, Signers: []signerInfo{by}}
	d.Content.Type = oidData
	return asn1.Marshal(contentInfo{oidSignedData, d})
}
