package dm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

func image(used uint64) []byte {
	le := binary.LittleEndian
	at := (used + 4095) / 4096 * 4096
	b := make([]byte, at+8192)
	le.PutUint32(b, 0x73717368)
	le.PutUint16(b[28:], 4)
	le.PutUint64(b[40:], used)
	s := b[at:]
	copy(s, "verity\x00\x00")
	le.PutUint32(s[8:], 1)
	le.PutUint32(s[12:], 1)
	copy(s[32:], "sha256")
	le.PutUint32(s[64:], 4096)
	le.PutUint32(s[68:], 4096)
	le.PutUint64(s[72:], at/4096)
	le.PutUint16(s[80:], 4)
	copy(s[88:], "\xde\xad\xbe\xef")
	return b
}

var root = strings.Repeat("0a", 32)

func TestTarget(t *testing.T) {
	v, err := ReadVerity(bytes.NewReader(image(10000)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.Target("/dev/sda3", root)
	want := Target{Sectors: 24, Type: "verity", Params: "1 /dev/sda3 /dev/sda3 4096 4096 3 4 sha256 " + root + " deadbeef"}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := v.Target("/dev/sda3", "x"); err == nil {
		t.Error("bad root hash taken")
	}
	b := got.encode()
	if len(b)%8 != 0 || int(binary.LittleEndian.Uint32(b[20:])) != len(b) || !bytes.HasPrefix(b[spec:], []byte("1 /dev/sda3")) {
		t.Errorf("encoded as %q", b)
	}
}

// A piece of the device that holds several images, and where the next begins.
func TestLinear(t *testing.T) {
	v, err := ReadVerity(bytes.NewReader(image(10000)))
	if err != nil {
		t.Fatal(err)
	}
	if end := v.End(); end != 3*4096+4096+4096 { // data, superblock, one block of hashes
		t.Errorf("the image ends at %d", end)
	}
	if got := Linear("/dev/sda3", 20480, 8192); got != (Target{Sectors: 16, Type: "linear", Params: "/dev/sda3 40"}) {
		t.Errorf("%+v", got)
	}
}

func TestReadVerityRefuses(t *testing.T) {
	good := image(4096)
	for name, at := range map[string]int{"squashfs magic": 0, "verity magic": 4096, "algorithm": 4096 + 32, "blocks": 4096 + 72, "salt": 4096 + 81} {
		b := bytes.Clone(good)
		b[at] ^= 0x40
		if _, err := ReadVerity(bytes.NewReader(b)); !errors.Is(err, ErrNotImage) {
			t.Errorf("damaged %s: got %v", name, err)
		}
	}
}

func FuzzReadVerity(f *testing.F) {
	f.Add(image(5000))
	f.Fuzz(func(t *testing.T, b []byte) { ReadVerity(bytes.NewReader(b)) })
}
