// Package pool opens and watches the ZFS pool of a node. Nothing else of the
// system opens pools. Members are found by the pool's GUID in their labels,
// whatever the pool or they are called; what the labels say about each other
// decides how many are waited for, whether those that are there are enough, and
// whether one that was used alone may take part.
package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"joist/internal/nvlist"
	"joist/internal/run"
	"joist/system/block"
)

// NoVolumes is the module's option that gives guests' volumes no devices.
const NoVolumes = "zvol_inhibit_dev=1"

// Member is a device with a label of the pool.
type Member struct {
	Path string
	Name string // of the pool
	GUID uint64 // of this vdev
	Txg  uint64 // of the label: the higher, the newer
	Tops int    // vdevs that the pool is spread over
	Most bool   // Tops is the most that there can be
	Top  Node   // the one of them that this belongs to
}

// Node is a vdev: a device, or a group of them.
type Node struct {
	Type     string // "disk", "mirror", "raidz" …
	GUID     uint64
	Parity   int  // of a raidz
	Gone     bool // was not there when the label was written
	Children []Node
}

func node(v nvlist.Values) Node {
	n := Node{Type: v.Text("type"), GUID: v.Number("guid"), Parity: int(v.Number("nparity") & 3)}
	for _, word := range []string{"not_present", "offline", "faulted", "removed"} {
		n.Gone = n.Gone || v.Number(word) != 0
	}
	for _, c := range v.Lists("children") {
		n.Children = append(n.Children, node(c))
	}
	return n
}

// leaves calls f with each device below n.
func (n Node) leaves(f func(Node)) {
	if len(n.Children) == 0 {
		f(n)
	}
	for _, c := range n.Children {
		c.leaves(f)
	}
}

// works says whether n can be read from the devices that are there
// (zpoolconcepts(7)).
func (n Node) works(there map[uint64]bool) bool {
	if len(n.Children) == 0 {
		return there[n.GUID]
	}
	lost := 0
	for _, c := range n.Children {
		if !c.works(there) {
			lost++
		}
	}
	if n.Type == "raidz" {
		return lost <= n.Parity
	}
	return lost < len(n.Children) // a mirror, or one disk in the place of another
}

