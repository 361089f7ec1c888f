package answer

import (
	"math"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"joist/internal/finding"
)

const gib = 1 << 30

// want is the type a key takes, in the words of a finding.
type want string

const (
	text     want = "a text in quotes"
	flag     want = "true or false"
	number   want = "a number"
	texts    want = "a list of texts, [\"a\", \"b\"]"
	textList want = "a text or a list of texts"
)

// field is one key of the schema. A path that ends in "*" takes any last key
// (udev properties, hardware addresses). unsupported says why a key that
// belongs to the schema is refused, and cure what to do instead.
type field struct {
	path        string
	want        want
	set         func(a *Answer, key string, v value)
	unsupported string
	cure        string
}

func str(f func(a *Answer) *string) func(*Answer, string, value) {
	return func(a *Answer, _ string, v value) { *f(a) = v.text }
}

func secret(f func(a *Answer) *Secret) func(*Answer, string, value) {
	return func(a *Answer, _ string, v value) { *f(a) = Secret(v.text) }
}

func boolean(f func(a *Answer) *bool) func(*Answer, string, value) {
	return func(a *Answer, _ string, v value) { *f(a) = v.flag }
}

func list(f func(a *Answer) *[]string) func(*Answer, string, value) {
	return func(a *Answer, _ string, v value) {
		if v.kind == unstable.String {
			*f(a) = []string{v.text}
			return
		}
		*f(a) = []string{}
		for _, e := range v.list {
			*f(a) = append(*f(a), e.text)
		}
	}
}

func mapping(f func(a *Answer) *map[string]string) func(*Answer, string, value) {
	return func(a *Answer, key string, v value) {
		if *f(a) == nil {
			*f(a) = map[string]string{}
		}
		(*f(a))[key] = v.text
	}
}

// size takes GiB, as Proxmox VE does. A value that no disk has stays out of
// range on purpose, for Validate to refuse.
func size(f func(a *Answer) **int64) func(*Answer, string, value) {
	return func(a *Answer, _ string, v value) {
		n := int64(-1)
		if v.num >= 0 && v.num <= maxGiB && !math.IsNaN(v.num) {
			n = int64(v.num * gib)
		}
		*f(a) = &n
	}
}

const maxGiB = 1 << 20 // 1 PiB

const (
	noWebhook = "a report by webhook is not part of this version"
	noFirst   = "a first-boot hook is not part of this version"
	noZFS     = "ZFS is not part of this version"
	noBtrfs   = "btrfs is not part of this version"
	useExt4   = "set disk-setup.filesystem = \"ext4\" and remove this key"
	remove    = "remove this key"
)

func refused(path string, w want, why, cure string) field {
	return field{path: path, want: w, set: func(*Answer, string, value) {}, unsupported: why, cure: cure}
}

