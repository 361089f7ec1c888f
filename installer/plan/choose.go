package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/probe"
	"joist/internal/finding"
)

// matches compares udev properties with a filter: any key or all of them.
func matches(filter, props map[string]string, all bool) bool {
	hits := 0
	for k, pattern := range filter {
		if v, ok := props[k]; ok && answer.Match(pattern, v) {
			hits++
		}
	}
	return hits > 0 && (!all || hits == len(filter))
}

func filterText(m map[string]string) string {
	var s []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		s = append(s, k+"="+m[k])
	}
	return strings.Join(s, " ")
}

// chooseDisks finds the disks that the answer means: those it names, or those
// that its filter matches. Where one is needed a filter must match one. counted
// says that the layout is known, and with it how many there have to be. Disks that
// were found by their names are returned though others were not.
func chooseDisks(f probe.Facts, a answer.Answer, counted bool, fs *finding.List) ([]probe.Disk, bool) {
	if len(a.Disk.List) > 0 {
		return namedDisks(f, a, counted, fs)
	}
	var found []probe.Disk
	for _, d := range f.Disks {
		if !d.Medium && matches(a.Disk.Filter, d.Udev, a.Disk.FilterMatch == "all") {
			found = append(found, d)
		}
	}
	single := a.Disk.Layout() == answer.Single
	switch why := a.Disk.MemberCount(len(found)); {
	case len(found) == 0:
		fs.Stopf("disk-not-found", "disk-setup.filter", "this machine has: "+diskNames(f.Disks)+"; `joist-install check` shows their properties",
			"no disk matches %s", filterText(a.Disk.Filter))
	case !counted && len(found) == 1:
		return found, false
	case !counted: // nothing says whether all of them are meant
	case single && len(found) > 1:
		fs.Stopf("disk-ambiguous", "disk-setup.filter", "add a property that only one of them has, such as ID_SERIAL, and filter-match = \"all\"",
			"%d disks match %s: %s", len(found), filterText(a.Disk.Filter), diskNames(found))
	case why != "":
		fs.Stopf("disk-count", "disk-setup.filter", "choose a filter that matches as many disks as the layout takes, or name them in disk-list",
			"%s, and %s matches %s", why, filterText(a.Disk.Filter), diskNames(found))
	default:
		return found, true
	}
	return nil, false
}

func namedDisks(f probe.Facts, a answer.Answer, counted bool, fs *finding.List) ([]probe.Disk, bool) {
	var out []probe.Disk
	ok := true
	for _, name := range a.Disk.List {
		name = strings.TrimPrefix(name, "/dev/")
		d, found := f.Find(name)
		switch {
		case !found:
			fs.Stopf("disk-not-found", "disk-setup.disk-list", "this machine has: "+diskNames(f.Disks), "there is no disk %q", name)
			ok = false
		case slices.ContainsFunc(out, func(o probe.Disk) bool { return o.Name == d.Name }):
			fs.Stopf("disk-named-twice", "disk-setup.disk-list", "name each disk once", "%q is another path to the disk %s", name, d.Name)
			ok = false
		default:
			out = append(out, d)
		}
	}
	if why := a.Disk.MemberCount(len(out)); ok && counted && why != "" {
		fs.Stopf("disk-count", "disk-setup.disk-list", "name as many disks as the layout takes", "%s", why)
		ok = false
	}
	return out, ok && counted
}

func diskNames(ds []probe.Disk) string {
	var s []string
	for _, d := range ds {
		s = append(s, d.Name+" ("+probe.Bytes(d.Size)+")")
	}
	if len(s) == 0 {
		return "no disk"
	}
	return strings.Join(s, ", ")
}

func nicNames(ns []probe.NIC) string {
	var s []string
	for _, n := range ns {
		s = append(s, n.Name+" ("+n.MAC+")")
	}
	return strings.Join(s, ", ")
}

// chooseCards finds the management card, or the cards of its bond; the first of
// those then stands for it.
func (p *Plan) chooseCards(f probe.Facts, fs *finding.List) bool {
	b := p.Answer.Link.Bond
	if b.Mode == "" || len(f.NICs) == 0 {
		var ok bool
		p.NIC, ok = chooseNIC(f, p.Answer, fs)
		return ok
	}
	for _, n := range f.NICs {
		if matches(b.Filter, n.Udev, b.FilterMatch == "all") {
			p.Bond = append(p.Bond, n)
		}
	}
	switch len(p.Bond) {
	case 0:
		fs.Stopf("nic-not-found", "joist.network.bond.filter", "this machine has: "+nicNames(f.NICs), "no network card matches %s", filterText(b.Filter))
		return false
	case 1:
		fs.Warnf("bond-of-one", "joist.network.bond.filter", "use a property that the bond's cards share, such as ID_NET_DRIVER; a second card can be added later",
			"the bond has one card, %s", nicNames(p.Bond))
	}
	p.NIC = p.Bond[0]
	return true
}

