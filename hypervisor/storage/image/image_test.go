package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"joist/internal/run"
)

// header makes a qcow2 header of version 3 that set may spoil.
func header(set func(h []byte)) []byte {
	h := make([]byte, 65536)
	be := binary.BigEndian
	be.PutUint32(h[0:], qcow2Magic)
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], 16)
	be.PutUint64(h[24:], 10<<20)
	be.PutUint32(h[100:], 104)
	if set != nil {
		set(h)
	}
	return h
}

func TestQcow2(t *testing.T) {
	be := binary.BigEndian
	for name, c := range map[string]struct {
		set  func(h []byte)
		want error
	}{
		"plain":                   {nil, nil},
		"version 2":               {func(h []byte) { be.PutUint32(h[4:], 2); clear(h[72:104]) }, nil},
		"compression type":        {func(h []byte) { be.PutUint64(h[72:], featCompression|featExtendedL2|featDirty) }, nil},
		"unknown extension":       {func(h []byte) { be.PutUint32(h[104:], 0x6803f857); be.PutUint32(h[108:], 336) }, nil},
		"magic":                   {func(h []byte) { h[0] = 0 }, ErrFormat},
		"version 4":               {func(h []byte) { be.PutUint32(h[4:], 4) }, ErrFeature},
		"backing file":            {func(h []byte) { be.PutUint64(h[8:], 512); be.PutUint32(h[16:], 11) }, ErrExternal},
		"backing offset alone":    {func(h []byte) { be.PutUint64(h[8:], 512) }, ErrExternal},
		"data file feature":       {func(h []byte) { be.PutUint64(h[72:], featDataFile) }, ErrExternal},
		"data file extension":     {func(h []byte) { be.PutUint32(h[104:], extDataFile); be.PutUint32(h[108:], 5) }, ErrExternal},
		"hidden behind another":   {func(h []byte) { be.PutUint32(h[104:], 1); be.PutUint32(h[108:], 3); be.PutUint32(h[120:], extBacking) }, ErrExternal},
		"corrupt":                 {func(h []byte) { be.PutUint64(h[72:], featCorrupt) }, ErrFormat},
		"unknown feature":         {func(h []byte) { be.PutUint64(h[72:], 1<<40) }, ErrFeature},
		"encrypted":               {func(h []byte) { be.PutUint32(h[32:], 2) }, ErrFeature},
		"huge":                    {func(h []byte) { be.PutUint64(h[24:], 1<<60) }, ErrFeature},
		"cluster bits":            {func(h []byte) { be.PutUint32(h[20:], 40) }, ErrFormat},
		"header length":           {func(h []byte) { be.PutUint32(h[100:], 8) }, ErrFormat},
		"extension out of bounds": {func(h []byte) { be.PutUint32(h[104:], 1); be.PutUint32(h[108:], 1<<31) }, ErrFormat},
	} {
		info, err := readQcow2(bytes.NewReader(header(c.set)))
		if !errors.Is(err, c.want) || err == nil && info.Size != 10<<20 {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
	}
	if _, err := readQcow2(bytes.NewReader(header(nil)[:80])); !errors.Is(err, ErrFormat) {
		t.Errorf("cut: %v", err)
	}
}

func vmdk(capacity uint64, desc string) []byte {
	b := make([]byte, 3*sector)
	copy(b, "KDMV")
	le := binary.LittleEndian
	le.PutUint64(b[12:], capacity)
	le.PutUint64(b[28:], 1)
	le.PutUint64(b[36:], 2)
	copy(b[sector:], desc)
	return b
}

func TestVMDK(t *testing.T) {
	good := "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\nRW 20480 SPARSE \"x.vmdk\"\n"
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"stream":      {vmdk(20480, good), nil},
		"flat":        {vmdk(20480, strings.Replace(good, "streamOptimized", "monolithicFlat", 1)), ErrFeature},
		"parent":      {vmdk(20480, strings.Replace(good, "ffffffff", "00000001", 1)), ErrExternal},
		"parent name": {vmdk(20480, good+"parentFileNameHint=\"/etc/shadow\"\n"), ErrExternal},
		"no capacity": {vmdk(0, good), ErrExternal},
		"text":        {append([]byte(good), make([]byte, 1024)...), ErrExternal},
		"other":       {make([]byte, 1024), ErrFormat},
		"short":       {[]byte("KDMV"), ErrFormat},
	} {
		if _, err := readVMDK(bytes.NewReader(c.b)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add(header(nil)[:200])
	f.Add(vmdk(20480, "createType=\"streamOptimized\""))
	f.Fuzz(func(t *testing.T, b []byte) {
		if info, err := readQcow2(bytes.NewReader(b)); err == nil {
			if info.Size < 0 || info.Size > MaxSize || len(b) < 72 || binary.BigEndian.Uint64(b[8:]) != 0 {
				t.Errorf("passed: %+v", info)
			}
		}
		if info, err := readVMDK(bytes.NewReader(b)); err == nil && (info.Size <= 0 || info.Size > MaxSize) {
			t.Errorf("passed: %+v", info)
		}
	})
}

func TestArguments(t *testing.T) {
	got := strings.Join(arguments(210001, "qcow2"), " ")
	want := "--reuid 210001 --regid 210001 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all -- qemu-img convert -f qcow2 -O raw -n --target-is-zero /dev/fd/3 /dev/fd/4"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRawImport(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	data := make([]byte, 3<<20+512)
	copy(data[1<<20:], "in the middle")
	copy(data[len(data)-4:], "tail")
	os.WriteFile(src, data, 0o600)
	os.WriteFile(dst, nil, 0o600)
	i := &Importer{Run: &run.Script{}}
	if err := i.Import(t.Context(), dst, src, "raw"); err == nil || !strings.Contains(err.Error(), "volume has 0") {
		t.Errorf("too small: %v", err)
	}
	if err := os.Truncate(dst, 4<<20); err != nil {
		t.Fatal(err)
	}
	if err := i.Import(t.Context(), dst, src, "raw"); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(dst)
	if !bytes.Equal(got[:len(data)], data) || !zero(got[len(data):]) {
		t.Error("the copy differs")
	}
	if err := i.Import(t.Context(), dst, dir, "raw"); err == nil {
		t.Error("imported a folder")
	}
	if err := i.Import(t.Context(), dst, src, "qcow2"); !errors.Is(err, ErrFormat) {
		t.Errorf("raw declared as qcow2: %v", err)
	}
}

// TestConvert runs the real qemu-img, unprivileged.
func TestConvert(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give up privileges")
	}
	dir := t.TempDir()
	src, dst, raw := filepath.Join(dir, "a.qcow2"), filepath.Join(dir, "b"), filepath.Join(dir, "raw")
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	os.WriteFile(raw, data, 0o600)
	for _, format := range []string{"qcow2", "vmdk"} {
		args := []string{"convert", "-f", "raw", "-O", format, raw, src}
		if format == "vmdk" {
			args = slices.Insert(args, 1, "-o", "subformat=streamOptimized")
		}
		if _, err := (run.OS{}).Run(t.Context(), run.Cmd{Path: "qemu-img", Args: args}); err != nil {
			t.Skip(err)
		}
		os.Chmod(src, 0o600)
		os.WriteFile(dst, nil, 0o600)
		os.Truncate(dst, 2<<20)
		if n, err := Size(src, format); err != nil || n != int64(len(data)) {
			t.Errorf("%s: size %d, %v", format, n, err)
		}
		if err := (&Importer{Run: run.OS{}}).Import(t.Context(), dst, src, format); err != nil {
			t.Fatal(err)
		}
		got, _ := os.ReadFile(dst)
		if !bytes.Equal(got[:len(data)], data) {
			t.Error(format, "the volume differs")
		}
		owners, err := run.OS{}.Run(t.Context(), run.Cmd{Path: "stat", Args: []string{"-c", "%u", src, dst}})
		if fmt.Sprintf("%s", owners) != "0\n0\n" {
			t.Errorf("owners %q, %v", owners, err)
		}
		os.Remove(src)
	}
}
