package media

import (
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"joist/internal/run"
	"joist/rootfs/tree"
)

// A medium of 200 MB, written by us and by xorriso with the options that make
// the same kind of image.

const benchSize = 200 << 20

func benchFile(b *testing.B) tree.File {
	b.Helper()
	name := filepath.Join(b.TempDir(), "system.sqfs")
	content := make([]byte, benchSize)
	rand.New(rand.NewSource(1)).Read(content)
	must(b, os.WriteFile(name, content, 0o600))
	return tree.File{Path: name, Bytes: benchSize}
}

func BenchmarkWrite(b *testing.B) {
	s := spec()
	s.Files["/joist/"+build+"/system.sqfs"] = benchFile(b)
	out := filepath.Join(b.TempDir(), "m.iso")
	b.SetBytes(benchSize)
	for b.Loop() {
		f, err := os.Create(out)
		must(b, err, Write(b.Context(), f, s), f.Close())
	}
}

func BenchmarkXorriso(b *testing.B) {
	xorriso, err := exec.LookPath("xorriso")
	if err != nil {
		b.Skip(err)
	}
	s, dir, large := spec(), b.TempDir(), benchFile(b)
	mbr := filepath.Join(dir, "mbr")
	must(b, os.WriteFile(mbr, s.HybridMBR.(tree.Bytes), 0o600))
	out := filepath.Join(dir, "m.iso")
	args := []string{
		"-no_rc", "-as", "mkisofs", "-quiet", "-o", out, "-V", s.VolumeID, "-iso-level", "3", "-r", "-J", "-pad", "-c", "/boot/boot.cat", "--boot-catalog-hide",
		"-b", s.BIOS, "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info", "--grub2-mbr", mbr,
		"--efi-boot", s.EFI, "-efi-boot-part", "--efi-boot-image", "--protective-msdos-label", "-graft-points",
	}
	for p, c := range s.Files {
		local := filepath.Join(dir, filepath.Base(p))
		if filepath.Base(p) == "system.sqfs" {
			local = large.Path
		} else {
			must(b, os.WriteFile(local, c.(tree.Bytes), 0o600))
		}
		args = append(args, p+"="+local)
	}
	b.SetBytes(benchSize)
	for b.Loop() {
		os.Remove(out)
		_, err := run.OS{}.Run(b.Context(), run.Cmd{Path: xorriso, Args: args, Env: []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=/nonexistent"}})
		must(b, err)
	}
}
