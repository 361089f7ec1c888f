package build

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/installer/answer"
	"joist/internal/finding"
	"joist/rootfs/tree"
)

const someKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFQ2Dwy1nN4s7O4jRNm9tX0rXyV6vY2mXy4jZ5o3bq1F admin"

// newCertificate makes one that signs itself.
func newCertificate(t *testing.T, name string, ca bool, ends time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: ends.Add(-time.Hour), NotAfter: ends, IsCA: ca, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, &c, &c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// project is a folder with a joist.toml and the files it names.
func project(t *testing.T, toml string, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	files["joist.toml"] = []byte(toml)
	for name, b := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "joist.toml")
}

func codes(fl finding.List) string {
	var out []string
	for _, f := range fl {
		out = append(out, f.Level.String()+" "+f.Code)
	}
	return strings.Join(out, ", ")
}

const customText = `ssh-keys = ["` + someKey + `"]
certificates = ["ca/site.pem", "ca/old.pem"]

[[files]]
source = "files/issue"
target = "/etc/issue"

[[files]]
source = "files/id"
target = "/usr/local/etc/id"
mode = "0640"
owner = "sshd:shadow"
`

func TestCustomise(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	site, old := newCertificate(t, "Site CA", true, now.AddDate(1, 0, 0)), newCertificate(t, "Old CA", true, now.AddDate(-1, 0, 0))
	name := project(t, customText, map[string][]byte{
		"ca/site.pem": append([]byte("subject: Site CA\n"), site...), "ca/old.pem": old,
		"files/issue": []byte("welcome\n"), "files/id": []byte("-----BEGIN OPENSSH PRIVATE KEY-----\n"),
	})
	c, x, fl := LoadConfig(name)
	if got := codes(fl); got != "warning image-ssh-keys, warning image-secret" {
		t.Errorf("findings: %s", got)
	}
	if got := codes(x.expired(now)); got != "warning certificate-expired" {
		t.Errorf("certificates: %s", got)
	}
	root := tree.New()
	for p, text := range map[string]string{"/etc/issue": "Debian", "/usr/share/ca-certificates/mozilla/A.crt": "Mozilla's\n"} {
		if err := root.Set(p, &tree.Node{Mode: 0o600, Data: tree.Bytes(text), Origin: "base-files"}); err != nil {
			t.Fatal(err)
		}
	}
	b := &Builder{cfg: c, extra: x}
	fl, err := b.customise(root)
	if err != nil || codes(fl) != "note file-replaced" {
		t.Errorf("%v, findings: %s", err, codes(fl))
	}
	if err := certificates(root, x.certificates); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"/etc/issue": "welcome\n", ImageKeys: someKey + "\n", ownCertificates + "/site.crt": string(site),
		"/etc/ssl/certs/ca-certificates.crt": "Mozilla's\n" + string(site) + string(old),
	} {
		if got, err := root.Read(p); err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s", p, err, got)
		}
	}
	if n := root.Lookup("/usr/local/etc/id"); n.Mode != 0o640 || n.UID != 992 || n.GID != 42 {
		t.Errorf("the second file is %v of %d:%d", n.Mode, n.UID, n.GID)
	}
	// A folder is not replaced.
	root = tree.New()
	if err := root.Set("/etc/issue", &tree.Node{Mode: fs.ModeDir | 0o755}); err != nil {
		t.Fatal(err)
	}
	if fl, err := b.customise(root); err != nil || !fl.Stops() {
		t.Errorf("a folder was replaced by a file: %v, %s", err, codes(fl))
	}
}

func TestCertificatesRefused(t *testing.T) {
	good := newCertificate(t, "CA", true, time.Now().Add(time.Hour))
	for what, text := range map[string][]byte{
		"a server's":    newCertificate(t, "www.example", false, time.Now().Add(time.Hour)),
		"damaged":       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1, 2, 3}}),
		"none":          []byte("no PEM"),
		"a key with it": append(good, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})...),
	} {
		if c, err := readCertificates(text); err == nil {
			t.Errorf("%s: taken as %q", what, c.last)
		}
	}
	if c, err := readCertificates(append(append([]byte{}, good...), good...)); err != nil || strings.Count(string(c.pem), "BEGIN") != 2 {
		t.Errorf("two in one file: %v", err)
	}
}

