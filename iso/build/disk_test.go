package build

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/image/boot"
	"joist/image/disk"
	"joist/iso/diskimage"
	"joist/rootfs/tree"
)

// wrappedDisk makes disk images around the system in a folder, in both formats.
func wrappedDisk(t *testing.T, dir string, sector int, answer string) {
	t.Helper()
	r, err := Inspect(filepath.Join(dir, boot.FileSystem), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &Builder{cfg: Defaults(), id: r.BuildID, o: Options{SectorSize: sector}, private: map[string][]byte{}}
	if answer != "" {
		b.private[answerFile] = []byte(answer)
	}
	s := System{Kernel: filepath.Join(dir, boot.FileKernel), Initrd: filepath.Join(dir, boot.FileInitrd), Squash: filepath.Join(dir, boot.FileSystem)}
	s.Manifest = boot.Manifest{BuildID: r.BuildID, Version: r.Version, Built: time.Unix(1750000000, 0), Kernel: r.Kernel, VerityRoot: r.VerityRoot, Files: map[string]boot.File{}}
	var spec diskimage.Spec
	for name, at := range s.files() {
		if s.Manifest.Files[name], err = describe(at); err != nil {
			t.Fatal(err)
		}
	}
	if spec.Layout, err = b.diskLayout(); err != nil {
		t.Fatal(err)
	}
	part, err := spec.Layout.Find(disk.NameESP)
	if err != nil {
		t.Fatal(err)
	}
	spec.ESP = disk.FAT{Size: part.Size, SectorSize: sector, Start: part.Start, Label: boot.ESPLabel}
	if spec.ESP.Files, err = b.diskBeside(s); err != nil {
		t.Fatal(err)
	}
	for name, at := range s.files() {
		f, err := tree.FromFile(at)
		if err != nil {
			t.Fatal(err)
		}
		if name == boot.FileSystem {
			spec.System = f
			continue
		}
		spec.ESP.Files = append(spec.ESP.Files, disk.File{Path: boot.PathSlotFile(boot.A, name), Data: f})
	}
	slices.SortFunc(spec.ESP.Files, func(a, b disk.File) int { return strings.Compare(a.Path, b.Path) })
	spec.Core, spec.BootImg = make([]byte, 1024), make([]byte, 512) // as GRUB's begin
	spec.Core[0x1fc], spec.Core[0x1fe], spec.Core[0x1ff] = 1, 0x20, 0x08
	spec.BootImg[0x66], spec.BootImg[510], spec.BootImg[511] = 0x90, 0x55, 0xaa
	raw, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	m, err := diskimage.Write(raw, spec)
	if err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func(io.Writer, diskimage.Image) error{"x" + rawSuffix: diskimage.WriteZstd, "x" + qcowSuffix: diskimage.WriteQcow2} {
		if err := writeFile(filepath.Join(dir, name), func(f *os.File) error { return write(f, m) }); err != nil {
			t.Fatal(err)
		}
	}
}

// Both formats can be looked into, and a byte that was changed is found, where
// a person would look for it.
func TestDiskImages(t *testing.T) {
	dir := t.TempDir()
	wrapped(t, dir)
	const text = "[global]\nfqdn = \"in-image\"\n"
	for sector, answer := range map[int]string{512: text, 4096: ""} {
		wrappedDisk(t, dir, sector, answer)
		for _, name := range []string{"x" + rawSuffix, "x" + qcowSuffix} {
			at := filepath.Join(dir, name)
			r, err := Inspect(at, nil)
			stops := answer != "" // the answer is not a whole one
			if err != nil || r.Kind != string(Disk) || r.Kernel != "6.12" || r.SectorSize != sector || len(r.VerityRoot) != 64 || r.Findings.Stops() != stops || strings.Contains(r.Answer, "in-image") != (answer != "") {
				t.Errorf("%d %s: %+v, %v", sector, name, r, err)
			}
			var again Options
			err = again.takeInside(at, t.TempDir())
			file := again.Answer
			if err != nil || (file != "") != (answer != "") {
				t.Errorf("%d %s: its answer is %q, %v", sector, name, file, err)
			}
			if answer != "" {
				b, err := os.ReadFile(file)
				if err != nil || string(boot.AnswerPlace(b)) != string(boot.AnswerPlace([]byte(answer))) {
					t.Errorf("%d %s: the answer made again differs, %v", sector, name, err)
				}
			}
			if where, err := compareFiles(at, at); where != "" || err != nil {
				t.Errorf("%d %s differs from itself in %q, %v", sector, name, where, err)
			}
		}
	}
	good := filepath.Join(dir, "x"+qcowSuffix)
	image, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for what, want := range map[string]string{"kernel": "/joist/A/vmlinuz", strings.Repeat("c", 100): "system.sqfs"} {
		bad := slices.Clone(image)
		i := strings.LastIndex(string(bad), what)
		if i < 0 {
			continue // compressed
		}
		tried++
		bad[i] ^= 1
		put(t, filepath.Join(dir, "bad"+qcowSuffix), string(bad))
		if where, err := compareFiles(filepath.Join(dir, "bad"+qcowSuffix), good); !strings.Contains(where, want) || err != nil {
			t.Errorf("%q, %v, want %s", where, err, want)
		}
		if r, err := Inspect(filepath.Join(dir, "bad"+qcowSuffix), nil); err == nil && !r.Findings.Stops() {
			t.Errorf("damage of %s is not seen", want)
		}
	}
	if tried == 0 {
		t.Error("nothing was damaged")
	}
}
