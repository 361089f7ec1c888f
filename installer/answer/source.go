package answer

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"joist/internal/finding"
)

// SourceFile is the medium's file that names a server of answers.
const SourceFile = "answer-source.toml"

// Source is a server that gives the answer of a machine that asks.
type Source struct {
	URL         string
	Fingerprint string // SHA-256 of its certificate, 64 hex digits with colons or without; "": its authority is checked
	Token       Secret // sent as bearer token
	From        string // who named it, in words; not part of the file
}

// sourceKeys is Source as it stands in SourceFile.
type sourceKeys struct {
	URL         string `toml:"url"`
	Fingerprint string `toml:"fingerprint,omitempty"`
	Token       string `toml:"token,omitempty"`
}

// EncodeSource writes SourceFile.
func EncodeSource(s Source) ([]byte, error) {
	b, err := toml.Marshal(sourceKeys{s.URL, s.Fingerprint, s.Token.Reveal()})
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", SourceFile, err)
	}
	return append([]byte("# Where this medium gets its answer; docs/answer-file.md.\n"), b...), nil
}

// DecodeSource reads SourceFile and checks it. The error never quotes the
// file, which may hold a token.
func DecodeSource(b []byte) (Source, finding.List) {
	var k sourceKeys
	var fs finding.List
	d := toml.NewDecoder(strings.NewReader(string(b))).DisallowUnknownFields()
	if err := d.Decode(&k); err != nil {
		line := 0
		var de *toml.DecodeError
		if errors.As(err, &de) {
			line, _ = de.Position()
		}
		fs.Add(finding.Finding{Level: finding.Stop, Code: "answer-source-invalid", Path: SourceFile, Line: line,
			Text: "the file is not of the form url, fingerprint, token", Hint: "write the medium again: joist build iso --answer-url URL"})
		return Source{}, fs
	}
	s := Source{URL: k.URL, Fingerprint: k.Fingerprint, Token: Secret(k.Token), From: "the medium"}
	return s, s.Check(SourceFile)
}

// maxURL bounds what is taken from networks and files.
const maxURL = 2048

// WebAddress takes an http or https address apart. Its error says what is
// wrong without quoting it: an address may hold a secret.
func WebAddress(v string) (*url.URL, error) {
	if len(v) > maxURL || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("it holds blanks or characters that no address has, or is too long")
	}
	u, err := url.Parse(v)
	switch {
	case err != nil:
		return nil, errors.New("it cannot be read")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("it begins with neither http:// nor https://")
	case u.Hostname() == "":
		return nil, errors.New("it names no host")
	case u.User != nil:
		return nil, errors.New("it holds a user name; give a token instead")
	}
	return u, nil
}

// Digest is a fingerprint as 64 lower-case hex digits; ok is false for what is
// none.
func Digest(v string) (digest string, ok bool) {
	v = strings.ToLower(strings.ReplaceAll(strings.TrimSpace(v), ":", ""))
	return v, hexDigits.MatchString(v)
}

// Check says what is wrong with a source; path is where it stands.
func (s Source) Check(path string) finding.List {
	var fs finding.List
	stop := func(hint, format string, args ...any) { fs.Stopf("answer-source-invalid", path, hint, format, args...) }
	u, err := WebAddress(s.URL)
	if err != nil {
		stop("write it like \"https://example.com/answer\"", "the address of the answer server is not usable: %v", err)
		return fs
	}
	if _, ok := Digest(s.Fingerprint); !ok && s.Fingerprint != "" {
		stop("write 64 hex digits, as `openssl x509 -noout -fingerprint -sha256` prints them", "the fingerprint of the answer server is no SHA-256")
	}
	if s.Fingerprint != "" && u.Scheme == "http" {
		stop("use an https address, or leave the fingerprint out", "a fingerprint has no meaning with an http address: it shows no certificate")
	}
	if t := s.Token.Reveal(); strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || len(t) > 1024 {
		stop("copy it again, without blanks", "the token of the answer server holds blanks or characters that no header may hold")
	}
	if s.Token != "" && u.Scheme == "http" {
		fs.Warnf("answer-token-in-clear", path, "use an https address", "the answer server's token is sent over a connection that is not encrypted")
	}
	return fs
}
