package property

import (
	"maps"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	for _, c := range []struct{ in, def, out string }{
		{"local-lvm:vm-100-disk-0,size=32G,iothread=1", "file", "local-lvm:vm-100-disk-0,iothread=1,size=32G"},
		{"size=32G,file=local-lvm:vm-100-disk-0", "file", "local-lvm:vm-100-disk-0,size=32G"},
		{"none,media=cdrom", "file", "none,media=cdrom"},
		{"virtio=BC:24:11:00:00:01,bridge=vmbr0,", "model", "bridge=vmbr0,virtio=BC:24:11:00:00:01"},
		{"order=scsi0;ide2", "legacy", "order=scsi0;ide2"},
		{"", "x", ""},
	} {
		s, err := Parse(c.in, c.def)
		if err != nil {
			t.Fatalf("%q: %v", c.in, err)
		}
		if got := s.Format(c.def); got != c.out {
			t.Errorf("%q: got %q, want %q", c.in, got, c.out)
		}
	}
	for _, bad := range []string{"a=1,a=2", "plain", "a=\x01"} {
		if _, err := Parse(bad, ""); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		in  string
		n   int64
		out string
	}{
		{"32G", 32 << 30, "32G"}, {"1024M", 1 << 30, "1G"}, {"4T", 4 << 40, "4T"}, {"512", 512, "512"},
		{"1.5G", 3 << 29, "1536M"}, {"0", 0, "0"}, {"1536K", 1536 << 10, "1536K"},
	} {
		n, err := ParseSize(c.in)
		if err != nil || n != c.n || FormatSize(n) != c.out {
			t.Errorf("%q: %d %v %q", c.in, n, err, FormatSize(n))
		}
	}
	for _, bad := range []string{"", "G", "-1G", "1X", "99999999999999T", "1e9"} {
		if _, err := ParseSize(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestBools(t *testing.T) {
	for _, v := range []string{"1", "on", "yes", "true", "TRUE"} {
		if b, err := Bool(v); err != nil || !b {
			t.Errorf("%q: %v %v", v, b, err)
		}
	}
	for _, v := range []string{"0", "off", "no", "false"} {
		if b, err := Bool(v); err != nil || b {
			t.Errorf("%q: %v %v", v, b, err)
		}
	}
	if _, err := Bool("2"); err == nil {
		t.Error("2 is no boolean")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("local:1,size=2G", "file")
	f.Add("a=b=c,d", "x")
	f.Fuzz(func(t *testing.T, in, def string) {
		if def != "" && !keyRE.MatchString(def) {
			return
		}
		s, err := Parse(in, def)
		if err != nil {
			return
		}
		again, err := Parse(s.Format(def), def)
		if err != nil || !maps.Equal(s, again) {
			t.Fatalf("%q → %v → %q → %v (%v)", in, s, s.Format(def), again, err)
		}
	})
}
