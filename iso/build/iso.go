package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/internal/finding"
	"joist/iso/media"
	"joist/rootfs/tree"
)

// Where Debian's packages keep what the media need, below the sandbox.
const (
	grubPC     = "usr/lib/grub/i386-pc"
	grubSigned = "usr/lib/grub/x86_64-efi-signed"
	shimDir    = "usr/lib/shim"
)

// Ends of the names of what accounts for an artefact.
const (
	manifestSuffix = ".manifest.json"
	billSuffix     = ".spdx.json"
)

// isoFiles writes the installable image.
func (b *Builder) isoFiles(ctx context.Context, s System) (map[string]string, error) {
	if err := b.medium(ctx, s, b.private); err != nil {
		return nil, err
	}
	return map[string]string{b.artefactPath(ISO): "medium.iso"}, nil
}

// inside is what the medium holds beside a build, by its path there: an answer,
// or the name of a server that has one, and a first-boot program. It is checked
// before anything long begins.
func (b *Builder) inside() (map[string][]byte, error) {
	out := map[string][]byte{}
	text, asked, err := b.answer()
	if err != nil {
		return nil, err
	}
	if text != nil {
		out[answerFile] = text
	}
	program, err := b.program(text != nil, asked)
	if err != nil {
		return nil, err
	}
	if program != nil {
		out[programFile] = program
	}
	if b.o.From == (answer.Source{}) {
		return out, nil
	}
	fl := b.o.From.Check("--answer-url")
	if text != nil {
		fl.Stopf("answer-twice", "--answer-url", "give one of the two", "the image cannot hold an answer and the name of a server")
	}
	if b.o.From.Token != "" {
		fl.Warnf("answer-secret", "--answer-token-file", "keep the medium as you would keep the secret, and have the server give the token up after use", "the token lies readable on the medium")
	}
	b.o.Say(fl)
	if err := fl.Err(); err != nil {
		return nil, err
	}
	out[sourceFile], err = answer.EncodeSource(b.o.From)
	return out, err
}

// program reads and checks the first-boot program. An answer inside that does
// not ask for it, or asks for it in vain, is said.
func (b *Builder) program(answered bool, asked answer.FirstBoot) ([]byte, error) {
	var fl finding.List
	fromISO := asked.Source == answer.FromISO
	if b.o.Program == "" {
		if fromISO {
			fl.Stopf("first-boot-missing", "--first-boot", "add --first-boot FILE, or set source = \"from-url\" in [first-boot]", "the answer asks for the first-boot program of the medium, and none is given")
		}
		b.o.Say(fl)
		return nil, fl.Err()
	}
	text, err := readUpTo(b.o.Program, answer.MaxProgram+1)
	if err != nil {
		return nil, fmt.Errorf("read the first-boot program: %w", err)
	}
	if err := answer.CheckProgram(text); err != nil {
		fl.Stopf("first-boot-invalid", "--first-boot", "give a script or a program for Linux of at most 1 MiB", "%s cannot be run by a node: %v", filepath.Base(b.o.Program), err)
	}
	if answered && !fromISO {
		fl.Warnf("first-boot-unused", "--first-boot", "add [first-boot] source = \"from-iso\" to the answer", "the answer does not ask for the program that the medium holds")
	}
	b.o.Say(fl)
	return text, fl.Err()
}

// readUpTo reads the beginning of a file.
func readUpTo(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// answer reads and checks the answer file, and says what its first boot is.
func (b *Builder) answer() ([]byte, answer.FirstBoot, error) {
	if b.o.Answer == "" {
		return nil, answer.FirstBoot{}, nil
	}
	text, err := os.ReadFile(b.o.Answer)
	if err != nil {
		return nil, answer.FirstBoot{}, fmt.Errorf("read the answer file: %w", err)
	}
	a, fl := answer.Load(strings.NewReader(string(text)), b.o.Answer)
	if !fl.Stops() {
		fl = append(fl, a.Validate()...)
	}
	fl = append(fl, secretsInside(a, b.o.Answer)...)
	b.o.Say(fl)
	return text, a.FirstBoot, fl.Err()
}

// medium gathers the medium's files in the work folder and writes the image.
func (b *Builder) medium(ctx context.Context, s System, inside map[string][]byte) error {
	files, err := b.contents(ctx, s, inside)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte("joist medium " + b.id))
	guid, err := disk.NewGUID(bytes.NewReader(sum[:]))
	if err != nil {
		return err
	}
	hybrid, err := tree.FromFile(filepath.Join(b.box.Root, grubPC, "boot_hybrid.img"))
	if err != nil {
		return err
	}
	spec := media.Spec{Files: files, VolumeID: "JOIST", BIOS: "/boot/bios.img", EFI: "/efi.img", HybridMBR: hybrid,
		Application: strings.ToUpper("JOIST " + b.cfg.Version + " BUILD " + b.id), Date: b.built, DiskGUID: guid}
	if fl := spec.Check(); !fl.Stops() {
		b.o.Say(fl)
	}
	return writeFile(filepath.Join(b.work, "medium.iso"), func(f *os.File) error {
		if len(inside) > 0 { // it may hold secrets
			if err := f.Chmod(0o600); err != nil {
				return err
			}
		}
		return media.Write(ctx, f, spec)
	})
}

