package plan

import (
	"fmt"

	"joist/installer/preflight"
	"joist/internal/finding"
)

// Findings lists what planning may say beside preflight's table; text and cure
// depend on the case. docs/findings.md is made from both.
func Findings() []preflight.Row {
	row := func(code string, level finding.Level, when string) preflight.Row {
		return preflight.Row{Code: code, Scope: "plan", Level: level, When: when}
	}
	const note, warn, stop = finding.Note, finding.Warn, finding.Stop
	return []preflight.Row{
		row("disk-not-found", stop, "the answer names no disk of the machine, or its filter matches none"),
		row("disk-ambiguous", stop, "one disk is needed and the filter matches several"),
		row("disk-count", stop, "the layout takes another number of disks than are named or match"),
		row("disk-named-twice", stop, "two names of the answer are paths to one disk"),
		row("disk-holds-data", stop, "a disk holds something that is no installation of ours, and `joist.disk.overwrite` lacks its id; a warning where a person confirms the plan"),
		row("installation-found", note, "a system of ours is on the disk and the answer does not name its id: it is booted"),
		row("installation-unfinished", note, "an installation of ours on the disk was cut off by a power failure or the like; it is begun anew, whatever the answer says about installations"),
		row("installation-interrupted", stop, "the one that was cut off kept data (`joist.disk.adopt`) and the answer does not ask for that, or the other way round"),
		row("installation-other", stop, "of several chosen disks one holds an installation that the answer does not name"),
		row("data-kept", note, "`joist.disk.adopt`: the data of the replaced installation is kept"),
		row("adoption-impossible", stop, "`joist.disk.adopt`: the disks do not hold the data of one installation in the layout that is asked for"),
		row("vg-name-taken", warn, "another disk holds a volume group named `joist`; it is left alone"),
		row("pool-name-taken", warn, "another disk holds a pool named `rpool`; it is left alone"),
		row("nic-not-found", stop, "the filter matches no network card"),
		row("nic-ambiguous", stop, "the filter matches several network cards"),
		row("nic-guessed", warn, "several cards, DHCP, and not exactly one has a link"),
		row("hostname-unknown", stop, "the name shall come from DHCP, and no lease holds a usable one"),
		row("hdsize-too-small", stop, "`hdsize` is below 20 GB"),
		row("hdsize-too-large", stop, "`hdsize` is larger than a disk"),
		row("swap-too-large", stop, "`swapsize` is more than half of the disk"),
		row("volume-too-small", stop, "the sizes leave less than 1 GiB for `state` or `local`"),
		row("disk-layout", stop, "the partitions do not fit the disk"),
		row("no-thin-pool", warn, "the sizes leave no room for the pool `data`"),
		row("pool-without-redundancy", warn, "ZFS raid0 over several disks"),
		row("zfs-missing", stop, "the medium brings no ZFS"),
		row("zfs-key-not-enrolled", stop, "Secure Boot is on and the key of the ZFS modules is not enrolled; a warning where a person confirms the plan"),
		row("btrfs-not-offered", stop, "`filesystem = \"btrfs\"`; the cure names the nearest ZFS layout"),
		row("not-in-this-version", stop, "the answer asks for something that the node does not do yet"),
		row("pinning-not-needed", note, "the answer pins names of network cards"),
		row("subscription-unused", note, "the answer holds a subscription key"),
		row("image-too-large", stop, "the medium's files do not fit slot or boot partition"),
		row("medium-incomplete", stop, "the medium lacks a file"),
		row("step-not-possible", stop, "the plan has a step that this version of the installer cannot carry out; said before anything is written"),
		row("waiver-not-possible", stop, "`joist.waive.codes` names a code that cannot be waived"),
		row("waiver-unused", note, "`joist.waive.codes` names a code that was not found"),
	}
}

// NotPossible is what is said of a step that nothing carries out.
func NotPossible(a Action) finding.Finding {
	return finding.Finding{Level: finding.Stop, Code: "step-not-possible", Path: "plan",
		Text: fmt.Sprintf("this version cannot carry out the step: %s", a.Step()),
		Hint: "choose another layout: [disk-setup] filesystem = \"ext4\" and \"xfs\" are always possible"}
}
