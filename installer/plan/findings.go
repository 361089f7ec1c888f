package plan

import (
	"fmt"

	"joist/installer/preflight"
	"joist/internal/finding"
)

// Findings lists what planning may say beside preflight's table; text and cure
// depend on the case. docs/findings.md is made from both.
func Findings() []preflight.Row {
	row := func(code string, level finding.Level, when, cure string) preflight.Row {
		return preflight.Row{Code: code, Scope: "plan", Level: level, When: when, Cure: cure}
	}
	const note, warn, stop = finding.Note, finding.Warn, finding.Stop
	return []preflight.Row{
		row("disk-not-found", stop, "the answer names no disk of the machine, or its filter matches none", "name a disk that the machine has; `joist-install check` lists them with their properties"),
		row("disk-ambiguous", stop, "one disk is needed and the filter matches several", "add a property that only one of them has, such as `ID_SERIAL`, and `filter-match = \"all\"`"),
		row("disk-fixed", note, "the node is made on the disks that the system runs from: the one that an image was written to, or those of the node that is made anew; the answer's disks do not count", ""),
		row("disk-image-one", stop, "the node is made on the disks that the system runs from, and the answer's layout does not take that number", "use a layout of as many disks (of one: `ext4`, `xfs`, or `zfs` with `raid0`), or install from the ISO"),
		row("disk-missing", stop, "a node on several disks is made anew without its data, and a disk of it is not in the machine", "connect it and start again, or install from the ISO on the disks that are left"),
		row("disk-count", stop, "the layout takes another number of disks than are named or match", "name as many disks as the layout takes"),
		row("disk-named-twice", stop, "two names of the answer are paths to one disk", "name each disk once"),
		row("disk-holds-data", stop, "a disk holds something that is no installation of ours, and `joist.disk.overwrite` lacks its id", "choose another disk, or say that the data may be lost: `[joist.disk] overwrite = [\"ID\"]`; at the wizard, type the id"),
		row("installation-found", note, "a system of ours is on the disk and the answer does not name its id: it is booted", "to replace it, set `[joist.install] installation` to its id, or `reinstall = true`"),
		row("installation-unfinished", note, "an installation of ours on the disk was cut off by a power failure or the like; it is begun anew, whatever the answer says about installations", ""),
		row("installation-interrupted", stop, "the one that was cut off kept data (`joist.disk.adopt`) and the answer does not ask for that, or the other way round", "repeat the answer of the first try, or name the installation whose data may be lost"),
		row("installation-other", stop, "of several chosen disks one holds an installation that the answer does not name", "choose other disks, or set `[joist.install] reinstall = true`"),
		row("disk-copied", stop, "two disks are copies of each other (dd) and one of them is to be started or adopted; a warning where neither is, or where it is installed over", "disconnect the copy"),
		row("data-kept", note, "`joist.disk.adopt`: the data of the replaced installation is kept", ""),
		row("adoption-differs", stop, "`joist.disk.adopt`: a disk of the old system that is in the machine is not chosen, or `filesystem`, `joist.disk.raid` or `zfs.raid` is not what is there", "choose what is there; the finding has the lines. A disk that is no part of it any more is disconnected"),
		row("adoption-degraded", warn, "`joist.disk.adopt`: a member of the mirror or pool is missing, and the rest is enough", "connect it before the installation; or afterwards `joist node disk replace missing NEW`"),
		row("adoption-impossible", stop, "`joist.disk.adopt`: the disks do not hold the data of one installation, or not enough of it", "connect what is missing, name the disks of that installation, or leave out `joist.disk.adopt` (the data is then lost)"),
		row("vg-name-taken", warn, "another disk holds a volume group named `joist`; it is left alone", "rename it from the rescue shell before it is used on this node: `vgrename UUID NAME`"),
		row("pool-name-taken", warn, "another disk holds a pool named `rpool`; it is left alone", "import it under another name before it is used on this node: `zpool import GUID NAME`"),
		row("nic-not-found", stop, "the filter matches no network card", "name a card that the machine has; the finding lists them"),
		row("nic-ambiguous", stop, "the filter matches several network cards", "use a property that only one of them has, such as `ID_NET_NAME_MAC`"),
		row("nic-guessed", warn, "several cards, DHCP, and more than one has a link and a lease, or none has", "name it: `[joist.network] filter.KEY`, or connect only this one"),
		row("bond-of-one", warn, "the filter of the bond matches one card only", "use a property that the bond's cards share, such as `ID_NET_DRIVER`"),
		row("hostname-unknown", stop, "the name shall come from DHCP, and no lease holds a usable one, or neither lease nor `fqdn.domain` a domain", "have the DHCP server send a host name (option 12) and domain (option 15), add `fqdn.domain`, or write it: `fqdn = \"node1.example.com\"`"),
		row("hdsize-too-small", stop, "`hdsize` is below 20 GB", "use 19 or more, or leave it out"),
		row("hdsize-too-large", stop, "`hdsize` is larger than a disk", "leave it out to use the whole disk"),
		row("swap-too-large", stop, "`swapsize` is more than half of the disk", "use less than half of the disk"),
		row("volume-too-small", stop, "the sizes leave less than 1 GiB for `state` or `local`", "leave the sizes to the formulas, or use a larger disk"),
		row("disk-layout", stop, "the partitions do not fit the disk", "use another disk"),
		row("no-thin-pool", warn, "the sizes leave no room for the pool `data`", "leave `maxvz`, `minfree` and `swapsize` to the formulas, or use a larger disk"),
		row("pool-without-redundancy", warn, "ZFS raid0 over several disks", "use raid1, raid10 or raidz"),
		row("zfs-missing", stop, "the medium brings no ZFS", "use a medium built with ZFS, or `filesystem = \"ext4\"`"),
		row("zfs-key-not-enrolled", stop, "Secure Boot is on, and the ZFS modules are not signed or their key is not enrolled; a warning at the wizard, which asks whether to enrol it", "enrol the key, switch Secure Boot off, or use `filesystem = \"ext4\"`"),
		row("btrfs-not-offered", stop, "`filesystem = \"btrfs\"`; the cure names the nearest ZFS layout", "use the ZFS layout that the finding names"),
		row("first-boot-missing", stop, "`[first-boot] source = \"from-iso\"`, and the medium holds no program", "build the medium with it: `joist build iso --first-boot FILE`; or put it on a server and set `source = \"from-url\"`"),
		row("first-boot-invalid", stop, "the medium's first-boot program is empty, larger than 1 MiB, or neither script nor program", "correct it and build the medium again"),
		row("first-boot-unused", note, "the medium holds a first-boot program and the answer does not ask for it", ""),
		row("pinning-card-missing", warn, "`network.interface-name-pinning.mapping` names a card that the machine does not have", "correct the hardware address; the finding lists the cards"),
		row("subscription-unused", note, "the answer holds a subscription key", ""),
		row("image-too-large", stop, "the medium's files do not fit slot or boot partition", "use a larger disk, or build a smaller image"),
		row("medium-incomplete", stop, "the medium lacks a file", "write the medium again and check its checksum"),
		row("step-not-possible", stop, "the plan has a step that this version of the installer cannot carry out; said before anything is written", "choose another layout"),
		row("waiver-not-possible", stop, "`joist.waive.codes` names a code that cannot be waived", "remove it; this page lists what can be waived"),
		row("waiver-unused", note, "`joist.waive.codes` names a code that was not found", ""),
	}
}

// NotPossible is what is said of a step that nothing carries out.
func NotPossible(a Action) finding.Finding {
	return finding.Finding{Level: finding.Stop, Code: "step-not-possible", Path: "plan",
		Text: fmt.Sprintf("this version cannot carry out the step: %s", a.Step()),
		Hint: "choose another layout: [disk-setup] filesystem = \"ext4\" and \"xfs\" are always possible"}
}
