package disks

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"joist/api/node"
	"joist/hypervisor/alert"
	"joist/image/disk"
	"joist/system/bootdisk"
)

const dataPart = disk.NameData

// Codes of alerts.
const (
	codeBoot     = "boot-copy-missing"
	codeDiffers  = "boot-copy-differs"
	codeEntry    = "boot-entry-missing"
	codeUnread   = "boot-copies-unknown"
	codeLeft     = "disk-left-over"
	codeDegraded = "data-degraded"
)

const repair = "joist node disk repair; if that does not help, replace the disk: joist node disk replace"

// alerts says what is wrong with the disks as they were found.
func (s *Service) alerts(ctx context.Context, copies []bootdisk.Copy, failed error) []node.Alert {
	var out []node.Alert
	if failed != nil {
		out = append(out, node.Alert{Code: codeUnread, Level: alert.Warning, Text: "the boot parts cannot be compared: " + failed.Error(),
			Cure: "look at the kernel's messages (dmesg)"})
	}
	var members []Member
	left := "disconnect it once the node runs from another disk, or wipe it"
	if s.Data != nil {
		a, err := s.Data.Degraded(ctx)
		if err == nil {
			members, err = s.Data.Members(ctx)
		}
		if err != nil {
			a = &node.Alert{Code: codeDegraded, Level: alert.Error, Text: "the state of the data's disks cannot be read: " + err.Error(), Cure: "look at the kernel's messages (dmesg)"}
		}
		if a != nil {
			out = append(out, *a)
			left = "give it its place back: joist node disk replace missing NAME; or disconnect it once the node runs from another disk"
		}
	}
	ref, whole := s.System.Reference(copies)
	if !whole && failed == nil && len(copies) > 0 {
		out = append(out, node.Alert{Code: codeBoot, Level: alert.Error, Text: "no disk would start this node again", Cure: repair})
	}
	for _, c := range copies {
		out = append(out, s.copyAlerts(ref, whole, c)...)
		if _, ok := find(members, c.Disk.Devices(dataPart)...); s.Data != nil && len(members) > 0 && !ok {
			out = append(out, node.Alert{Code: codeLeft, Level: alert.Warning, Path: "/dev/" + c.Disk.Name,
				Text: fmt.Sprintf("disk %s is of this system and takes no part in its data", c.Disk.Name),
				Cure: strings.ReplaceAll(left, "NAME", c.Disk.Name)})
		}
	}
	unlisted, err := s.System.Unlisted(copies)
	for _, d := range unlisted {
		out = append(out, node.Alert{Code: codeEntry, Level: alert.Warning, Path: "/dev/" + d.Name,
			Text: fmt.Sprintf("the firmware has no boot entry for disk %s", d.Name), Cure: repair})
	}
	if err != nil {
		s.Log.Warn("read boot entries", "err", err)
	}
	return out
}

func (s *Service) copyAlerts(ref bootdisk.Copy, whole bool, c bootdisk.Copy) []node.Alert {
	a := node.Alert{Level: alert.Warning, Path: "/dev/" + c.Disk.Name, Cure: repair}
	switch d := bootdisk.Compare(ref, c); {
	case len(c.Lacks) > 0:
		a.Code, a.Text = codeBoot, fmt.Sprintf("disk %s does not start this node: %s", c.Disk.Name, strings.Join(c.Faults(), "; "))
	case c.Tables.Refused != nil:
		a.Code, a.Text, a.Cure = codeBoot, fmt.Sprintf("the tables of disk %s are left as they are: %s", c.Disk.Name, strings.Join(c.Faults(), "; ")), bootdisk.TablesCure
	case len(c.Tables.Faults) > 0:
		a.Code, a.Text = codeBoot, fmt.Sprintf("what finds the partitions of disk %s is not whole: %s", c.Disk.Name, strings.Join(c.Faults(), "; "))
	case whole && c.Disk.Table.DiskGUID != ref.Disk.Table.DiskGUID && d.Any():
		a.Code, a.Text = codeDiffers, fmt.Sprintf("disk %s would start another system than %s: %s", c.Disk.Name, ref.Disk.Name, strings.Join(slices.Compact(d.Text), "; "))
	default:
		return nil
	}
	return []node.Alert{a}
}
