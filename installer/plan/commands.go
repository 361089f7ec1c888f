package plan

import (
	"regexp"
	"strconv"
	"strings"
)

// Commander is an action that runs programs: argument vectors, to be run one
// after the other. They are what a plan shows and what is run. LVM's are run with
// the configuration that confines them to the chosen disks.
type Commander interface {
	Action
	Commands() [][]string
}

// Commands: modprobe(8), zfs(4). It comes before the first write: where the kernel
// refuses the module, the disks stay as they are. Guests' volumes in a pool that
// is kept get no devices.
func (a Release) Commands() [][]string {
	if !a.ZFS {
		return nil
	}
	return [][]string{{"modprobe", "zfs", "zvol_inhibit_dev=1"}}
}

// Commands: lvm(8). They make physical volume, group and volumes, and tell the
// group's UUID.
func (a CreateLVM) Commands() [][]string {
	size := func(n int64) string { return strconv.FormatInt(n, 10) + "b" }
	out := [][]string{
		// 250k of metadata end at 1 MiB, where data then begins (pvcreate(8))
		{"lvm", "pvcreate", "-ff", "-y", "--metadatasize", "250k", a.Device},
		{"lvm", "vgcreate", "-y", a.VG, a.Device},
	}
	for _, v := range a.Volumes {
		how := []string{"-W", "y", "-L", size(v.Bytes)}
		if v.Use == "thin-pool" {
			how = []string{"--type", "thin-pool", "-L", size(v.Bytes), "--poolmetadatasize", size(v.Meta)}
		}
		out = append(out, append(append([]string{"lvm", "lvcreate", "-y"}, how...), "-n", v.Name, a.VG))
	}
	return append(out, []string{"lvm", "vgs", "--noheadings", "-o", "vg_uuid", a.VG})
}

// Commands: mkfs.ext4(8), mkswap(8).
func (a Mkfs) Commands() [][]string {
	if a.Type == "swap" {
		return [][]string{{"mkswap", "-L", a.Label, a.Device}}
	}
	argv := []string{"mkfs.ext4", "-q", "-F", "-m", "0"}
	if a.Device == volumeDevice("local") {
		// It holds few, large files: with ext4's usual one inode for 16 KiB the
		// kernel would write 1.6 % of the volume with empty ones after the first
		// start.
		argv = append(argv, "-i", "65536")
	}
	return [][]string{append(argv, "-L", a.Label, a.Device)}
}

// Repair is run on a volume that is kept and holds ext4 (e2fsck(8)).
func (a ActivateGroup) Repair(volume string) []string {
	return []string{"e2fsck", "-p", volumeDevice(volume)}
}

// Commands: vgchange(8).
func (a Finish) Commands() [][]string {
	if a.VG == "" {
		return nil
	}
	return [][]string{{"lvm", "vgchange", "-an", a.VG}}
}

// ShownStep is a step as people and programs see it.
type ShownStep struct {
	Step     string     `json:"step"`
	Commands [][]string `json:"commands,omitempty"`
	// Repairs are run where the volume turns out to hold ext4.
	Repairs [][]string `json:"repairs,omitempty"`
}

// Steps are all of the plan's, with the commands as they will be run.
func (p Plan) Steps() []ShownStep {
	var out []ShownStep
	for _, a := range p.Actions {
		s := ShownStep{Step: a.Step()}
		if c, ok := a.(Commander); ok {
			s.Commands = c.Commands()
		}
		if g, ok := a.(ActivateGroup); ok {
			s.Repairs = [][]string{g.Repair("state"), g.Repair("local")}
		}
		out = append(out, s)
	}
	return out
}

// plainWord is what a shell takes as it stands.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:=,@%+-]+$`)

// shellLine writes an argument vector as one would type it.
func shellLine(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		if words[i] = w; !plainWord.MatchString(w) {
			words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
