package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/installer/answer"
	"joist/internal/finding"
)

// What goes into the medium beside a build: checked first, secrets said.
func TestInside(t *testing.T) {
	file := filepath.Join(t.TempDir(), "answer.toml")
	text := "[global]\nkeyboard = \"de\"\ncountry = \"at\"\ntimezone = \"UTC\"\nfqdn = \"n1.example.com\"\nmailto = \"a@example.com\"\nroot-password-hashed = \"$6$a$b\"\n[disk-setup]\nfilesystem = \"ext4\"\ndisk-list = [\"sda\"]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	print := strings.Repeat("AB:", 31) + "AB"
	for name, c := range map[string]struct {
		answer string
		from   answer.Source
		want   string // path of the one file
		codes  string
	}{
		"nothing":            {"", answer.Source{}, "", ""},
		"an answer":          {file, answer.Source{}, answerFile, ""},
		"a server":           {"", answer.Source{URL: "https://example.com/a", Fingerprint: print}, sourceFile, ""},
		"a server, a secret": {"", answer.Source{URL: "https://example.com/a", Token: "s3cret"}, sourceFile, "answer-secret"},
		"a secret in clear":  {"", answer.Source{URL: "http://example.com/a", Token: "s3cret"}, sourceFile, "answer-token-in-clear answer-secret"},
		"both":               {file, answer.Source{URL: "https://example.com/a"}, "!", "answer-twice"},
		"no address":         {"", answer.Source{Fingerprint: print}, "!", "answer-source-invalid"},
		"no fingerprint":     {"", answer.Source{URL: "https://example.com/a", Fingerprint: "AB"}, "!", "answer-source-invalid"},
	} {
		var said []string
		b := &Builder{o: Options{Answer: c.answer, From: c.from, Say: func(l finding.List) {
			for _, x := range l {
				said = append(said, x.Code)
			}
		}}}
		files, err := b.inside()
		if (err != nil) != (c.want == "!") || err == nil && len(files) > 1 || strings.Join(said, " ") != c.codes {
			t.Errorf("%s: %v, %v, said %v", name, files, err, said)
		}
		if err != nil || c.want == "" {
			continue
		}
		if _, ok := files[c.want]; !ok {
			t.Errorf("%s: %v", name, files)
		}
		if c.want == sourceFile {
			s, fs := answer.DecodeSource(files[sourceFile])
			s.From = ""
			if fs.Stops() || s != c.from {
				t.Errorf("%s: read back as %+v %v", name, s, fs)
			}
		}
	}
}

// The first-boot program is checked with the answer that asks for it, or not.
func TestInsideProgram(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		put(t, filepath.Join(dir, name), text)
		return filepath.Join(dir, name)
	}
	text := "[global]\nkeyboard = \"de\"\ncountry = \"at\"\ntimezone = \"UTC\"\nfqdn = \"n1.example.com\"\nmailto = \"a@example.com\"\nroot-password-hashed = \"$6$a$b\"\n[disk-setup]\nfilesystem = \"ext4\"\ndisk-list = [\"sda\"]\n"
	asks, silent := file("asks.toml", text+"[first-boot]\nsource = \"from-iso\"\n"), file("silent.toml", text)
	good, bad := file("good", "#!/bin/sh\n"), file("bad", "echo\n")
	large := file("large", "#!/bin/sh\n"+strings.Repeat("x", answer.MaxProgram))
	for name, c := range map[string]struct {
		answer, program, codes string
		ok                     bool
	}{
		"asked for":          {asks, good, "", true},
		"asked for in vain":  {asks, "", "first-boot-missing", false},
		"not asked for":      {silent, good, "first-boot-unused", true},
		"for later answers":  {"", good, "", true},
		"no program":         {asks, bad, "first-boot-invalid", false},
		"too large":          {"", large, "first-boot-invalid", false},
		"there is no such":   {asks, filepath.Join(dir, "none"), "", false},
		"neither of the two": {silent, "", "", true},
	} {
		var said []string
		b := &Builder{o: Options{Answer: c.answer, Program: c.program, Say: func(l finding.List) {
			for _, x := range l {
				said = append(said, x.Code)
			}
		}}}
		files, err := b.inside()
		if (err == nil) != c.ok || strings.Join(said, " ") != c.codes {
			t.Errorf("%s: %v, said %v", name, err, said)
		}
		if _, has := files[programFile]; err == nil && has != (c.program != "") {
			t.Errorf("%s: %v", name, files)
		}
	}
}
