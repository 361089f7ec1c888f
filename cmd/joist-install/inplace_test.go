package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/nocloud"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/host"
	"joist/rootfs/tree"
)

const inPlaceBuild = "0123456789abcdef"

// ownDisk is a disk that begins with an image, with these files on its boot
// partition beside the manifest.
func ownDisk(t *testing.T, root string, files map[string]string) probe.InPlace {
	t.Helper()
	r := disk.ImageRequest{SectorSize: 512}
	for i, to := range []*string{&r.DiskGUID, &r.PartGUIDs[0], &r.PartGUIDs[1], &r.PartGUIDs[2], &r.PartGUIDs[3], &r.PartGUIDs[4]} {
		var err error
		if *to, err = disk.NewGUID(bytes.NewReader(bytes.Repeat([]byte{byte(i + 1)}, 16))); err != nil {
			t.Fatal(err)
		}
	}
	l, err := disk.PlanImage(r)
	if err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("0", 64)
	m := boot.Manifest{BuildID: inPlaceBuild, Version: "1.2.3", Kernel: "6.12", VerityRoot: sum, Built: time.Unix(1.7e9, 0),
		Files: map[string]boot.File{boot.FileKernel: {Size: 1, SHA256: sum}, boot.FileInitrd: {Size: 1, SHA256: sum}, boot.FileSystem: {Size: 1, SHA256: sum}}}
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	esp, err := l.Find(disk.NameESP)
	if err != nil {
		t.Fatal(err)
	}
	fat := disk.FAT{Size: esp.Size, SectorSize: 512, Start: esp.Start, Label: "E", Files: []disk.File{{Path: boot.PathManifest(boot.A), Data: tree.Bytes(text)}}}
	for name, text := range files {
		fat.Files = append(fat.Files, disk.File{Path: name, Data: tree.Bytes(text)})
	}
	v, err := disk.PlanFAT(fat)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(root, "dev/vda"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(l.Size), disk.WriteTable(f, l), v.Write(io.NewOffsetWriter(f, esp.Start)), f.Close()); err != nil {
		t.Fatal(err)
	}
	return probe.InPlace{Disk: "vda", Slot: "A", Table: l}
}

// volume plays mount(2): mounting puts files there.
type volume struct {
	root  string
	files map[string]string
}

func (v volume) Mount(x host.Mount) error {
	for name, text := range v.files {
		if err := os.WriteFile(filepath.Join(v.root, x.Target, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (v volume) Unmount(t string) error { return os.RemoveAll(filepath.Join(v.root, t)) }

func (v volume) Power(host.PowerAction) error { return errors.New("not in a test") }

func TestFindSeed(t *testing.T) {
	const toml = "[global]\nfqdn = \"in-image\"\n"
	cloud := map[string]string{nocloud.UserData: "#cloud-config\npassword: longenough\n", nocloud.MetaData: "local-hostname: from-cloud\n"}
	for _, c := range []struct {
		name   string
		image  map[string]string
		label  string
		volume map[string]string
		fqdn   string
		asked  bool // somebody is
	}{
		{name: "nothing", asked: true},
		{name: "in the image", image: map[string]string{boot.PathAnswer: toml}, label: "cidata", volume: cloud, fqdn: "in-image"},
		{name: "erased", image: map[string]string{boot.PathAnswer: strings.Repeat("#", 40)}, asked: true},
		{name: "labelled", label: "joist-answe", volume: map[string]string{answerName: "[global]\nfqdn = \"from-volume\"\n"}, fqdn: "from-volume"},
		{name: "for cloud-init", label: "CIDATA", volume: cloud, fqdn: "from-cloud.localdomain"},
		{name: "erased, and for cloud-init", image: map[string]string{boot.PathAnswer: "####"}, label: "cidata", volume: cloud, fqdn: "from-cloud.localdomain"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			h := &host.Host{Root: root, Sys: volume{root, c.volume}, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
			own := ownDisk(t, root, c.image)
			if err := ownMedium(h, own); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(h.Path(probe.MediumDir, "joist", inPlaceBuild, "manifest.json")); err != nil {
				t.Error(err)
			}
			if c.label != "" {
				b := make([]byte, 4096)
				copy(b[0x52:], "FAT32")
				copy(b[0x47:], (c.label + "           ")[:11])
				if err := errors.Join(os.MkdirAll(filepath.Join(root, "sys/block/vdb"), 0o755), os.WriteFile(filepath.Join(root, "sys/block/vdb/size"), []byte("8"), 0o600), os.WriteFile(filepath.Join(root, "dev/vdb"), b, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			s := &session{h: h, m: probe.Machine{Root: root, Now: time.Now}, net: noNetwork{}, out: consoles{}}
			f := probe.Facts{InPlace: &own, Time: time.Now()}
			fl, ok := s.findSeed(t.Context(), &f, plan.Image{})
			if ok == c.asked || s.answer.Global.FQDN != c.fqdn || s.o.unattended == c.asked {
				t.Errorf("%v %q %v", ok, s.answer.Global.FQDN, fl)
			}
		})
	}
}
