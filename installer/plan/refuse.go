package plan

import (
	"slices"

	"joist/installer/answer"
	"joist/installer/probe"
	"joist/internal/finding"
)

// refusal is something an answer may ask for that the node cannot do yet. The
// file is right; the plan says so instead of leaving it out silently.
type refusal struct {
	key, what, cure string
	asked           func(a answer.Answer) bool
}

// refusals shrinks as the node learns; each row has one owner.
func refusals() []refusal {
	return []refusal{
		{"first-boot.source", "a first-boot program on the medium", "put it on a server and set source = \"from-url\"",
			func(a answer.Answer) bool { return a.FirstBoot.Source == "from-iso" }},
		{"first-boot.ordering", "a first-boot program that is fetched before there is a network", "set ordering = \"network-online\"",
			func(a answer.Answer) bool {
				return a.FirstBoot.Source == "from-url" && a.FirstBoot.Ordering == "before-network"
			}},
	}
}

// refuse reports what is asked for in vain.
func refuse(a answer.Answer, fs *finding.List) {
	for _, r := range refusals() {
		if r.asked(a) {
			fs.Stopf("not-in-this-version", r.key, r.cure, "%s: this version does not do it", r.what)
		}
	}
	if a.Disk.Filesystem == answer.Btrfs {
		b := a.Disk.Btrfs
		hint := "set filesystem = \"zfs\" and zfs.raid = \"" + b.RAID + "\""
		if b.Compress != "" {
			hint += ", zfs.compress = \"" + nearestCompression(b.Compress) + "\""
		}
		fs.Stopf("btrfs-not-offered", "disk-setup.filesystem", hint+" in place of the btrfs keys", "there is no layout on btrfs; the nearest one is ZFS %s", b.RAID)
	}
	if a.Network.Pinning || len(a.Network.Mapping) > 0 {
		fs.Notef("pinning-not-needed", "network.interface-name-pinning", "names of network cards stay as the kernel gives them: the bridge finds its card by hardware address")
	}
	if a.Global.SubscriptionKey != "" {
		fs.Notef("subscription-unused", "global.subscription-key", "there are no subscriptions; the key is not kept")
	}
}

func nearestCompression(btrfs string) string {
	switch btrfs {
	case "zlib":
		return "gzip"
	case "lzo":
		return "lz4"
	default:
		return btrfs
	}
}

// hostName fills the name from the management card's lease where the answer
// asks for that.
func hostName(f probe.Facts, nic probe.NIC, a *answer.Answer, fs *finding.List) {
	if a.Global.FQDNSource != answer.FromDHCP {
		return
	}
	i := slices.IndexFunc(f.Leases, func(l probe.Lease) bool { return l.Interface == nic.Name })
	if i < 0 || f.Leases[i].Host == "" {
		fs.Stopf("hostname-unknown", "global.fqdn.source", "have the DHCP server send a host name (option 12), or write it: fqdn = \"node1.example.com\"", "no DHCP lease of %s holds a host name", nic.Name)
		return
	}
	name, domain := f.Leases[i].Host, f.Leases[i].Domain
	if domain == "" {
		domain = a.Global.FQDNDomain
	}
	if domain != "" && !containsDot(name) {
		name += "." + domain
	}
	if why := answer.HostName(name); why != "" {
		fs.Stopf("hostname-unknown", "global.fqdn.source", "correct it on the DHCP server, or write it: fqdn = \"node1.example.com\"", "the DHCP lease names the machine %q: %s", name, why)
		return
	}
	a.Global.FQDN = name
}

func containsDot(s string) bool { return slices.Contains([]byte(s), '.') }

// KeyNotEnrolled is the code of the finding that a person at the machine can do
// something about: apply.AskForKey.
const KeyNotEnrolled = "zfs-key-not-enrolled"

// zfsReady checks that a pool can be made and read at the first start.
func zfsReady(f probe.Facts, a answer.Answer, img Image, fs *finding.List) {
	if a.Disk.Filesystem != answer.ZFS {
		return
	}
	if f.ZFS == probe.Absent {
		fs.Stopf("zfs-missing", "disk-setup.filesystem", "use a medium built with ZFS, or filesystem = \"ext4\"; a mirror on LVM is [joist.disk] raid = \"raid1\"", "this medium brings no ZFS")
	}
	if !f.Firmware.SecureBoot || img.ModuleKey != "" && slices.Contains(f.Firmware.Keys, img.ModuleKey) {
		return
	}
	if img.ModuleKey == "" {
		fs.Stopf(KeyNotEnrolled, "disk-setup.filesystem", "build the medium with --module-key, switch Secure Boot off, or use filesystem = \"ext4\"",
			"Secure Boot is on and this medium's ZFS modules are not signed: the kernel will not load them")
		return
	}
	level := finding.Warn
	if a.Unattended() {
		level = finding.Stop
	}
	fs.Add(finding.Finding{Level: level, Code: KeyNotEnrolled, Path: "disk-setup.filesystem",
		Text: "Secure Boot is on and the key that signs this medium's ZFS modules is not enrolled: the kernel will not load them",
		Hint: "enrol the key (joist-install enrol in the rescue system, then confirm on the blue screen of the next start), switch Secure Boot off, or use filesystem = \"ext4\""})
}