// schema lists every key: Proxmox VE's (as of 9.2) and, under "joist", ours.
func schema() []field {
	return []field{
		{path: "global.keyboard", want: text, set: str(func(a *Answer) *string { return &a.Global.Keyboard })},
		{path: "global.country", want: text, set: str(func(a *Answer) *string { return &a.Global.Country })},
		{path: "global.timezone", want: text, set: str(func(a *Answer) *string { return &a.Global.Timezone })},
		{path: "global.fqdn", want: text, set: str(func(a *Answer) *string { return &a.Global.FQDN })},
		{path: "global.fqdn.source", want: text, set: func(a *Answer, _ string, v value) { a.Global.FQDNFromDHCP = v.text == FromDHCP },
			unsupported: "a host name taken from DHCP is not part of this version", cure: "write the name: fqdn = \"node1.example.com\""},
		{path: "global.fqdn.domain", want: text, set: str(func(a *Answer) *string { return &a.Global.FQDNDomain })},
		{path: "global.mailto", want: text, set: str(func(a *Answer) *string { return &a.Global.MailTo })},
		{path: "global.root-password", want: text, set: secret(func(a *Answer) *Secret { return &a.Global.RootPassword })},
		{path: "global.root-password-hashed", want: text, set: secret(func(a *Answer) *Secret { return &a.Global.RootPasswordHashed })},
		{path: "global.root-ssh-keys", want: texts, set: list(func(a *Answer) *[]string { return &a.Global.RootSSHKeys })},
		{path: "global.reboot-on-error", want: flag, set: boolean(func(a *Answer) *bool { return &a.Global.RebootOnError })},
		{path: "global.reboot-mode", want: text, set: str(func(a *Answer) *string { return &a.Global.RebootMode })},
		{path: "global.subscription-key", want: text, set: secret(func(a *Answer) *Secret { return &a.Global.SubscriptionKey }),
			unsupported: "there are no subscriptions", cure: remove},
		{path: "network.source", want: text, set: str(func(a *Answer) *string { return &a.Network.Source })},
		{path: "network.cidr", want: text, set: str(func(a *Answer) *string { return &a.Network.CIDR })},
		{path: "network.dns", want: textList, set: list(func(a *Answer) *[]string { return &a.Network.DNS })},
		{path: "network.gateway", want: text, set: str(func(a *Answer) *string { return &a.Network.Gateway })},
		{path: "network.filter.*", want: text, set: mapping(func(a *Answer) *map[string]string { return &a.Network.Filter })},
		{path: "network.interface-name-pinning.enabled", want: flag, set: boolean(func(a *Answer) *bool { return &a.Network.Pinning })},
		{path: "network.interface-name-pinning.mapping.*", want: text, set: mapping(func(a *Answer) *map[string]string { return &a.Network.Mapping })},
		{path: "disk-setup.filesystem", want: text, set: str(func(a *Answer) *string { return &a.Disk.Filesystem })},
		{path: "disk-setup.disk-list", want: texts, set: list(func(a *Answer) *[]string { return &a.Disk.List })},
		{path: "disk-setup.filter.*", want: text, set: mapping(func(a *Answer) *map[string]string { return &a.Disk.Filter })},
		{path: "disk-setup.filter-match", want: text, set: str(func(a *Answer) *string { return &a.Disk.FilterMatch })},
		{path: "disk-setup.lvm.hdsize", want: number, set: size(func(a *Answer) **int64 { return &a.Disk.HDSize })},
		{path: "disk-setup.lvm.swapsize", want: number, set: size(func(a *Answer) **int64 { return &a.Disk.SwapSize })},
		{path: "disk-setup.lvm.maxroot", want: number, set: size(func(a *Answer) **int64 { return &a.Disk.MaxRoot })},
		{path: "disk-setup.lvm.maxvz", want: number, set: size(func(a *Answer) **int64 { return &a.Disk.MaxVZ })},
		{path: "disk-setup.lvm.minfree", want: number, set: size(func(a *Answer) **int64 { return &a.Disk.MinFree })},
		refused("disk-setup.zfs.raid", text, noZFS, useExt4),
		refused("disk-setup.zfs.ashift", number, noZFS, useExt4),
		refused("disk-setup.zfs.arc-max", number, noZFS, useExt4),
		refused("disk-setup.zfs.checksum", text, noZFS, useExt4),
		refused("disk-setup.zfs.compress", text, noZFS, useExt4),
		refused("disk-setup.zfs.copies", number, noZFS, useExt4),
		refused("disk-setup.zfs.hdsize", number, noZFS, useExt4),
		refused("disk-setup.btrfs.raid", text, noBtrfs, useExt4),
		refused("disk-setup.btrfs.compress", text, noBtrfs, useExt4),
		refused("disk-setup.btrfs.hdsize", number, noBtrfs, useExt4),
		refused("post-installation-webhook.url", text, noWebhook, remove),
		refused("post-installation-webhook.cert-fingerprint", text, noWebhook, remove),
		refused("post-installation-webhook.auth-token", text, noWebhook, remove),
		refused("first-boot.source", text, noFirst, remove),
		refused("first-boot.ordering", text, noFirst, remove),
		refused("first-boot.url", text, noFirst, remove),
		refused("first-boot.cert-fingerprint", text, noFirst, remove),
		{path: "joist.waive.codes", want: texts, set: list(func(a *Answer) *[]string { return &a.Waive })},
		{path: "joist.install.reinstall", want: flag, set: boolean(func(a *Answer) *bool { return &a.Install.Reinstall })},
		{path: "joist.install.installation", want: text, set: str(func(a *Answer) *string { return &a.Install.Installation })},
		{path: "joist.install.apt-mirror", want: text, set: str(func(a *Answer) *string { return &a.Install.AptMirror })},
	}
}