// chooseNIC takes the filter's one match. Without a filter (DHCP) it is the
// one card with a link; of several the one on whose network DHCP answers.
func chooseNIC(f probe.Facts, a answer.Answer, fs *finding.List) (probe.NIC, bool) {
	if len(f.NICs) == 0 {
		return probe.NIC{}, true // preflight has said it
	}
	filter, key := a.Network.Filter, "network.filter"
	if len(filter) == 0 {
		filter, key = a.Link.Filter, "joist.network.filter"
	}
	if len(filter) > 0 {
		var found []probe.NIC
		for _, n := range f.NICs {
			if matches(filter, n.Udev, false) {
				found = append(found, n)
			}
		}
		switch len(found) {
		case 1:
			return found[0], true
		case 0:
			fs.Stopf("nic-not-found", key, "this machine has: "+nicNames(f.NICs), "no network card matches %s", filterText(filter))
		default:
			fs.Stopf("nic-ambiguous", key, "use a property that only one of them has, such as ID_NET_NAME_MAC",
				"%d network cards match %s: %s", len(found), filterText(filter), nicNames(found))
		}
		return probe.NIC{}, false
	}
	up := slices.DeleteFunc(slices.Clone(f.NICs), func(n probe.NIC) bool { return n.Carrier != "up" })
	leased := slices.DeleteFunc(slices.Clone(up), func(n probe.NIC) bool {
		return !slices.ContainsFunc(f.Leases, func(l probe.Lease) bool { return l.Interface == n.Name })
	})
	best := f.NICs
	for _, some := range [][]probe.NIC{up, leased} {
		if len(some) > 0 {
			best = some
		}
	}
	if len(best) > 1 {
		fs.Warnf("nic-guessed", "network", "name it: [joist.network] filter.ID_NET_NAME_MAC = \"…\", or connect only this one",
			"there are %d network cards (%s); %s is taken for management", len(f.NICs), nicNames(f.NICs), best[0].Name)
	}
	return best[0], true
}

// foreign reports groups and pools on other disks that have the names ours
// get. Ours go by UUID and GUID, so that theirs are never touched.
func foreign(f probe.Facts, chosen []probe.Disk, fs *finding.List) {
	for _, d := range f.Disks {
		if slices.ContainsFunc(chosen, func(c probe.Disk) bool { return c.Name == d.Name }) {
			continue
		}
		for _, c := range d.Contents {
			switch {
			case c.Kind == "lvm" && c.Name == VGName:
				fs.Warnf("vg-name-taken", "/dev/"+c.Where, "rename it from the rescue shell before you use it on this node: vgrename UUID NAME",
					"another disk holds a volume group named %q (%s); it is left alone, ours is found by its UUID", VGName, c.ID)
			case c.Kind == "zfs" && c.Name == PoolName:
				fs.Warnf("pool-name-taken", "/dev/"+c.Where, "import it under another name before you use it on this node: zpool import GUID NAME",
					"another disk holds a ZFS pool named %q (%s); it is left alone, ours is found by its GUID", PoolName, c.ID)
			}
		}
	}
}

// existing decides about systems of ours on the chosen disks. go says that
// the plan goes on; else Result says what happens instead.
func (p *Plan) existing(f probe.Facts, ds []probe.Disk, fs *finding.List) (goOn bool) {
	in := p.Answer.Install
	var kept, replaced []probe.Disk
	for _, d := range ds {
		switch {
		case d.Installation == nil:
		case f.Unfinished(*d.Installation) && p.Answer.Disk.Adopt == d.Installation.KeepsData:
			replaced = append(replaced, d)
			fs.Notef("installation-unfinished", "/dev/"+d.Name, "installation %s on the disk was cut off; it is begun anew", d.Installation.ID)
		case in.Reinstall || in.Installation == d.Installation.ID:
			replaced = append(replaced, d)
		default:
			kept = append(kept, d)
		}
	}
	cut := slices.IndexFunc(kept, func(d probe.Disk) bool { return f.Unfinished(*d.Installation) })
	slices.SortStableFunc(kept, func(a, b probe.Disk) int { return later(a) - later(b) })
	switch {
	case cut >= 0:
		d := kept[cut]
		text, hint := "it was to keep the data of the installation before, which is still there", "add [joist.disk] adopt = true; or, if that data may be lost, [joist.install] installation = \""+d.Installation.ID+"\""
		if !d.Installation.KeepsData {
			text, hint = "it had erased the disk, so that there is nothing to adopt", "remove [joist.disk] adopt"
		}
		fs.Stopf("installation-interrupted", "/dev/"+d.Name, hint, "installation %s on the disk was cut off: %s", d.Installation.ID, text)
		return false
	case len(kept) > 0 && (len(replaced) > 0 || slices.ContainsFunc(kept, func(d probe.Disk) bool { return d.Installation.ID != kept[0].Installation.ID })):
		for _, d := range kept {
			fs.Stopf("installation-other", "/dev/"+d.Name, "choose other disks, or set [joist.install] reinstall = true to replace all of them",
				"the disk holds installation %s, which the answer does not name", d.Installation.ID)
		}
		return false
	case len(kept) > 0:
		p.Result, p.Disk, p.Existing = BootExisting, kept[0], kept[0].Installation
		fs.Notef("installation-found", "/dev/"+p.Disk.Name,
			"the disk holds installation %s; it is booted, not replaced. To replace it, set [joist.install] installation = %q or reinstall = true", p.Existing.ID, p.Existing.ID)
		return false
	case len(replaced) > 0:
		p.Existing = replaced[0].Installation
	}
	return true
}

