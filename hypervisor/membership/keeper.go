package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"joist/api/node"
	"joist/cluster/join"
	"joist/cluster/member"
	"joist/cluster/peer"
	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/cluster/store"
)

const (
	lookEvery    = 3 * time.Second // after members, roster, the seal
	janitorEvery = time.Minute
	renewEvery   = time.Hour
	renewAgain   = 30 * time.Second // after a try that failed: whoever can sign was away
)

// Start begins everything that goes on as long as the daemon runs. Guests
// answers what operations ask about the rest of the node.
func (s *Service) Start(ctx context.Context, g Guests) {
	s.guests, s.life = g, ctx
	if s.id != nil {
		strict := store.NewEtcd(s.member.Client(), store.WithQuorum(s.member))
		s.voter = &join.Voter{Store: strict, Authority: s.authority, Node: s.o.Name, Version: s.o.Version, StoreProg: member.Version(), Now: s.o.Now, Log: s.o.Log,
			Seen: func(n string) time.Time { return s.watch.State(n).At }, Evict: s.evict}
		go s.book.Follow(ctx, s.store)
		go s.watch.Run(ctx)
		go s.keepHosts(ctx)
		go s.keep(ctx)
		go s.keepCertificate(ctx)
		a := peer.Announcer{Book: s.book, Identity: s.id, Interface: s.o.Interface, Addresses: s.o.Addresses,
			Missing: func() bool { return len(s.watch.Away()) > 0 }, Changed: func([]string) {}, Log: s.o.Log}
		go a.Run(ctx)
	}
	if s.placeless {
		go s.awaitOthers(ctx)
	} else {
		s.launch(s.driven)
	}
	go s.watchRemoval(ctx)
}

