package plan

import (
	"slices"

	"joist/api/node"
	"joist/installer/answer"
	"joist/installer/probe"
	"joist/internal/finding"
)

// Early says that the node cannot fetch the first-boot program itself: it runs
// before there is a network, so that the installer fetches it.
func Early(f answer.FirstBoot) bool {
	return f.Source == answer.FromURL && f.Ordering == node.OrderingBefore
}

// program is what the installer leaves for the first start to run, nil where
// that is nothing, or is fetched by the node.
func (p Plan) program() []byte {
	switch f := p.Answer.FirstBoot; {
	case f.Source == answer.FromISO:
		return p.Image.Program
	case Early(f):
		return p.Image.Fetched
	}
	return nil
}

// program checks the medium's.
func program(f answer.FirstBoot, img Image, fs *finding.List) {
	const key, again = "first-boot.source", "build the medium with it (joist build iso --first-boot FILE), or put it on a server and set source = \"from-url\""
	switch {
	case f.Source != answer.FromISO && img.Program != nil:
		fs.Notef("first-boot-unused", key, "the medium holds a first-boot program and the answer does not ask for it")
	case f.Source != answer.FromISO:
	case img.Program == nil:
		fs.Stopf("first-boot-missing", key, again, "the answer asks for the first-boot program of the medium, and the medium holds none")
	default:
		if err := answer.CheckProgram(img.Program); err != nil {
			fs.Stopf("first-boot-invalid", key, again, "the first-boot program of the medium cannot be run: %v", err)
		}
	}
}

// refuse reports what is asked for in vain.
func refuse(a answer.Answer, fs *finding.List) {
	if a.Disk.Filesystem == answer.Btrfs {
		b := a.Disk.Btrfs
		hint := "set filesystem = \"zfs\" and zfs.raid = \"" + b.RAID + "\""
		if b.Compress != "" {
			hint += ", zfs.compress = \"" + nearestCompression(b.Compress) + "\""
		}
		fs.Stopf("btrfs-not-offered", "disk-setup.filesystem", hint+" in place of the btrfs keys", "there is no layout on btrfs; the nearest one is ZFS %s", b.RAID)
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
	if why := answer.FullName(name); why != "" {
		fs.Stopf("hostname-unknown", "global.fqdn.source", "correct it on the DHCP server (option 12, and 15 for the domain), add fqdn.domain = \"example.com\", or write the whole name: fqdn = \"node1.example.com\"", "the DHCP lease names the machine %q: %s", name, why)
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