// contents makes the medium's files: path on the medium → content.
func (b *Builder) contents(ctx context.Context, s System, inside map[string][]byte) (map[string]tree.Source, error) {
	dir := "/joist/" + b.id
	menu, err := boot.MediumMenu(boot.Medium{BuildID: b.id, Version: b.cfg.Version, Verity: s.Manifest.VerityRoot, Console: b.consoles(), Extra: strings.Fields(b.cfg.Image.KernelArgs)})
	if err != nil {
		return nil, err
	}
	saved := map[string][]byte{"grub.cfg": menu}
	files := map[string]string{
		"/boot/vmlinuz": "vmlinuz", "/boot/initrd": "initrd", "/boot/grub/grub.cfg": "grub.cfg", "/boot/bios.img": "core-medium.img", "/efi.img": "efi.img",
		dir + "/system.sqfs": "system.sqfs", dir + "/manifest.json": "manifest.json",
	}
	for name, c := range saved {
		if err := b.saveInWork(name, c); err != nil {
			return nil, err
		}
	}
	for at, local := range files {
		files[at] = filepath.Join(b.work, local)
	}
	for at, from := range map[string]string{
		"/EFI/BOOT/BOOTX64.EFI": shimDir + "/shimx64.efi.signed",
		"/EFI/BOOT/mmx64.efi":   shimDir + "/mmx64.efi.signed",
		"/EFI/BOOT/grubx64.efi": grubSigned + "/gcdx64.efi.signed",
	} {
		files[at] = filepath.Join(b.box.Root, from)
	}
	loaders, err := b.slotLoaders(ctx)
	if err != nil {
		return nil, err
	}
	for name, from := range loaders {
		files[dir+"/boot/"+name] = from
	}
	if err := b.core(ctx, boot.MediumCore("/host/work/core-medium.img")); err != nil {
		return nil, err
	}
	if err := b.efiImage(filepath.Join(b.work, "efi.img")); err != nil {
		return nil, err
	}
	if err := b.mediumManifest(s, dir, files); err != nil {
		return nil, err
	}
	out := map[string]tree.Source{}
	for at, text := range inside {
		out[at] = tree.Bytes(text)
	}
	for at, local := range files {
		if out[at], err = tree.FromFile(local); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// slotLoaders are the loaders that an installed disk starts with, and the
// certificate of the module key, where there is one: name → file.
func (b *Builder) slotLoaders(ctx context.Context) (map[string]string, error) {
	const local = "core-disk.img"
	if err := b.core(ctx, boot.DiskCore("/host/work/"+local)); err != nil {
		return nil, err
	}
	in := func(rel string) string { return filepath.Join(b.box.Root, rel) }
	list := map[string]string{
		"grub-boot.img":      in(grubPC + "/boot.img"),
		"grub-core-disk.img": filepath.Join(b.work, local),
		"shimx64.efi":        in(shimDir + "/shimx64.efi.signed"),
		"mmx64.efi":          in(shimDir + "/mmx64.efi.signed"),
		"grubx64.efi":        in(grubSigned + "/grubx64.efi.signed"),
	}
	if b.moduleKey != nil {
		list[boot.ModuleCert] = filepath.Join(b.work, boot.ModuleCert)
		if err := b.saveInWork(boot.ModuleCert, b.moduleKey.cert); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// core makes a core image of GRUB for the BIOS.
func (b *Builder) core(ctx context.Context, args []string) error {
	if _, err := b.inBox(ctx, "/usr/bin/grub-mkimage", args...); err != nil {
		return fmt.Errorf("make GRUB's core image: %w", err)
	}
	return nil
}

// mediumManifest writes the medium's manifest: the three files, and the loaders
// that the installer takes from it.
func (b *Builder) mediumManifest(s System, dir string, files map[string]string) error {
	m := s.Manifest
	m.Files = maps.Clone(m.Files)
	for at, local := range files {
		name, ok := strings.CutPrefix(at, dir+"/boot/")
		if !ok {
			continue
		}
		d, err := describe(local)
		if err != nil {
			return err
		}
		m.Files[boot.LoaderFile(name)] = d
	}
	text, err := m.Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(files[dir+"/manifest.json"], text, 0o644)
}

func (b *Builder) consoles() []string {
	var out []string
	for _, c := range b.cfg.Image.Consoles {
		out = append(out, "console="+c)
	}
	return out
}

// efiImage writes the FAT image that UEFI starts from a CD.
func (b *Builder) efiImage(name string) error {
	load := func(rel string) (tree.Source, error) { return tree.FromFile(filepath.Join(b.box.Root, rel)) }
	var l boot.Loaders
	var err error
	if l.Shim, err = load(shimDir + "/shimx64.efi.signed"); err != nil {
		return err
	}
	if l.Grub, err = load(grubSigned + "/gcdx64.efi.signed"); err != nil {
		return err
	}
	if l.MOK, err = load(shimDir + "/mmx64.efi.signed"); err != nil {
		return err
	}
	id, err := hex.DecodeString(b.id)
	if err != nil {
		return err
	}
	fat, err := boot.MediumImage(b.id, l, b.built, binary.LittleEndian.Uint32(id))
	if err != nil {
		return err
	}
	vol, err := disk.PlanFAT(fat)
	if err != nil {
		return err
	}
	return writeFile(name, func(f *os.File) error {
		if err := f.Truncate(fat.Size); err != nil {
			return err
		}
		return vol.Write(f)
	})
}
