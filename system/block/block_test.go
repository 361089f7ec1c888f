package block

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

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
