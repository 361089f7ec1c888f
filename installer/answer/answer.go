// Package answer is the answer file: what a person, a wizard or a rack of
// machines says about an installation. The file is TOML in the schema that
// Proxmox VE's automated installer reads (kebab-case keys, snake_case accepted
// as aliases) plus a [joist] table of ours. Reading is strict: an unknown key,
// a wrong type or a wrong value is a finding with line, column and cure, and
// all of them come at once. A key that belongs to the schema but asks for
// something this version cannot do is refused by name, never ignored.
package answer

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"joist/internal/finding"
)

// Secret is a string that never shows itself: printing, formatting and
// marshalling give "***". Reveal gives the value to the one place that needs it.
type Secret string

const hidden = "***"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// MarshalText hides the value from encoding/json and its like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }

// Answer is a whole answer file.
type Answer struct {
	Global  Global
	Network Network
	Disk    Disk
	Waive   []string // [joist.waive] codes: findings that stop become warnings
	Install Install  // [joist.install]

	name    string           // file it came from, "" for a wizard's
	at      map[string]place // where each key stands
	partial bool             // lines were unreadable: a missing key may stand there
}

// Global is [global].
type Global struct {
	Keyboard           string
	Country            string // ISO 3166 alpha-2, lower case
	Timezone           string
	FQDN               string
	FQDNFromDHCP       bool
	FQDNDomain         string
	MailTo             string
	RootPassword       Secret
	RootPasswordHashed Secret // crypt(5)
	RootSSHKeys        []string
	RebootOnError      bool
	RebootMode         string // "reboot" or "power-off"
	SubscriptionKey    Secret
}

// Host returns the name up to the first dot of FQDN.
func (g Global) Host() string { h, _, _ := strings.Cut(g.FQDN, "."); return h }

// Domain returns what follows the first dot of FQDN.
func (g Global) Domain() string { _, d, _ := strings.Cut(g.FQDN, "."); return d }

// Sources of the network settings.
const (
	FromDHCP   = "from-dhcp"
	FromAnswer = "from-answer"
)

// Network is [network].
type Network struct {
	Source  string // FromDHCP or FromAnswer
	CIDR    string
	DNS     []string
	Gateway string
	Filter  map[string]string // udev key → glob
	Pinning bool
	Mapping map[string]string // MAC → name
}

// Disk is [disk-setup]. Sizes are bytes; nil means "by the formulas".
type Disk struct {
	Filesystem  string
	List        []string // kernel names without /dev/
	Filter      map[string]string
	FilterMatch string // "any" or "all"
	HDSize      *int64
	SwapSize    *int64
	MaxRoot     *int64
	MaxVZ       *int64
	MinFree     *int64
}

// Install is [joist.install]: how to treat a system of ours on the disk.
type Install struct {
	Reinstall    bool
	Installation string // 16 hex digits: the one installation that may be replaced
	AptMirror    string // base URL of Debian packages, for the containers of this node
}

// maxSize bounds what is read: an answer file is a page, not a book.
const maxSize = 1 << 20

// Load reads an answer file. The findings hold everything that is wrong with
// it, Validate's included; the Answer is complete only when none stops.
func Load(r io.Reader, name string) (Answer, finding.List) {
	a := Answer{name: name, at: map[string]place{}}
	var fs finding.List
	b, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	switch {
	case err != nil:
		fs.Stopf("answer-unreadable", name, "check the medium that holds the file", "the answer file cannot be read: %v", err)
		return a, fs
	case len(b) > maxSize:
		fs.Stopf("answer-too-large", name, "an answer file is a few KB of TOML; check that this is the right file", "the answer file is larger than 1 MiB")
		return a, fs
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	d, fs := parse(b, name)
	a.partial = d.partial
	if d.unusable {
		return a, fs
	}
	fs = append(fs, a.decode(d)...)
	fs = append(fs, a.Validate()...)
	slices.SortStableFunc(fs, func(x, y finding.Finding) int { return x.Line - y.Line })
	return a, fs
}

// String shows the answer as canonical TOML without its secrets.
func (a Answer) String() string {
	var b strings.Builder
	line := func(key string, v any) {
		switch v := v.(type) {
		case string:
			if v != "" {
				fmt.Fprintf(&b, "%s = %q\n", key, v)
			}
		case Secret:
			if v != "" {
				fmt.Fprintf(&b, "%s = %q\n", key, v.String())
			}
		case bool:
			if v {
				fmt.Fprintf(&b, "%s = true\n", key)
			}
		case []string:
			if len(v) > 0 {
				fmt.Fprintf(&b, "%s = [%s]\n", key, quoteAll(v))
			}
		case *int64:
			if v != nil {
				fmt.Fprintf(&b, "%s = %g\n", key, float64(*v)/gib)
			}
		case map[string]string:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				fmt.Fprintf(&b, "%s.%s = %q\n", key, bareKey(k), v[k])
			}
		}
	}
	g, n, d := a.Global, a.Network, a.Disk
	b.WriteString("[global]\n")
	line("keyboard", g.Keyboard)
	line("country", g.Country)
	line("timezone", g.Timezone)
	if g.FQDNFromDHCP {
		line("fqdn.source", FromDHCP)
		line("fqdn.domain", g.FQDNDomain)
	}
	line("fqdn", g.FQDN)
	line("mailto", g.MailTo)
	line("root-password", g.RootPassword)
	line("root-password-hashed", g.RootPasswordHashed)
	line("root-ssh-keys", g.RootSSHKeys)
	line("reboot-on-error", g.RebootOnError)
	line("reboot-mode", g.RebootMode)
	line("subscription-key", g.SubscriptionKey)
	b.WriteString("\n[network]\n")
	line("source", n.Source)
	line("cidr", n.CIDR)
	line("dns", n.DNS)
	line("gateway", n.Gateway)
	line("filter", n.Filter)
	line("interface-name-pinning.enabled", n.Pinning)
	line("interface-name-pinning.mapping", n.Mapping)
	b.WriteString("\n[disk-setup]\n")
	line("filesystem", d.Filesystem)
	line("disk-list", d.List)
	line("filter", d.Filter)
	line("filter-match", d.FilterMatch)
	line("lvm.hdsize", d.HDSize)
	line("lvm.swapsize", d.SwapSize)
	line("lvm.maxroot", d.MaxRoot)
	line("lvm.maxvz", d.MaxVZ)
	line("lvm.minfree", d.MinFree)
	if len(a.Waive) > 0 {
		b.WriteString("\n[joist.waive]\n")
		line("codes", a.Waive)
	}
	if a.Install != (Install{}) {
		b.WriteString("\n[joist.install]\n")
		line("reinstall", a.Install.Reinstall)
		line("installation", a.Install.Installation)
		line("apt-mirror", a.Install.AptMirror)
	}
	return b.String()
}

func quoteAll(v []string) string {
	q := make([]string, len(v))
	for i, s := range v {
		q[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(q, ", ")
}

func bareKey(k string) string {
	if strings.Trim(k, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == "" && k != "" {
		return k
	}
	return fmt.Sprintf("%q", k)
}
