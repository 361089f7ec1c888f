package plan

import (
	"fmt"
	"strconv"
	"strings"

	"joist/api/node"
	"joist/image/boot"
	"joist/installer/probe"
)

// Describe shows the plan: every partition, volume and file with its bytes.
func (p Plan) Describe() string {
	var b strings.Builder
	for _, m := range p.All() {
		fmt.Fprintf(&b, "disk        %s\n", m.Disk.Describe())
	}
	if p.Result == BootExisting {
		fmt.Fprintf(&b, "result      boot installation %s from this disk; nothing is written\n", p.Existing.ID)
		return b.String()
	}
	fmt.Fprintf(&b, "result      install Joist %s (build %s); %s\n", p.Image.Version, p.Image.BuildID, p.lost())
	if p.Existing != nil {
		fmt.Fprintf(&b, "replaces    installation %s\n", p.Existing.ID)
	}
	fmt.Fprintf(&b, "new id      %s\n", p.InstallationID)
	c := p.NodeConfig("")
	fmt.Fprintf(&b, "node        %s, time zone %s, keyboard %s\n", p.Answer.Global.FQDN, c.Timezone, c.Keyboard)
	fmt.Fprintf(&b, "network     %s\n", describeNetwork(c.Network))
	p.describePins(func(format string, args ...any) { fmt.Fprintf(&b, format, args...) })
	if c := p.Answer.Cluster; c.Address != "" {
		fmt.Fprintf(&b, "cluster     joins that of %s at the first start; token set\n", c.Address)
	}
	for _, m := range p.All() {
		fmt.Fprintf(&b, "\npartitions of /dev/%s                 start            bytes\n", m.Disk.Name)
		for _, x := range m.Layout.Partitions {
			fmt.Fprintf(&b, "  %-11s %-12s %16s %16s\n", probe.PartitionName(m.Disk.Name, x.Number), x.Name, group(x.Start), group(x.Size))
		}
	}
	switch {
	case p.Adopt != nil:
		p.describeKept(&b)
	case p.Pool != nil:
		p.describePool(&b)
	default:
		p.describeGroup(&b)
	}
	for _, a := range p.Actions {
		describeFiles(&b, a)
	}
	p.describeSteps(&b)
	return b.String()
}

// describeNetwork is the management network in one line.
func describeNetwork(n node.Network) string {
	over := fmt.Sprintf("%s (%s)", n.Link, n.MAC)
	if n.Bond != nil {
		var cards []string
		for _, c := range n.Bond.Cards {
			cards = append(cards, fmt.Sprintf("%s (%s)", c.Name, c.MAC))
		}
		over = fmt.Sprintf("a bond (%s) of %s", n.Bond.Mode, strings.Join(cards, " and "))
	}
	s := fmt.Sprintf("%s over %s, %s", n.Bridge, over, strings.TrimSpace(n.Method+" "+n.CIDR+via(n.Gateway)))
	if n.SecondCIDR != "" {
		s += " and " + n.SecondCIDR + via(n.SecondGateway)
	}
	if n.VLAN > 0 {
		s += fmt.Sprintf(", VLAN %d", n.VLAN)
	}
	if n.MTU > 0 {
		s += fmt.Sprintf(", MTU %d", n.MTU)
	}
	return s
}

// lost says what becomes of what is there.
func (p Plan) lost() string {
	switch {
	case p.Adopt != nil:
		return "its data is kept"
	case p.InPlace != nil && len(p.Further) > 0:
		return "the boot parts of the disks stay, all else becomes their data partitions"
	case p.InPlace != nil:
		return "the boot parts of the disk stay, all else becomes the data partition"
	case len(p.Further) > 0:
		return "everything on the disks is lost"
	default:
		return "everything on the disk is lost"
	}
}

