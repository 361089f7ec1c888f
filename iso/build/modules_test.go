package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"

	"joist/internal/finding"
	"joist/rootfs/initramfs"
	"joist/rootfs/tree"
)

// signed is what the end of a signed module looks like (kernel,
// include/linux/module_signature.h).
const signed = "PKCS#7\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x06~Module signature appended~\n"

func xzipped(t *testing.T, text string) tree.Bytes {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Modules reach the tree unpacked, byte by byte what was signed, and without
// those that policy drops; everything else stays as it was.
func TestModulesUnpacked(t *testing.T) {
	const base = "/usr/lib/modules/6.12-test"
	nvme := strings.Repeat("code", 50000) + signed
	root := tree.New()
	for p, data := range map[string]tree.Bytes{
		"/kernel/drivers/nvme/nvme.ko.xz": xzipped(t, nvme), "/kernel/fs/plain.ko": tree.Bytes("plain" + signed), "/kernel/sound/snd.ko.xz": xzipped(t, "snd"),
		"/modules.order": tree.Bytes("kernel/drivers/nvme/nvme.ko\n"), "/notes.xz": tree.Bytes("not even xz"),
	} {
		if err := root.AddFile(base+p, 0o644, data); err != nil {
			t.Fatal(err)
		}
	}
	mods, err := keptModules(root, base)
	if err != nil {
		t.Fatal(err)
	}
	dir, kept := filepath.Join(t.TempDir(), "a", "b"), t.TempDir()
	if err := writeModules(t.Context(), mods, dir); err != nil {
		t.Fatal(err)
	}
	if err := linkAll(dir, kept); err != nil {
		t.Fatal(err)
	}
	root.Remove(base)
	if err := graft(root, base, kept); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	root.Walk(func(p string, n *tree.Node) error {
		if !n.Mode.IsDir() {
			b, err := root.Read(p)
			if err != nil || n.Mode != 0o644 || n.Data.Size() != int64(len(b)) {
				t.Errorf("%s: %v, %d bytes of %d, %v", p, n.Mode, len(b), n.Data.Size(), err)
			}
			got[strings.TrimPrefix(p, base)] = string(b)
		}
		return nil
	})
	want := map[string]string{
		"/kernel/drivers/nvme/nvme.ko": nvme, "/kernel/fs/plain.ko": "plain" + signed,
		"/modules.order": "kernel/drivers/nvme/nvme.ko\n", "/notes.xz": "not even xz",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A damaged module stops the build and is named.
func TestModulesDamaged(t *testing.T) {
	good := xzipped(t, strings.Repeat("x", 1000))
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for what, data := range map[string]tree.Bytes{"cut off": good[:len(good)-20], "flipped": flipped, "no xz": tree.Bytes("\x7fELF")} {
		mods := tree.New()
		if err := mods.AddFile("/kernel/bad.ko.xz", 0o644, data); err != nil {
			t.Fatal(err)
		}
		if err := writeModules(t.Context(), mods, t.TempDir()); err == nil || !strings.Contains(err.Error(), "/kernel/bad.ko.xz: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	mods := tree.New()
	if err := mods.AddFile("/good.ko.xz", 0o644, good); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := writeModules(ctx, mods, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("interrupted, and yet there are %v, %v", list, err)
	}
}

// The cache's key changes with each byte of a module and each other input.
func TestModulesDigest(t *testing.T) {
	key := func(data string, more ...string) string {
		root := tree.New()
		if err := root.AddFile("/kernel/a.ko.xz", 0o644, tree.Bytes(data)); err != nil {
			t.Fatal(err)
		}
		k, err := digestOf(root, more...)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	seen := map[string]bool{}
	for _, k := range []string{key("a"), key("b"), key("a", "x"), key("a", "x", "y"), key("a", "xy")} {
		if seen[k] || len(k) != 16 {
			t.Errorf("key %q twice, or of another length", k)
		}
		seen[k] = true
	}
	if key("a", "x") != key("a", "x") {
		t.Error("equal inputs have different keys")
	}
}

func TestSayFirmware(t *testing.T) {
	var said finding.List
	b := &Builder{o: Options{Say: func(fl finding.List) { said = append(said, fl...) }}}
	b.sayFirmware(initramfs.Parts{})
	if len(said) != 0 {
		t.Errorf("nothing is missing: %v", said)
	}
	b.sayFirmware(initramfs.Parts{NoFirmware: []string{"isci: a.bin", "uas: b.bin"}})
	if len(said) != 1 || said.Stops() || !strings.HasSuffix(said[0].Text, ": isci: a.bin, uas: b.bin") {
		t.Errorf("said %v", said)
	}
}
