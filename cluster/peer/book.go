package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"joist/api/node"
	"joist/cluster/roster"
	"joist/cluster/store"
)

// Book is the roster with the freshest addresses that are known. What the
// store says and what nodes say themselves differ while addresses change; the
// later one counts. The last state is kept in a file: with it a node finds its
// peers at a start when the store cannot be read.
type Book struct {
	self, file string
	log        *slog.Logger

	mu      sync.Mutex
	cluster roster.Cluster
	nodes   map[string]roster.Node
	fresh   map[string]sighting
	changed chan struct{} // closed and replaced whenever something changes
}

// sighting is what a node said of itself, or where it was seen.
type sighting struct {
	Addresses []string `json:"addresses"`
	Seq       int64    `json:"seq"` // nanoseconds since 1970 on that node's clock
	at        time.Time
}

// clockSet is how long a node's word counts against one that its clock says is
// older: announcements cross on their way for seconds, not for minutes.
const clockSet = time.Minute

// saved is the file.
type saved struct {
	Cluster roster.Cluster      `json:"cluster"`
	Nodes   []roster.Node       `json:"nodes"`
	Fresh   map[string]sighting `json:"fresh,omitempty"`
}

// OpenBook reads the file, if there is one.
func OpenBook(self, file string, log *slog.Logger) (*Book, error) {
	b := &Book{self: self, file: file, log: log, nodes: map[string]roster.Node{}, fresh: map[string]sighting{}, changed: make(chan struct{})}
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return b, nil
	}
	var s saved
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return nil, fmt.Errorf("read last known nodes: %w", err)
	}
	b.cluster = s.Cluster
	for _, n := range s.Nodes {
		b.nodes[n.Name] = n
	}
	for name, f := range s.Fresh {
		b.fresh[name] = f
	}
	return b, nil
}

// Self is this node's name.
func (b *Book) Self() string { return b.self }

// Cluster returns what is known of the cluster.
func (b *Book) Cluster() roster.Cluster {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cluster
}

// Nodes returns the roster by name, this node among it.
func (b *Book) Nodes() []roster.Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.list()
}

func (b *Book) list() []roster.Node {
	out := make([]roster.Node, 0, len(b.nodes))
	for _, n := range b.nodes {
		out = append(out, n)
	}
	slices.SortFunc(out, func(x, y roster.Node) int { return strings.Compare(x.Name, y.Name) })
	return out
}

// Node returns one node of the roster.
func (b *Book) Node(name string) (roster.Node, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, ok := b.nodes[name]
	return n, ok
}

// Allowed implements the type of that name: by the roster.
func (b *Book) Allowed(name, keySHA256 string) bool {
	n, ok := b.Node(name)
	return ok && n.KeySHA256 == keySHA256
}

// Addresses returns where a node may answer, the best guess first.
func (b *Book) Addresses(name string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Clone(b.fresh[name].Addresses)
	for _, a := range b.nodes[name].Addresses {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// Changed is closed at the next change.
func (b *Book) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// Learn takes addresses that a node gave itself, unless something later is
// known: later by its clock, or by ours when its clock was set back. Addresses
// that are none are left out.
func (b *Book) Learn(name string, addresses []string, seq int64) {
	good := slices.DeleteFunc(slices.Clone(addresses), func(a string) bool {
		ip, err := netip.ParseAddr(a)
		return err != nil || !ip.IsGlobalUnicast() && !ip.IsLoopback()
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fresh[name]
	now := time.Now()
	if name == b.self || len(good) == 0 || seq <= f.Seq && now.Sub(f.at) < clockSet {
		return
	}
	same := slices.Equal(f.Addresses, good)
	b.fresh[name] = sighting{good, seq, now}
	if !same {
		b.log.Info("node has other addresses", "node", name, "addresses", good)
		b.touch()
	}
}

// Seen notes where an authorised connection of a node came from. It counts
// only if nothing better is known: a node may have addresses that others
// cannot reach, but this one it uses.
func (b *Book) Seen(name string, from netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, n := b.fresh[name], b.nodes[name]
	a := from.Unmap().WithZone("").String()
	if name == b.self || from.IsLinkLocalUnicast() || from.IsLoopback() || slices.Contains(f.Addresses, a) || slices.Contains(n.Addresses, a) {
		return
	}
	f.Addresses = append([]string{a}, f.Addresses...)
	f.Addresses = f.Addresses[:min(len(f.Addresses), 8)]
	b.fresh[name] = f
	b.touch()
}

// set replaces what the store says.
func (b *Book) set(c roster.Cluster, nodes []roster.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cluster = c
	b.nodes = map[string]roster.Node{}
	for _, n := range nodes {
		b.nodes[n.Name] = n
	}
	for name := range b.fresh {
		if _, ok := b.nodes[name]; !ok {
			delete(b.fresh, name)
		}
	}
	b.touch()
}

// touch tells of a change and writes the file; the caller holds the lock.
func (b *Book) touch() {
	close(b.changed)
	b.changed = make(chan struct{})
	if err := node.WriteJSON(b.file, 0o600, saved{b.cluster, b.list(), b.fresh}); err != nil {
		b.log.Warn("keep last known nodes", "err", err)
	}
}

// Hosts is the block of hosts(5) lines by which this node's programs, the
// store's member among them, find other nodes.
func (b *Book) Hosts() string {
	var s strings.Builder
	for _, n := range b.Nodes() {
		for _, a := range b.Addresses(n.Name) {
			fmt.Fprintf(&s, "%s %s %s\n", a, roster.PeerName(n.Name), n.Name)
			break // the best guess alone: resolvers mix them otherwise
		}
	}
	return s.String()
}

// Follow keeps the roster as the store says it until ctx ends.
func (b *Book) Follow(ctx context.Context, s store.Store) {
	for {
		rev, err := b.read(ctx, s)
		if err != nil {
			b.log.Warn("read nodes of the cluster", "err", err)
		} else {
			both, stop := context.WithCancel(ctx)
			nodes, cluster := s.Watch(both, roster.NodePrefix, rev), s.Watch(both, roster.ClusterKey, rev)
			for ok := err == nil; ok; {
				select {
				case _, ok = <-nodes:
				case _, ok = <-cluster:
				}
				if ok {
					_, err := b.read(ctx, s)
					ok = err == nil
				}
			}
			stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func (b *Book) read(ctx context.Context, s store.Store) (int64, error) {
	items, rev, err := s.List(ctx, roster.NodePrefix)
	if err != nil {
		return 0, err
	}
	var nodes []roster.Node
	for _, it := range items {
		n, err := roster.DecodeNode(it)
		if err != nil {
			b.log.Error("node is unreadable", "err", err)
			continue
		}
		nodes = append(nodes, n)
	}
	c := b.Cluster()
	if it, err := s.Get(ctx, roster.ClusterKey); err == nil {
		if c, err = roster.DecodeCluster(it); err != nil {
			return 0, err
		}
	}
	b.set(c, nodes)
	return rev, nil
}

// SaveBook writes the file of a Book that does not exist yet: a node that
// joins knows its peers before it can read the store.
func SaveBook(file string, c roster.Cluster, nodes []roster.Node) error {
	if err := node.WriteJSON(file, 0o600, saved{Cluster: c, Nodes: nodes}); err != nil {
		return fmt.Errorf("keep nodes of the cluster: %w", err)
	}
	return nil
}
