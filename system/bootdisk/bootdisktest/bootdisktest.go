// Package bootdisktest makes disks of an installed system as image files.
package bootdisktest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/image/boot"
	"joist/image/disk"
	"joist/image/verity"
	"joist/system/bootdisk"
)

// Build is a build: an image with its hash tree.
type Build struct {
	ID    string
	Image []byte
	Root  string
	Ext   []boot.Extension
}

// Extend puts another build's image behind this one's, as an extension of that
// name.
func (b Build) Extend(name string, x Build) Build {
	b.Image = append(bytes.Clone(b.Image), x.Image...)
	b.Ext = append(slices.Clone(b.Ext), boot.Extension{Name: name, Size: int64(len(x.Image)), VerityRoot: x.Root})
	return b
}

// NewBuild makes one with an id of 16 hexadecimal digits.
func NewBuild(t testing.TB, id string) Build {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	data := bytes.Repeat([]byte(id), 20_480)
	copy(data, "hsqs")
	binary.LittleEndian.PutUint64(data[40:], uint64(len(data)))
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	root, _, err := verity.Append(f, int64(len(data)), []byte("salt"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return Build{ID: id, Image: image, Root: root}
}

// Size is that of every disk.
const Size = 8 << 30

// Blank is a disk that holds nothing.
func Blank(t testing.TB, name string, size int64) bootdisk.Disk {
	t.Helper()
	d := bootdisk.Disk{Name: name, Path: filepath.Join(t.TempDir(), name), Bytes: size}
	f, err := os.Create(d.Path)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Empty is a disk with a table and nothing else.
func Empty(t testing.TB, guid string) bootdisk.Disk {
	t.Helper()
	var parts [5]string
	for i := range parts {
		parts[i] = fmt.Sprintf("%s%d", guid[:35], i+2)
	}
	l, err := disk.Plan(disk.Request{Size: Size, SectorSize: 512, DiskGUID: guid, PartGUIDs: parts})
	if err != nil {
		t.Fatal(err)
	}
	d := Blank(t, "disk-"+guid[19:23], Size)
	d.Table = l
	change(t, d, func(f *os.File) error { return disk.WriteTable(f, l) })
	return d
}

func change(t testing.TB, d bootdisk.Disk, do func(f *os.File) error) {
	t.Helper()
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(do(f), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Write writes into a partition.
func Write(t testing.TB, d bootdisk.Disk, part string, b []byte, at int64) {
	t.Helper()
	p, err := d.Table.Find(part)
	if err != nil {
		t.Fatal(err)
	}
	change(t, d, func(f *os.File) error {
		_, err := f.WriteAt(b, p.Start+at)
		return err
	})
}

// Install writes what the installer writes into slot A of a new disk. The
// volume group is made up.
func Install(t testing.TB, guid string, b Build, s boot.State) bootdisk.Disk {
	t.Helper()
	d := Empty(t, guid)
	Write(t, d, disk.NameSlotA, b.Image, 0)
	file := boot.File{Size: 1, SHA256: strings.Repeat("0", 64)}
	m := boot.Manifest{BuildID: b.ID, Version: "1", Built: time.Unix(1_800_000_000, 0), Kernel: "6", VerityRoot: b.Root, Extensions: b.Ext,
		Files: map[string]boot.File{boot.FileKernel: file, boot.FileInitrd: file, boot.FileSystem: file}}
	big := content(bytes.Repeat([]byte("kernel "+b.ID), 30_000))
	esp := boot.ESP{Loaders: boot.Loaders{Shim: content("shim"), Grub: content("grub"), MOK: content("mok")}, Kernel: big, Initrd: big, State: s,
		Boot: boot.SlotBoot{Manifest: m, Slot: boot.A, DiskGUID: guid, State: "lvm:AbCdEf-0123-4567-89ab-cdef-0123-456789"}}
	conf, err := boot.InPlaceConfig(esp.Boot)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	esp.Config = conf
	esp.Beside = []disk.File{{Path: boot.PathManifest(boot.A), Data: content(manifest)}, {Path: boot.PathAnswer, Data: content(boot.AnswerPlace(nil))}}
	part, err := d.Table.Find(disk.NameESP)
	if err != nil {
		t.Fatal(err)
	}
	fat, err := esp.Volume(part, 512, 7)
	if err != nil {
		t.Fatal(err)
	}
	v, err := disk.PlanFAT(fat)
	if err != nil {
		t.Fatal(err)
	}
	img, core := make([]byte, 512), make([]byte, 1500)
	img[0x66], img[510], img[511] = 0xeb, 0x55, 0xaa
	core[0x1f4], core[0x1fc], core[0x1fe], core[0x1ff] = 2, 2, 0x20, 0x08
	change(t, d, func(f *os.File) error {
		return errors.Join(v.Write(io.NewOffsetWriter(f, part.Start)),
			boot.WriteBIOS(f, partition{io.NewOffsetWriter(f, disk.MiB), f}, disk.MiB, disk.MiB, img, core))
	})
	return d
}

// content is a file that is made here.
type content []byte

func (c content) Size() int64                  { return int64(len(c)) }
func (c content) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c)), nil }

type partition struct {
	*io.OffsetWriter
	f *os.File
}

func (p partition) Sync() error                             { return p.f.Sync() }
func (p partition) ReadAt(b []byte, off int64) (int, error) { return p.f.ReadAt(b, off) }

// System is one on these image files; the pointer may be changed. The first
// one was booted.
func System(t testing.TB, guid string, ds *[]bootdisk.Disk) bootdisk.System {
	t.Helper()
	return bootdisk.System{GUID: guid, Slot: boot.A, Lock: filepath.Join(t.TempDir(), "lock"), Disks: func() ([]bootdisk.Disk, error) {
		var out []bootdisk.Disk
		for _, d := range *ds { // as they are now
			f, err := os.Open(d.Path)
			if err != nil {
				return nil, err
			}
			d.Table, err = disk.ReadTable(f, d.Bytes, 512)
			f.Close()
			if err == nil && bootdisk.Family(d.Table.DiskGUID, guid) {
				out = append(out, d)
			}
		}
		return out, nil
	}}
}
