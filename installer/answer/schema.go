package answer

// field is one key of the schema. A path that ends in "*" takes any last key
// (udev properties, hardware addresses).
type field struct {
	path  string
	want  want
	ref   func(a *Answer) any // pointer to the value
	does  string              // what the key does
	unset string              // what holds without it, "" when nothing does
	must  bool                // required whatever else is given
	enum  func() []string     // the allowed texts
	kind  string              // what the enum holds, in words
	min   float64             // of a number
	max   float64
}

// oneOf makes an enum.
func oneOf(s ...string) func() []string { return func() []string { return s } }

// schema lists every key: Proxmox VE's (as of 9.2) and, under "joist", ours.
func schema() []field {
	var out []field
	for _, part := range [][]field{globalKeys(), networkKeys(), diskKeys(), hookKeys(), joistKeys()} {
		out = append(out, part...)
	}
	return out
}

func globalKeys() []field {
	return []field{
		{path: "global.keyboard", want: text, must: true, enum: Keyboards, kind: "a keyboard layout of the schema",
			ref: func(a *Answer) any { return &a.Global.Keyboard }, does: "the keyboard layout of the consoles"},
		{path: "global.country", want: text, must: true, enum: Countries, kind: "a two-letter country code (ISO 3166), like \"at\"",
			ref: func(a *Answer) any { return &a.Global.Country }, does: "the country the node stands in"},
		{path: "global.timezone", want: text, must: true, enum: Timezones, kind: "a time zone of the tz database, like \"Europe/Vienna\" or \"UTC\"",
			ref: func(a *Answer) any { return &a.Global.Timezone }, does: "the time zone of the node's clock"},
		{path: "global.fqdn", want: text,
			ref: func(a *Answer) any { return &a.Global.FQDN }, does: "the node's host name with its domain"},
		{path: "global.fqdn.source", want: text, enum: oneOf(FromDHCP), kind: "a source of the host name",
			ref: func(a *Answer) any { return &a.Global.FQDNSource }, does: "takes the host name from the DHCP lease, which must hold one"},
		{path: "global.fqdn.domain", want: text,
			ref: func(a *Answer) any { return &a.Global.FQDNDomain }, does: "the domain where the lease names none"},
		{path: "global.mailto", want: text,
			ref: func(a *Answer) any { return &a.Global.MailTo }, does: "the e-mail address of who looks after the node; kept in its configuration"},
		{path: "global.root-password", want: text,
			ref: func(a *Answer) any { return &a.Global.RootPassword }, does: "root's password, 8 characters or more; only its hash is kept"},
		{path: "global.root-password-hashed", want: text,
			ref: func(a *Answer) any { return &a.Global.RootPasswordHashed }, does: "the hash of root's password (crypt(5): yescrypt, SHA-512, SHA-256, bcrypt)"},
		{path: "global.root-ssh-keys", want: texts,
			ref: func(a *Answer) any { return &a.Global.RootSSHKeys }, does: "the public keys that log in as root; SSH is switched on", unset: "SSH is off"},
		{path: "global.reboot-on-error", want: flag,
			ref: func(a *Answer) any { return &a.Global.RebootOnError }, does: "whether a failed installation restarts the machine after 30 s", unset: "a failed installation leaves a shell"},
		{path: "global.reboot-mode", want: text, enum: oneOf("reboot", "power-off"), kind: "a reboot mode",
			ref: func(a *Answer) any { return &a.Global.RebootMode }, does: "what happens after the installation", unset: "the machine restarts into the node"},
		{path: "global.subscription-key", want: text,
			ref: func(a *Answer) any { return &a.Global.SubscriptionKey }, does: "nothing: there are no subscriptions; the key is not kept"},
	}
}

