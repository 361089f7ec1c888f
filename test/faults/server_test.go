package faults

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"joist/test/vm"
)

const diskSize = 64 << 20

// served is a disk behind a socket, ended with the test.
func served(t *testing.T) (*Disk, *Server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d, err := Create(filepath.Join(dir, "disk.img"), diskSize)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Serve(d, filepath.Join(dir, "nbd"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, s
}

func qemu(t *testing.T, name string, args ...string) string {
	t.Helper()
	vm.Need(t, name)
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// TestQEMU: QEMU's own client finds the disk and does everything to it, and the
// record has it in order.
func TestQEMU(t *testing.T) {
	d, s := served(t)
	url := "nbd+unix:///?socket=" + s.Path
	if out := qemu(t, "qemu-img", "info", url); !strings.Contains(out, "64 MiB") {
		t.Errorf("qemu-img says %s", out)
	}
	qemu(t, "qemu-io", "-f", "raw", "-t", "none", "-c", "write -P 1 0 1M", "-c", "flush", "-c", "write -f -P 2 512K 64k",
		"-c", "write -z 0 4k", "-c", "discard 64k 64k", "-c", "write -P 3 4M 4k", url)
	want := []Op{{Kind: Write, Length: 1 << 20}, {Kind: Flush}, {Kind: Write, Offset: 512 << 10, Length: 64 << 10, FUA: true},
		{Kind: Zero, Length: 4096}, {Kind: Zero, Offset: 64 << 10, Length: 64 << 10}, {Kind: Write, Offset: 4 << 20, Length: 4096}}
	got := d.Record()
	ops := slices.Clone(got.Ops)
	for i := range ops {
		ops[i].at = 0
	}
	if len(ops) < len(want) || !slices.Equal(ops[:len(want)], want) {
		t.Fatalf("recorded %+v", ops)
	}
	for i, o := range ops[len(want):] { // QEMU flushes when it closes
		if o.Kind != Flush {
			t.Errorf("operation %d: %+v", len(want)+i, o)
		}
	}
	qemu(t, "qemu-io", "-f", "raw", "-r", "-c", "read -P 0 0 4k", "-c", "read -P 1 4k 60k", "-c", "read -P 0 64k 64k",
		"-c", "read -P 2 512k 64k", "-c", "read -P 3 4M 4k", url)
	// the image of the whole record is the disk
	image := filepath.Join(t.TempDir(), "all.img")
	if err := got.Image(image, Cut{Ops: len(got.Ops), Sector: 512}); err != nil {
		t.Fatal(err)
	}
	qemu(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, url)
	// and the flushed write is there without what followed
	if err := got.Image(image, Cut{Ops: 2, Sector: 512}); err != nil {
		t.Fatal(err)
	}
	qemu(t, "qemu-io", "-f", "raw", "-r", "-c", "read -P 1 0 1M", image)
}

// TestRefusals: requests that are wrong get the protocol's error and change
// nothing.
func TestRefusals(t *testing.T) {
	d, s := served(t)
	c, err := net.Dial("unix", s.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(v ...any) {
		t.Helper()
		for _, x := range v {
			if err := binary.Write(c, be, x); err != nil {
				t.Fatal(err)
			}
		}
	}
	receive := func(v any) {
		t.Helper()
		if err := binary.Read(c, be, v); err != nil {
			t.Fatal(err)
		}
	}
	var greeting struct {
		Magic, Option uint64
		Flags         uint16
	}
	receive(&greeting)
	if greeting.Magic != magicGreeting || greeting.Option != magicOption || greeting.Flags != fixedNewstyle|noZeroes {
		t.Fatalf("greeting %+v", greeting)
	}
	send(uint32(fixedNewstyle | noZeroes))
	for _, o := range []struct {
		option uint32
		data   []byte
		want   uint32
	}{{99, nil, repUnsupported}, {optGo, nil, repInvalid}, {optGo, append([]byte{0, 0, 0, 1, 'x'}, 0, 0), repUnknown}, {optGo, []byte{255, 255, 255, 255, 0, 0}, repInvalid}, {optList, []byte{1}, repInvalid}} {
		send(uint64(magicOption), o.option, uint32(len(o.data)), o.data)
		var r struct {
			Magic             uint64
			Option, Kind, Len uint32
		}
		if receive(&r); r.Magic != magicReply || r.Option != o.option || r.Kind != o.want || r.Len != 0 {
			t.Errorf("option %d % x: %+v", o.option, o.data, r)
		}
	}
	send(uint64(magicOption), uint32(optExportName), uint32(0))
	var export struct {
		Size  uint64
		Flags uint16
	}
	if receive(&export); export.Size != diskSize || export.Flags != transmissionFlags {
		t.Fatalf("export %+v", export)
	}
	for i, q := range []struct {
		request
		want uint32
	}{
		{request{Type: cmdRead, Offset: diskSize, Length: 512}, errInvalid},
		{request{Type: cmdTrim, Offset: diskSize, Length: 512}, errNoSpace},
		{request{Type: cmdTrim, Offset: 1 << 63, Length: 512}, errNoSpace},
		{request{Type: cmdWriteZeroes, Offset: 1, Length: 512}, errInvalid},
		{request{Type: cmdFlush, Flags: 1 << 7}, errInvalid},
		{request{Type: 77}, errInvalid},
	} {
		q.Magic, q.Cookie = magicRequest, uint64(i)
		send(q.request)
		var r struct {
			Magic, Error uint32
			Cookie       uint64
		}
		if receive(&r); r.Magic != magicSimple || r.Cookie != uint64(i) || r.Error != q.want {
			t.Errorf("%+v: %+v", q, r)
		}
	}
	b := bytes.Repeat([]byte{7}, 512)
	send(request{Magic: magicRequest, Type: cmdWrite, Offset: 512, Length: 512}, b)
	var reply [16]byte
	receive(&reply)
	if r := d.Record(); len(r.Ops) != 1 || r.Ops[0].Offset != 512 {
		t.Errorf("recorded %+v", r.Ops)
	}
	send(request{Magic: magicRequest, Type: cmdDisconnect})
	if n, err := c.Read(reply[:]); n != 0 || err == nil {
		t.Errorf("after the end came %d bytes, %v", n, err)
	}
}