func (p Plan) describeSteps(b *strings.Builder) {
	b.WriteString("\nsteps\n")
	for i, x := range p.Steps() {
		fmt.Fprintf(b, "  %2d. %s\n", i+1, x.Step)
		for _, argv := range x.Commands {
			fmt.Fprintf(b, "        %s\n", shellLine(argv))
		}
		for _, argv := range x.Repairs {
			fmt.Fprintf(b, "        %s   (where it holds ext4)\n", shellLine(argv))
		}
	}
}

func (p Plan) describeKept(b *strings.Builder) {
	b.WriteString("\nkept on " + strings.Join(p.dataParts(), " ") + "\n")
	for _, x := range [][2]string{{"volume group", p.Adopt.Group}, {"mirror", p.Adopt.Array}, {"pool", p.Adopt.Pool}} {
		if x[1] != "" {
			fmt.Fprintf(b, "  %-12s %s\n", x[0], x[1])
		}
	}
}

func (p Plan) describePool(b *strings.Builder) {
	fmt.Fprintf(b, "\npool %q, %s on %s, %s bytes less what ZFS keeps\n", PoolName, p.Pool.RAID, strings.Join(p.dataParts(), " "), group(p.Pool.Bytes))
	for _, d := range p.Pool.Datasets {
		what, reserved := "file systems and volumes of guests", ""
		if d.Mount != "" {
			what = "file system at " + d.Mount
		}
		for _, o := range d.Props {
			if n, err := strconv.ParseInt(o[1], 10, 64); err == nil && o[0] == "reservation" {
				reserved = group(n) + " reserved"
			}
		}
		fmt.Fprintf(b, "%s\n", strings.TrimRight(fmt.Sprintf("  %-11s %-34s %s", d.Name, what, reserved), " "))
	}
	fmt.Fprintf(b, "  %-11s %-34s %s at most\n", "", "cache in memory", group(p.ArcMax))
}

func (p Plan) describeGroup(b *strings.Builder) {
	if p.Array != nil {
		fmt.Fprintf(b, "\nmirror of %s, %s bytes\n", strings.Join(p.dataParts(), " "), group(p.Array.Bytes))
	}
	used := int64(0)
	fmt.Fprintf(b, "\nvolume group %q on %s, %s bytes\n", VGName, lvmDevice(p), group(p.VGBytes))
	for _, v := range p.Volumes {
		what := v.Use
		if v.Mount != "" {
			what += " at " + v.Mount
		}
		fmt.Fprintf(b, "  %-11s %-29s %16s\n", v.Name, what, group(v.Bytes))
		used += v.Bytes
		if v.Meta > 0 {
			fmt.Fprintf(b, "  %-11s %-29s %16s\n", "", "metadata", group(v.Meta))
			fmt.Fprintf(b, "  %-11s %-29s %16s\n", "", "spare metadata", group(v.Meta))
			used += 2 * v.Meta
		}
	}
	fmt.Fprintf(b, "  %-11s %-29s %16s\n", "", "not allocated", group(p.VGBytes-used))
}

func describeFiles(b *strings.Builder, a Action) {
	var title string
	var files []File
	switch a := a.(type) {
	case Seed:
		title, files = "files on volume \"state\"", a.Files
	case WriteSlot:
		title, files = "slot "+string(a.Slot)+of(a.Device), []File{{boot.FileSystem, a.Bytes}}
	case WriteBoot:
		title, files = "files that change on the boot partition", a.Files
	case FormatESP:
		title, files = "files on the boot partition"+of(a.Device), a.Files
	default:
		return
	}
	fmt.Fprintf(b, "\n%s\n", title)
	for _, f := range files {
		fmt.Fprintf(b, "  %-41s %16s\n", f.Path, group(f.Bytes))
	}
}

func lvmDevice(p Plan) string {
	for _, a := range p.Actions {
		if c, ok := a.(CreateLVM); ok {
			return c.Device
		}
	}
	return ""
}

func via(gateway string) string {
	if gateway == "" {
		return ""
	}
	return " via " + gateway
}

// group writes a number with spaces between thousands.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}
