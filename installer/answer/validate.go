package answer

import (
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"net/mail"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"joist/internal/finding"
)

// The lists come from the tz database and ISO 3166 as tzdata ships them.
//
//go:embed timezones.txt
var timezones string

//go:embed countries.txt
var countries string

const keyboards = "de de-ch dk en-gb en-us es fi fr fr-be fr-ca fr-ch hu is it jp lt mk nl no pl pt pt-br se si tr"

// Timezones, Countries and Keyboards list what an answer may name.
func Timezones() []string { return strings.Fields(timezones) }

// Countries returns the two-letter codes in lower case.
func Countries() []string { return strings.Fields(countries) }

// Keyboards returns the layout names of the schema.
func Keyboards() []string { return strings.Fields(keyboards) }

// MinPassword is the shortest password root may have, in characters.
const MinPassword = 8

var (
	label      = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) // RFC 1123 section 2.1
	kernelName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_!.-]{0,31}$`)
	udevKey    = regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`)
	hexID      = regexp.MustCompile(`^[0-9a-f]{16}$`)
	code       = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	// the schemes that libxcrypt verifies and we accept, crypt(5)
	hashed = regexp.MustCompile(`^\$(y|gy|6|5|2[aby])\$[./A-Za-z0-9$=,]+$`)
)

// checker collects the findings about one answer.
type checker struct {
	a     *Answer
	fs    finding.List
	wrong []string // keys
}

func (c *checker) stop(key, code, hint, format string, args ...any) {
	p := c.a.at[key]
	if code == "answer-disk-count" { // the disks are right, or the layout is
		c.wrong = append(c.wrong, "disk-setup.filesystem")
	} else {
		c.wrong = append(c.wrong, key)
	}
	c.fs.Add(finding.Finding{Level: finding.Stop, Code: code, Path: c.path(key, p), Line: p.line, Column: p.column,
		Source: p.source, Text: fmt.Sprintf(format, args...), Hint: hint})
}

// path is the file for a key that stands in one, the key itself otherwise.
func (c *checker) path(key string, p place) string {
	if c.a.name != "" {
		return c.a.name
	}
	return key
}

// missing reports a required key, unless it may stand in a line that could
// not be read.
func (c *checker) missing(key, hint string) {
	if _, ok := c.a.at[key]; !ok && !c.a.partial {
		c.stop(key, "answer-missing-key", hint, "the key %s is missing", key)
	}
}

// given says whether a key stands in the file; for an answer that was not
// read from one, whether it has a value.
func (c *checker) given(key string, has bool) bool {
	_, ok := c.a.at[key]
	return ok || has
}

// Validate checks every value and the rules between keys.
func (a Answer) Validate() finding.List { return a.check().fs }

func (a *Answer) check() *checker {
	c := &checker{a: a}
	for _, f := range schema() {
		c.value(&f)
	}
	c.global()
	c.network()
	c.link()
	c.disk()
	c.hooks()
	c.joist()
	return c
}

// value checks one key by its row: required, one of a list, within a range.
func (c *checker) value(f *field) {
	last := f.path[strings.LastIndexByte(f.path, '.')+1:]
	given := c.given(f.path, f.has(c.a))
	switch {
	case c.a.bad[f.path]:
	case !given && f.must:
		c.missing(f.path, "add "+last+" = \"…\" ("+f.kind+")")
	case !given:
	case f.enum != nil:
		v, allowed := *f.ref(c.a).(*string), f.enum()
		if f.path == "global.country" {
			v = strings.ToLower(v)
		}
		if slices.Contains(allowed, v) {
			return
		}
		hint := "use one of: " + strings.Join(allowed, " ")
		if len(allowed) > 60 {
			hint = "use " + f.kind
		}
		if n := nearest(allowed, v); n != "" {
			hint = "did you mean \"" + n + "\"?"
		}
		c.stop(f.path, "answer-wrong-value", hint, "%s = %q is not %s", f.path, v, f.kind)
	case f.max > 0:
		c.within(f)
	}
}

func (c *checker) within(f *field) {
	var ok bool
	switch p := f.ref(c.a).(type) {
	case *int:
		ok = float64(*p) >= f.min && float64(*p) <= f.max
	case **int64:
		ok = *p == nil || float64(**p) >= f.min*gib && float64(**p) <= f.max*gib
	}
	if !ok {
		c.stop(f.path, "answer-wrong-value", fmt.Sprintf("write %s from %.0f to %.0f", f.want, f.min, f.max), "%s is out of range", f.path)
	}
}

func (c *checker) global() {
	g := c.a.Global
	c.fqdn()
	switch {
	case c.a.bad["global.mailto"]:
	case g.MailTo == "" && !c.given("global.mailto", false):
		c.missing("global.mailto", "add mailto = \"admin@example.com\"")
	default:
		if m, err := mail.ParseAddress(g.MailTo); err != nil || m.Address != g.MailTo || strings.ContainsAny(g.MailTo, " \t\r\n") {
			c.stop("global.mailto", "answer-wrong-value", "write one plain address, like admin@example.com", "mailto = %q is not a mail address", g.MailTo)
		}
	}
	c.password()
	for i, k := range g.RootSSHKeys {
		if why := SSHKey(k); why != "" {
			c.stop("global.root-ssh-keys", "answer-wrong-value", "copy one whole line of a .pub file", "SSH key %d of root-ssh-keys %s", i+1, why)
		}
	}
}

