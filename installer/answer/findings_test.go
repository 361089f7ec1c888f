package answer

import (
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"joist/internal/finding"
)

// Each code of the table is said by some input, with its level and a cure, and
// none is said that the table lacks.
func TestFindings(t *testing.T) {
	said := map[string]finding.Level{}
	hear := func(fs finding.List) {
		for _, x := range fs {
			if x.Hint == "" {
				t.Errorf("%s has no cure", x)
			}
			said[x.Code] = x.Level
		}
	}
	load := func(text string) {
		_, fs := Load(strings.NewReader(text), "answer.toml")
		hear(fs)
	}
	for _, edits := range cases() {
		doc := base
		for j := 0; j+1 < len(edits); j += 2 {
			if edits[j] == "" {
				doc += edits[j+1] + "\n"
				continue
			}
			doc = strings.Replace(doc, edits[j], edits[j+1], 1)
		}
		load(doc)
	}
	load(strings.Repeat("#", maxSize+1))
	load(strings.Replace(base, "[network]", "root_password = \"12345678\"\n[network]", 1))
	_, fs := Load(iotest.ErrReader(errors.New("no medium")), "answer.toml")
	hear(fs)
	hear(Source{URL: "gopher://example.com"}.Check("x"))
	for _, r := range Findings() {
		if level, ok := said[r.Code]; !ok || level != r.Level || r.When == "" || r.Cure == "" {
			t.Errorf("%+v: said %v as %v", r, ok, level)
		}
		delete(said, r.Code)
	}
	for c := range said {
		t.Errorf("%s is said and not in the table", c)
	}
}

func TestSource(t *testing.T) {
	print := strings.Repeat("Ab:", 31) + "CD"
	s := Source{URL: "https://example.com:8443/answer?id=1", Fingerprint: print, Token: "rack:s3\"cr'et\\"}
	b, err := EncodeSource(s)
	if err != nil {
		t.Fatal(err)
	}
	got, fs := DecodeSource(b)
	if s.From = "the medium"; fs.Stops() || got != s {
		t.Errorf("%+v %v\n%s", got, fs, b)
	}
	for name, bad := range map[string]Source{
		"no address": {}, "a file": {URL: "file:///etc/passwd"}, "a user": {URL: "https://u:p@example.com"}, "a blank": {URL: "https://example.com/a b"},
		"a line": {URL: "https://example.com/\nHost: x"}, "no host": {URL: "https:///x"}, "too long": {URL: "https://example.com/" + strings.Repeat("a", maxURL)},
		"a short fingerprint": {URL: "https://example.com", Fingerprint: "AB:CD"}, "a fingerprint for http": {URL: "http://example.com", Fingerprint: print},
		"a token with a line": {URL: "https://example.com", Token: "a\r\nX: y"},
	} {
		fs := bad.Check("x")
		if !fs.Stops() || fs[0].Hint == "" {
			t.Errorf("%s: %v", name, fs)
		}
		if bad.Token != "" && strings.Contains(fs.Err().Error(), bad.Token.Reveal()) {
			t.Errorf("%s: the token is shown: %v", name, fs)
		}
	}
	for _, text := range []string{"url = 3", "ulr = \"https://example.com\"\ntoken = \"s3cret\"", "token = \"s3cret", ""} {
		if _, fs := DecodeSource([]byte(text)); !fs.Stops() || strings.Contains(fs.Err().Error(), "s3cret") {
			t.Errorf("%q: %v", text, fs)
		}
	}
	if d, ok := Digest(" " + print + "\n"); !ok || len(d) != 64 || d != strings.ToLower(d) {
		t.Errorf("%q %v", d, ok)
	}
}