// copies names disks that hold the same installation. Where one of them is to be
// started, or its data kept, nothing says which is meant; one that is installed
// over is no copy any more.
func (p *Plan) copies(f probe.Facts, ds []probe.Disk, fs *finding.List) (clear bool) {
	in := p.Answer.Install
	clear = true
	for _, g := range f.Copies() {
		names, used := diskNames(g), false
		for _, d := range g {
			chosen := slices.ContainsFunc(ds, func(c probe.Disk) bool { return c.Name == d.Name })
			replaced := in.Reinstall || in.Installation == d.Installation.ID || f.Unfinished(*d.Installation)
			used = used || chosen && (p.Answer.Disk.Adopt || !replaced)
		}
		x := finding.Finding{Level: finding.Warn, Code: "disk-copied", Path: "/dev/" + g[0].Name,
			Text: fmt.Sprintf("disks %s are copies of each other: both hold installation %s; a node that sees both does not start", names, g[0].Installation.ID),
			Hint: "disconnect the copy, or erase it"}
		if used {
			x.Level, x.Text = finding.Stop, fmt.Sprintf("disks %s are copies of each other: both hold installation %s, and nothing says which one is meant", names, g[0].Installation.ID)
			x.Hint, clear = "disconnect the copy and begin again", false
		}
		fs.Add(x)
	}
	return clear
}

// later sorts disks that are marked behind those that can be started for sure.
func later(d probe.Disk) int {
	if d.Installation.Unfinished {
		return 1
	}
	return 0
}

// otherData names what would be lost beside an installation that the answer
// replaces. Its id must stand in the file, or be typed by a person.
func (p *Plan) otherData(ds []probe.Disk, fs *finding.List) {
	for _, d := range ds {
		if d.DataID == "" || d.Installation != nil || d.Medium || slices.Contains(p.Answer.Disk.Overwrite, d.DataID) {
			continue
		}
		fs.Stopf("disk-holds-data", "/dev/"+d.Name, "choose another disk, or say that it may be lost: [joist.disk] overwrite = [\""+d.DataID+"\"]",
			"the disk holds data: %s; its id is %s", Holds(d), d.DataID)
	}
}

// Holds names what is on a disk, for a person.
func Holds(d probe.Disk) string {
	var s []string
	for _, c := range d.Contents {
		if c.Kind == "gpt" && len(d.Contents) > 1 {
			continue
		}
		s = append(s, strings.Join(strings.Fields(c.Where+" "+c.Kind+" "+c.Name), " "))
	}
	return strings.Join(s, ", ")
}

// share is how much of each disk is used: hdsize, and with several disks what
// the smallest has.
func share(ds []probe.Disk, a answer.Answer) int64 {
	limit := value(hdSize(a.Disk), 0)
	if len(ds) > 1 {
		small := slices.MinFunc(ds, func(a, b probe.Disk) int { return int(min(max(a.Size-b.Size, -1), 1)) }).Size
		if limit == 0 || small < limit {
			limit = small
		}
	}
	return limit
}

func hdSize(d answer.Disk) *int64 {
	if d.Filesystem == answer.ZFS {
		return d.ZFS.HDSize
	}
	return d.HDSize
}

// used are the members by which they are compared: each as large as the share
// that is used of it. The partitions of an installation that is kept stay.
func used(ds []probe.Disk, a answer.Answer) []probe.Disk {
	out := slices.Clone(ds)
	if a.Disk.Adopt {
		tables := make([]disk.Layout, len(ds))
		for i, d := range ds {
			if d.Installation != nil && d.Installation.Table != nil {
				tables[i] = *d.Installation.Table
			}
		}
		for i, n := range disk.Shares(tables) {
			out[i].Size = or(n, out[i].Size)
		}
	} else if hd := hdSize(a.Disk); hd != nil {
		for i := range out {
			out[i].Size = min(out[i].Size, *hd)
		}
	}
	return out
}
