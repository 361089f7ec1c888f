package schema

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// form is a value format that one regular expression decides.
type form struct {
	re   *regexp.Regexp
	text string // what is wrong; a %s becomes the value
}

func re(s string) *regexp.Regexp { return regexp.MustCompile(`^(?:` + s + `)$`) }

const (
	label   = `[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?`
	realm   = `[A-Za-z][A-Za-z0-9.\-_]+`
	user    = `[^\s:/@!]{1,64}`
	ident   = `[A-Za-z][A-Za-z0-9_-]+`
	storage = `[a-zA-Z][a-zA-Z0-9\-_.]*[a-zA-Z0-9]`
)

// forms are the formats that a regular expression decides; Format adds those
// that need more. The table is never written after start.
var forms = map[string]form{
	"pve-node":            {re(label), "value does not look like a valid node name"},
	"pve-vmid":            {re(`[1-9][0-9]{2,8}`), "value does not look like a valid VM ID"},
	"pve-storage-id":      {re(storage), "storage ID '%s' contains illegal characters"},
	"pve-configid":        {re(ident), "invalid configuration ID '%s'"},
	"pve-snapshot-name":   {re(`[A-Za-z][A-Za-z0-9_-]{1,39}`), "invalid configuration ID '%s'"},
	"pve-userid":          {re(user + `@` + realm), "value '%s' does not look like a valid user name"},
	"pve-userid-or-token": {re(user + `@` + realm + `(?:![A-Za-z][A-Za-z0-9.\-_]+)?`), "value '%s' does not look like a valid user name or token ID"},
	"pve-tokenid":         {re(`[A-Za-z][A-Za-z0-9.\-_]+`), "value '%s' does not look like a valid token ID"},
	"pve-realm":           {re(realm), "value does not look like a valid realm"},
	"pve-groupid":         {re(`[A-Za-z0-9.\-_]+`), "group name '%s' contains invalid characters"},
	"pve-roleid":          {re(`[A-Za-z0-9.\-_]+`), "role name '%s' contains invalid characters"},
	"pve-poolid":          {re(`[A-Za-z0-9.\-_]+(?:/[A-Za-z0-9.\-_]+){0,2}`), "pool name '%s' contains invalid characters"},
	"pve-iface":           {re(`[a-zA-Z][a-zA-Z0-9_]{1,20}(?:[:.]\d+)?`), "invalid network interface name '%s'"},
	"pve-bridge-id":       {re(`[-_.\w]{1,15}`), "invalid bridge ID '%s'"},
	"pve-tag":             {re(`(?i)[a-z0-9_][a-z0-9_\-+.]*`), "invalid characters in tag"},
	"mac-addr":            {re(`(?i)[a-f0-9][02468ace](?::[a-f0-9]{2}){5}`), "value does not look like a valid unicast MAC address"},
	"dns-name":            {re(label + `(?:\.` + label + `)*`), "value does not look like a valid DNS name"},
	"disk-size":           {re(`\d+(?:\.\d+)?[KMGT]?`), "value does not look like a valid disk size: %s"},
	"email":               {re(`[^\s@,;<>]+@[^\s@,;<>]+`), "value does not look like a valid email address"},
	"pve-priv":            {re(`[A-Z][A-Za-z]+(?:\.[A-Z][A-Za-z]+)+`), "invalid privilege '%s'"},
	"sha1":                {re(`[0-9a-f]{40}`), "value does not look like a SHA-1 digest"},
}

// contents are the kinds of content that a storage can hold.
func contents() []string {
	return []string{"images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none"}
}

// Format checks value against the named format. Known is false when there is
// no such format, which is a mistake in the declaration, not in the request.
func Format(name, value string) (known bool, err error) {
	if f, ok := forms[name]; ok {
		if f.re.MatchString(value) {
			return true, nil
		}
		if strings.Contains(f.text, "%s") {
			return true, fmt.Errorf(f.text, value)
		}
		return true, errors.New(f.text)
	}
	switch name {
	case "pve-volume-id":
		return true, volumeID(value)
	case "pve-storage-content":
		if !slices.Contains(contents(), value) {
			return true, fmt.Errorf("invalid content type '%s'", value)
		}
		return true, nil
	case "pve-acl-path":
		return true, aclPath(value)
	case "ip", "ipv4", "ipv6":
		return true, address(value, name)
	case "CIDR", "CIDRv4", "CIDRv6":
		return true, network(value, name)
	case "address": // host name or IP address
		if _, err := netip.ParseAddr(value); err == nil {
			return true, nil
		}
		if !forms["dns-name"].re.MatchString(value) {
			return true, errors.New("value does not look like a valid address: " + value)
		}
		return true, nil
	case "pve-fs-path":
		if !path.IsAbs(value) || path.Clean(value) != value || strings.ContainsAny(value, "\x00\n\r") {
			return true, fmt.Errorf("path '%s' is not absolute and clean", value)
		}
		return true, nil
	case "url":
		u, err := url.Parse(value)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return true, errors.New("value does not look like a valid URL")
		}
		return true, nil
	case "urlencoded":
		if _, err := url.PathUnescape(value); err != nil {
			return true, errors.New("value is not percent-encoded")
		}
		return true, nil
	}
	return false, nil
}

// volumeID checks "storage:volume". The volume's name may hold slashes but
// nothing that climbs out of a folder.
func volumeID(v string) error {
	id, name, ok := strings.Cut(v, ":")
	if !ok || !forms["pve-storage-id"].re.MatchString(id) || !volumeName(name) {
		return fmt.Errorf("unable to parse volume ID '%s'", v)
	}
	return nil
}

func volumeName(name string) bool {
	if name == "" || len(name) > 255 || strings.ContainsAny(name, "\x00\n\r\t\\") {
		return false
	}
	for _, s := range strings.Split(name, "/") {
		if s == "" || s == "." || s == ".." {
			return false
		}
	}
	return true
}

func aclPath(v string) error {
	if !strings.HasPrefix(v, "/") || strings.ContainsAny(v, "\x00\n\r ") || strings.Contains(v, "//") {
		return fmt.Errorf("invalid ACL path '%s'", v)
	}
	return nil
}

func address(v, name string) error {
	a, err := netip.ParseAddr(v)
	switch {
	case err != nil || a.Zone() != "":
	case name == "ipv4" && !a.Is4():
	case name == "ipv6" && !a.Is6():
	default:
		return nil
	}
	if name == "ip" {
		return errors.New("value does not look like a valid IP address")
	}
	return fmt.Errorf("value does not look like a valid %s address", name)
}

func network(v, name string) error {
	p, err := netip.ParsePrefix(v)
	switch {
	case err != nil:
	case name == "CIDRv4" && !p.Addr().Is4():
	case name == "CIDRv6" && !p.Addr().Is6():
	default:
		return nil
	}
	return fmt.Errorf("value does not look like a valid %s network", name)
}

// List splits the value of a list parameter: separators are comma, semicolon,
// white space and NUL; empty elements vanish.
func List(v string) []string {
	return strings.FieldsFunc(v, func(r rune) bool {
		return r == ',' || r == ';' || r == 0 || r == ' ' || r == '\t' || r == '\n' || r == '\r'
	})
}