// namePattern is what zpool-create(8) takes.
var namePattern = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.:-]{0,200}$`)

// member makes one of a label.
func member(v nvlist.Values) (m Member, guid string, ok bool) {
	tree, _ := v["vdev_tree"].(nvlist.Values)
	m = Member{Name: v.Text("name"), GUID: v.Number("guid"), Txg: v.Number("txg"), Top: node(tree)}
	tops, exact := v.Tops()
	m.Tops, m.Most = tops, !exact
	return m, strconv.FormatUint(v.Number("pool_guid"), 10), tree != nil && namePattern.MatchString(m.Name)
}

// GUID is that of the pool that a device belongs to, "" where it belongs to
// none.
func GUID(device string) string {
	f, err := os.Open(device)
	if err != nil {
		return ""
	}
	defer f.Close()
	if v, ok := nvlist.ReadLabel(f); ok {
		if _, guid, ok := member(v); ok {
			return guid
		}
	}
	return ""
}

// Find returns the members of the pool with that GUID that are there. Whoever
// added disks to the pool may have given them whole.
func Find(devs []block.Device, guid string) []Member {
	var out []Member
	for _, d := range devs {
		if d.Bytes == 0 {
			continue
		}
		f, err := os.Open(d.Path())
		if err != nil {
			continue
		}
		v, ok := nvlist.ReadLabel(f)
		f.Close()
		if !ok {
			continue
		}
		if m, of, ok := member(v); ok && of == guid {
			m.Path = d.Path()
			out = append(out, m)
		}
	}
	return out
}

// newest is the label to believe.
func newest(ms []Member) Member {
	return slices.MaxFunc(ms, func(a, b Member) int { return int(min(max(int64(a.Txg-b.Txg), -1), 1)) })
}

// Copies are pairs of devices that claim to be the same one of the pool.
func Copies(ms []Member) (pairs [][2]string) {
	for i, m := range ms {
		for _, o := range ms[:i] {
			if o.GUID == m.GUID {
				pairs = append(pairs, [2]string{o.Path, m.Path})
			}
		}
	}
	return pairs
}

// tops are the vdevs that the pool is spread over as far as they are known, each
// as the newest label of its devices describes it.
func tops(ms []Member) map[uint64]Member {
	out := map[uint64]Member{}
	for _, m := range ms {
		if t, ok := out[m.Top.GUID]; !ok || m.Txg > t.Txg {
			out[m.Top.GUID] = m
		}
	}
	return out
}

func present(ms []Member) map[uint64]bool {
	out := map[uint64]bool{}
	for _, m := range ms {
		out[m.GUID] = true
	}
	return out
}

// Missing says how many devices are still to come: those that took part when
// the pool was open last.
func Missing(ms []Member) int {
	if len(ms) == 0 {
		return 1
	}
	there, known := present(ms), tops(ms)
	n := max(newest(ms).Tops-len(known), 0)
	for _, t := range known {
		t.Top.leaves(func(l Node) {
			if !l.Gone && !there[l.GUID] {
				n++
			}
		})
	}
	return n
}

// Enough says whether the pool can be opened with these, as far as they know.
func Enough(ms []Member) bool {
	known := tops(ms)
	if len(ms) == 0 {
		return false
	}
	if last := newest(ms); last.Tops > len(known) && !last.Most {
		return false
	}
	there := present(ms)
	for _, t := range known {
		if !t.Top.works(there) {
			return false
		}
	}
	return true
}

// Agreeing leaves out members that were used without each other: each has
// changes that the other knows nothing of, and the pool goes on with the newer
// ones. Of a mirror's sides that are equally new one is taken, at every start
// the same. Where the pool is spread over several vdevs nothing says which sides
// belong together, and neither is taken: none may be left. Those of apart stay
// out.
func Agreeing(ms []Member) (out, apart []Member) {
	for _, m := range ms {
		if slices.ContainsFunc(ms, func(o Member) bool { return parted(o, m) && goesOn(ms, o, m) }) {
			apart = append(apart, m)
		} else {
			out = append(out, m)
		}
	}
	return out, apart
}

// Apart says of one that was used without the others why it stays out.
func (m Member) Apart() string {
	return fmt.Sprintf("%s was used without the other disks meanwhile and stays out of the pool; to give up what it holds: "+
		"zpool labelclear -f %s && zpool replace %s %d %s", m.Path, m.Path, m.Name, m.GUID, m.Path)
}

// parted says whether each was used without the other.
func parted(a, b Member) bool {
	misses := func(m Member, guid uint64) (yes bool) {
		m.Top.leaves(func(l Node) { yes = yes || l.GUID == guid && l.Gone })
		return yes
	}
	return a.GUID != b.GUID && misses(a, b.GUID) && misses(b, a.GUID)
}

// goesOn says whether it is o with which the pool goes on rather than m.
func goesOn(ms []Member, o, m Member) bool {
	if o.Txg != m.Txg || m.Tops > 1 {
		return o.Txg >= m.Txg
	}
	side := func(m Member) (highest uint64) {
		for _, x := range ms {
			if x.Txg == m.Txg && x.Top.GUID == m.Top.GUID && !parted(x, m) {
				highest = max(highest, x.GUID)
			}
		}
		return highest
	}
	return cmp.Or(cmp.Compare(side(o), side(m)), cmp.Compare(o.GUID, m.GUID)) > 0
}

// Load has the kernel know pools. Options are the module's.
func Load(ctx context.Context, r run.Runner, options ...string) error {
	if _, err := r.Run(ctx, run.Cmd{Path: "modprobe", Args: append([]string{"zfs"}, options...)}); err != nil {
		return fmt.Errorf("load the ZFS module: %w", err)
	}
	return nil
}

// Import opens the pool of the members, and no other device is looked at. It
// mounts nothing.
func Import(ctx context.Context, r run.Runner, guid string, ms, apart []Member) error {
	return open(ctx, r, guid, ms, apart)
}

// KeepOut has the opened pool not take those apart until a person says so,
// whatever else makes it look for its devices again.
func KeepOut(ctx context.Context, r run.Runner, apart []Member) error {
	var errs []error
	for _, m := range apart {
		if _, err := r.Run(ctx, run.Cmd{Path: "zpool", Args: []string{"offline", m.Name, strconv.FormatUint(m.GUID, 10)}}); err != nil {
			errs = append(errs, fmt.Errorf("keep %s out of the pool: %w", m.Path, err))
		}
	}
	return errors.Join(errs...)
}

// Look opens it for reading only, whoever used it last; a log that needs to be
// replayed stays as it is.
func Look(ctx context.Context, r run.Runner, guid string, ms, apart []Member, root string) error {
	return open(ctx, r, guid, ms, apart, "-f", "-o", "readonly=on", "-R", root)
}

// Repair opens the pool for writing on a machine that it does not belong to.
func Repair(ctx context.Context, r run.Runner, guid string, ms, apart []Member, root string) error {
	return open(ctx, r, guid, ms, apart, "-f", "-R", root)
}

// open opens the pool with the device nodes of those apart away: the kernel looks
// not only at what it is given, but also where the pool's other devices were, and
// takes any that has the right label. Resilvering would then write over what such
// a one holds, and leave wrong copies of whatever only it had freed.
func open(ctx context.Context, r run.Runner, guid string, ms, apart []Member, more ...string) (err error) {
	for _, m := range apart {
		away := filepath.Join(filepath.Dir(m.Path), "."+filepath.Base(m.Path)+".apart")
		if err := os.Rename(m.Path, away); err != nil {
			return fmt.Errorf("open pool %s without %s: %w", guid, m.Path, err)
		}
		defer func() { err = errors.Join(err, os.Rename(away, m.Path)) }()
	}
	args := append([]string{"import", "-N", "-o", "cachefile=none"}, more...)
	for _, m := range ms {
		args = append(args, "-d", m.Path)
	}
	if _, err := r.Run(ctx, run.Cmd{Path: "zpool", Args: append(args, guid)}); err != nil {
		return fmt.Errorf("open pool %s: %w", guid, err)
	}
	return nil
}

// Export closes the pool: all is written, and any machine may open it.
func Export(ctx context.Context, r run.Runner, name string) error {
	if _, err := r.Run(ctx, run.Cmd{Path: "zpool", Args: []string{"export", name}}); err != nil {
		return fmt.Errorf("close pool %q: %w", name, err)
	}
	return nil
}

// Return has members take part that came after the pool was opened with others.
func Return(ctx context.Context, r run.Runner, name string, ms []Member) error {
	var errs []error
	for _, m := range ms {
		if _, err := r.Run(ctx, run.Cmd{Path: "zpool", Args: []string{"online", name, strconv.FormatUint(m.GUID, 10)}}); err != nil {
			errs = append(errs, fmt.Errorf("take %s back into the pool: %w", m.Path, err))
		}
	}
	return errors.Join(errs...)
}

// minCache is the least that ZFS takes for the lower end of its cache (zfs(4),
// zfs_arc_min).
const minCache = 32 << 20

// Limit bounds the memory that ZFS caches in (zfs(4), zfs_arc_max). The module
// takes any number and heeds none that is not above the cache's lower end, which
// it derives from the memory: that is then moved first.
func Limit(root string, bytes int64) error {
	set := func(name string, n int64) error {
		return os.WriteFile(filepath.Join(root, "sys/module/zfs/parameters", name), []byte(strconv.FormatInt(n, 10)), 0)
	}
	low, err := stat(root, "c_min")
	if err == nil && bytes <= low {
		err = set("zfs_arc_min", max(bytes/2, minCache))
	}
	if err == nil {
		err = set("zfs_arc_max", bytes)
	}
	if err == nil {
		var now int64
		if now, err = stat(root, "c_max"); err == nil && now != bytes {
			err = fmt.Errorf("it stays at %d", now)
		}
	}
	if err != nil {
		return fmt.Errorf("bound ZFS's cache to %d bytes: %w", bytes, err)
	}
	return nil
}

// stat is a number of the cache's statistics: a line each of name, type, value.
func stat(root, name string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(root, "proc/spl/kstat/zfs/arcstats"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name {
			return strconv.ParseInt(f[2], 10, 64)
		}
	}
	return 0, fmt.Errorf("read statistics of ZFS's cache: there is no %s", name)
}

// Problem says what a person should know about the open pool, "" when it is
// whole. It reads what the module shows below proc.
func Problem(proc, name string) string {
	b, err := os.ReadFile(filepath.Join(proc, "spl/kstat/zfs", name, "state"))
	state := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return fmt.Sprintf("pool %q is not open", name)
	case state == "ONLINE":
		return ""
	case state == "SUSPENDED":
		return fmt.Sprintf("pool %q waits for its disks; connect them, then: zpool clear %s", name, name)
	case state == "DEGRADED":
		return fmt.Sprintf("pool %q lacks a disk; data is on the others only (zpool status %s)", name, name)
	default:
		return fmt.Sprintf("pool %q is %s (zpool status %s)", name, state, name)
	}
}
