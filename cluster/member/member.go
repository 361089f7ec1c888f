// Package member runs this node's part of the cluster store: an etcd member
// inside the daemon. As long as the node is alone nothing of it is reachable
// from outside: no socket is opened, the client calls the server directly.
// With peers it listens for other members only, both sides with certificates.
//
// The in-process client works on voters and learners alike: what etcd refuses
// to learners it refuses at its client socket, which does not exist here.
// Writes, linearizable reads and changes of membership go on to the leader.
package member

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// Member is a running etcd member.
type Member struct {
	etcd     *embed.Etcd
	client   *clientv3.Client
	election time.Duration
	beat     time.Duration
	peers    http.RoundTripper // nil while alone
	fate     *fate

	failed    chan struct{}
	closing   chan struct{}
	closeOnce sync.Once

	quorum quorum
}

// Start opens the data folder, or makes or joins a cluster, and returns when
// the member runs. It does not wait for a leader: from here on the store's
// local copy can be read (store.Etcd's Local and OrLocal), which is how a
// daemon comes up without quorum; Ready waits for the rest. Joining a cluster
// asks its members, each for a few seconds, and fails when none answers or
// when one of their names does not resolve; a start that failed can be
// repeated.
func Start(o Options) (*Member, error) {
	o = o.withDefaults()
	if err := makeDir(o.Dir); err != nil {
		return nil, err
	}
	m := &Member{election: o.Election, beat: o.Heartbeat, fate: newFate(),
		failed: make(chan struct{}), closing: make(chan struct{})}
	cfg, err := config(o, m.fate)
	if err != nil {
		return nil, fmt.Errorf("start cluster store: %w", err)
	}
	if o.Peers != nil {
		if m.peers, err = roundTripper(cfg); err != nil {
			return nil, fmt.Errorf("start cluster store: %w", err)
		}
	}
	if m.etcd, err = embed.StartEtcd(cfg); err != nil {
		return nil, fmt.Errorf("start cluster store: %w", err)
	}
	m.client = newClient(m.etcd.Server)
	go m.watch()
	return m, nil
}

// watch closes failed when the member ends without being asked.
func (m *Member) watch() {
	select {
	case <-m.closing:
		return
	case <-m.etcd.Server.StoppingNotify():
	case <-m.etcd.Err():
	case <-m.fate.broken:
	}
	select {
	case <-m.closing:
	default:
		close(m.failed)
	}
}

// Ready waits until the store takes reads and writes and this member has all
// that was written before. It needs a quorum; what works without one is said
// at Start.
func (m *Member) Ready(ctx context.Context) error {
	for {
		select {
		case <-m.etcd.Server.ReadyNotify():
			return nil
		case <-m.failed:
			if m.Removed() {
				return fmt.Errorf("start cluster store: %w", ErrRemoved)
			}
			return errors.New("start cluster store: it stopped")
		case <-m.closing:
			return errors.New("start cluster store: it was closed")
		case <-ctx.Done():
			return fmt.Errorf("start cluster store: %w", ctx.Err())
		case <-time.After(m.beat):
			// etcd is ready when it has written its own name, which it tries
			// once in several seconds; a learner misses the first try.
			if m.CaughtUp(ctx) {
				return nil
			}
		}
	}
}

// Client returns the in-process client. It lives as long as the member.
func (m *Member) Client() *clientv3.Client { return m.client }

// Failed is closed when the member ends by itself: it was removed, or its disk
// fails. The daemon then has to restart.
func (m *Member) Failed() <-chan struct{} { return m.failed }

// ErrRemoved says that this member is no longer one.
var ErrRemoved = errors.New("this node's member was removed from the cluster")

// Removed reports whether the member was removed from the cluster. Failed is
// closed within a second of it, and its folder is of no use any more. A member
// that was away at the time finds out when it reaches another one.
func (m *Member) Removed() bool {
	return m.fate.removed.Load() || m.etcd.Server.IsIDRemoved(m.ID())
}

// ID is the member's id, new each time the node is added.
func (m *Member) ID() uint64 { return uint64(m.etcd.Server.MemberID()) }

// Leader is the id of the leader as far as this member knows, else 0.
func (m *Member) Leader() uint64 { return m.etcd.Server.Lead() }

// IsLeader reports whether this member leads. It may have been deposed up to
// one election timeout ago.
func (m *Member) IsLeader() bool { return m.Leader() == m.ID() }

// LeaderChanged is closed when the next leader is elected.
func (m *Member) LeaderChanged() <-chan struct{} { return m.etcd.Server.LeaderChangedNotify() }

// Close stops the member; a leader hands over first. That takes milliseconds,
// and several seconds if another member died a moment ago: etcd waits for its
// answers.
func (m *Member) Close() error {
	m.closeOnce.Do(func() {
		m.fate.closing.Store(true)
		close(m.closing)
	})
	err := m.client.Close()
	m.etcd.Close()
	if m.peers != nil {
		closeIdle(m.peers)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("stop cluster store: %w", err)
	}
	return nil
}
