package join

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"joist/cluster/roster"
	"joist/internal/finding"
)

// MaxSkew is how far the clocks of joiner and voter may be apart. Tickets,
// certificates and logs all suffer from more.
const MaxSkew = 5 * time.Minute

// state is what the cluster looked like when it was read: all that a join has
// to fit to.
type state struct {
	cluster    roster.Cluster
	clusterRev int64
	nodes      []roster.Node
	guests     []Guest
	storages   map[string]held
}

// held is a storage with the revision that last changed it.
type held struct {
	Storage
	rev int64
}

func (s state) node(name string) (roster.Node, bool) {
	i := slices.IndexFunc(s.nodes, func(n roster.Node) bool { return n.Name == name })
	if i < 0 {
		return roster.Node{}, false
	}
	return s.nodes[i], true
}

// taken lists the VMIDs of the cluster.
func (s state) taken() []int {
	out := []int{}
	for _, g := range s.guests {
		out = append(out, g.VMID)
	}
	slices.Sort(out)
	return out
}

// freeID is the smallest node id that nobody has.
func (s state) freeID() int {
	for id := 1; ; id++ {
		if !slices.ContainsFunc(s.nodes, func(n roster.Node) bool { return n.ID == id }) {
			return id
		}
	}
}

// checkToken says why a token does not admit this key, nil when it does. Once
// bound, neither its end nor anything else matters to the key that it is bound
// to: that join is to be brought to an end.
func checkToken(t Token, key, name string, now time.Time) *Refused {
	const another = "make another token on a node of the cluster"
	switch {
	case slices.Contains(t.Barred, key):
		return refuse("join-cancelled", "token", "begin a new join: it gets a new key", "this join was called off")
	case t.Bound == key:
		return nil
	case t.Bound != "":
		return refuse("token-used", "token", another, "the token was already used by %s on %s", t.Joiner, t.Used.Format(time.RFC3339))
	case t.Burnt:
		return refuse("token-burnt", "token", another, "the token is void: %d wrong proofs were given for it, somebody tried to guess it", maxWrong)
	case !now.Before(t.Expires):
		return refuse("token-expired", "token", another, "the token expired on %s; here it is %s", t.Expires.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case t.Node != "" && t.Node != name:
		return refuse("token-other-node", "name", another+", or give this node the name "+t.Node,
			"the token admits %s, not %s", t.Node, name)
	}
	return nil
}

// checkNode compares who the joiner is with who is there.
func checkNode(s state, h Hello) (list finding.List) {
	if !roster.ValidName(h.Name) {
		list.Stopf("name-invalid", "name", "a name has lower-case letters, digits and dashes, 63 at most, and is not join or localhost",
			"%q cannot name a node", h.Name)
	}
	if n, ok := s.node(h.Name); ok {
		hint := "give this node another name, or remove the other one if it is gone for good"
		if n.State == roster.Joining {
			hint = "it is the remains of a join that broke off, or one under way: remove it, or wait half an hour"
		}
		list.Stopf("name-taken", "name", hint, "the cluster has a node %s already (%s since %s)", n.Name, n.State, n.Joined.Format(time.RFC3339))
	}
	if _, there := s.node(h.Name); !there {
		var left []string
		for _, g := range s.guests {
			if g.Node == h.Name {
				left = append(left, strconv.Itoa(g.VMID))
			}
		}
		if len(left) > 0 { // they would be this node's, without a volume
			list.Stopf("guests-left", "name", "remove what is left of it with `joist node remove "+h.Name+" --force`, or give this node another name",
				"the cluster still has the guests %s of a node %s that was lost", strings.Join(left, ", "), h.Name)
		}
	}
	if h.InstallationID == "" {
		list.Stopf("installation-missing", "installation_id", "look at installation_id in node.json", "the new node says no installation id")
		return list
	}
	for _, n := range s.nodes {
		if n.InstallationID == h.InstallationID && n.Name != h.Name {
			list.Stopf("installation-taken", "installation_id", "install one of the two anew: a copied disk has the other's identity",
				"node %s has the same installation id %q", n.Name, h.InstallationID)
			break
		}
	}
	return list
}

// checkVersions compares programs. Neighbouring minor versions understand
// each other; that is what a rolling update needs.
func checkVersions(h Hello, version, store string) (list finding.List) {
	for _, c := range []struct{ code, what, theirs, ours string }{
		{"version", "Joist", h.Version, version}, {"store", "the cluster store's program", h.Store, store},
	} {
		d, err := minorsAhead(c.theirs, c.ours)
		switch {
		case err != nil:
			list.Stopf(c.code+"-unknown", c.code, "install a released version", "version of %s: %v", c.what, err)
		case d > 1:
			list.Stopf(c.code+"-too-new", c.code, "update the cluster first", "%s is %s on the new node, %s here", c.what, c.theirs, c.ours)
		case d < -1:
			list.Stopf(c.code+"-too-old", c.code, "update the new node first", "%s is %s on the new node, %s here", c.what, c.theirs, c.ours)
		}
	}
	return list
}

// minorsAhead is by how many minor versions a is ahead of b; another major
// version is far away.
func minorsAhead(a, b string) (int, error) {
	aMajor, aMinor, err := parseVersion(a)
	if err != nil {
		return 0, err
	}
	bMajor, bMinor, err := parseVersion(b)
	if err != nil {
		return 0, err
	}
	return (aMajor-bMajor)*1000 + aMinor - bMinor, nil
}

func parseVersion(s string) (major, minor int, err error) {
	parts := strings.SplitN(s, ".", 3)
	if len(parts) >= 2 {
		if major, err = strconv.Atoi(parts[0]); err == nil {
			if minor, err = strconv.Atoi(parts[1]); err == nil && major >= 0 && minor >= 0 {
				return major, minor, nil
			}
		}
	}
	return 0, 0, fmt.Errorf("%q does not begin like 1.2", s)
}

// checkClock compares clocks.
func checkClock(theirs, ours time.Time) (list finding.List) {
	d := theirs.Sub(ours).Round(time.Second)
	if d.Abs() <= MaxSkew {
		return nil
	}
	word := "ahead of"
	if d < 0 {
		word = "behind"
	}
	list.Stopf("clock-skew", "time", "set the clock that is wrong (NTP does it by itself when its servers can be reached), then join again",
		"the new node's clock is %s %s the cluster's: %s there, %s here; %s are allowed", d.Abs(), word,
		theirs.UTC().Format(time.RFC3339), ours.UTC().Format(time.RFC3339), MaxSkew)
	return list
}

// clashes lists the VMIDs that exist on both sides, each with one that could
// take its place.
func clashes(s state, r Records) []Clash {
	used, mine, targets := map[int]bool{}, map[int]bool{}, map[int]int{}
	owner := map[int]Guest{}
	for _, g := range s.guests {
		used[g.VMID], owner[g.VMID] = true, g
	}
	for _, g := range r.Guests {
		mine[g.VMID] = true
	}
	out := []Clash{}
	for _, g := range r.Guests {
		o, ok := owner[g.VMID]
		if !ok {
			continue
		}
		to := free(used, mine, targets)
		targets[to] = g.VMID
		out = append(out, Clash{VMID: g.VMID, Kind: g.Kind, Name: g.Name, Node: o.Node, Guest: o.Name, Free: to})
	}
	return out
}

// clashFindings is what is said about clashes that nothing resolves.
func clashFindings(list []Clash) (out finding.List) {
	for _, c := range list {
		g := Guest{VMID: c.VMID, Kind: c.Kind, Name: c.Name}
		whose := "a guest of node " + c.Node
		if c.Guest != "" {
			whose = fmt.Sprintf("%s on node %s", c.Guest, c.Node)
		}
		out.Stopf("vmid-clash", strconv.Itoa(c.VMID),
			fmt.Sprintf("renumber it: %d is free on both sides (or let all clashes be renumbered: \"auto\")", c.Free),
			"%s of the new node has the VMID of %s", g.word(), whose)
	}
	return out
}

// checkRecords looks at what the joiner brings besides VMIDs.
func checkRecords(s state, r Records) (list finding.List) {
	for _, g := range r.Guests {
		if g.Lock != "" {
			list.Stopf("guest-locked", strconv.Itoa(g.VMID), "wait until its task ends, or unlock it",
				"%s is locked (%s): it is being changed", g.word(), g.Lock)
		}
	}
	for _, st := range r.Storages {
		if h, ok := s.storages[st.ID]; ok && !h.equal(st) {
			list.Stopf("storage-clash", st.ID, "give the storage of the new node another name, or the same definition",
				"storage %s is defined otherwise in the cluster: %s there, %s on the new node", st.ID, h.Raw, st.Raw)
		}
	}
	return list
}
