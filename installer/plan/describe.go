package plan

import (
	"fmt"
	"strconv"
	"strings"

	"joist/image/boot"
	"joist/installer/probe"
)

// Describe shows the plan: every partition, volume and file with its bytes.
func (p Plan) Describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "disk        %s\n", p.Disk.Describe())
	if p.Result == BootExisting {
		fmt.Fprintf(&b, "result      boot installation %s from this disk; nothing is written\n", p.Existing.ID)
		return b.String()
	}
	fmt.Fprintf(&b, "result      install Joist %s (build %s); everything on the disk is lost\n", p.Image.Version, p.Image.BuildID)
	if p.Existing != nil {
		fmt.Fprintf(&b, "replaces    installation %s\n", p.Existing.ID)
	}
	fmt.Fprintf(&b, "new id      %s\n", p.InstallationID)
	c := p.NodeConfig("")
	fmt.Fprintf(&b, "node        %s, time zone %s, keyboard %s\n", p.Answer.Global.FQDN, c.Timezone, c.Keyboard)
	fmt.Fprintf(&b, "network     %s over %s (%s), %s\n", c.Network.Bridge, c.Network.Link, c.Network.MAC,
		strings.TrimSpace(c.Network.Method+" "+c.Network.CIDR+via(c.Network.Gateway)))

	fmt.Fprintf(&b, "\npartitions of /dev/%s                 start            bytes\n", p.Disk.Name)
	for _, x := range p.Layout.Partitions {
		fmt.Fprintf(&b, "  %-11s %-12s %16s %16s\n", probe.PartitionName(p.Disk.Name, x.Number), x.Name, group(x.Start), group(x.Size))
	}
	used := int64(0)
	fmt.Fprintf(&b, "\nvolume group %q on %s, %s bytes\n", VGName, lvmDevice(p), group(p.VGBytes))
	for _, v := range p.Volumes {
		what := v.Use
		if v.Mount != "" {
			what += " at " + v.Mount
		}
		fmt.Fprintf(&b, "  %-11s %-29s %16s\n", v.Name, what, group(v.Bytes))
		used += v.Bytes
		if v.Meta > 0 {
			fmt.Fprintf(&b, "  %-11s %-29s %16s\n", "", "metadata", group(v.Meta))
			fmt.Fprintf(&b, "  %-11s %-29s %16s\n", "", "spare metadata", group(v.Meta))
			used += 2 * v.Meta
		}
	}
	fmt.Fprintf(&b, "  %-11s %-29s %16s\n", "", "not allocated", group(p.VGBytes-used))
	for _, a := range p.Actions {
		describeFiles(&b, a)
	}
	b.WriteString("\nsteps\n")
	for i, a := range p.Actions {
		fmt.Fprintf(&b, "  %2d. %s\n", i+1, a.Step())
	}
	return b.String()
}

func describeFiles(b *strings.Builder, a Action) {
	var title string
	var files []File
	switch a := a.(type) {
	case Seed:
		title, files = "files on volume \"state\"", a.Files
	case WriteSlot:
		title, files = "slot "+string(a.Slot), []File{{boot.FileSystem, a.Bytes}}
	case FormatESP:
		title, files = "files on the boot partition", a.Files
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
