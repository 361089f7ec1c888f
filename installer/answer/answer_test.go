package answer

import (
	goflag "flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/internal/finding"
)

var update = goflag.Bool("update", false, "rewrite golden files")

// inputs are the answer files of testdata.
func inputs() []string {
	a, _ := filepath.Glob("testdata/*.toml")
	b, _ := filepath.Glob("testdata/*.json")
	return append(a, b...)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", name, got)
	}
}

// Each testdata/*.toml has a golden file with every finding and, when none
// stops, the answer as it was understood.
func TestLoadGolden(t *testing.T) {
	files := inputs()
	if len(files) == 0 {
		t.Fatal("no answer files in testdata")
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			r, err := os.Open(f)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			a, fs := Load(r, "answer.toml")
			var b strings.Builder
			fs.Write(&b)
			if !fs.Stops() {
				b.WriteString(a.String())
			}
			for _, secret := range []string{"correct horse", "hunter2", "tok-secret"} {
				if strings.Contains(b.String(), secret) || strings.Contains(fmt.Sprintf("%v %+v %#v", a, a, a.Global), secret) {
					t.Errorf("the secret %q shows", secret)
				}
			}
			golden(t, f+".golden", b.String())
		})
	}
}

// The schema's spelling and its alias are the same key everywhere.
func TestSnakeCase(t *testing.T) {
	kebab, err := os.ReadFile("testdata/full.toml")
	if err != nil {
		t.Fatal(err)
	}
	var snake []string
	for l := range strings.SplitSeq(string(kebab), "\n") {
		k, v, ok := strings.Cut(l, "=")
		switch {
		case ok:
			l = strings.ReplaceAll(k, "-", "_") + "=" + v
		case strings.HasPrefix(l, "["):
			l = strings.ReplaceAll(l, "-", "_")
		}
		snake = append(snake, l)
	}
	a, fs := Load(strings.NewReader(string(kebab)), "x")
	b, gs := Load(strings.NewReader(strings.Join(snake, "\n")), "x")
	if fs.Stops() || gs.Stops() || a.String() != b.String() {
		t.Errorf("aliases differ: %v %v\n%s\n%s", fs, gs, a, b)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, v string
		want       bool
	}{
		{"*", "anything/with/slash", true},
		{"enx?a*", "enx0abc", true},
		{"[!a]bc", "xbc", true},
		{"[!a]bc", "abc", false},
		{"[0-9]", "5", true},
		{"SAM*", "sam", false},
		{"[", "[", false},
	} {
		if got := Match(c.pattern, c.v); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.pattern, c.v, got)
		}
	}
}

func TestWizardAnswer(t *testing.T) {
	a := Answer{
		Global:  Global{Keyboard: "de", Country: "at", Timezone: "UTC", FQDN: "n1.lab", MailTo: "a@b.c", RootPassword: "12345678"},
		Network: Network{Source: FromDHCP},
		Disk:    Disk{Filesystem: "ext4", List: []string{"vda"}},
	}
	if fs := a.Validate(); len(fs) != 0 {
		t.Errorf("findings: %v", fs)
	}
	a.Global.RootPassword = "short"
	if fs := a.Validate(); fs.Worst() != finding.Stop || fs[0].Path != "global.root-password" {
		t.Errorf("findings: %v", fs)
	}
}

func FuzzLoad(f *testing.F) {
	for _, n := range inputs() {
		b, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add("a = { b = [ { c = 1 } ] }\n[[x.y]]\n")
	f.Add("x = \"\\u00e9\"\n\"\" = 1")
	f.Add("{\"a\":[[[{\"b\":1e400}]]]}")
	f.Add(strings.Repeat("{\"a\":", 40))
	f.Fuzz(func(t *testing.T, s string) {
		a, fs := Load(strings.NewReader(s), "fuzz")
		_ = a.Explain()
		for _, x := range fs {
			_ = x.String()
		}
		if fs.Stops() {
			return
		}
		if again := a.Validate(); again.Stops() {
			t.Errorf("loaded without findings, then: %v", again)
		}
	})
}

// The medium's file that names a server may have been written by anybody: what
// passes can be used, and what does not is not quoted, as it may hold a token.
func FuzzDecodeSource(f *testing.F) {
	good, err := EncodeSource(Source{URL: "https://example.com/a?b=c", Fingerprint: strings.Repeat("ab", 32), Token: "name:secret"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("url = \"http://example.com\"\ntoken = \"a\"\n"))
	f.Add([]byte("url = \"https://[::1\"\nother = 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, fs := DecodeSource(b)
		for _, x := range fs {
			if x.Source != "" {
				t.Errorf("the file is quoted: %q", x.Source)
			}
		}
		if fs.Stops() {
			return
		}
		u, err := WebAddress(s.URL)
		if err != nil || u.Hostname() == "" || strings.ContainsAny(s.Token.Reveal(), "\r\n") {
			t.Fatalf("%q passes: %v", s.URL, err)
		}
		text, err := EncodeSource(s)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := DecodeSource(text); again != s {
			t.Errorf("%+v is read again as %+v", s, again)
		}
	})
}

// Properties come from devices, patterns from a file.
func FuzzMatch(f *testing.F) {
	f.Add("SAMSUNG*", "SAMSUNG_MZ7")
	f.Add("[!a-c]?x", "dyx")
	f.Add("/dev/disk/*", "/dev/disk/by-id/a")
	f.Add("[", "[")
	f.Fuzz(func(t *testing.T, pattern, v string) {
		ok := Match(pattern, v)
		if !strings.ContainsAny(pattern, `*?[]\`+"\x01/") && !strings.ContainsAny(v, "\x01/") && ok != (pattern == v) {
			t.Errorf("%q without signs: %q matches: %v", pattern, v, ok)
		}
	})
}

func TestCheckProgram(t *testing.T) {
	for text, want := range map[string]string{
		"#!/bin/sh\necho": "", "#! /usr/bin/env python3": "", "\x7fELF\x02": "",
		"": "empty", "echo": "neither", "#!\n": "whole path", "#!sh\n": "whole path", "#!/bin/sh\r\necho\r\n": "Windows",
		"#!/bin/sh\n" + strings.Repeat("#", MaxProgram): "1 MiB",
	} {
		err := CheckProgram([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}
