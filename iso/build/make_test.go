package build

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/internal/finding"
)

// Several kinds are published together, each with what accounts for it, and
// found unchanged by the next build: of the same key, and while nothing that
// belongs to them was touched.
func TestRelease(t *testing.T) {
	private, public := keyFiles(t)
	key, err := loadSignKey(private)
	if err != nil {
		t.Fatal(err)
	}
	b, s := kept(t)
	b.cfg, b.built, b.key = Defaults(), time.Unix(1750000000, 0), key
	s.Manifest.BuildID, s.Manifest.Version, s.Manifest.Built, s.Manifest.Kernel, s.Manifest.VerityRoot = b.id, "0.1.0", b.built, "6.12", strings.Repeat("ab", 32)
	if b.out, err = openOut(t.Context(), b.o.Out, nil); err != nil {
		t.Fatal(err)
	}
	defer b.out.close()
	b.work = b.out.work
	kinds := map[Kind]map[string]string{
		ISO: {b.artefactPath(ISO): "medium"}, Update: {b.artefactPath(Update): "bundle"}, Template: {b.artefactPath(Template): "archive"},
		Disk:    {b.diskPaths()[0]: "raw", b.diskPaths()[1]: "qcow"},
		Netboot: {netbootDir + "/vmlinuz": "kernel", netbootDir + "/grub/grub.cfg": "menu"},
	}
	for _, name := range []string{"medium", "bundle", "archive", "kernel", "menu", "raw", "qcow"} {
		put(t, filepath.Join(b.work, name), "content of "+name)
	}
	if _, err := b.sign(b.artefactPath(Update), []byte("head")); err != nil {
		t.Fatal(err)
	}
	if err := b.release(release{system: s, bills: map[Kind][]byte{Template: []byte("bill")}, kinds: kinds}); err != nil {
		t.Fatal(err)
	}
	pub, err := LoadPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Kinds() {
		a, err := CheckSums(filepath.Join(b.o.Out, b.artefactPath(k)), pub)
		if err != nil || a.Kind != k || !a.Signed || len(a.Differs) > 0 || a.Inputs.Epoch != b.built.Unix() || (a.Made[b.artefactPath(Update)] != "") != (k == ISO || k == Update || k == Disk) {
			t.Errorf("%s: %+v, %v", k, a, err)
		}
	}
	is := func(what string, want bool, kinds ...Kind) {
		t.Helper()
		for _, k := range kinds {
			if same, err := b.unchanged(k); same != want || err != nil {
				t.Errorf("%s: %s unchanged %v, %v", what, k, same, err)
			}
		}
	}
	is("as published", true, Kinds()...)
	b.key = nil
	is("without the key", false, Kinds()...)
	b.key = key
	put(t, filepath.Join(b.o.Out, netbootDir, "grub", "grub.cfg"), "other")
	is("a file of the folder changed", false, Netboot)
	is("a file of the folder changed", true, ISO, Update, Template)
	if err := os.Remove(filepath.Join(b.o.Out, b.templateName()+billSuffix)); err != nil {
		t.Fatal(err)
	}
	is("a bill is gone", false, Template)
	put(t, filepath.Join(b.o.Out, sigFile), "x")
	is("another signature", false, ISO)

	// An answer's secrets leave no trace, and what is made again none at all.
	b.private = map[string][]byte{answerFile: []byte("secret")}
	if todo, err := b.changed([]Kind{ISO, ISO}); err != nil || len(todo) != 1 {
		t.Errorf("with an answer: %v, %v", todo, err)
	}
	var m TemplateManifest
	text, err := os.ReadFile(filepath.Join(b.o.Out, b.templateName()+manifestSuffix))
	if err != nil || json.Unmarshal(text, &m) != nil || m.Name != b.templateName() || len(m.BuildID) != 16 {
		t.Errorf("%+v, %v", m, err)
	}
}

