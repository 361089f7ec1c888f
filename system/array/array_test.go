package array

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/internal/run"
)

const uuid = "00010203:04050607:08090a0b:0c0d0e0f"

// super is a superblock with these roles.
func super(events uint64, roles ...uint16) []byte {
	b, le := make([]byte, superAt+superSize+2*maxRoles), binary.LittleEndian
	s := b[superAt:]
	le.PutUint32(s, magic)
	le.PutUint32(s[4:], 1)
	for i := range 16 {
		s[16+i] = byte(i)
	}
	le.PutUint32(s[92:], 2)
	le.PutUint64(s[200:], events)
	le.PutUint32(s[220:], uint32(len(roles)))
	for i, r := range roles {
		le.PutUint16(s[superSize+2*i:], r)
	}
	return b
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		b    []byte
		want Member
		ok   bool
	}{
		{super(7, 0, 1), Member{Disks: 2, Active: 2, Events: 7}, true},
		{super(9, 0xfffe, 1), Member{Disks: 2, Active: 1, Events: 9}, true},
		{super(9, 0, 0xffff, 1), Member{Disks: 2, Active: 2, Events: 9}, true},
		{make([]byte, 8192), Member{}, false},
		{super(1, 0, 1)[:4200], Member{}, false},
	} {
		if c.ok {
			copy(c.b[superAt+168:], "0123456789abcdef") // device_uuid
			c.want.Device = "30313233343536373839616263646566"
		}
		if m, ok := read(bytes.NewReader(c.b), uuid); ok != c.ok || m != c.want {
			t.Errorf("%+v %v, want %+v %v", m, ok, c.want, c.ok)
		}
	}
	if _, ok := read(bytes.NewReader(super(1, 0, 1)), "f"+uuid[1:]); ok {
		t.Error("a member of another array is taken")
	}
}

func TestUUID(t *testing.T) {
	dev := filepath.Join(t.TempDir(), "vda5")
	if got := UUID(dev); got != "" {
		t.Error(got)
	}
	for want, b := range map[string][]byte{uuid: super(1, 0, 1), "": make([]byte, 8192)} {
		if err := os.WriteFile(dev, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := UUID(dev); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMissing(t *testing.T) {
	whole, alone := Member{Disks: 2, Active: 2, Events: 5}, Member{Disks: 2, Active: 1, Events: 9}
	for _, c := range []struct {
		ms   []Member
		want int
	}{{nil, 1}, {[]Member{whole}, 1}, {[]Member{whole, whole}, 0}, {[]Member{alone}, 0}, {[]Member{whole, alone}, 0}} {
		if got := Missing(c.ms); got != c.want {
			t.Errorf("%+v: %d are missing", c.ms, got)
		}
	}
}

func TestStart(t *testing.T) {
	r := &run.Script{}
	ms := []Member{{Path: "/dev/vda5"}, {Path: "/dev/vdb5"}}
	if err := errors.Join(Start(t.Context(), r, uuid, ms, false), Start(t.Context(), r, uuid, ms[:1], true)); err != nil {
		t.Fatal(err)
	}
	want := "mdadm --assemble /dev/md127 --run --uuid=" + uuid + " /dev/vda5 /dev/vdb5\nmdadm --assemble /dev/md127 --run --uuid=" + uuid + " --readonly /dev/vda5"
	if got := strings.Join(r.Calls(), "\n"); got != want {
		t.Errorf("ran\n%s", got)
	}
}

// A disk that was away comes back; one that ran alone meanwhile does not.
func TestReturn(t *testing.T) {
	sys := t.TempDir()
	if err := os.MkdirAll(filepath.Join(sys, "block/md127/slaves/vda5"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := &run.Script{}
	in := Member{Path: "/dev/vda5", Disks: 2, Active: 1}
	if err := Return(t.Context(), r, sys, []Member{in, {Path: "/dev/vdb5", Disks: 2, Active: 2}}); err != nil || strings.Join(r.Calls(), ";") != "mdadm /dev/md127 --re-add /dev/vdb5" {
		t.Errorf("%v, ran %v", err, r.Calls())
	}
	err := Return(t.Context(), r, sys, []Member{in, {Path: "/dev/vdb5", Disks: 2, Active: 1}})
	if err == nil || !strings.Contains(err.Error(), "/dev/vdb5 was used without the other disk") || len(r.Calls()) != 1 {
		t.Errorf("%v, ran %v", err, r.Calls())
	}
	r.Answer = func(run.Cmd) ([]byte, error) { return nil, errors.New("no room") }
	if err := Return(t.Context(), r, sys, []Member{{Path: "/dev/vdb5", Disks: 2, Active: 2}}); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Error(err)
	}
}

func TestProblem(t *testing.T) {
	sys := t.TempDir()
	if got := Problem(sys); got != "the mirror does not run" {
		t.Error(got)
	}
	dir := filepath.Join(sys, "block/md127/md")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ degraded, action, want string }{
		{"0", "resync", ""},
		{"1", "idle", "the mirror lacks 1 of 2 disks; data is on the others only"},
		{"1", "recover", "the mirror is being rebuilt; until then one disk holds the data alone"},
	} {
		for file, text := range map[string]string{"degraded": c.degraded, "sync_action": c.action, "raid_disks": "2"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := Problem(sys); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// Two devices that claim to be the same one are a pair, others are not.
func TestCopies(t *testing.T) {
	if got := Copies([]Member{{Path: "a", Device: "1"}, {Path: "b", Device: "2"}, {Path: "c", Device: "1"}}); len(got) != 1 || got[0] != [2]string{"a", "c"} {
		t.Error(got)
	}
}
