package probe

import (
	"os"
	"path/filepath"
	"testing"
)

// A medium that was copied to memory is still not offered as a target; another
// disk of the same name is.
func TestBootMedium(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("sys/block/sda/sda1/partition", "1\n")
	write("sys/block/sda/diskseq", "9\n")
	write("sys/block/sdb/diskseq", "10\n")
	m := Machine{Root: root}
	for text, want := range map[string]string{
		`{"device": "sda1", "seq": "9"}`: "sda", `{"device": "sdb", "seq": "10"}`: "sdb", `{"device": "sda1", "seq": "8"}`: "",
		`{"device": "sdc1", "seq": "9"}`: "", `{"device": "../sda", "seq": "9"}`: "", `{"device": ""}`: "", `{`: "",
	} {
		write("run/joist/boot-medium.json", text)
		got := ""
		if name, _ := m.bootMedium(); name != "" {
			got = m.wholeDisk(name)
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
