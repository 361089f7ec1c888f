package block

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"joist/image/disk"
)

func TestSniff(t *testing.T) {
	iso := make([]byte, 40000)
	copy(iso[32768:], "\x01CD001\x01")
	fat := make([]byte, 40000)
	copy(fat[82:], "FAT32   ")
	fat[510], fat[511] = 0x55, 0xaa
	exfat, ntfs := make([]byte, 40000), make([]byte, 40000)
	copy(exfat[3:], "EXFAT   ")
	copy(ntfs[3:], "NTFS    ")
	for _, c := range []struct {
		img  []byte
		want string
	}{{exfat, "exfat"}, {ntfs, "ntfs3"}, {iso, "iso9660"}, {fat, "vfat"}, {fat[:4096], "vfat"}, {make([]byte, 40000), ""}, {nil, ""}} {
		if got, err := Sniff(bytes.NewReader(c.img)); got != c.want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, c.want)
		}
	}
}

func TestFileSystem(t *testing.T) {
	xfs, ext4 := make([]byte, 4096), make([]byte, 4096)
	copy(xfs, "XFSB")
	copy(ext4[1024+0x38:], "\x53\xef")
	for want, b := range map[string][]byte{"xfs": xfs, "ext4": ext4, "": make([]byte, 4096)} {
		if got, err := FileSystem(bytes.NewReader(b)); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if _, err := FileSystem(bytes.NewReader(xfs[:100])); err == nil {
		t.Error("a volume of 100 bytes has a file system")
	}
}

// The marks go from both tables; boot code stays.
func TestFinish(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	const size, guid = 8 << 30, "ABABABAB-ABAB-4BAB-ABAB-ABABABABABAB"
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := disk.Plan(disk.Request{Size: size, SectorSize: 512, DiskGUID: guid, PartGUIDs: [5]string{guid, guid, guid, guid, guid}})
	if err != nil {
		t.Fatal(err)
	}
	marked := l.Marked(disk.Unfinished | disk.KeepsData)
	_, werr := f.WriteAt([]byte("boot code"), 0)
	if err := errors.Join(f.Truncate(size), disk.UpdateTable(f, marked), werr, finish(name, marked)); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 9)
	for range 2 {
		got, err := disk.ReadTable(f, size, 512)
		if err != nil || got.Marks() != 0 || len(got.Partitions) != 5 {
			t.Errorf("%v %+v", err, got)
		}
		if _, err := f.ReadAt(head, 0); err != nil || string(head) != "boot code" {
			t.Errorf("sector 0: %q %v", head, err)
		}
		if _, err := f.WriteAt(make([]byte, 512), 512); err != nil { // now the backup
			t.Fatal(err)
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
