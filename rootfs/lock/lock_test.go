package lock

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"joist/internal/finding"
)

func sample() Lock {
	h := strings.Repeat("0123456789abcdef", 4)
	return Lock{
		Config: Digest([]byte("want = [\"bash\"]\n")),
		Suites: []string{"trixie", "trixie-updates", "trixie-security"},
		Packages: []Package{
			{Name: "libc6", Version: "2.41-12+deb13u1", Arch: "amd64", Size: 2847000, SHA256: h,
				Path: "pool/main/g/glibc/libc6_2.41-12+deb13u1_amd64.deb", Suite: "trixie", Component: "main",
				Why: []string{"bash"}},
			{Name: "bash", Version: "5.2.37-2+b5", Arch: "amd64", Size: 1500000, SHA256: h,
				Path: "pool/main/b/bash/bash_5.2.37-2+b5_amd64.deb", Suite: "trixie", Component: "main"},
			{Name: "qemu-system-data", Version: "1:10.0.13+ds~x-0", Arch: "all", Size: 1, SHA256: h,
				Path: "pool/updates/main/q/qemu/qemu-system-data_10.0.13+ds~x-0_all.deb", Suite: "trixie-security", Component: "main",
				Sets: []string{"image", "sandbox"}, Why: []string{"lxc", "libx1"}},
		},
	}
}

func TestGolden(t *testing.T) {
	got, err := Encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	const name = "testdata/sample.lock"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Fatal(d)
	}
	back, err := Decode("joist.lock", got)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Encode(back)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, again) {
		t.Fatal("decode and encode changes the text")
	}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(*Package){
		"host name in path": func(p *Package) { p.Path = "https://mirror.example/pool/x.deb" },
		"path climbs":       func(p *Package) { p.Path = "pool/main/../../x.deb" },
		"absolute path":     func(p *Package) { p.Path = "/pool/main/x.deb" },
		"query in path":     func(p *Package) { p.Path = "pool/main/x.deb?y.deb" },
		"name with slash":   func(p *Package) { p.Name = "a/b" },
		"option as name":    func(p *Package) { p.Name = "-rf" },
		"short hash":        func(p *Package) { p.SHA256 = "abc" },
		"upper case hash":   func(p *Package) { p.SHA256 = strings.Repeat("A", 64) },
		"no size":           func(p *Package) { p.Size = 0 },
		"foreign arch":      func(p *Package) { p.Arch = "i386" },
		"version injection": func(p *Package) { p.Version = "1\nname = \"x\"" },
		"unlisted suite":    func(p *Package) { p.Suite = "sid" },
		"listed twice":      func(p *Package) { p.Name = "bash" },
		"bad why":           func(p *Package) { p.Why = []string{"A b"} },
		"bad set":           func(p *Package) { p.Sets = []string{"A b"} },
	} {
		t.Run(name, func(t *testing.T) {
			l := sample()
			change(&l.Packages[0])
			if _, err := Encode(l); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	good, err := Encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, code string }{
		"unknown key": {string(good) + "colour = \"red\"\n", "lock-key"},
		"syntax":      {string(good) + "name = \n", "lock-syntax"},
		"format":      {strings.Replace(string(good), "format = 1", "format = 2", 1), "lock-format"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode("joist.lock", []byte(c.text))
			var fe *finding.Error
			if !errors.As(err, &fe) || fe.List[0].Code != c.code {
				t.Fatalf("got %v", err)
			}
			if c.code != "lock-format" && fe.List[0].Line == 0 {
				t.Fatalf("no line: %v", err)
			}
		})
	}
}

func TestJoin(t *testing.T) {
	a, b := sample(), sample()
	a.Packages, b.Packages = a.Packages[:2], b.Packages[1:]
	got, err := Join(map[string]Lock{"sandbox": b, "image": a})
	if err != nil {
		t.Fatal(err)
	}
	sets := map[string][]string{}
	for _, p := range got.Packages {
		sets[p.Name] = p.Sets
	}
	want := map[string][]string{"bash": {"image", "sandbox"}, "libc6": {"image"}, "qemu-system-data": {"sandbox"}}
	if d := cmp.Diff(want, sets); d != "" {
		t.Fatal(d)
	}
	if len(got.Set("sandbox")) != 2 {
		t.Fatal(got.Set("sandbox"))
	}
	b.Packages[0].SHA256 = strings.Repeat("f", 64)
	if _, err := Join(map[string]Lock{"sandbox": b, "image": a}); err == nil {
		t.Fatal("different versions joined")
	}
}

func FuzzDecode(f *testing.F) {
	good, err := Encode(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := Decode("joist.lock", text)
		if err != nil {
			return
		}
		out, err := Encode(l)
		if err != nil {
			t.Fatalf("decoded but does not encode: %v", err)
		}
		if _, err := Decode("joist.lock", out); err != nil {
			t.Fatalf("own text refused: %v", err)
		}
	})
}