// The template of an older release has a lock, packages and a name of its own;
// the other's stay as they were.
func TestOlderTemplate(t *testing.T) {
	src := t.TempDir()
	b := &Builder{o: Options{Source: src, Locked: true}, cfg: Defaults(), work: t.TempDir(), files: map[string]string{"bash": "/newer"}, built: time.Unix(1750000000, 0)}
	old := b.forGuest(TemplateOld)
	if b.forGuest(TemplateOld) != old || b.forGuest(Template) != b || b.forGuest(ISO) != b {
		t.Error("another builder each time")
	}
	if b.artefactPath(TemplateOld) != "debian-12-standard_0.1.0-1_amd64.tar.zst" || b.artefactPath(Template) != "debian-13-standard_0.1.0-1_amd64.tar.zst" {
		t.Error(b.artefactPath(TemplateOld), b.artefactPath(Template))
	}
	for _, k := range []Kind{Template, TemplateOld} {
		if got, _ := kindOf(b.artefactPath(k)); got != k {
			t.Errorf("%s is taken for %s", b.artefactPath(k), got)
		}
	}
	if old.digest() == b.digest() || old.lockFile() == b.lockFile() || len(old.files) > 0 {
		t.Error("the two share what names packages")
	}
	changed := *b
	changed.older, changed.cfg.Suites, changed.cfg.Image.ZFS = nil, []string{"sid"}, false
	if changed.forGuest(TemplateOld).digest() != old.digest() {
		t.Error("joist.toml is in the digest of the older release's lock")
	}
	if err := old.lockGuest(t.Context()); err == nil || !strings.Contains(err.Error(), "template-debian-12.lock") {
		t.Errorf("without a lock: %v", err)
	}
	text := "format = 1\nconfig = \"" + old.digest() + "\"\nsuites = [\"bookworm\"]\n"
	put(t, old.lockFile(), text)
	if err := old.lockGuest(t.Context()); err != nil || string(old.lockText) != text || b.lockText != nil {
		t.Errorf("with a lock: %v", err)
	}
}

// A build that makes no update bundle says nothing of its signature.
func TestWarnUnsigned(t *testing.T) {
	private, _ := keyFiles(t)
	key, err := loadSignKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b    Builder
		want int
	}{"no key": {Builder{}, 1}, "a key": {Builder{key: key}, 0}, "made again": {Builder{o: Options{Again: &Inputs{}}}, 0}} {
		said := 0
		c.b.o.Say = func(fl finding.List) { said += len(fl) }
		c.b.warnUnsigned()
		if said != c.want {
			t.Errorf("%s: %d warnings", name, said)
		}
	}
}

func TestDiskNames(t *testing.T) {
	b := &Builder{cfg: Defaults()}
	for _, sector := range []int{512, 4096} {
		b.o.SectorSize = sector
		for _, name := range b.diskPaths() {
			kind, manifest := kindOf(name)
			base, got, ok := diskOf(name)
			if want, _ := b.papers(Disk); kind != Disk || manifest != want || got != sector || !ok || base != b.base() {
				t.Errorf("%s: %s, %s, %d", name, kind, manifest, got)
			}
		}
		l, err := b.diskLayout()
		if err != nil || l.SectorSize != sector {
			t.Errorf("%d: %+v %v", sector, l, err)
		}
	}
	if b.o.SectorSize = 0; b.sectorSize() != 512 {
		t.Errorf("without a word sectors have %d bytes", b.sectorSize())
	}
	if kind, _ := kindOf("joist-0.1.0-amd64.tar.zst"); kind == Disk {
		t.Error("a template is taken for a disk")
	}
}

// What is made again has the configuration of its manifest, which lacks what is
// no input.
func TestConfigOfManifest(t *testing.T) {
	c := Defaults()
	c.Disk.SectorSize = 4096
	text, err := json.Marshal(Inputs{Config: c.inputs()})
	if err != nil {
		t.Fatal(err)
	}
	var in Inputs
	if err := json.Unmarshal(text, &in); err != nil {
		t.Fatal(err)
	}
	var fl finding.List
	in.config().check(&fl, source{})
	if len(fl) > 0 || in.config().Disk.SectorSize != 512 {
		t.Errorf("%v", fl)
	}
}