// find returns the field for a path as written, and the path in its canonical
// spelling. Keys below "*" keep theirs.
func find(fields []field, path []string) (*field, string) {
	norm := make([]string, len(path))
	for i, p := range path {
		norm[i] = strings.ReplaceAll(p, "_", "-")
	}
	canonical := strings.Join(norm, ".")
	for i := range fields {
		f := &fields[i]
		if f.path == canonical {
			return f, canonical
		}
		if parent, ok := strings.CutSuffix(f.path, ".*"); ok && len(path) > 1 && strings.Join(norm[:len(norm)-1], ".") == parent {
			return f, parent + "." + path[len(path)-1]
		}
	}
	return nil, canonical
}

// decode fills a from d through the schema.
func (a *Answer) decode(d document) finding.List {
	var fs finding.List
	fields := schema()
	for _, l := range d.leaves {
		f, canonical := find(fields, l.path)
		a.atFirst(canonical, l.at)
		report := func(code, hint, text string) {
			fs.Add(finding.Finding{Level: finding.Stop, Code: code, Path: a.name, Line: l.at.line, Column: l.at.column,
				Source: l.at.source, Text: text, Hint: hint})
		}
		switch {
		case f == nil:
			report("answer-unknown-key", suggestKey(fields, canonical), "the key "+strings.Join(l.path, ".")+" is unknown")
		case a.at[canonical] != l.at:
			report("answer-duplicate-key", "keep one of the two", "the key "+canonical+" is given twice, once under its snake_case alias")
		case !f.want.takes(l.val):
			report("answer-wrong-type", "write it as "+string(f.want), "the key "+canonical+" takes "+string(f.want))
		default:
			if f.unsupported != "" {
				report("answer-unsupported", f.cure, canonical+": "+f.unsupported)
			}
			f.set(a, l.path[len(l.path)-1], l.val)
		}
	}
	return fs
}

func (a *Answer) atFirst(path string, p place) {
	if _, ok := a.at[path]; !ok {
		a.at[path] = p
	}
}

func (w want) takes(v value) bool {
	switch w {
	case text:
		return v.kind == unstable.String
	case flag:
		return v.kind == unstable.Bool
	case number:
		return v.kind == unstable.Integer || v.kind == unstable.Float
	case textList:
		return v.kind == unstable.String || texts.takes(v)
	default:
		if v.kind != unstable.Array {
			return false
		}
		for _, e := range v.list {
			if e.kind != unstable.String {
				return false
			}
		}
		return true
	}
}

// suggestKey names the nearest key of the schema, if one is near.
func suggestKey(fields []field, path string) string {
	var all []string
	for _, f := range fields {
		all = append(all, f.path)
	}
	if n := nearest(all, path); n != "" {
		return "did you mean " + n + "?"
	}
	// the right key in the wrong table is the other common error
	last := path[strings.LastIndexByte(path, '.')+1:]
	for _, p := range all {
		if strings.HasSuffix(p, "."+last) {
			return "did you mean " + p + "?"
		}
	}
	return "remove it; the keys are listed in docs/answer-file.md"
}
