// Package roster is who belongs to the cluster, as the store says it: the
// cluster itself, its nodes, and the keys they are kept under. It holds values
// and their codecs; who follows them is package peer.
package roster

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"joist/cluster/store"
)

// Keys in the cluster store.
const (
	ClusterKey  = "/joist/cluster"
	CAKey       = "/joist/cluster/ca-key" // the CA's key, sealed
	TokenPrefix = "/joist/cluster/tokens/"
	NodePrefix  = "/joist/nodes/"
)

// Domain is below which nodes find each other. The name ".internal" is
// reserved for private use, so that no DNS of the world answers for it.
const Domain = "joist.internal"

// JoinName is what a joiner, who has no certificate yet, asks for in TLS.
const JoinName = "join." + Domain

// PeerPort is where etcd members listen for each other.
const PeerPort = 2380

// MaxTxnOps is how many keys one transaction may write or compare: a join
// brings all of a node's guests at once.
const MaxTxnOps = 4096

// PeerName is the name a node has towards other nodes: in its certificate and
// in its member's URL. It does not change when addresses do.
func PeerName(node string) string { return node + "." + Domain }

// PeerURL is the URL of a node's member for life.
func PeerURL(node string) string { return fmt.Sprintf("https://%s:%d", PeerName(node), PeerPort) }

// Cluster is what all nodes share about the cluster itself.
type Cluster struct {
	ID      string    `json:"id"`   // 16 hex digits, made with the cluster
	Name    string    `json:"name"` // for people
	Created time.Time `json:"created"`
	// Heartbeat and election timeout of the store's members, milliseconds; the
	// slowest node that joined decides.
	HeartbeatMs int `json:"heartbeat_ms"`
	ElectionMs  int `json:"election_ms"`
}

// State is where a node stands on its way in or out.
type State string

// The states.
const (
	Joining State = "joining" // admitted, not yet a working member
	Member  State = "member"
	Leaving State = "leaving" // asked to go; its keys are about to be removed
)

// Node is one node of the cluster.
type Node struct {
	Name           string    `json:"name"`
	ID             int       `json:"id"`              // from 1, the smallest that was free
	InstallationID string    `json:"installation_id"` // 16 hex digits
	KeySHA256      string    `json:"key_sha256"`      // of its public key (SubjectPublicKeyInfo), hex
	Addresses      []string  `json:"addresses"`       // the one to try first comes first
	Version        string    `json:"version"`
	State          State     `json:"state"`
	Joined         time.Time `json:"joined"`
	MemberID       string    `json:"member_id,omitempty"` // of its store member, hex; empty until it is known
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ValidName reports whether s can name a node: one DNS label (RFC 1123), lower
// case.
func ValidName(s string) bool { return nameRE.MatchString(s) && s != "localhost" && s != "join" }

// NodeKey is where a node is kept.
func NodeKey(name string) string { return NodePrefix + name }

// Encode returns the value that is stored.
func (n Node) Encode() []byte { return encode(n) }

// Encode returns the value that is stored.
func (c Cluster) Encode() []byte { return encode(c) }

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and times
	}
	return b
}

// DecodeNode reads one node's key.
func DecodeNode(it store.Item) (Node, error) {
	var n Node
	if err := json.Unmarshal(it.Value, &n); err != nil {
		return n, fmt.Errorf("read node %s: %w", it.Key, err)
	}
	if NodeKey(n.Name) != it.Key || !ValidName(n.Name) {
		return n, fmt.Errorf("read node %s: it says its name is %q", strings.TrimPrefix(it.Key, NodePrefix), n.Name)
	}
	return n, nil
}

// DecodeCluster reads the cluster's key.
func DecodeCluster(it store.Item) (Cluster, error) {
	var c Cluster
	if err := json.Unmarshal(it.Value, &c); err != nil {
		return c, fmt.Errorf("read cluster: %w", err)
	}
	return c, nil
}