// awaitOthers begins anew as soon as somebody is there who can give this
// node's member a place, or say that there is none.
func (s *Service) awaitOthers(ctx context.Context) {
	for {
		for _, n := range s.book.Nodes() {
			if n.Name == s.o.Name {
				continue
			}
			c, err := s.client.Dial(ctx, n.Name)
			if err == nil {
				c.Close()
			}
			if err == nil || s.removed(ctx) {
				s.askRestart()
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
	}
}

// evict removes the store's member of a node.
func (s *Service) evict(ctx context.Context, n roster.Node) error {
	list, err := s.member.Members(ctx)
	if err != nil {
		return err
	}
	if m, ok := s.findMember(list, n.Name); ok {
		return s.member.Remove(ctx, m.ID)
	}
	return nil
}

// online reports whether a node is there; this one is.
func (s *Service) online(name string) bool {
	return name == s.o.Name || s.watch != nil && s.watch.State(name).Online
}

// keepHosts writes the names of peers whenever they change.
func (s *Service) keepHosts(ctx context.Context) {
	for {
		changed := s.book.Changed()
		if err := s.writeHosts(); err != nil {
			s.o.Log.Warn("write names of nodes", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// keep looks after members, roster and seal until ctx ends.
func (s *Service) keep(ctx context.Context) {
	if s.isCopy { // there is nothing to look after, and nobody to decide
		return
	}
	var swept time.Time
	for {
		s.keepSelf(ctx)
		if s.member.IsLeader() {
			if err := s.seat(ctx); err != nil {
				s.o.Log.Warn("look after the members of the store", "err", err)
			}
			if time.Since(swept) > janitorEvery {
				swept = time.Now()
				if err := s.voter.Janitor(ctx); err != nil {
					s.o.Log.Warn("look for broken joins", "err", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
	}
}

// keepSelf keeps this node's own entry true: where it is, which Joist it runs;
// and its part of the secret true to whether it votes.
func (s *Service) keepSelf(ctx context.Context) {
	if !s.member.Quorate(ctx) {
		return
	}
	if err := s.refound(ctx); err != nil {
		s.o.Log.Warn("finish making the cluster", "err", err)
	}
	err := s.editNode(ctx, s.o.Name, func(n *roster.Node) {
		if a := s.o.Addresses(); len(a) > 0 {
			n.Addresses = a
		}
		n.Version = s.o.Version
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil {
		s.o.Log.Warn("keep this node's entry", "err", err)
	}
	if err := s.keepSeal(ctx); err != nil && ctx.Err() == nil {
		s.o.Log.Warn("get the key to the cluster's authority", "err", err)
	}
}

// refound finishes a founding that was cut off between its folder and its
// keys, and gives the member its name where that is missing.
func (s *Service) refound(ctx context.Context) error {
	if m, ok := s.findMember(s.member.LocalMembers(), s.o.Name); !ok || m.URL == "" {
		if err := s.member.SetURL(ctx, roster.PeerURL(s.o.Name)); err != nil {
			return err
		}
	}
	if _, err := s.store.Get(ctx, roster.ClusterKey); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	// Nobody has joined yet: a new cluster is as good as the one that was cut.
	s.o.Log.Warn("making the cluster was cut off; beginning anew")
	if err := os.RemoveAll(s.files.path(idDir)); err != nil {
		return err
	}
	s.askRestart()
	return nil
}

// keepSeal fetches the key to the authority when this node has become a
// voter, and forgets it when it is none any more.
func (s *Service) keepSeal(ctx context.Context) error {
	file := s.files.path(idDir, sealFile)
	votes := s.votes(s.o.Name)
	switch have := exists(file); {
	case votes && !have:
		var seal []byte
		if err := (peers{s}).anybody(ctx, pathSeal, struct{}{}, &seal); err != nil {
			return err
		}
		return node.WriteFile(file, 0o600, seal)
	case !votes && have:
		return os.Remove(file)
	}
	return nil
}

// seat brings the members of the store one step nearer to what they should
// be: those of nodes, and an odd number of them voting.
func (s *Service) seat(ctx context.Context) error {
	list, err := s.member.Members(ctx)
	if err != nil {
		return err
	}
	items, _, err := s.store.List(ctx, roster.NodePrefix)
	if err != nil {
		return err
	}
	known := map[string]string{} // URL → name
	for _, it := range items {
		n, err := roster.DecodeNode(it)
		if err != nil {
			return err
		}
		known[roster.PeerURL(n.Name)] = n.Name
	}
	var seats []member.Seat
	for _, m := range list {
		name, ok := known[m.URL]
		if !ok && m.ID != s.member.ID() {
			s.o.Log.Warn("a member of the store belongs to no node", "url", m.URL)
			return s.member.Remove(ctx, m.ID)
		}
		online, since := s.presence(name)
		seats = append(seats, member.Seat{Name: name, MemberID: m.ID, Learner: m.Learner, Leader: m.ID == s.member.ID(),
			Online: online, OfflineSince: since, CaughtUp: m.Name != ""})
	}
	change, ok := member.Next(seats, s.o.Now())
	if !ok {
		return nil
	}
	s.o.Log.Info("members of the store change", "do", change.Kind, "node", change.Seat.Name)
	switch change.Kind {
	case member.Promote:
		err = s.member.Promote(ctx, change.Seat.MemberID)
		if errors.Is(err, member.ErrNotCaughtUp) {
			return nil // the next look is soon
		}
		if err == nil { // not when it next looks: until then one loss would be too many
			err = peers{s}.ask(ctx, change.Seat.Name, pathHold, struct{}{}, nil)
		}
		return err
	default:
		if err := s.handSealOver(ctx, change.Seat.MemberID); err != nil {
			return err
		}
		if err := s.member.Remove(ctx, change.Seat.MemberID); err != nil {
			return err
		}
		_, err := s.member.AddLearner(ctx, change.Seat.Name, roster.PeerURL(change.Seat.Name))
		return err
	}
}

// presence is whether a node is online, else since when it is not, as far as
// this daemon has seen.
func (s *Service) presence(name string) (bool, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.online(name) {
		delete(s.lost, name)
		return true, time.Time{}
	}
	if s.lost[name].IsZero() {
		s.lost[name] = s.o.Now()
	}
	return false, s.lost[name]
}

// keepCertificate renews the node's certificate in the last third of its life.
func (s *Service) keepCertificate(ctx context.Context) {
	for said := ""; ; {
		pause := renewEvery
		if err := s.renew(ctx); err != nil && ctx.Err() == nil {
			pause = renewAgain
			if err.Error() != said {
				said = err.Error()
				s.o.Log.Warn("renew this node's certificate", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (s *Service) renew(ctx context.Context) error {
	cert, err := s.id.Certificate()
	if err != nil || !pki.RenewDue(cert, s.o.Now()) {
		return err
	}
	text, err := os.ReadFile(s.id.Path(peer.KeyFile))
	if err != nil {
		return err
	}
	key, err := pki.DecodeKey(text)
	if err != nil {
		return err
	}
	csr, err := pki.NewRequest(key, s.o.Name)
	if err != nil {
		return err
	}
	der, err := s.renewFor(ctx, s.o.Name, csr)
	var no *join.Refused
	if errors.As(err, &no) && no.Has("elsewhere") {
		err = peers{s}.anybody(ctx, pathRenew, csr, &der)
	}
	if err != nil {
		return fmt.Errorf("it ends on %s: %w", cert.NotAfter.Format(time.DateOnly), err)
	}
	return node.WriteFile(s.id.Path(peer.CertFile), 0o600, pki.EncodeCert(der))
}

// watchRemoval turns a member that was removed into a learner, if the cluster
// still has a place for this node.
func (s *Service) watchRemoval(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-s.member.Failed():
	}
	if !s.member.Removed() || s.isRemoved() {
		return // the daemon notices and begins anew
	}
	for ; ; sleep(ctx, lookEvery) {
		if o, err := s.journal.Load(); ctx.Err() != nil || err != nil {
			return
		} else if o != nil {
			continue // it is on its way out, unless that comes to nothing
		}
		s.o.Log.Warn("this node's member was removed from the store")
		if err := s.beginOp(join.Op{Kind: join.Demote}); err != nil {
			s.o.Log.Error("come back as a learner", "err", err)
			continue
		}
		s.askRestart()
		return
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Broken is closed when the store has ended and the daemon cannot go on: a
// member that was removed is no such case.
func (s *Service) Broken(ctx context.Context) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
		case <-s.member.Failed():
			if !s.member.Removed() {
				close(out)
			}
		}
	}()
	return out
}

// Quorum says why the cluster cannot decide right now, in a sentence that goes
// to whoever wanted a change.
func (s *Service) Quorum() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.busy(); err != nil {
		return err
	}
	if s.id == nil || !s.isCopy && s.member.Quorate(ctx) {
		return nil
	}
	if s.isRemoved() {
		return fmt.Errorf("this node was removed from cluster %s: run `joist node leave` to go on alone with its guests", s.book.Cluster().Name)
	}
	away := s.watch.Away()
	slices.Sort(away)
	if s.isCopy {
		return fmt.Errorf("the cluster has no quorum: nobody is there who decides (away: %s); guests and reads go on, changes wait for them", strings.Join(away, ", "))
	}
	voters, there := 0, 0
	for _, m := range s.member.LocalMembers() {
		if m.Learner {
			continue
		}
		voters++
		if name, ok := nodeOfURL(m.URL); ok && s.online(name) {
			there++
		}
	}
	return fmt.Errorf("the cluster has no quorum: %d of %d nodes that decide answer (away: %s); guests and reads go on, changes wait for them",
		there, voters, strings.Join(away, ", "))
}

// AwaitQuorum returns when the cluster can decide.
func (s *Service) AwaitQuorum(ctx context.Context) error {
	for s.isCopy || !s.member.AwaitQuorum(ctx) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return nil
}

// Publish tells the other nodes how this one is.
func (s *Service) Publish(status json.RawMessage) { s.feed.Publish(status) }

// nodeOfURL is the node whose member has that URL.
func nodeOfURL(url string) (string, bool) {
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, ":")
	return strings.CutSuffix(host, "."+roster.Domain)
}

func remote(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr()
}
