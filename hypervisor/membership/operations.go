package membership

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"joist/cluster/join"
	"joist/cluster/roster"
	"joist/cluster/store"
)

// finish goes on with an operation where it needs the whole daemon.
func (s *Service) finish(ctx context.Context) {
	var r outcome
	if s.driven != nil { // it goes on since the start
		select {
		case r = <-s.driven:
		case <-ctx.Done():
			return
		}
	} else {
		r.next, r.err = s.runner.Run(ctx, join.Open)
	}
	switch {
	case ctx.Err() != nil:
	case r.err != nil:
		s.o.Log.Error("operation of the cluster", "err", r.err)
	case r.next == join.Closed:
		s.askRestart()
	}
}

// begin starts an operation; its first steps need the daemon as it is.
func (s *Service) begin(ctx context.Context, o join.Op) error {
	if err := join.Begin(s.journal, o, s.o.Now()); err != nil {
		return err
	}
	s.driven = nil
	go s.finish(context.WithoutCancel(ctx))
	return nil
}

// Join asks a cluster to let this node in. The request is checked here; how it
// goes on, over a restart of the daemon, shows in Last.
func (s *Service) Join(ctx context.Context, a join.Ask) error {
	if s.id != nil && len(s.book.Nodes()) > 1 {
		return fmt.Errorf("join: %w: leave it first", ErrClustered)
	}
	return s.begin(ctx, join.Op{Kind: join.Join, Ask: &a})
}

// Preview shows what a join would do, and what stands against it. Nothing
// changes on either side.
func (s *Service) Preview(ctx context.Context, a join.Ask) (join.Preview, error) {
	secret, err := join.ParseToken(a.Token)
	if err != nil {
		return join.Preview{}, err
	}
	me, err := s.self()
	if err != nil {
		return join.Preview{}, err
	}
	r, err := machine{s}.Records(ctx)
	if err != nil {
		return join.Preview{}, err
	}
	j := join.Joiner{Client: &join.HTTPS{Addresses: []string{a.Address}, Fingerprint: a.Fingerprint}, Secret: secret, Self: me, Now: s.o.Now}
	return j.Check(ctx, r, a.Renumber)
}

// Leave takes this node out of its cluster; its guests stay with it.
func (s *Service) Leave(ctx context.Context) error {
	if s.id == nil || len(s.book.Nodes()) < 2 && !s.isRemoved() {
		return errors.New("leave: this node is in no cluster with others")
	}
	return s.begin(ctx, join.Op{Kind: join.Leave})
}

// Recover makes this node a cluster of one, with everything its copy holds.
// It is for the case that those who decided are lost for good; as long as the
// cluster can decide it is refused.
func (s *Service) Recover(ctx context.Context) error {
	if s.id == nil {
		return errors.New("recover: this node is in no cluster")
	}
	if !s.isCopy && s.member.AwaitQuorum(ctx) {
		return errors.New("recover: the cluster can decide; remove nodes that are gone instead")
	}
	if s.placeless { // there is nobody left who could give it a place
		if err := s.journal.Remove(); err != nil {
			return err
		}
	}
	return s.begin(ctx, join.Op{Kind: join.Recover})
}

// Cancel calls the operation under way off, where there is a way back.
func (s *Service) Cancel() { s.runner.Cancel() }

// Remove takes a node that is gone out of the cluster, with its guests' keys.
// What is removed is told to say before it happens.
func (s *Service) Remove(ctx context.Context, name string, force bool, say func(format string, args ...any)) error {
	if name == s.o.Name {
		return fmt.Errorf("remove node '%s': this is the node that was asked; use leave", name)
	}
	it, err := s.store.Get(ctx, roster.NodeKey(name))
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("remove node '%s': it does not belong to the cluster", name)
	}
	if err != nil {
		return err
	}
	n, err := roster.DecodeNode(it)
	if err != nil {
		return err
	}
	if s.online(name) {
		return fmt.Errorf("remove node '%s': it is online; run `joist node leave` on it, or switch it off first", name)
	}
	conds, ops := []store.Cond{{Key: it.Key, Rev: it.Rev}}, []store.Op{{Key: it.Key}}
	guests, _, err := s.store.List(ctx, join.GuestPrefix)
	if err != nil {
		return err
	}
	var own []string
	for _, g := range guests {
		r, err := join.ParseGuest(g.Value)
		if err != nil || r.Node != name {
			continue
		}
		own = append(own, fmt.Sprint(r.VMID))
		say("configuration of guest %d of node %s: %s", r.VMID, name, g.Value)
		conds, ops = append(conds, store.Cond{Key: g.Key, Rev: g.Rev}), append(ops, store.Op{Key: g.Key})
	}
	if len(own) > 0 && !force {
		return fmt.Errorf("remove node '%s': it has the guests %s; with force=1 their configurations go too, and are kept in this task's log", name, strings.Join(own, ", "))
	}
	if _, err := s.store.Txn(ctx, conds, ops...); err != nil {
		return fmt.Errorf("remove node '%s': %w", name, err)
	}
	return s.evict(ctx, n)
}
