package member

import (
	"context"
	"sync"
	"time"
)

// quorum is what is known about the cluster's ability to decide.
type quorum struct {
	mu      sync.Mutex
	lost    time.Time     // when it was first missed; zero while it is there
	ok      bool          // result of the last probe
	checked time.Time     // when that was
	running chan struct{} // closed when the probe that runs has ended; nil if none does
}

// patience is how long an operation waits for an election before it is told
// that there is no quorum: detection takes up to two timeouts, and a vote may
// be split.
func (m *Member) patience() time.Duration { return max(4*m.election, 2*time.Second) }

// Quorate reports whether the cluster can decide now. It is cheap, and a
// quorum that was lost shows within about two election timeouts.
//
// A voter knows it from raft: a follower that hears nothing from its leader
// for an election timeout forgets it, and a leader that hears nothing from a
// quorum steps down (CheckQuorum). A learner never gives up its leader; it
// asks the leader, at most once in an election timeout.
func (m *Member) Quorate(ctx context.Context) bool {
	ok := m.decides(ctx)
	q := &m.quorum
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case ok:
		q.lost = time.Time{}
	case q.lost.IsZero() && ctx.Err() == nil:
		q.lost = time.Now()
	}
	return ok
}

// AwaitQuorum is Quorate for somebody about to do something: it waits until an
// election can have ended. When the quorum has been missing for longer than
// that it says so at once.
func (m *Member) AwaitQuorum(ctx context.Context) bool {
	for !m.Quorate(ctx) {
		m.quorum.mu.Lock()
		lost := m.quorum.lost
		m.quorum.mu.Unlock()
		if ctx.Err() != nil || !lost.IsZero() && time.Since(lost) > m.patience() || m.ended() {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(m.beat):
		}
	}
	return true
}

func (m *Member) ended() bool {
	select {
	case <-m.failed:
		return true
	case <-m.closing:
		return true
	default:
		return m.Removed()
	}
}

func (m *Member) decides(ctx context.Context) bool {
	if m.ended() || m.Leader() == 0 {
		return false
	}
	if self := m.etcd.Server.Cluster().Member(m.etcd.Server.MemberID()); self != nil && !self.IsLearner {
		return true
	}
	return m.ask(ctx)
}

// ask returns what a probe says, or said less than an election timeout ago.
func (m *Member) ask(ctx context.Context) bool {
	q := &m.quorum
	q.mu.Lock()
	age := time.Since(q.checked)
	if age < m.election {
		defer q.mu.Unlock()
		return q.ok
	}
	if q.running == nil {
		q.running = make(chan struct{})
		go m.probe(q.running)
	}
	running := q.running
	// While it is lost nobody waits for the next probe to fail as well.
	known := !q.ok && age < m.patience()
	q.mu.Unlock()
	if known {
		return false
	}
	select {
	case <-running:
	case <-ctx.Done():
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ok
}

func (m *Member) probe(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), max(m.election, 500*time.Millisecond))
	defer cancel()
	ok := m.CaughtUp(ctx)
	q := &m.quorum
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ok, q.checked, q.running = ok, time.Now(), nil
	close(done)
}

// CaughtUp reports whether this member has applied all that the cluster had
// decided when it was asked; it needs a quorum. A learner that is caught up
// can be promoted.
func (m *Member) CaughtUp(ctx context.Context) bool {
	for !m.ended() && ctx.Err() == nil {
		// A linearizable read (of the members: of keys etcd logs each one that
		// is slow) asks the leader how far it is, the leader asks a quorum
		// whether it still leads, and the answer waits until this member is as
		// far (ReadIndex, raft thesis 6.4).
		if _, err := m.client.MemberList(ctx); err == nil {
			return true
		}
		select { // the leader changed
		case <-ctx.Done():
		case <-time.After(m.beat):
		}
	}
	return false
}
