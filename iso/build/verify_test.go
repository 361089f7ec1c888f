package build

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/internal/finding"
	"joist/rootfs/tree"
)

// keys writes a pair of keys as openssl does.
func keyFiles(t *testing.T) (private, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := x509.MarshalPKCS8PrivateKey(key)
	b, err2 := x509.MarshalPKIXPublicKey(pub)
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	dir := t.TempDir()
	private, public = filepath.Join(dir, "key"), filepath.Join(dir, "pub")
	put(t, private, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: a})))
	put(t, public, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: b})))
	return private, public
}

func put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKeys(t *testing.T) {
	private, public := keyFiles(t)
	if _, err := loadSignKey(private); err != nil {
		t.Error(err)
	}
	if _, err := LoadPublicKey(public); err != nil {
		t.Error(err)
	}
	for _, name := range []string{public, private + "x"} {
		if _, err := loadSignKey(name); err == nil {
			t.Errorf("%s was taken for a private key", name)
		}
	}
	_, err := LoadPublicKey(private)
	text, _ := os.ReadFile(private)
	if err == nil || strings.Contains(err.Error(), string(bytes.Fields(text)[3])) {
		t.Errorf("a private key given as the public one: %v", err)
	}
}

// published is an output folder with an artefact, signed.
func published(t *testing.T) (dir string, pub ed25519.PublicKey) {
	t.Helper()
	private, public := keyFiles(t)
	key, err := loadSignKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if pub, err = LoadPublicKey(public); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	o, err := openOut(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	m, err := json.Marshal(Manifest{Inputs: Inputs{Go: "go1"}})
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(o.work, "iso"), "medium")
	put(t, filepath.Join(o.work, "m"), string(m))
	put(t, filepath.Join(o.work, "f"), "initrd")
	if _, err := o.publish(map[string]string{"x.iso": "iso", "x.manifest.json": "m", "netboot/initrd": "f"}, key); err != nil {
		t.Fatal(err)
	}
	return dir, pub
}

func TestCheckSums(t *testing.T) {
	dir, pub := published(t)
	name := filepath.Join(dir, "x.iso")
	a, err := CheckSums(name, pub)
	if err != nil || !a.Signed || a.Manifest.Inputs.Go != "go1" {
		t.Fatalf("%+v, %v", a, err)
	}
	if a, err := CheckSums(name, nil); err != nil || a.Signed {
		t.Errorf("without a key: %+v, %v", a, err)
	}
	if a, err := CheckSums(filepath.Join(dir, "netboot", "initrd"), pub); err != nil || !a.Signed || a.Name != "netboot/initrd" {
		t.Errorf("a file of a folder: %+v, %v", a, err)
	}
	for what, c := range map[string]struct {
		spoil func(dir string)
		want  string
	}{
		"a flipped byte":       {func(d string) { put(t, filepath.Join(d, "x.iso"), "medivm") }, "sum-differs"},
		"another manifest":     {func(d string) { put(t, filepath.Join(d, "x.manifest.json"), "{}") }, "sum-differs"},
		"another list":         {func(d string) { put(t, filepath.Join(d, sumsFile), "") }, "sums-forged"},
		"no signature":         {func(d string) { os.Remove(filepath.Join(d, sigFile)) }, "sums-unsigned"},
		"a signature cut":      {func(d string) { put(t, filepath.Join(d, sigFile), "short") }, "sums-forged"},
		"a signature by other": {func(d string) { put(t, filepath.Join(d, sigFile), strings.Repeat("x", 64)) }, "sums-forged"},
	} {
		dir, pub := published(t)
		c.spoil(dir)
		if _, err := CheckSums(filepath.Join(dir, "x.iso"), pub); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", what, err, c.want)
		}
	}
}

// A list that changes takes the signature of the former one along.
func TestSignatureOfFormerList(t *testing.T) {
	dir, pub := published(t)
	o, err := openOut(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	put(t, filepath.Join(o.work, "y"), "y")
	if _, err := o.publish(map[string]string{"y": "y"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := CheckSums(filepath.Join(dir, "y"), pub); err == nil || !strings.Contains(err.Error(), "sums-unsigned") {
		t.Errorf("after an unsigned build: %v", err)
	}
}

func TestFirstDifference(t *testing.T) {
	make := func() *tree.Node {
		root := tree.New()
		for _, p := range []string{"/a/x", "/b", "/c"} {
			if err := root.AddFile(p, 0o644, tree.Bytes(strings.Repeat(p, 1<<19))); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	for want, change := range map[string]func(*tree.Node){
		"":     func(*tree.Node) {},
		"/b":   func(r *tree.Node) { r.Lookup("/b").Data = tree.Bytes(strings.Repeat("/b", 1<<19-1) + "/x") },
		"/c":   func(r *tree.Node) { r.Lookup("/c").Mode = 0o600 },
		"/a":   func(r *tree.Node) { r.Remove("/a") },
		"/a/z": func(r *tree.Node) { _ = r.AddFile("/a/z", 0o644, tree.Bytes("")) },
		"/a/x": func(r *tree.Node) { r.Lookup("/a/x").Xattrs = map[string]string{"user.x": ""} },
	} {
		b := make()
		change(b)
		for _, pair := range [][2]*tree.Node{{make(), b}, {b, make()}} {
			if got, err := firstDifference(pair[0], pair[1]); err != nil || got != want {
				t.Errorf("the first difference is %q, want %q (%v)", got, want, err)
			}
		}
	}
}

func TestSameInputs(t *testing.T) {
	o := options(t)
	var in Inputs
	in.Config, in.Lock, in.Go = Defaults(), "0", "go1.0"
	o.Again = &in
	b, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	err = b.sameInputs(t.Context())
	var fe *finding.Error
	if err == nil || !strings.Contains(err.Error(), "lock-differs") || !strings.Contains(err.Error(), "go-differs") {
		t.Fatalf("%T %v", fe, err)
	}
	in.Go = b.gotool.version
	in.Sources = map[string]string{"joistd": b.keys["joistd"], "joist": "x"}
	if err := b.sameInputs(t.Context()); err == nil || !strings.Contains(err.Error(), "cmd/joist:") || strings.Contains(err.Error(), "cmd/joistd:") {
		t.Errorf("other sources of joist: %v", err)
	}
}
