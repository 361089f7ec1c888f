package member

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver"

	"joist/cluster/store"
)

// Info is one member.
type Info struct {
	ID      uint64
	Name    string // empty until it was started for the first time
	URL     string
	Learner bool
}

var (
	// ErrNotCaughtUp: a learner cannot be promoted yet; try again.
	ErrNotCaughtUp = errors.New("the member has not caught up yet")
	// ErrUnsafe: too few voters would be left to decide.
	ErrUnsafe = errors.New("too few of the remaining voters answer")
	// ErrNoMember: there is no member with this id.
	ErrNoMember = errors.New("there is no such member")
)

// changeTimeout bounds one change of membership with its repetitions.
const changeTimeout = 20 * time.Second

// LocalMembers is who belongs to the cluster as far as this member knows; it
// works without quorum.
func (m *Member) LocalMembers() []Info {
	var list []Info
	for _, e := range m.etcd.Server.Cluster().Members() {
		list = append(list, info(uint64(e.ID), e.Name, e.PeerURLs, e.IsLearner))
	}
	return list
}

func info(id uint64, name string, urls []string, learner bool) Info {
	i := Info{ID: id, Name: name, Learner: learner}
	if len(urls) > 0 {
		i.URL = urls[0]
	}
	return i
}

// Members is who belongs to the cluster; it needs a quorum.
func (m *Member) Members(ctx context.Context) ([]Info, error) {
	list, err := m.members(ctx)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	return list, nil
}

func (m *Member) members(ctx context.Context) ([]Info, error) {
	if !m.AwaitQuorum(ctx) {
		return nil, store.ErrNoQuorum
	}
	for {
		r, err := m.client.MemberList(ctx)
		if err == nil {
			list := make([]Info, 0, len(r.Members))
			for _, e := range r.Members {
				list = append(list, info(e.ID, e.Name, e.PeerURLs, e.IsLearner))
			}
			return list, nil
		}
		if !errors.Is(err, rpctypes.ErrLeaderChanged) || ctx.Err() != nil {
			return nil, err
		}
	}
}

// change makes one change of membership, from any member. raft drops a
// proposal that comes while another change is not applied or the leader
// changes, without a word, so that an attempt is given up soon and repeated
// after a look whether it was done all the same.
func (m *Member) change(ctx context.Context, done func([]Info) (bool, error), try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	for {
		list, err := m.members(ctx)
		if err != nil {
			return err
		}
		if ok, err := done(list); ok || err != nil {
			return err
		}
		attempt, end := context.WithTimeout(ctx, m.patience())
		err = try(attempt)
		end()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%w (%w)", store.ErrNoQuorum, err)
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, rpctypes.ErrTimeout), errors.Is(err, rpctypes.ErrNoLeader),
			errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost),
			errors.Is(err, rpctypes.ErrLeaderChanged), errors.Is(err, rpctypes.ErrPeerURLExist), errors.Is(err, rpctypes.ErrMemberNotFound),
			errors.Is(err, rpctypes.ErrMemberNotLearner):
			continue // the list says what to make of it
		default:
			return err
		}
	}
}

func byID(list []Info, id uint64) (Info, bool) {
	i := slices.IndexFunc(list, func(e Info) bool { return e.ID == id })
	if i < 0 {
		return Info{}, false
	}
	return list[i], true
}

// AddLearner adds a member that does not vote. If one with this URL exists it
// is returned as it is, so that an interrupted join can be repeated; whoever
// lost its data must be removed first. The name is for errors only: a member
// tells its own when it starts.
func (m *Member) AddLearner(ctx context.Context, name, peerURL string) (Info, error) {
	if _, err := parsePeerURL(peerURL); err != nil {
		return Info{}, fmt.Errorf("add member %q: %w", name, err)
	}
	var added Info
	err := m.change(ctx, func(list []Info) (bool, error) {
		i := slices.IndexFunc(list, func(e Info) bool { return e.URL == peerURL })
		if i < 0 {
			return false, nil
		}
		added = list[i]
		return true, nil
	}, func(ctx context.Context) error {
		r, err := m.client.MemberAddAsLearner(ctx, []string{peerURL})
		if err == nil {
			added = info(r.Member.ID, name, r.Member.PeerURLs, true)
		}
		return err
	})
	if err != nil {
		return Info{}, fmt.Errorf("add member %q: %w", name, err)
	}
	return added, nil
}

