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

// under is the operation that this daemon is driving.
type under struct {
	stop  context.CancelFunc
	ended chan struct{}
}

// launch goes on with the operation under way, beside everything else: with
// the Run that began before the store was open, or with a new one.
func (s *Service) launch(d *driving) {
	ctx, stop := context.WithCancel(s.life)
	u := under{stop, make(chan struct{})}
	s.mu.Lock()
	s.under = u
	s.mu.Unlock()
	if d != nil {
		context.AfterFunc(ctx, d.stop)
	}
	go func() {
		defer close(u.ended)
		defer stop()
		s.finish(ctx, d)
	}()
}

// drop stops driving the operation under way and forgets it.
func (s *Service) drop(ctx context.Context) error {
	s.mu.Lock()
	u := s.under
	s.mu.Unlock()
	if u.stop != nil {
		u.stop()
		select {
		case <-u.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.journal.Remove()
}

// finish goes on with an operation where it needs the whole daemon.
func (s *Service) finish(ctx context.Context, d *driving) {
	var next join.Place
	var err error
	if d != nil {
		<-d.ended
		next, err = d.next, d.err
	} else {
		next, err = s.runner.Run(ctx, join.Open)
	}
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, context.Canceled): // it was stopped while it went on after all
		s.askRestart()
	case err != nil:
		s.o.Log.Error("operation of the cluster", "err", err)
	case next == join.Closed:
		s.askRestart()
	}
}

// begin starts an operation; its first steps need the daemon as it is.
func (s *Service) begin(o join.Op) error {
	if err := s.beginOp(o); err != nil {
		return err
	}
	s.launch(nil)
	return nil
}

// beginOp notes an operation, one at a time.
func (s *Service) beginOp(o join.Op) error {
	s.beginning.Lock()
	defer s.beginning.Unlock()
	if err := join.Begin(s.journal, o, s.o.Now()); err != nil {
		return err
	}
	o.State = join.Asked
	s.changed(o, nil) // or who asks now would be told how the last one ended
	return nil
}

// Join asks a cluster to let this node in. The request is checked here; how it
// goes on, over a restart of the daemon, shows in Last.
func (s *Service) Join(a join.Ask) error {
	if s.id != nil && len(s.book.Nodes()) > 1 {
		return fmt.Errorf("join: %w: leave it first", ErrClustered)
	}
	return s.begin(join.Op{Kind: join.Join, Ask: &a})
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
	if !s.isRemoved() && (s.isCopy || !s.member.AwaitQuorum(ctx)) {
		if !s.removed(ctx) {
			return errors.New("leave: the cluster has no quorum and cannot let this node go: bring its nodes back, or run `joist node recover` if those that decide are lost for good")
		}
		if err := s.noteRemoval(); err != nil {
			return fmt.Errorf("leave: %w", err)
		}
	}
	return s.begin(join.Op{Kind: join.Leave})
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
	if s.isRemoved() || s.removed(ctx) {
		return errors.New("recover: the cluster is there and has removed this node: run `joist node leave`, its guests stay with it")
	}
	// What waits for a cluster that nobody will bring back has come to nothing.
	o, err := s.journal.Load()
	if err != nil {
		return err
	}
	switch {
	case o == nil:
	case s.placeless, o.Kind == join.Leave && o.State == join.Exported, o.Kind == join.Join && o.State == join.CaughtUp:
		if err := s.drop(ctx); err != nil {
			return fmt.Errorf("recover: %w", err)
		}
	}
	return s.begin(join.Op{Kind: join.Recover})
}

// Cancel calls the operation under way off, where there is a way back.
func (s *Service) Cancel() { s.runner.Cancel() }

// Remove takes a node that is gone out of the cluster, with its guests' keys.
// What is removed is told to say before it happens.
func (s *Service) Remove(ctx context.Context, name string, force bool, say func(format string, args ...any)) error {
	if name == s.o.Name {
		return fmt.Errorf("remove node '%s': this is the node that was asked; use leave", name)
	}
	var n roster.Node
	it, err := s.store.Get(ctx, roster.NodeKey(name))
	known := err == nil
	if known {
		n, err = roster.DecodeNode(it)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if s.there(ctx, name) {
		return fmt.Errorf("remove node '%s': it is online; run `joist node leave` on it, or switch it off first", name)
	}
	conds, ops := []store.Cond{{Key: roster.NodeKey(name), Rev: it.Rev}}, []store.Op{}
	if known {
		ops = append(ops, store.Op{Key: it.Key})
	}
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
	if !known && len(own) == 0 {
		return fmt.Errorf("remove node '%s': it does not belong to the cluster", name)
	}
	if len(own) > 0 && !force {
		return fmt.Errorf("remove node '%s': it has the guests %s; with force=1 their configurations go too, and are kept in this task's log", name, strings.Join(own, ", "))
	}
	if _, err := s.store.Txn(ctx, conds, ops...); err != nil {
		return fmt.Errorf("remove node '%s': %w", name, err)
	}
	if !known { // only its guests were left, from before a recovery
		return nil
	}
	return s.evict(ctx, n)
}

// there reports whether a node answers. A daemon that has just begun has not
// heard of anybody yet, so that it tries.
func (s *Service) there(ctx context.Context, name string) bool {
	if s.online(name) {
		return true
	}
	if _, ok := s.book.Node(name); !ok || s.client == nil {
		return false
	}
	c, err := s.client.Dial(ctx, name)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