func networkKeys() []field {
	return []field{
		{path: "network.source", want: text, enum: oneOf(FromDHCP, FromAnswer), kind: "a source of network settings",
			ref: func(a *Answer) any { return &a.Network.Source }, does: "where the management address comes from", unset: "DHCP gives the management address"},
		{path: "network.cidr", want: text,
			ref: func(a *Answer) any { return &a.Network.CIDR }, does: "the management address with its prefix length"},
		{path: "network.dns", want: textList,
			ref: func(a *Answer) any { return &a.Network.DNS }, does: "the DNS servers"},
		{path: "network.gateway", want: text,
			ref: func(a *Answer) any { return &a.Network.Gateway }, does: "the default router"},
		{path: "network.filter.*", want: text,
			ref: func(a *Answer) any { return &a.Network.Filter }, does: "the network card of the management bridge; one matching property is enough, exactly one card must match"},
		{path: "network.interface-name-pinning.enabled", want: flag,
			ref: func(a *Answer) any { return &a.Network.Pinning }, does: "network cards are named nic0, nic1, … or as the mapping says", unset: "network cards keep the names that they have now"},
		{path: "network.interface-name-pinning.mapping.*", want: text,
			ref: func(a *Answer) any { return &a.Network.Mapping }, does: "a name for the card with this hardware address"},
	}
}

func diskKeys() []field {
	zfs := []string{RAID0, RAID1, RAID10, RAIDZ1, RAIDZ2, RAIDZ3}
	return []field{
		{path: "disk-setup.filesystem", want: text, must: true, enum: oneOf(Ext4, XFS, ZFS, Btrfs), kind: "a file system",
			ref: func(a *Answer) any { return &a.Disk.Filesystem }, does: "the layout: ext4 and xfs on LVM, or a ZFS pool; btrfs is understood, and refused by the plan"},
		{path: "disk-setup.disk-list", want: texts,
			ref: func(a *Answer) any { return &a.Disk.List }, does: "the disks by kernel name; they are erased"},
		{path: "disk-setup.filter.*", want: text,
			ref: func(a *Answer) any { return &a.Disk.Filter }, does: "the disks by udev property; they are erased. One disk: exactly one must match; several: all that match are taken"},
		{path: "disk-setup.filter-match", want: text, enum: oneOf("any", "all"), kind: "a way to combine filters",
			ref: func(a *Answer) any { return &a.Disk.FilterMatch }, does: "whether one matching property is enough or all must match", unset: "one matching property of disk-setup.filter is enough"},
		{path: "disk-setup.lvm.hdsize", want: gibs, min: 1, max: maxGiB,
			ref: func(a *Answer) any { return &a.Disk.HDSize }, does: "how much of each disk is used", unset: "the whole disk is used"},
		{path: "disk-setup.lvm.swapsize", want: gibs, max: maxGiB,
			ref: func(a *Answer) any { return &a.Disk.SwapSize }, does: "the size of the swap volume; 0 makes none", unset: "no swap volume is made"},
		{path: "disk-setup.lvm.maxroot", want: gibs, min: 1, max: maxGiB,
			ref: func(a *Answer) any { return &a.Disk.MaxRoot }, does: "the largest the volume \"local\" may be", unset: "the volume \"local\" has 96 GiB at most"},
		{path: "disk-setup.lvm.maxvz", want: gibs, max: maxGiB,
			ref: func(a *Answer) any { return &a.Disk.MaxVZ }, does: "the largest the thin pool \"data\" may be; 0 makes none", unset: "the thin pool \"data\" takes what is left"},
		{path: "disk-setup.lvm.minfree", want: gibs, max: maxGiB,
			ref: func(a *Answer) any { return &a.Disk.MinFree }, does: "what stays free in the volume group", unset: "16 GiB stay free on disks above 128 GiB, 4 MiB up to 32 GiB, else an eighth"},
		{path: "disk-setup.zfs.raid", want: text, enum: oneOf(zfs...), kind: "a layout of a ZFS pool",
			ref: func(a *Answer) any { return &a.Disk.ZFS.RAID }, does: "the pool's layout"},
		{path: "disk-setup.zfs.ashift", want: whole, min: 9, max: 16,
			ref: func(a *Answer) any { return &a.Disk.ZFS.Ashift }, does: "the pool's block size as a power of two", unset: "12, blocks of 4096 bytes"},
		{path: "disk-setup.zfs.arc-max", want: whole, min: 64, max: maxGiB,
			ref: func(a *Answer) any { return &a.Disk.ZFS.ArcMax }, does: "the largest size of ZFS's cache in MiB", unset: "a tenth of the memory, 64 MiB to 16 GiB"},
		{path: "disk-setup.zfs.checksum", want: text, enum: oneOf("on", "fletcher4", "sha256"), kind: "a checksum of ZFS",
			ref: func(a *Answer) any { return &a.Disk.ZFS.Checksum }, does: "the pool's checksum", unset: "\"on\""},
		{path: "disk-setup.zfs.compress", want: text, enum: oneOf("on", "off", "lzjb", "lz4", "zle", "gzip", "zstd"), kind: "a compression of ZFS",
			ref: func(a *Answer) any { return &a.Disk.ZFS.Compress }, does: "the pool's compression", unset: "\"on\""},
		{path: "disk-setup.zfs.copies", want: whole, min: 1, max: 3,
			ref: func(a *Answer) any { return &a.Disk.ZFS.Copies }, does: "how often each block is stored, beside the pool's redundancy", unset: "1"},
		{path: "disk-setup.zfs.hdsize", want: gibs, min: 1, max: maxGiB,
			ref: func(a *Answer) any { return &a.Disk.ZFS.HDSize }, does: "how much of each disk is used", unset: "the whole disk is used"},
		{path: "disk-setup.btrfs.raid", want: text, enum: oneOf(RAID0, RAID1, RAID10), kind: "a layout of btrfs",
			ref: func(a *Answer) any { return &a.Disk.Btrfs.RAID }, does: "understood; the plan names the nearest ZFS layout"},
		{path: "disk-setup.btrfs.compress", want: text, enum: oneOf("on", "off", "zlib", "lzo", "zstd"), kind: "a compression of btrfs",
			ref: func(a *Answer) any { return &a.Disk.Btrfs.Compress }, does: "understood; the plan names the nearest ZFS layout"},
		{path: "disk-setup.btrfs.hdsize", want: gibs, min: 1, max: maxGiB,
			ref: func(a *Answer) any { return &a.Disk.Btrfs.HDSize }, does: "understood; the plan names the nearest ZFS layout"},
	}
}