// Promote makes a learner a voter, if enough voters would answer afterwards.
// ErrNotCaughtUp says to try again later. A voter stays one.
func (m *Member) Promote(ctx context.Context, id uint64) error {
	err := m.change(ctx, func(list []Info) (bool, error) {
		e, ok := byID(list, id)
		if !ok {
			return false, ErrNoMember
		}
		if !e.Learner {
			return true, nil
		}
		return false, m.survives(ctx, list, func(v Info) bool { return v.ID == id || !v.Learner })
	}, func(ctx context.Context) error {
		_, err := m.client.MemberPromote(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberLearnerNotReady) {
			return ErrNotCaughtUp
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("promote member %x: %w", id, err)
	}
	return nil
}

// Remove takes a member out, if the voters that are left can decide without
// it; one that is gone already is no error. The member ends by itself, this
// one too. To demote a voter is to remove it and to add it as a learner, which
// then starts with an empty folder.
func (m *Member) Remove(ctx context.Context, id uint64) error {
	err := m.change(ctx, func(list []Info) (bool, error) {
		e, ok := byID(list, id)
		if !ok {
			return true, nil
		}
		if e.Learner {
			return false, nil
		}
		return false, m.survives(ctx, list, func(v Info) bool { return v.ID != id && !v.Learner })
	}, func(ctx context.Context) error {
		_, err := m.client.MemberRemove(ctx, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove member %x: %w", id, err)
	}
	return nil
}

// SetURL gives this member its real URL instead of alone's placeholder. The
// node that founds a cluster calls it, closes the member and starts it with
// Peers.
func (m *Member) SetURL(ctx context.Context, peerURL string) error {
	if _, err := parsePeerURL(peerURL); err != nil {
		return fmt.Errorf("set peer URL: %w", err)
	}
	err := m.change(ctx, func(list []Info) (bool, error) {
		e, ok := byID(list, m.ID())
		if !ok {
			return false, ErrNoMember
		}
		return e.URL == peerURL, nil
	}, func(ctx context.Context) error {
		_, err := m.client.MemberUpdate(ctx, m.ID(), []string{peerURL})
		return err
	})
	if err != nil {
		return fmt.Errorf("set peer URL: %w", err)
	}
	return nil
}

// survives makes sure that the voters a change would leave could decide.
func (m *Member) survives(ctx context.Context, list []Info, votes func(Info) bool) error {
	ctx, cancel := context.WithTimeout(ctx, m.patience())
	defer cancel()
	voters, silent := 0, []string{}
	answers := make(chan string)
	for _, v := range list {
		if !votes(v) {
			continue
		}
		voters++
		go func() {
			if v.ID == m.ID() || m.answers(ctx, v.URL) {
				answers <- ""
			} else {
				answers <- v.URL
			}
		}()
	}
	for range voters {
		if u := <-answers; u != "" {
			silent = append(silent, u)
		}
	}
	if voters == 0 || voters-len(silent) < voters/2+1 {
		slices.Sort(silent)
		return fmt.Errorf("%w: %d of %d, silent are %q", ErrUnsafe, voters-len(silent), voters, silent)
	}
	return nil
}

// answers tells whether a member works with the others: it asks for something
// that the other one can only know from the leader.
func (m *Member) answers(ctx context.Context, peerURL string) bool {
	if m.peers == nil {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, peerURL+etcdserver.DowngradeEnabledPath, nil)
	if err != nil {
		return false
	}
	r, err := (&http.Client{Transport: m.peers}).Do(req)
	if err != nil {
		return false
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<10))
	return err == nil && r.StatusCode == http.StatusOK
}

var _ store.Quorum = (*Member)(nil)