func (c *checker) fqdn() {
	const key, source, domain = "global.fqdn", "global.fqdn.source", "global.fqdn.domain"
	g := c.a.Global
	fromDHCP := c.given(source, g.FQDNSource != "")
	static := c.a.Network.Source == FromAnswer
	switch {
	case c.a.bad[key]:
	case fromDHCP && c.given(key, g.FQDN != ""):
		c.stop(key, "answer-conflict", "keep one of the two", "fqdn and fqdn.source are both given")
	case fromDHCP && static:
		c.stop(source, "answer-conflict", "write the name: fqdn = \"node1.example.com\"", "fqdn.source has no meaning with network.source = \"from-answer\": there is no lease")
	case c.given(domain, g.FQDNDomain != "") && !fromDHCP:
		c.stop(domain, "answer-conflict", "add fqdn.source = \"from-dhcp\", or write the whole name: fqdn = \"node1.example.com\"", "fqdn.domain has no meaning without fqdn.source")
	case fromDHCP:
		if why := HostName("x." + g.FQDNDomain); why != "" && g.FQDNDomain != "" {
			c.stop(domain, "answer-wrong-value", "write a domain, like example.com", "fqdn.domain = %q is not a domain: %s", g.FQDNDomain, why)
		}
	case g.FQDN == "" && !c.given(key, false):
		c.missing(key, "add fqdn = \"node1.example.com\"")
	default:
		if why := FullName(g.FQDN); why != "" {
			c.stop(key, "answer-wrong-value", "use letters, digits and inner hyphens, at most 63 between dots, with a letter before the first dot, like node1.example.com",
				"fqdn = %q is not a host name with domain: %s", g.FQDN, why)
		}
	}
}

// FullName says what is wrong with a host name that has to have a domain, "" when
// nothing is.
func FullName(s string) string {
	if why := HostName(s); why != "" {
		return why
	}
	if !strings.Contains(s, ".") {
		return "there is no domain"
	}
	return ""
}

// HostName says what is wrong with a host name (RFC 1123), "" when nothing is.
func HostName(s string) string {
	if len(s) > 253 {
		return "it is longer than 253 characters"
	}
	for l := range strings.SplitSeq(s, ".") {
		if !label.MatchString(l) {
			return fmt.Sprintf("the part %q is not allowed", l)
		}
	}
	if host, _, _ := strings.Cut(s, "."); strings.Trim(host, "0123456789") == "" {
		return "a host name of digits only is read as a number"
	}
	return ""
}

func (c *checker) password() {
	g := c.a.Global
	const plain, hash = "global.root-password", "global.root-password-hashed"
	hasPlain, hasHash := c.given(plain, g.RootPassword != ""), c.given(hash, g.RootPasswordHashed != "")
	switch {
	case hasPlain && hasHash:
		c.stop(hash, "answer-conflict", "keep exactly one of them", "root-password and root-password-hashed are both given")
	case !hasPlain && !hasHash:
		c.missing(plain, "add root-password = \"…\" (8 characters or more) or root-password-hashed = \"…\" (made by mkpasswd)")
	}
	if pw := g.RootPassword.Reveal(); hasPlain && !c.a.bad[plain] {
		switch {
		case utf8.RuneCountInString(pw) < MinPassword:
			c.stop(plain, "answer-weak-password", "use 8 characters or more", "root-password has fewer than %d characters", MinPassword)
		case strings.ContainsAny(pw, "\x00\n\r"):
			c.stop(plain, "answer-wrong-value", "write the password on one line", "root-password holds a line break")
		}
	}
	if h := g.RootPasswordHashed.Reveal(); hasHash && !c.a.bad[hash] && !hashed.MatchString(h) {
		c.stop(hash, "answer-wrong-value", "make one with: mkpasswd -m yescrypt", "root-password-hashed is not a crypt(5) hash of yescrypt, SHA-512, SHA-256 or bcrypt")
	}
}

// SSHKey says what is wrong with one line of authorized_keys, "" when nothing
// is. Options before the key are not accepted: nobody would see them.
func SSHKey(s string) string {
	f := strings.Fields(s)
	if strings.ContainsAny(s, "\r\n\x00") {
		return "holds a line break"
	}
	if len(f) < 2 {
		return "is not of the form \"ssh-ed25519 AAAA… name\""
	}
	b, err := base64.StdEncoding.DecodeString(f[1])
	// RFC 4253 section 6.6: the blob begins with its own type, length first
	if err != nil || len(b) < 4 || int64(binary.BigEndian.Uint32(b)) > int64(len(b)-4) {
		return "is damaged"
	}
	if string(b[4:4+binary.BigEndian.Uint32(b)]) != f[0] {
		return fmt.Sprintf("says it is %q and is not", f[0])
	}
	if !strings.HasPrefix(f[0], "ssh-") && !strings.HasPrefix(f[0], "ecdsa-sha2-") && !strings.HasPrefix(f[0], "sk-") {
		return fmt.Sprintf("is of the unknown type %q", f[0])
	}
	return ""
}

func (c *checker) filter(prefix string, m map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		key := prefix + "." + k
		if !udevKey.MatchString(k) {
			c.stop(key, "answer-wrong-value", "udev properties look like ID_SERIAL or ID_NET_NAME_MAC; `joist-install check` shows them", "%q is not a udev property", k)
		}
		if _, err := path.Match(glob(m[k]), ""); err != nil || m[k] == "" {
			c.stop(key, "answer-wrong-value", "use ? for one character, * for any, [a-z] for a set, [!a] for all but a", "%s = %q is not a pattern", printable(key), m[k])
		}
	}
}

// glob turns the schema's pattern into one of path.Match: sets are negated by
// "!" there and by "^" here.
func glob(p string) string { return strings.ReplaceAll(p, "[!", "[^") }

// Match says whether a udev property matches a pattern. Slashes are ordinary
// characters, unlike in paths.
func Match(pattern, v string) bool {
	swap := strings.NewReplacer("/", "\x01")
	ok, err := path.Match(swap.Replace(glob(pattern)), swap.Replace(v))
	return ok && err == nil
}
