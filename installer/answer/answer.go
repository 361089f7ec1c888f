// Package answer is the answer file: what a person, a wizard or a rack of
// machines says about an installation. The file is TOML, or JSON, in the
// schema that Proxmox VE's automated installer reads (kebab-case keys,
// snake_case accepted as aliases) plus tables of ours below [joist]. Reading
// is strict: an unknown key, a wrong type or a wrong value is a finding with
// line, column and cure, and all of them come at once. One table lists the
// keys; reading, showing, explaining and the JSON schema all come from it.
package answer

import (
	"bytes"
	"fmt"
	"io"
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
	Global    Global
	Network   Network
	Disk      Disk
	Webhook   Webhook
	FirstBoot FirstBoot
	Link      Link     // [joist.network]
	Cluster   Cluster  // [joist.cluster]
	Waive     []string // [joist.waive] codes: findings that stop become warnings
	Install   Install  // [joist.install]

	name    string           // file it came from, "" for a wizard's
	at      map[string]place // where each key stands
	bad     map[string]bool  // keys whose value has the wrong type, and was said so
	partial bool             // lines were unreadable: a missing key may stand there
	wrong   []string         // keys that a finding stops at
}

// Unattended says that the answer came from a file: nobody is there to be
// asked about what it leaves open.
func (a Answer) Unattended() bool { return a.name != "" }

// Sound says that what the file has of these keys, or below them, can be relied
// on, though other parts may be wrong. For keys that may be left out it must also
// be Readable.
func (a Answer) Sound(keys ...string) bool {
	return !slices.ContainsFunc(a.wrong, func(w string) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return w == k || strings.HasPrefix(w, k+".") || strings.HasPrefix(k, w+".") })
	})
}

// Readable says that no line was left out because it could not be read.
func (a Answer) Readable() bool { return !a.partial }

// Right says that nothing of the file stops.
func (a Answer) Right() bool { return a.Readable() && len(a.wrong) == 0 }

// Global is [global].
type Global struct {
	Keyboard           string
	Country            string // ISO 3166 alpha-2, lower case
	Timezone           string
	FQDN               string
	FQDNSource         string // "" or FromDHCP
	FQDNDomain         string // with FromDHCP, where the lease names none
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

// Sources of the network settings and of the host name.
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

// File systems.
const (
	Ext4  = "ext4"
	XFS   = "xfs"
	ZFS   = "zfs"
	Btrfs = "btrfs"
)

// Disk is [disk-setup] and [joist.disk]. Sizes are bytes; nil means "by the
// formulas".
type Disk struct {
	Filesystem  string
	List        []string // kernel names, with or without /dev/
	Filter      map[string]string
	FilterMatch string // "any" or "all"
	HDSize      *int64
	SwapSize    *int64
	MaxRoot     *int64
	MaxVZ       *int64
	MinFree     *int64
	ZFS         ZFSOptions
	Btrfs       BtrfsOptions
	RAID        string   // [joist.disk] raid: "single" or "raid1", for ext4 and xfs
	Adopt       bool     // [joist.disk] adopt: keep the data of the installation that is replaced
	Overwrite   []string // [joist.disk] overwrite: ids of data that may be lost
}

// ZFSOptions is [disk-setup] zfs; zero values are OpenZFS's or our defaults.
type ZFSOptions struct {
	RAID     string // RAID levels below
	Ashift   int
	ArcMax   int // MiB
	Checksum string
	Compress string
	Copies   int
	HDSize   *int64
}

// RAID levels of disk-setup.zfs.raid and joist.disk.raid.
const (
	Single = "single"
	RAID0  = "raid0"
	RAID1  = "raid1"
	RAID10 = "raid10"
	RAIDZ1 = "raidz-1"
	RAIDZ2 = "raidz-2"
	RAIDZ3 = "raidz-3"
)

// BtrfsOptions is [disk-setup] btrfs. It is understood, so that a file can be
// checked; a plan refuses it.
type BtrfsOptions struct {
	RAID     string
	Compress string
	HDSize   *int64
}

// Webhook is [post-installation-webhook].
type Webhook struct {
	URL         Secret // its query may let in whoever knows it
	Fingerprint string
	Token       Secret
}

// Sources of the first-boot program.
const (
	FromISO = "from-iso"
	FromURL = "from-url"
)

// FirstBoot is [first-boot]: a program that the node runs once.
type FirstBoot struct {
	Source      string // "from-url" or "from-iso"
	Ordering    string // "before-network", "network-online" or "fully-up"
	URL         Secret // its query may let in whoever knows it
	Fingerprint string
}

// Link is [joist.network]: what the field's schema cannot say about the
// management network.
type Link struct {
	VLAN          int // 802.1Q tag
	MTU           int
	SecondCIDR    string // address of the other family
	SecondGateway string
	Filter        map[string]string // with DHCP: udev key → glob of the one card
	Bond          Bond
}

// Bond is [joist.network] bond.
type Bond struct {
	Mode        string
	Filter      map[string]string // udev key → glob; every card that matches is a member
	FilterMatch string
	Hash        string
	LACPRate    string
}

// Cluster is [joist.cluster]: the cluster that the node joins when it first
// starts.
type Cluster struct {
	Address     string // host or host:port of a member
	Token       Secret
	Fingerprint string
}

// Install is [joist.install]: how to treat a system of ours on the disk.
type Install struct {
	Reinstall    bool
	Installation string // 16 hex digits: the one installation that may be replaced
	AptMirror    string // base URL of Debian packages, for the containers of this node
}

// maxSize bounds what is read: an answer file is a page, not a book.
const maxSize = 256 << 10

// Load reads an answer file; one that begins with "{" is JSON. The findings
// hold everything that is wrong with it, Validate's included; the Answer is
// complete only when none stops.
func Load(r io.Reader, name string) (Answer, finding.List) {
	a := Answer{name: name, at: map[string]place{}, bad: map[string]bool{}}
	var fs finding.List
	b, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	switch {
	case err != nil:
		fs.Stopf("answer-unreadable", name, "check the medium that holds the file", "the answer file cannot be read: %v", err)
		return a, fs
	case len(b) > maxSize:
		fs.Stopf("answer-too-large", name, "an answer file is a few KB of TOML; check that this is the right file", "the answer file is larger than 256 KiB")
		return a, fs
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	read := parse
	if t := bytes.TrimLeft(b, " \t\n"); len(t) > 0 && t[0] == '{' {
		read = parseJSON
	}
	d, fs := read(b, name)
	a.partial = d.partial
	if d.unusable {
		return a, fs
	}
	fs = append(fs, a.decode(d)...)
	c := a.check()
	fs, a.wrong = append(fs, c.fs...), append(a.wrong, c.wrong...)
	slices.SortStableFunc(fs, func(x, y finding.Finding) int { return x.Line - y.Line })
	return a, fs
}