func hookKeys() []field {
	return []field{
		{path: "post-installation-webhook.url", want: text,
			ref: func(a *Answer) any { return &a.Webhook.URL }, does: "where a report of the finished installation is posted"},
		{path: "post-installation-webhook.cert-fingerprint", want: text,
			ref: func(a *Answer) any { return &a.Webhook.Fingerprint }, does: "SHA-256 of the certificate that the webhook's server must show"},
		{path: "post-installation-webhook.auth-token", want: text,
			ref: func(a *Answer) any { return &a.Webhook.Token }, does: "is sent with the report as \"token\""},
		{path: "first-boot.source", want: text, enum: oneOf(FromURL, FromISO), kind: "a source of the first-boot program",
			ref: func(a *Answer) any { return &a.FirstBoot.Source }, does: "where the program comes from that the node runs once"},
		{path: "first-boot.ordering", want: text, enum: oneOf("before-network", "network-online", "fully-up"), kind: "a moment of the first boot",
			ref: func(a *Answer) any { return &a.FirstBoot.Ordering }, does: "when it runs", unset: "a first-boot program runs when the node is fully up"},
		{path: "first-boot.url", want: text,
			ref: func(a *Answer) any { return &a.FirstBoot.URL }, does: "where it is fetched"},
		{path: "first-boot.cert-fingerprint", want: text,
			ref: func(a *Answer) any { return &a.FirstBoot.Fingerprint }, does: "SHA-256 of the certificate that its server must show"},
	}
}

