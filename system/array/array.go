// Package array starts and watches the md mirror below a node's volume group.
// Nothing else of the system assembles arrays. Members are found by the UUID in
// their superblocks, on partitions of ours only; what they say about each other
// decides how many are waited for and whether one that was away may come back.
package array

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"joist/internal/run"
	"joist/system/block"
)

// The array's device, and the partitions that it is made of.
const (
	File      = "/dev/" + name
	name      = "md127"
	partition = "joist-data"
)

// Member is a partition with a superblock of the array.
type Member struct {
	Path   string
	Device string // its own UUID, hex
	Disks  int    // of the array
	Active int    // that this member knows to take part, itself among them
	Events uint64 // counts changes: the member with most of them is up to date
}

// The version 1.2 superblock, include/uapi/linux/raid/md_p.h.
const (
	superAt   = 4096
	superSize = 256
	magic     = 0xa92b4efc
	maxRoles  = 384 // 0xfffd and above: journal, faulty, spare
	noRole    = 0xfffd
)

// read reads the superblock of a member of the array with the given UUID.
func read(r io.ReaderAt, uuid string) (m Member, ok bool) {
	b := make([]byte, superSize+2*maxRoles)
	if _, err := r.ReadAt(b, superAt); err != nil {
		return m, false
	}
	le := binary.LittleEndian
	if le.Uint32(b) != magic || le.Uint32(b[4:]) != 1 || hex.EncodeToString(b[16:32]) != strings.ReplaceAll(uuid, ":", "") {
		return m, false
	}
	m.Device = hex.EncodeToString(b[168:184])
	m.Disks, m.Events = int(le.Uint32(b[92:])), le.Uint64(b[200:])
	for i := range min(le.Uint32(b[220:]), maxRoles) {
		if le.Uint16(b[superSize+2*i:]) < noRole {
			m.Active++
		}
	}
	return m, true
}

// UUID is that of the mirror that a device belongs to, as mdadm(8) spells it,
// "" where it belongs to none.
func UUID(device string) string {
	f, err := os.Open(device)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 32)
	if _, err := f.ReadAt(b, superAt); err != nil || binary.LittleEndian.Uint32(b) != magic || binary.LittleEndian.Uint32(b[4:]) != 1 {
		return ""
	}
	return fmt.Sprintf("%x:%x:%x:%x", b[16:20], b[20:24], b[24:28], b[28:])
}

// Load has the kernel know arrays and mirrors, which no device asks for (md(4)).
func Load(ctx context.Context, r run.Runner) error {
	_, err := r.Run(ctx, run.Cmd{Path: "modprobe", Args: []string{"-a", "md_mod", "raid1"}})
	return err
}

// Find returns the members that are there.
func Find(devs []block.Device, uuid string) []Member {
	var out []Member
	for _, d := range block.Partitions(devs, partition) {
		f, err := os.Open(d.Path())
		if err != nil {
			continue
		}
		m, ok := read(f, uuid)
		f.Close()
		if ok {
			m.Path = d.Path()
			out = append(out, m)
		}
	}
	return out
}

// Copies are pairs of devices that claim to be the same one of the array.
func Copies(ms []Member) (pairs [][2]string) {
	for i, m := range ms {
		for _, o := range ms[:i] {
			if o.Device == m.Device {
				pairs = append(pairs, [2]string{o.Path, m.Path})
			}
		}
	}
	return pairs
}

// newest is the member that is up to date.
func newest(ms []Member) Member {
	return slices.MaxFunc(ms, func(a, b Member) int { return int(min(max(int64(a.Events-b.Events), -1), 1)) })
}

// Missing says how many members are still to come: those that took part when
// the array ran last.
func Missing(ms []Member) int {
	if len(ms) == 0 {
		return 1
	}
	return max(newest(ms).Active-len(ms), 0)
}

// Start assembles the array of the members, --run though one is missing;
// readonly for a look at it only.
func Start(ctx context.Context, r run.Runner, uuid string, ms []Member, readonly bool) error {
	args := []string{"--assemble", File, "--run", "--uuid=" + uuid}
	if readonly {
		args = append(args, "--readonly")
	}
	for _, m := range ms {
		args = append(args, m.Path)
	}
	if _, err := r.Run(ctx, run.Cmd{Path: "mdadm", Args: args}); err != nil {
		return fmt.Errorf("start mirror %s: %w", uuid, err)
	}
	return nil
}

// Return takes members back that are there and do not take part, such as a disk
// that was unplugged for a while. With the array's bitmap only what changed
// meanwhile is copied. One that was used without the others in that time has
// changes of its own, which the bitmap knows nothing of: it stays out. It knows
// itself alone.
func Return(ctx context.Context, r run.Runner, sys string, ms []Member) error {
	var problems []string
	for _, m := range ms {
		if _, err := os.Stat(filepath.Join(sys, "block", name, "slaves", filepath.Base(m.Path))); err == nil {
			continue
		}
		if m.Active < m.Disks {
			problems = append(problems, m.Path+" was used without the other disk meanwhile and stays out of the mirror; to give up what it holds: mdadm --zero-superblock "+
				m.Path+" && mdadm "+File+" --add "+m.Path)
			continue
		}
		if _, err := r.Run(ctx, run.Cmd{Path: "mdadm", Args: []string{File, "--re-add", m.Path}}); err != nil {
			problems = append(problems, fmt.Sprintf("take %s back into the mirror: %v", m.Path, err))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%s", strings.Join(problems, "; "))
	}
	return nil
}

// Problem says what a person should know about the running array, "" when it
// is whole. It reads Documentation/admin-guide/md.rst's files below sys.
func Problem(sys string) string {
	dir := filepath.Join(sys, "block", name, "md")
	attr := func(file string) string {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	gone := attr("degraded")
	switch {
	case gone == "":
		return "the mirror does not run"
	case gone == "0":
		return ""
	case attr("sync_action") == "recover":
		return "the mirror is being rebuilt; until then one disk holds the data alone"
	default:
		return fmt.Sprintf("the mirror lacks %s of %s disks; data is on the others only", gone, attr("raid_disks"))
	}
}
