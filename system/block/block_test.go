package block

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"
)

// image makes a disk of n sectors with a primary and a backup table that
// names one partition.
func image(sector int, n uint64, name string) []byte {
	le := binary.LittleEndian
	img := make([]byte, n*uint64(sector))
	entries := make([]byte, 128*128)
	e := entries[2*128:]
	copy(e, []byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4})
	e[16] = 1
	le.PutUint64(e[32:], 40)
	le.PutUint64(e[40:], 50)
	for i, u := range utf16.Encode([]rune(name)) {
		le.PutUint16(e[56+2*i:], u)
	}
	put := func(lba, table uint64) {
		copy(img[table*uint64(sector):], entries)
		h := img[lba*uint64(sector):]
		copy(h, "EFI PART\x00\x00\x01\x00")
		le.PutUint32(h[12:], 92)
		le.PutUint64(h[24:], lba)
		copy(h[56:], []byte{0x0d, 0xf0, 0xad, 0xba, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 1, 2, 3, 4, 5, 6})
		le.PutUint64(h[72:], table)
		le.PutUint32(h[80:], 128)
		le.PutUint32(h[84:], 128)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	}
	put(1, 2)
	put(n-1, n-1-uint64(len(entries)/sector))
	return img
}

func TestReadTable(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		img := image(sector, 100, "joist-a")
		check := func(what string) {
			t.Helper()
			tab, err := ReadTable(bytes.NewReader(img), int64(len(img)), sector)
			if err != nil {
				t.Fatalf("%s, sectors of %d: %v", what, sector, err)
			}
			p, ok := tab.Named("joist-a")
			if tab.GUID != "baadf00d-1111-2222-3333-010203040506" || !ok || p.Number != 3 || p.First != 40 || p.Last != 50 ||
				p.Type != "0fc63daf-8483-4772-8e79-3d69d8477de4" {
				t.Errorf("%s: got %+v", what, tab)
			}
		}
		check("primary")
		img[sector] ^= 1 // header
		check("backup after a damaged header")
		img[sector] ^= 1
		img[2*sector+300] ^= 1 // entries
		check("backup after damaged entries")
		img[len(img)-sector] ^= 1
		if _, err := ReadTable(bytes.NewReader(img), int64(len(img)), sector); !errors.Is(err, ErrNoTable) {
			t.Errorf("both damaged: got %v", err)
		}
	}
}

func TestSniff(t *testing.T) {
	iso := make([]byte, 40000)
	copy(iso[32768:], "\x01CD001\x01")
	fat := make([]byte, 40000)
	copy(fat[82:], "FAT32   ")
	fat[510], fat[511] = 0x55, 0xaa
	for _, c := range []struct {
		img  []byte
		want string
	}{{iso, "iso9660"}, {fat, "vfat"}, {fat[:4096], "vfat"}, {make([]byte, 40000), ""}, {nil, ""}} {
		if got, err := Sniff(bytes.NewReader(c.img)); got != c.want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, c.want)
		}
	}
}

func TestList(t *testing.T) {
	sys := t.TempDir()
	write := func(name, val string) {
		p := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(val+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("devices/x/block/sda/size", "2048")
	write("devices/x/block/sda/diskseq", "9")
	write("devices/x/block/sda/queue/logical_block_size", "4096")
	write("devices/x/block/sda/sda3/partition", "3")
	write("devices/x/block/sda/sda3/size", "8")
	write("devices/x/block/loop0/size", "8")
	os.MkdirAll(filepath.Join(sys, "class/block"), 0o755)
	for name, to := range map[string]string{"sda": "x/block/sda", "sda3": "x/block/sda/sda3", "loop0": "x/block/loop0"} {
		os.Symlink("../../devices/"+to, filepath.Join(sys, "class/block", name))
	}
	got, err := List(sys)
	if err != nil || len(got) != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	want := Device{Name: "sda3", Disk: "sda", Partition: 3, Bytes: 4096, Sector: 4096, Seq: "9"}
	if got[1] != want || got[0].Partition != 0 {
		t.Errorf("got %+v", got)
	}
}

func FuzzReadTable(f *testing.F) {
	f.Add(image(512, 100, "joist-a"))
	f.Fuzz(func(t *testing.T, img []byte) { ReadTable(bytes.NewReader(img), int64(len(img)), 512) })
}
