package deb

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"

	"joist/internal/finding"
)

// aptEntry is one line or stanza of apt's sources.
type aptEntry struct {
	file     string
	line     int
	uris     []string
	suites   []string
	signedBy string
}

// aptConfig is what the building machine's apt knows about the archive.
type aptConfig struct {
	entries  []aptEntry
	options  aptOptions
	logins   []login
	findings finding.List
}

// readApt reads apt's configuration below root ("/" on a real machine). A
// part that cannot be read becomes a note: apt itself would stop, but another
// part or --mirror may be enough here.
func readApt(root string) aptConfig {
	c := aptConfig{options: aptOptions{}}
	dir := filepath.Join(root, "etc/apt")
	each := func(parse func(name, text string) error, patterns ...string) {
		for _, p := range patterns {
			files, _ := filepath.Glob(filepath.Join(dir, p)) // the only error is a bad pattern
			slices.Sort(files)
			for _, f := range files {
				name := "/" + strings.TrimPrefix(strings.TrimPrefix(f, root), "/")
				text, err := os.ReadFile(f)
				if err == nil {
					err = parse(name, string(text))
				}
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					c.findings.Notef("apt-unread", name, "ignored: %v", plain(err))
				}
			}
		}
	}
	// The order of apt: apt.conf.d, then apt.conf; auth.conf before its folder.
	conf := func(_, text string) error { return c.options.parseAptConf(text) }
	each(confNames(conf), "apt.conf.d/*")
	each(conf, "apt.conf")
	each(func(_, text string) error {
		l, err := parseAuth(text)
		c.logins = append(c.logins, l...)
		return err
	}, "auth.conf", "auth.conf.d/*.conf")
	each(c.addList, "sources.list", "sources.list.d/*.list")
	each(c.addSources, "sources.list.d/*.sources")
	return c
}

// confNames skips files apt.conf.d(5) skips: only names without an extension
// or with ".conf" are read.
func confNames(parse func(name, text string) error) func(name, text string) error {
	return func(name, text string) error {
		if ext := filepath.Ext(name); ext != "" && ext != ".conf" {
			return nil
		}
		return parse(name, text)
	}
}

// plain removes the path from a file error: the finding already has it.
func plain(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// addList reads the one-line style of sources.list(5).
func (c *aptConfig) addList(name, text string) error {
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line, _, _ = strings.Cut(line, "#")
		w := strings.Fields(line)
		if len(w) < 2 || w[0] != "deb" {
			continue
		}
		e := aptEntry{file: name, line: n}
		rest := strings.TrimSpace(strings.TrimSpace(line)[len("deb"):])
		if strings.HasPrefix(rest, "[") {
			options, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				c.findings.Notef("apt-unread", fmt.Sprintf("%s:%d", name, n), "ignored: bracket is not closed")
				continue
			}
			for _, o := range strings.Fields(options) {
				if k, v, _ := strings.Cut(o, "="); strings.EqualFold(k, "signed-by") {
					e.signedBy = v
				}
			}
			rest = after
		}
		if w = strings.Fields(rest); len(w) < 2 {
			continue
		}
		e.uris, e.suites = w[:1], w[1:2]
		c.entries = append(c.entries, e)
	}
	return nil
}

// addSources reads the deb822 style.
func (c *aptConfig) addSources(name, text string) error {
	stanzas, err := ParseStanzas(text)
	if err != nil {
		return err
	}
	for _, s := range stanzas {
		enabled := strings.ToLower(s.Get("Enabled"))
		if !slices.Contains(strings.Fields(s.Get("Types")), "deb") || enabled == "no" || enabled == "false" || enabled == "0" {
			continue
		}
		c.entries = append(c.entries, aptEntry{file: name, line: s[0].Line,
			uris: strings.Fields(s.Get("URIs")), suites: strings.Fields(s.Get("Suites")), signedBy: s.Get("Signed-By")})
	}
	return nil
}

// candidate is a URL that may be the base of an archive, with its origin for
// the person.
type candidate struct {
	url  string
	from string
}

// candidates lists what apt's sources offer for an archive, in their order.
// Entries that another authority signs, or that are no files below a URL, are
// left out with a note.
func (c *aptConfig) candidates(a Archive, keys *Keyring) ([]candidate, finding.List) {
	var out []candidate
	var notes finding.List
	var siblings []candidate
	add := func(list *[]candidate, x candidate) {
		if !slices.ContainsFunc(*list, func(y candidate) bool { return y.url == x.url }) {
			*list = append(*list, x)
		}
	}
	for _, e := range c.entries {
		from := fmt.Sprintf("%s:%d", e.file, e.line)
		if !debianSigned(e.signedBy, keys) {
			notes.Notef("source-ignored", from, "another key than Debian's signs it")
			continue
		}
		for _, raw := range e.uris {
			u, err := url.Parse(raw)
			if err != nil || !slices.Contains([]string{"http", "https", "file"}, u.Scheme) {
				notes.Notef("source-ignored", from, "only http, https and file URLs are used")
				continue
			}
			base := strings.TrimRight(u.String(), "/")
			switch isSecurity := slices.ContainsFunc(e.suites, securitySuite); {
			case isSecurity == (a == Security):
				add(&out, candidate{base, from})
			case a == Security:
				// Who mirrors the archive mostly has the security archive beside it.
				add(&siblings, candidate{base + "-security", "beside " + from})
			}
		}
	}
	for _, s := range siblings {
		add(&out, s)
	}
	return out, notes
}

// securitySuite knows the names of today (trixie-security) and of before
// Debian 11 (buster/updates).
func securitySuite(s string) bool {
	return strings.HasSuffix(s, "-security") || strings.HasSuffix(s, "/updates")
}

// debianSigned reports whether a Signed-By leaves room for Debian's own keys:
// nothing given, the archive's keyring files, one of our fingerprints, or one
// of our keys in the text itself. Whether a source is really Debian's is then
// decided by the signature on its index.
func debianSigned(signedBy string, keys *Keyring) bool {
	if signedBy == "" {
		return true
	}
	if strings.Contains(signedBy, "BEGIN PGP PUBLIC KEY") {
		text := strings.ReplaceAll(signedBy, "\n.\n", "\n\n") // deb822 writes an empty line as a dot
		list, err := openpgp.ReadArmoredKeyRing(bytes.NewReader([]byte(text)))
		if err != nil {
			return false
		}
		return slices.ContainsFunc(list, func(e *openpgp.Entity) bool { return keys.has(fingerprint(e)) })
	}
	words := strings.FieldsFunc(signedBy, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
	return slices.ContainsFunc(words, func(w string) bool {
		if strings.HasPrefix(w, "/") {
			return strings.HasPrefix(filepath.Base(w), "debian-archive-")
		}
		return keys.has(w)
	})
}

// mirrorCandidates are the forms --mirror may have: a folder above debian/
// and debian-security/, or one of these itself.
func mirrorCandidates(mirror string, a Archive) []candidate {
	base := strings.TrimRight(mirror, "/")
	forms := []string{base + "/debian", base}
	if a == Security {
		forms = []string{base + "/debian-security", base + "-security", base}
		if up, ok := strings.CutSuffix(base, "/debian"); ok {
			forms = append(forms, up+"/security")
		}
	}
	out := make([]candidate, len(forms))
	for i, f := range forms {
		out[i] = candidate{f, "--mirror"}
	}
	return out
}