func joistKeys() []field {
	bonds := []string{"active-backup", "802.3ad", "balance-xor", "balance-rr", "balance-tlb", "balance-alb", "broadcast"}
	return []field{
		{path: "joist.network.vlan", want: whole, min: 1, max: 4094,
			ref: func(a *Answer) any { return &a.Link.VLAN }, does: "the VLAN tag (802.1Q) of the management address", unset: "the management address is untagged"},
		{path: "joist.network.mtu", want: whole, min: 1280, max: 9216,
			ref: func(a *Answer) any { return &a.Link.MTU }, does: "the MTU of card and bridge", unset: "the MTU is the card's"},
		{path: "joist.network.second-cidr", want: text,
			ref: func(a *Answer) any { return &a.Link.SecondCIDR }, does: "an address of the other family (dual stack)"},
		{path: "joist.network.second-gateway", want: text,
			ref: func(a *Answer) any { return &a.Link.SecondGateway }, does: "the default router of the other family"},
		{path: "joist.network.filter.*", want: text,
			ref: func(a *Answer) any { return &a.Link.Filter }, does: "the card that is asked for DHCP, by udev property; exactly one must match", unset: "it is the card with a link and a lease"},
		{path: "joist.network.bond.mode", want: text, enum: oneOf(bonds...), kind: "a mode of the kernel's bonding driver",
			ref: func(a *Answer) any { return &a.Link.Bond.Mode }, does: "joins several cards below the bridge"},
		{path: "joist.network.bond.filter.*", want: text,
			ref: func(a *Answer) any { return &a.Link.Bond.Filter }, does: "the cards of the bond by udev property; every card that matches is taken"},
		{path: "joist.network.bond.filter-match", want: text, enum: oneOf("any", "all"), kind: "a way to combine filters",
			ref: func(a *Answer) any { return &a.Link.Bond.FilterMatch }, does: "whether one matching property is enough or all must match"},
		{path: "joist.network.bond.hash", want: text, enum: oneOf("layer2", "layer2+3", "layer3+4"), kind: "a hash policy of the bonding driver",
			ref: func(a *Answer) any { return &a.Link.Bond.Hash }, does: "what decides which card a packet leaves by"},
		{path: "joist.network.bond.lacp-rate", want: text, enum: oneOf("slow", "fast"), kind: "an LACP rate",
			ref: func(a *Answer) any { return &a.Link.Bond.LACPRate }, does: "how often LACP packets are asked for: every 30 s or every second"},
		{path: "joist.cluster.address", want: text,
			ref: func(a *Answer) any { return &a.Cluster.Address }, does: "a member of the cluster that the node joins, host or host:port", unset: "the node is a cluster of its own"},
		{path: "joist.cluster.token", want: text,
			ref: func(a *Answer) any { return &a.Cluster.Token }, does: "the single-use token of the join; it is erased afterwards"},
		{path: "joist.cluster.fingerprint", want: text,
			ref: func(a *Answer) any { return &a.Cluster.Fingerprint }, does: "SHA-256 of the certificate that the member must show"},
		{path: "joist.disk.raid", want: text, enum: oneOf(Single, RAID1), kind: "a layout of LVM",
			ref: func(a *Answer) any { return &a.Disk.RAID }, does: "with ext4 or xfs: one disk, or an md mirror of two or more", unset: "LVM lies on one disk"},
		{path: "joist.disk.adopt", want: flag,
			ref: func(a *Answer) any { return &a.Disk.Adopt }, does: "whether the data of the replaced installation is kept, with its guests", unset: "the data of a replaced installation is lost"},
		{path: "joist.disk.overwrite", want: texts,
			ref: func(a *Answer) any { return &a.Disk.Overwrite }, does: "ids of data on the chosen disks that may be lost", unset: "a disk that holds data is refused, with the id of the data"},
		{path: "joist.waive.codes", want: texts,
			ref: func(a *Answer) any { return &a.Waive }, does: "codes of findings that shall not stop the installation"},
		{path: "joist.install.reinstall", want: flag,
			ref: func(a *Answer) any { return &a.Install.Reinstall }, does: "whether an installation on the disk is replaced, at every start from the medium", unset: "an installation on the disk is started, not replaced"},
		{path: "joist.install.installation", want: text,
			ref: func(a *Answer) any { return &a.Install.Installation }, does: "the id of the one installation that may be replaced"},
		{path: "joist.install.apt-mirror", want: text,
			ref: func(a *Answer) any { return &a.Install.AptMirror }, does: "the Debian mirror in the apt sources of this node's containers", unset: "containers' apt sources stay as their template has them"},
	}
}
