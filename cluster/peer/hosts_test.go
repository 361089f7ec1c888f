package peer

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHosts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts")
	const own = "127.0.0.1 localhost"
	if err := os.WriteFile(file, []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ lines, want string }{
		{"192.0.2.1 a\n", own + "\n" + hostsBegin + "192.0.2.1 a\n" + hostsEnd},
		{"192.0.2.1 a\n", own + "\n" + hostsBegin + "192.0.2.1 a\n" + hostsEnd},
		{"192.0.2.2 b\n192.0.2.3 c\n", own + "\n" + hostsBegin + "192.0.2.2 b\n192.0.2.3 c\n" + hostsEnd},
		{"", own + "\n"},
	} {
		if err := WriteHosts(file, c.lines); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != c.want {
			t.Errorf("%q, %v, want %q", got, err, c.want)
		}
	}
}
