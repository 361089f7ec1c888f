package answer

import (
	"fmt"
	"slices"
	"strings"
)

// members is how many disks a layout takes: at least, and whether only an
// even number.
func members(raid string) (least int, even bool) {
	switch raid {
	case RAID1:
		return 2, false
	case RAID10:
		return 4, true
	case RAIDZ1:
		return 3, false
	case RAIDZ2:
		return 4, false
	case RAIDZ3:
		return 5, false
	default:
		return 1, false
	}
}

// Layout is the RAID level that the answer asks for: LVM's or ZFS's.
func (d Disk) Layout() string {
	if d.Filesystem == ZFS {
		return d.ZFS.RAID
	}
	if d.RAID == "" {
		return Single
	}
	return d.RAID
}

// MemberCount says what is wrong with n disks for the layout, "" when nothing.
// Of a layout that is there already and is kept a disk may be missing.
func (d Disk) MemberCount(n int) string {
	raid := d.Layout()
	least, even := members(raid)
	switch {
	case raid == Single && n != 1:
		return fmt.Sprintf("%s on LVM takes exactly one disk, not %d", d.Filesystem, n)
	case d.Adopt && n > 0:
	case n < least:
		return fmt.Sprintf("%s takes %d disks or more, not %d", raid, least, n)
	case even && n%2 != 0:
		return fmt.Sprintf("%s takes an even number of disks, not %d", raid, n)
	}
	return ""
}

func (c *checker) disk() {
	d := c.a.Disk
	const list = "disk-setup.disk-list"
	hasList, hasFilter := c.given(list, len(d.List) > 0), len(d.Filter) > 0
	known := d.Layout() != "" && slices.Contains([]string{Ext4, XFS, ZFS}, d.Filesystem)
	why := d.MemberCount(len(d.List))
	switch {
	case hasList && hasFilter:
		c.stop(list, "answer-conflict", "keep one of the two", "disk-list and filter are both given")
	case !hasList && !hasFilter:
		c.missing(list, "add disk-list = [\"sda\"] or filter.ID_SERIAL = \"…\"")
	case hasFilter || c.a.bad[list]:
	case len(d.List) == 0:
		c.stop(list, "answer-wrong-value", "name a disk, like disk-list = [\"sda\"]", "disk-list is empty")
	case known && why != "":
		hint := "name as many disks as the layout takes"
		if d.Layout() == Single {
			hint = "name one disk, or ask for a mirror: [joist.disk] raid = \"raid1\""
		}
		c.stop(list, "answer-disk-count", hint, "%s", why)
	}
	seen := map[string]bool{}
	for _, n := range d.List {
		n = strings.TrimPrefix(n, "/dev/")
		switch {
		case !kernelName.MatchString(n):
			c.stop(list, "answer-wrong-value", "use the kernel's name, like \"sda\" or \"nvme0n1\", or a filter such as filter.ID_SERIAL", "%q is not the name of a disk", n)
		case seen[n]:
			c.stop(list, "answer-wrong-value", "name each disk once", "the disk %q is named twice", n)
		}
		seen[n] = true
	}
	c.filter("disk-setup.filter", d.Filter)
	c.options()
}

// options checks that the options are those of the file system.
func (c *checker) options() {
	d := c.a.Disk
	if !slices.Contains([]string{Ext4, XFS, ZFS, Btrfs}, d.Filesystem) {
		return // said already
	}
	lvm := d.Filesystem == Ext4 || d.Filesystem == XFS
	for _, f := range diskKeys() {
		group, ok := optionGroup(f.path)
		right := map[string]bool{"lvm": lvm, ZFS: d.Filesystem == ZFS, Btrfs: d.Filesystem == Btrfs}[group]
		if ok && !right && c.given(f.path, f.has(c.a)) {
			c.stop(f.path, "answer-conflict", "remove it or choose the file system that it belongs to", "%s has no meaning with filesystem = %q", f.path, d.Filesystem)
		}
	}
	if d.Filesystem == ZFS && d.ZFS.RAID == "" && !c.given("disk-setup.zfs.raid", false) {
		c.missing("disk-setup.zfs.raid", "add zfs.raid = \"raid1\"; for one disk \"raid0\"")
	}
	if d.Filesystem == Btrfs && d.Btrfs.RAID == "" && !c.given("disk-setup.btrfs.raid", false) {
		c.missing("disk-setup.btrfs.raid", "add btrfs.raid = \"raid1\"; for one disk \"raid0\"")
	}
	if !lvm && c.given("joist.disk.raid", d.RAID != "") {
		c.stop("joist.disk.raid", "answer-conflict", "remove it; the layout of a pool is zfs.raid", "joist.disk.raid has no meaning with filesystem = %q", d.Filesystem)
	}
}

func optionGroup(path string) (string, bool) {
	p := strings.Split(path, ".")
	return p[1], len(p) == 3 && p[1] != "filter"
}
