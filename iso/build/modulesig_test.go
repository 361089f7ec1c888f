package build

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/internal/finding"
	"joist/internal/run"
)

// moduleKeyFile writes a key, and a certificate of the other one.
func moduleKeyFile(t *testing.T, key any, certified crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := x509.Certificate{SerialNumber: big.NewInt(0x80f00d), Subject: pkix.Name{CommonName: "Module signing"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	cert, err := x509.CreateCertificate(rand.Reader, &c, &c, certified.Public(), certified)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "module.pem")
	put(t, name, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	return name
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestLoadModuleKey(t *testing.T) {
	key := rsaKey(t)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	whole := moduleKeyFile(t, key, key)
	if s, err := loadModuleKey(whole); err != nil || len(s.cert) == 0 {
		t.Fatal(err)
	}
	text, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(text, []byte("-----BEGIN CERT"))
	file := func(b []byte) string {
		name := filepath.Join(t.TempDir(), "part.pem")
		put(t, name, string(b))
		return name
	}
	secret := base64.StdEncoding.EncodeToString(key.D.Bytes())[:16]
	for name, want := range map[string]string{
		file(text[:at]):                      "no certificate",
		file(text[at:]):                      "no RSA private key",
		file(nil):                            "no RSA private key",
		moduleKeyFile(t, curve, curve):       "no RSA private key",
		moduleKeyFile(t, key, rsaKey(t)):     "that of another key",
		filepath.Join(t.TempDir(), "absent"): "no such file",
	} {
		_, err := loadModuleKey(name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the key is told: %v", err)
		}
	}
}

// What the kernel takes off a module's end is the module and a signature that
// OpenSSL accepts; the same key and module give the same bytes, and so does
// the signature without the key.
func TestSignModule(t *testing.T) {
	key := rsaKey(t)
	s, err := loadModuleKey(moduleKeyFile(t, key, key))
	if err != nil {
		t.Fatal(err)
	}
	module := []byte("\x7fELF module")
	signed, err := s.sign("zfs.ko", module)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.sign("zfs.ko", module); err != nil || !bytes.Equal(again, signed) {
		t.Errorf("another signature of the same module (%v)", err)
	}
	without := &moduleSigner{cert: s.cert, made: s.made}
	if again, err := without.sign("zfs.ko", module); err != nil || !bytes.Equal(again, signed) {
		t.Errorf("the known signature gives something else (%v)", err)
	}
	if _, err := without.sign("spl.ko", module); err == nil {
		t.Error("a module without a known signature was signed without a key")
	}

	const mark = "~Module signature appended~\n"
	rest, ok := bytes.CutSuffix(signed, []byte(mark))
	if !ok {
		t.Fatalf("no mark at the end: %q", signed[len(signed)-40:])
	}
	end := rest[len(rest)-12:]
	n := int(binary.BigEndian.Uint32(end[8:]))
	if !bytes.Equal(end[:8], []byte{0, 0, 2, 0, 0, 0, 0, 0}) || len(rest) != len(module)+n+12 || !bytes.HasPrefix(rest, module) {
		t.Fatalf("struct module_signature % x behind %d bytes", end, len(rest)-12)
	}
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("JOIST_NEED_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	put(t, filepath.Join(dir, "sig"), string(rest[len(module):len(module)+n]))
	put(t, filepath.Join(dir, "cert"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert})))
	for content, good := range map[string]bool{string(module): true, string(module) + "x": false} {
		put(t, filepath.Join(dir, "module"), content)
		_, err := run.OS{}.Run(t.Context(), run.Cmd{Path: openssl, Dir: dir, Args: []string{"cms", "-verify", "-binary", "-inform", "DER", "-in", "sig",
			"-content", "module", "-certfile", "cert", "-noverify", "-out", "out"}})
		if (err == nil) != good {
			t.Errorf("OpenSSL about %q: %v", content, err)
		}
	}
}

// Who signs: a key, the signatures of a build that is made again, or nobody.
func TestModuleSigner(t *testing.T) {
	key := rsaKey(t)
	file := moduleKeyFile(t, key, key)
	var said finding.List
	b := Builder{cfg: Defaults(), o: Options{Say: func(fl finding.List) { said = append(said, fl...) }}}
	if s, err := b.moduleSigner(); s != nil || err != nil {
		t.Errorf("without a key: %v, %v", s, err)
	}
	b.o.ModuleKey = file
	s, err := b.moduleSigner()
	if err != nil || s.key == nil {
		t.Fatalf("with a key: %v", err)
	}
	b.o.Again = &Inputs{}
	if s, err := b.moduleSigner(); s != nil || err != nil {
		t.Errorf("an unsigned build made again: %v, %v", s, err)
	}
	b.o.Again.ModuleCert = s.cert
	if s, err := b.moduleSigner(); err != nil || s.key != nil || len(s.cert) == 0 {
		t.Errorf("a signed build made again: %v", err)
	}
	b.o.Again, b.cfg.Image.ZFS = nil, false
	if s, err := b.moduleSigner(); s != nil || err != nil || len(said) != 1 || said[0].Code != "module-key-unused" {
		t.Errorf("nothing to sign: %v, %v, %v", s, err, said)
	}
}
