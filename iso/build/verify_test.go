package build

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/image/boot"
	"joist/image/bundle"
	"joist/internal/finding"
	"joist/iso/media"
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
	put(t, filepath.Join(o.work, "m2"), string(m))
	put(t, filepath.Join(o.work, "f"), "initrd")
	if _, err := o.publish(map[string]string{"x.iso": "iso", "x.manifest.json": "m", "netboot/grub/initrd": "f", "netboot/manifest.json": "m2"}, key); err != nil {
		t.Fatal(err)
	}
	return dir, pub
}

func TestCheckSums(t *testing.T) {
	dir, pub := published(t)
	name := filepath.Join(dir, "x.iso")
	a, err := CheckSums(name, pub)
	if err != nil || !a.Signed || a.Inputs.Go != "go1" {
		t.Fatalf("%+v, %v", a, err)
	}
	if a, err := CheckSums(name, nil); err != nil || a.Signed {
		t.Errorf("without a key: %+v, %v", a, err)
	}
	for _, name := range []string{"netboot/grub/initrd", "netboot"} {
		if a, err := CheckSums(filepath.Join(dir, name), pub); err != nil || !a.Signed || a.Name != name || a.Kind != Netboot || len(a.Differs) > 0 {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	if a, err := CheckSums(filepath.Join(dir, "netboot/manifest.json"), nil); err != nil || a.Kind != "" || Rebuild(t.Context(), a, Options{}) == nil {
		t.Errorf("a manifest: %+v, %v", a, err)
	}
	if _, err := CheckSums(filepath.Join(dir, "absent.iso"), pub); err == nil || !strings.Contains(err.Error(), "absent.iso: no such file") {
		t.Errorf("what is not there: %v", err)
	}
	put(t, filepath.Join(dir, "other.iso"), "medium")
	if a, err := CheckSums(filepath.Join(dir, "other.iso"), pub); err == nil {
		t.Errorf("what the list does not name: %+v", a)
	}
	put(t, name, "medivm") // found out, and left to Rebuild
	a, err = CheckSums(name, pub)
	if err != nil || !a.Differs.Stops() || !strings.Contains(a.Differs.Err().Error(), "sum-differs") {
		t.Errorf("a flipped byte: %v, %v", a.Differs, err)
	}
	for what, c := range map[string]struct {
		spoil func(dir string)
		want  string
	}{
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

// wrapped are artefacts around one small system: an ISO without boot records, an
// update bundle, a netboot folder and a template.
func wrapped(t *testing.T, dir string) {
	t.Helper()
	root := tree.New()
	noise := make([]byte, 1<<18)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(noise); i++ {
		noise[i] = byte(r.Uint32())
	}
	for p, text := range map[string]string{
		"/a": "a", "/b/x": string(noise), "/c": strings.Repeat("c", 1<<17), "/usr/lib/modules/6.12/x.ko": "module", "/etc/debian_version": "13.7\n",
		"/usr/lib/joist/build.json": `{"version": "1.0.0", "build_id": "0123456789abcdef", "built": "2025-06-15T15:06:40Z"}`,
		"/var/lib/dpkg/status":      "Package: bash\nVersion: 5\n\nPackage: dash\nVersion: 1:2\n",
	} {
		if err := root.AddFile(p, 0o644, tree.Bytes(text)); err != nil {
			t.Fatal(err)
		}
	}
	b := &Builder{cfg: Defaults(), id: "0123456789abcdef", built: time.Unix(1750000000, 0), work: dir, cache: t.TempDir(), o: Options{Say: func(finding.List) {}}}
	b.cfg.Image.Compression = 1
	s := b.inWork()
	if err := b.squash(t.Context(), root, boot.FileSystem, func(n, of int64) {}); err != nil {
		t.Fatal(err)
	}
	var err error
	s.Manifest = boot.Manifest{BuildID: b.id, Version: "1.0.0", Built: b.built, Kernel: "6.12", Files: map[string]boot.File{}}
	if s.Manifest.VerityRoot, err = b.verity(s.Squash); err != nil {
		t.Fatal(err)
	}
	put(t, s.Kernel, "kernel")
	put(t, s.Initrd, "initrd")
	files := map[string]tree.Source{}
	var content []bundle.Content
	for name, at := range s.files() {
		if s.Manifest.Files[name], err = describe(at); err != nil {
			t.Fatal(err)
		}
		f, err := tree.FromFile(at)
		if err != nil {
			t.Fatal(err)
		}
		files["/joist/"+b.id+"/"+name] = f
		content = append(content, bundle.Content{Name: name, Data: f})
	}
	slices.SortFunc(content, func(a, b bundle.Content) int { return strings.Compare(a.Name, b.Name) })
	if err := writeFile(filepath.Join(dir, "x.update"), func(f *os.File) error {
		return bundle.Write(f, s.Manifest, content, func([]byte) ([]byte, error) { return nil, nil })
	}); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Join(dir, "x.tar"), func(f *os.File) error { return root.WriteTar(f, b.built) }); err != nil {
		t.Fatal(err)
	}
	if err := compress(filepath.Join(dir, "x.tar"), filepath.Join(dir, "x"+templateSuffix)); err != nil {
		t.Fatal(err)
	}
	// What looks enough like GRUB for a medium to be planned.
	core, hybrid := bytes.Repeat([]byte{0xab, 1, 2}, 20001), bytes.Repeat([]byte{0x90}, 512)
	binary.LittleEndian.PutUint16(core[2558:], 0x820)
	hybrid[510], hybrid[511] = 0x55, 0xaa
	files["/bios.img"], files["/efi.img"] = tree.Bytes(core), tree.Bytes(bytes.Repeat([]byte("efi "), 20000))
	files[programFile] = tree.Bytes("#!/bin/sh\n")
	spec := media.Spec{Files: files, VolumeID: "JOIST", Application: "JOIST 1.0.0 BUILD 0123456789ABCDEF", Date: b.built, BIOS: "/bios.img", EFI: "/efi.img",
		HybridMBR: tree.Bytes(hybrid), DiskGUID: "00112233-4455-6677-8899-AABBCCDDEEFF"}
	if err := writeFile(filepath.Join(dir, "x.iso"), func(f *os.File) error { return media.Write(t.Context(), f, spec) }); err != nil {
		t.Fatal(err)
	}
}

// What a medium holds beside a build is part of what is made again.
func TestTakeInside(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	wrapped(t, dir)
	var o Options
	if err := o.takeInside(filepath.Join(dir, "x.iso"), to); err != nil || o.Answer != "" || o.From.URL != "" {
		t.Errorf("%+v, %v", o, err)
	}
	if b, err := os.ReadFile(o.Program); err != nil || string(b) != "#!/bin/sh\n" {
		t.Errorf("%q, %v", b, err)
	}
	put(t, filepath.Join(dir, "damaged"), "nothing")
	o = Options{}
	if err := o.takeInside(filepath.Join(dir, "damaged"), to); err != nil || o.Program != "" {
		t.Errorf("%+v, %v", o, err)
	}
}

// A byte that was changed after the build is found, and where it lies is named.
func TestCompareFiles(t *testing.T) {
	good := t.TempDir()
	wrapped(t, good)
	for _, name := range []string{"x.iso", "x.update", "x" + templateSuffix, boot.FileSystem, boot.FileKernel} {
		text, err := os.ReadFile(filepath.Join(good, name))
		if err != nil {
			t.Fatal(err)
		}
		if at, err := compareFiles(filepath.Join(good, name), filepath.Join(good, name)); at != "" || err != nil {
			t.Errorf("%s differs from itself in %q, %v", name, at, err)
		}
		found := map[string]bool{}
		for i := range 25 {
			bad := bytes.Clone(text)
			bad[i*(len(bad)-1)/24] ^= 0x10
			old := filepath.Join(t.TempDir(), name)
			put(t, old, string(bad))
			at, err := compareFiles(old, filepath.Join(good, name))
			if at == "" || err != nil {
				t.Errorf("%s, byte %d: %q, %v", name, i*(len(bad)-1)/24, at, err)
			}
			found[at] = true
		}
		want := map[string]string{"x.iso": "system.sqfs: /", "x.update": "system.sqfs: /", "x" + templateSuffix: "./", boot.FileSystem: "its hash tree", boot.FileKernel: boot.FileKernel}[name]
		if !slices.ContainsFunc(slices.Collect(maps.Keys(found)), func(at string) bool { return strings.Contains(at, want) }) {
			t.Errorf("%s: none of %v has %q", name, slices.Sorted(maps.Keys(found)), want)
		}
		put(t, filepath.Join(good, "cut"+name), string(text[:len(text)/2]))
		if at, err := compareFiles(filepath.Join(good, "cut"+name), filepath.Join(good, name)); at == "" || err != nil {
			t.Errorf("%s cut in the middle: %q, %v", name, at, err)
		}
	}
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	wrapped(t, dir)
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	r, err := Inspect(filepath.Join(dir, "x"+templateSuffix), nil)
	if err != nil || r.Kind != "template" || r.Version != "Debian 13.7" || len(r.Packages) != 2 || r.Packages[1].Version != "1:2" {
		t.Errorf("%+v, %v", r, err)
	}
	for name, kind := range map[string]string{"x.update": "update", boot.FileSystem: "system"} {
		r, err := Inspect(filepath.Join(dir, name), nil)
		if err != nil || r.Kind != kind || r.Kernel != "6.12" || r.Modules != 1 || r.Findings.Stops() || len(r.VerityRoot) != 64 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	// Unsigned, where a signature is asked for.
	r, err = Inspect(filepath.Join(dir, "x.update"), key.Public().(ed25519.PublicKey))
	if err != nil || !strings.Contains(r.Findings.Err().Error(), "not signed") {
		t.Errorf("%v, %v", r.Findings, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "x.update"))
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-1] ^= 1
	put(t, filepath.Join(dir, "x.update"), string(text))
	r, err = Inspect(filepath.Join(dir, "x.update"), nil)
	if err != nil || !strings.Contains(r.Findings.Err().Error(), "update bundle is damaged") {
		t.Errorf("%v, %v", r.Findings, err)
	}
	put(t, filepath.Join(dir, "manifest.json"), "{}")
	if _, err := Inspect(dir, nil); err == nil || !strings.Contains(err.Error(), "build_id") {
		t.Errorf("a folder with a broken manifest: %v", err)
	}
	put(t, filepath.Join(dir, "text"), strings.Repeat("text ", 30000))
	if _, err := Inspect(filepath.Join(dir, "text"), nil); !errors.Is(err, errNoArtefact) {
		t.Errorf("a text: %v", err)
	}
}

// Signatures follow from key and message; what is made again needs no key; and a
// build of other artefacts keeps those of the same system.
func TestSign(t *testing.T) {
	private, _ := keyFiles(t)
	key, err := loadSignKey(private)
	if err != nil {
		t.Fatal(err)
	}
	b := &Builder{cfg: Defaults(), id: "0123456789abcdef", key: key, o: Options{Out: t.TempDir()}}
	one, err := b.sign("x.update", []byte("head"))
	two, err2 := b.sign("x.update", []byte("head"))
	if err != nil || err2 != nil || !bytes.Equal(one, two) || len(one) != ed25519.SignatureSize {
		t.Fatalf("%x, %x, %v, %v", one, two, err, err2)
	}
	manifest := b.base() + manifestSuffix
	list := b.signaturesOf(manifest)
	again := &Builder{o: Options{Again: &Inputs{}, Signed: list}}
	if sig, err := again.sign("x.update", []byte("head")); err != nil || !bytes.Equal(sig, one) {
		t.Errorf("made again: %x, %v", sig, err)
	}
	if sig, err := (&Builder{}).sign("x.update", nil); sig != nil || err != nil {
		t.Errorf("without a key: %x, %v", sig, err)
	}
	text, err := encode(Manifest{Manifest: boot.Manifest{BuildID: b.id}, Signatures: list})
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(b.o.Out, manifest), string(text))
	next := &Builder{cfg: b.cfg, id: b.id, o: b.o}
	if got := next.signaturesOf(manifest); !maps.Equal(got, list) || len(got) != 1 {
		t.Errorf("the next build of the same system lists %v", got)
	}
	if got := next.signaturesOf(netbootDir + "/manifest.json"); len(got) != 0 {
		t.Errorf("the netboot folder lists %v", got)
	}
	next.id = "fedcba9876543210"
	if got := next.signaturesOf(manifest); len(got) != 0 {
		t.Errorf("another system lists %v", got)
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
	err = b.sameInputs(t.Context(), true)
	var fe *finding.Error
	if err == nil || !strings.Contains(err.Error(), "lock-differs") || !strings.Contains(err.Error(), "go-differs") {
		t.Fatalf("%T %v", fe, err)
	}
	in.Go = b.gotool.version
	in.Sources = map[string]string{"joistd": b.keys["joistd"], "joist": "x"}
	if err := b.sameInputs(t.Context(), true); err == nil || !strings.Contains(err.Error(), "cmd/joist:") || strings.Contains(err.Error(), "cmd/joistd:") {
		t.Errorf("other sources of joist: %v", err)
	}
	// A file that joist.toml names is an input like any.
	b.extra.files = []contentFile{{target: "/etc/same", data: []byte("x")}, {target: "/etc/other", data: []byte("x")}}
	in.Contents = map[string]string{"/etc/same": b.extra.sums()["/etc/same"], "/etc/other": "0"}
	if err := b.sameInputs(t.Context(), false); err == nil || !strings.Contains(err.Error(), "/etc/other: error: the artefact was built with another file") || strings.Contains(err.Error(), "/etc/same") {
		t.Errorf("another file: %v", err)
	}
}