// What a manifest says of the configuration names no mirror and no path of the
// building machine, and its hashes are those of the contents.
func TestManifestOfContents(t *testing.T) {
	name := project(t, "mirror = \"https://secret.example/\"\nproxy = \"http://user:pw@secret.example:1\"\nanswer = \"secret.toml\"\npool = \"/secret\"\n[[files]]\nsource = \"x\"\ntarget = \"/etc/x\"\n",
		map[string][]byte{"x": []byte("x")})
	c, x, fl := LoadConfig(name)
	if len(fl) != 0 {
		t.Fatal(fl)
	}
	if c.Answer != "secret.toml" || c.Pool != "/secret" || c.Proxy == "" || c.Mirror == "" {
		t.Errorf("the configuration is %+v", c.Where)
	}
	text, err := json.Marshal(Inputs{Config: c.inputs(), Contents: x.sums()})
	if err != nil || strings.Contains(string(text), "secret") || !strings.Contains(string(text), `"/etc/x":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"`) {
		t.Errorf("%v: %s", err, text)
	}
	if text, err = json.Marshal(c); err != nil || strings.Contains(string(text), "secret") {
		t.Errorf("%v: %s", err, text)
	}
}

// Flags win over joist.toml, whose paths begin at its own folder.
func TestWhere(t *testing.T) {
	b := &Builder{o: Options{Config: "/src/joist.toml", Pool: "flag.pool"}, cfg: Config{Where: Where{Mirror: "https://m.example", Pool: "toml.pool", SavePool: "/abs.pool", Answer: "a/answer.toml"}}}
	b.where()
	if b.o.Mirror != "https://m.example" || b.o.Pool != "flag.pool" || b.o.SavePool != "/abs.pool" || b.o.Answer != "/src/a/answer.toml" {
		t.Errorf("%+v", b.o)
	}
	b = &Builder{o: Options{Config: "/src/joist.toml", Again: &Inputs{}}, cfg: Config{Where: Where{Answer: "answer.toml"}}}
	if b.where(); b.o.Answer != "" {
		t.Errorf("an artefact without an answer is made again with %s", b.o.Answer)
	}
}

// Whoever builds is told which secrets the medium will hold.
func TestSecretsInside(t *testing.T) {
	text := `[global]
keyboard = "en-us"
country = "at"
fqdn = "node.example.com"
mailto = "root@example.com"
timezone = "UTC"
root-password = "correct horse"
subscription-key = "pve4s-0123456789"
[network]
source = "from-dhcp"
[disk-setup]
filesystem = "ext4"
disk-list = ["sda"]
[post-installation-webhook]
url = "https://hook.example"
auth-token = "of-the-webhook"
`
	a, fl := answer.Load(strings.NewReader(text), "answer.toml")
	if fl.Stops() {
		t.Fatal(fl)
	}
	var said strings.Builder
	secretsInside(a, "answer.toml").Write(&said)
	for _, key := range []string{"global.root-password", "global.subscription-key", "post-installation-webhook.auth-token"} {
		if !strings.Contains(said.String(), "answer.toml: warning: "+key+" lies readable on the medium [answer-secret]") {
			t.Errorf("%s is not named in\n%s", key, said.String())
		}
	}
	for _, secret := range []string{"correct horse", "pve4s", "of-the-webhook"} {
		if strings.Contains(said.String(), secret) {
			t.Errorf("the warning says %q", secret)
		}
	}
	// And where the answer is read for a build.
	file := filepath.Join(t.TempDir(), "answer.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var told finding.List
	b := &Builder{o: Options{Answer: file, Say: func(fl finding.List) { told = append(told, fl...) }}}
	if _, _, err := b.answer(); err != nil || strings.Count(codes(told), "warning answer-secret") != 3 {
		t.Errorf("%v, %s", err, codes(told))
	}
}
