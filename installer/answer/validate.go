package answer

import (
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"net/mail"
	"net/netip"
	"net/url"
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
	a  *Answer
	fs finding.List
}

func (c *checker) stop(key, code, hint, format string, args ...any) {
	p := c.a.at[key]
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

// missing reports a required key, unless it stands there with a wrong type or
// may stand in a line that could not be read.
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
func (a Answer) Validate() finding.List {
	c := &checker{a: &a}
	c.global()
	c.network()
	c.disk()
	c.joist()
	return c.fs
}

func (c *checker) oneOf(key, v string, allowed []string, required bool, what string) {
	switch {
	case v == "" && !c.given(key, false):
		if required {
			c.missing(key, "add "+key[strings.LastIndexByte(key, '.')+1:]+" = \"…\" ("+what+")")
		}
	case v == "" && c.given(key, false) && !slices.Contains(allowed, v) && c.wrongType(key):
	case !slices.Contains(allowed, v):
		hint := "use one of: " + strings.Join(allowed, " ")
		if len(allowed) > 60 {
			hint = "use " + what
		}
		if n := nearest(allowed, v); n != "" {
			hint = "did you mean \"" + n + "\"?"
		}
		c.stop(key, "answer-wrong-value", hint, "%s = %q is not %s", key, v, what)
	}
}

// wrongType says that key was reported already: it stands in the file and its
// source does not hold an empty text.
func (c *checker) wrongType(key string) bool {
	s := c.a.at[key].source
	return s != "" && !strings.Contains(s, `""`) && !strings.Contains(s, `''`)
}

func (c *checker) global() {
	g := c.a.Global
	c.oneOf("global.keyboard", g.Keyboard, Keyboards(), true, "a keyboard layout of the schema")
	c.oneOf("global.country", strings.ToLower(g.Country), Countries(), true, "a two-letter country code (ISO 3166), like \"at\"")
	c.oneOf("global.timezone", g.Timezone, Timezones(), true, "a time zone of the tz database, like \"Europe/Vienna\" or \"UTC\"")
	c.oneOf("global.reboot-mode", g.RebootMode, []string{"reboot", "power-off"}, false, "a reboot mode")
	c.fqdn()
	switch {
	case g.MailTo == "":
		c.missing("global.mailto", "add mailto = \"admin@example.com\"")
	default:
		if m, err := mail.ParseAddress(g.MailTo); err != nil || m.Address != g.MailTo || strings.ContainsAny(g.MailTo, " \t\r\n") {
			c.stop("global.mailto", "answer-wrong-value", "write one plain address, like admin@example.com", "mailto = %q is not a mail address", g.MailTo)
		}
	}
	c.password()
	for i, k := range g.RootSSHKeys {
		if why := sshKey(k); why != "" {
			c.stop("global.root-ssh-keys", "answer-wrong-value", "copy one whole line of a .pub file", "SSH key %d of root-ssh-keys %s", i+1, why)
		}
	}
}

func (c *checker) fqdn() {
	const key = "global.fqdn"
	g := c.a.Global
	_, bySource := c.a.at[key+".source"]
	switch {
	case bySource || g.FQDNFromDHCP: // refused by the schema already
	case g.FQDN == "":
		c.missing(key, "add fqdn = \"node1.example.com\"")
	case len(g.FQDN) > 253:
		c.stop(key, "answer-wrong-value", "shorten it", "fqdn is longer than 253 characters")
	default:
		for l := range strings.SplitSeq(g.FQDN, ".") {
			if !label.MatchString(l) {
				c.stop(key, "answer-wrong-value", "use letters, digits and inner hyphens, at most 63 between dots, like node1.example.com",
					"fqdn = %q is not a host name: the part %q is not allowed", g.FQDN, l)
				return
			}
		}
		if strings.Trim(g.Host(), "0123456789") == "" {
			c.stop(key, "answer-wrong-value", "put a letter into the first part, like node1.example.com", "fqdn = %q: a host name of digits only is read as a number", g.FQDN)
		}
	}
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
	if pw := g.RootPassword.Reveal(); pw != "" || hasPlain && !c.wrongType(plain) {
		switch {
		case utf8.RuneCountInString(pw) < MinPassword:
			c.stop(plain, "answer-weak-password", "use 8 characters or more", "root-password has fewer than %d characters", MinPassword)
		case strings.ContainsAny(pw, "\x00\n\r"):
			c.stop(plain, "answer-wrong-value", "write the password on one line", "root-password holds a line break")
		}
	}
	if h := g.RootPasswordHashed.Reveal(); h != "" && !hashed.MatchString(h) {
		c.stop(hash, "answer-wrong-value", "make one with: mkpasswd -m yescrypt", "root-password-hashed is not a crypt(5) hash of yescrypt, SHA-512, SHA-256 or bcrypt")
	}
}

// sshKey says what is wrong with one line of authorized_keys, "" when nothing
// is. Options before the key are not accepted: nobody would see them.
func sshKey(s string) string {
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

func (c *checker) network() {
	n := c.a.Network
	c.oneOf("network.source", n.Source, []string{FromDHCP, FromAnswer}, false, "a source of network settings")
	keys := []struct {
		key  string
		has  bool
		hint string
	}{
		{"network.cidr", n.CIDR != "", "add cidr = \"192.0.2.10/24\""},
		{"network.gateway", n.Gateway != "", "add gateway = \"192.0.2.1\""},
		{"network.dns", len(n.DNS) > 0, "add dns = \"192.0.2.1\""},
	}
	static := n.Source == FromAnswer
	for _, k := range keys {
		switch {
		case static && !k.has:
			c.missing(k.key, k.hint)
		case !static && c.given(k.key, k.has):
			c.stop(k.key, "answer-conflict", "remove it or set source = \"from-answer\"", "%s has no meaning with source = \"from-dhcp\"", k.key)
		}
	}
	switch {
	case static && len(n.Filter) == 0 && !c.a.partial && c.a.name != "":
		c.stop("network.source", "answer-missing-key", "add filter.ID_NET_NAME_MAC = \"enx001122334455\" or another udev property", "network.filter is missing: it says which NIC gets the address")
	case !static && len(n.Filter) > 0:
		for _, k := range slices.Sorted(maps.Keys(n.Filter)) {
			c.stop("network.filter."+k, "answer-conflict", "remove it or set source = \"from-answer\"", "network.filter has no meaning with source = \"from-dhcp\"")
		}
	}
	c.filter("network.filter", n.Filter)
	c.addresses()
	if n.Pinning || len(n.Mapping) > 0 {
		key := "network.interface-name-pinning.enabled"
		for _, k := range slices.Sorted(maps.Keys(n.Mapping)) {
			key = "network.interface-name-pinning.mapping." + k
		}
		c.stop(key, "answer-unsupported", "remove it: the bridge finds its NIC by hardware address, whatever the kernel names it",
			"pinning of interface names is not part of this version")
	}
}

func (c *checker) addresses() {
	n := c.a.Network
	var prefix netip.Prefix
	if n.CIDR != "" {
		p, err := netip.ParsePrefix(n.CIDR)
		switch {
		case err != nil:
			c.stop("network.cidr", "answer-wrong-value", "write address and prefix length, like 192.0.2.10/24 or 2001:db8::10/64", "cidr = %q is not an address with prefix length", n.CIDR)
		case !usable(p.Addr()) || p.Bits() < 2 || p.Addr() == p.Masked().Addr() && p.Bits() < p.Addr().BitLen()-1:
			c.stop("network.cidr", "answer-wrong-value", "write the address of this node, like 192.0.2.10/24", "cidr = %q is a network or a special address, not the address of a node", n.CIDR)
		default:
			prefix = p
		}
	}
	check := func(key, v string) (netip.Addr, bool) {
		a, err := netip.ParseAddr(v)
		if err != nil || !usable(a) && !a.IsLinkLocalUnicast() || a.Zone() != "" {
			c.stop(key, "answer-wrong-value", "write one IP address, like 192.0.2.1", "%s = %q is not the address of a machine", key, v)
			return a, false
		}
		return a, true
	}
	for _, d := range n.DNS {
		check("network.dns", d)
	}
	if n.Gateway == "" {
		return
	}
	g, ok := check("network.gateway", n.Gateway)
	switch {
	case !ok || !prefix.IsValid():
	case g == prefix.Addr():
		c.stop("network.gateway", "answer-conflict", "write the router's address", "gateway and cidr are the same address %s", g)
	case !prefix.Contains(g) && !g.IsLinkLocalUnicast():
		c.stop("network.gateway", "answer-conflict", "check both values; a router is reached only inside the node's own network", "gateway %s is outside the network %s", g, prefix.Masked())
	}
}

func usable(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsLoopback() && !a.IsMulticast() && a.Zone() == ""
}

func (c *checker) disk() {
	d := c.a.Disk
	c.oneOf("disk-setup.filesystem", d.Filesystem, []string{"ext4", "xfs", "zfs", "btrfs"}, true, "a file system: \"ext4\"")
	if slices.Contains([]string{"xfs", "zfs", "btrfs"}, d.Filesystem) {
		c.stop("disk-setup.filesystem", "answer-unsupported", "set filesystem = \"ext4\"", "filesystem = %q is not part of this version", d.Filesystem)
	}
	hasList, hasFilter := c.given("disk-setup.disk-list", len(d.List) > 0), len(d.Filter) > 0
	switch {
	case hasList && hasFilter:
		c.stop("disk-setup.disk-list", "answer-conflict", "keep one of the two", "disk-list and filter are both given")
	case !hasList && !hasFilter:
		c.missing("disk-setup.disk-list", "add disk-list = [\"sda\"] or filter.ID_SERIAL = \"…\"")
	case hasList && len(d.List) != 1 && !c.wrongType("disk-setup.disk-list"), len(d.List) > 1:
		c.stop("disk-setup.disk-list", "answer-wrong-value", "name one disk, like disk-list = [\"sda\"]", "disk-list names %d disks; ext4 takes exactly one", len(d.List))
	}
	for _, n := range d.List {
		if !kernelName.MatchString(strings.TrimPrefix(n, "/dev/")) {
			c.stop("disk-setup.disk-list", "answer-wrong-value", "use the kernel's name, like \"sda\" or \"nvme0n1\", or a filter such as filter.ID_SERIAL", "%q is not the name of a disk", n)
		}
	}
	c.filter("disk-setup.filter", d.Filter)
	c.oneOf("disk-setup.filter-match", d.FilterMatch, []string{"any", "all"}, false, "a way to combine filters")
	for _, s := range []struct {
		key string
		v   *int64
	}{{"hdsize", d.HDSize}, {"swapsize", d.SwapSize}, {"maxroot", d.MaxRoot}, {"maxvz", d.MaxVZ}, {"minfree", d.MinFree}} {
		if s.v != nil && (*s.v < 0 || *s.v > maxGiB*gib || *s.v == 0 && (s.key == "hdsize" || s.key == "maxroot")) {
			c.stop("disk-setup.lvm."+s.key, "answer-wrong-value", "write the size in GiB, like "+s.key+" = 32", "lvm.%s is not a size", s.key)
		}
	}
}

func (c *checker) filter(prefix string, m map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		key := prefix + "." + k
		if !udevKey.MatchString(k) {
			c.stop(key, "answer-wrong-value", "udev properties look like ID_SERIAL or ID_NET_NAME_MAC; `joist-install check` shows them", "%q is not a udev property", k)
		}
		if _, err := path.Match(glob(m[k]), ""); err != nil || m[k] == "" {
			c.stop(key, "answer-wrong-value", "use ? for one character, * for any, [a-z] for a set, [!a] for all but a", "%s = %q is not a pattern", key, m[k])
		}
	}
}

func (c *checker) joist() {
	for _, w := range c.a.Waive {
		if !code.MatchString(w) {
			c.stop("joist.waive.codes", "answer-wrong-value", "use codes as findings print them, like \"cpu-virtualisation\"", "%q is not the code of a finding", w)
		}
	}
	if id := c.a.Install.Installation; c.given("joist.install.installation", id != "") && !hexID.MatchString(id) && (id != "" || !c.wrongType("joist.install.installation")) {
		c.stop("joist.install.installation", "answer-wrong-value", "write the 16 hex digits that the installer printed", "installation = %q is not an installation id", id)
	}
	if m := c.a.Install.AptMirror; m != "" {
		u, err := url.Parse(m)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.ContainsAny(m, " \t\r\n") {
			c.stop("joist.install.apt-mirror", "answer-wrong-value", "write the base URL of a Debian mirror, like \"http://mirror.example.org/debian\"", "apt-mirror = %q is no http or https address", m)
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
