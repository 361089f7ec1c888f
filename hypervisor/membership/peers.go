package membership

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"

	"joist/api/node"
	"joist/cluster/join"
	"joist/cluster/member"
	"joist/cluster/peer"
	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/cluster/store"
	"joist/hypervisor/control"
	"joist/internal/finding"
)

// Calls between nodes. Each is answered for the node whose certificate asks;
// none takes a node's name from a message.
const (
	pathAdd    = "/joist/v1/peer/member/add"
	pathDone   = "/joist/v1/peer/member/done"
	pathLeave  = "/joist/v1/peer/member/leave"
	pathSeal   = "/joist/v1/peer/seal"
	pathHold   = "/joist/v1/peer/seal/hold" // asks a voter to get the seal, now
	pathRenew  = "/joist/v1/peer/renew"
	pathStatus = "/joist/v1/join/status" // for a node that may have been removed
)

// standing is the answer to pathStatus.
type standing struct {
	Cluster string       `json:"cluster"`
	Known   bool         `json:"known"`
	State   roster.State `json:"state,omitempty"`
}

// peers is what operations ask of other nodes.
type peers struct{ *Service }

// Finish implements join.Peers.
func (p peers) Finish(ctx context.Context, _ join.Op) error {
	err := p.anybody(ctx, pathDone, struct{}{}, nil)
	if errors.Is(err, join.ErrUnreachable) && p.removed(ctx) {
		return refuse("removed", "join again", "the cluster has called the join of this node off")
	}
	return err
}

// Release implements join.Peers.
func (p peers) Release(ctx context.Context, o join.Op) error {
	if p.isRemoved() {
		return nil // there is nobody left to tell
	}
	err := p.anybody(ctx, pathLeave, o.Exported, nil)
	if errors.Is(err, join.ErrUnreachable) && p.removed(ctx) {
		return nil // it was let go, and the answer was lost
	}
	return err
}

// Rejoin implements join.Peers.
func (p peers) Rejoin(ctx context.Context, o *join.Op) error {
	var m member.Info
	err := p.anybody(ctx, pathAdd, struct{}{}, &m)
	if errors.Is(err, join.ErrUnreachable) && p.removed(ctx) {
		if err := p.noteRemoval(); err != nil {
			return err
		}
		return refuse("removed", "run `joist node leave`: its guests stay with it", "this node was removed from the cluster")
	}
	o.MemberID = strconv.FormatUint(m.ID, 16)
	return err
}

// noteRemoval keeps for good that the cluster has no place for this node.
func (s *Service) noteRemoval() error { return node.WriteFile(s.id.Path(removedFile), 0o600, nil) }

// askForPlace gets this node's member a place among the others'.
func (s *Service) askForPlace(ctx context.Context) error {
	var m member.Info
	return peers{s}.anybody(ctx, pathAdd, struct{}{}, &m)
}

// anybody asks one node after the other until one has an answer.
func (p peers) anybody(ctx context.Context, path string, in, out any) error {
	err := join.ErrUnreachable
	var all []error
	if p.client == nil {
		return err
	}
	for _, n := range p.book.Nodes() {
		if n.Name == p.o.Name {
			continue
		}
		err := p.ask(ctx, n.Name, path, in, out)
		var no *join.Refused
		if err == nil || errors.As(err, &no) && !no.Has("elsewhere") {
			return err
		}
		all = append(all, err)
	}
	return fmt.Errorf("%w: %w", err, errors.Join(all...))
}

// ask is one call of one node.
func (p peers) ask(ctx context.Context, name, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := p.client.RoundTrip(name, r)
	if err != nil {
		return fmt.Errorf("%w: %w", join.ErrUnreachable, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return fmt.Errorf("%w: %w", join.ErrUnreachable, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if out == nil {
			return nil
		}
		return json.Unmarshal(text, out)
	case http.StatusConflict:
		var l finding.List
		if err := json.Unmarshal(text, &l); err != nil {
			return err
		}
		return &join.Refused{Findings: l}
	}
	return fmt.Errorf("%w: node %s: %s: %s", join.ErrUnreachable, name, resp.Status, bytes.TrimSpace(text))
}

// removed asks whether the cluster still knows this node. Only an answer with
// the cluster's certificate counts.
func (s *Service) removed(ctx context.Context) bool {
	leaf, err := s.id.Certificate()
	if err != nil {
		return false
	}
	for _, n := range s.book.Nodes() {
		if n.Name == s.o.Name {
			continue
		}
		var st standing
		c := &join.HTTPS{Fingerprint: pki.Fingerprint(s.id.CA())}
		for _, a := range s.book.Addresses(n.Name) {
			c.Addresses = append(c.Addresses, net.JoinHostPort(a, strconv.Itoa(s.o.APIPort)))
		}
		err := c.Ask(ctx, pathStatus, map[string]string{"node": s.o.Name, "key_sha256": peer.KeySHA256(leaf)}, &st)
		if err == nil && st.Cluster == s.book.Cluster().ID {
			return !st.Known
		}
	}
	return false
}

// Handler serves other nodes and joiners, everything below /joist/.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	if s.id == nil {
		return mux
	}
	mux.Handle("/joist/v1/join/", s.voter.Handler())
	mux.HandleFunc("POST "+pathStatus, s.serveStatus)
	mux.Handle("GET "+peer.LivePath, s.ofMember(s.serveLive))
	serve(mux, s, pathAdd, func(ctx context.Context, node string, _ struct{}) (member.Info, error) { return s.place(ctx, node) })
	serve(mux, s, pathDone, func(ctx context.Context, node string, _ struct{}) (struct{}, error) {
		return struct{}{}, s.voter.Done(ctx, node, s.keyOf(node))
	})
	serve(mux, s, pathLeave, func(ctx context.Context, node string, exported []join.Revision) (struct{}, error) {
		return struct{}{}, s.release(ctx, node, exported)
	})
	serve(mux, s, pathSeal, func(_ context.Context, node string, _ struct{}) ([]byte, error) { return s.giveSeal(node) })
	serve(mux, s, pathHold, func(ctx context.Context, _ string, _ struct{}) (struct{}, error) { return struct{}{}, s.holdSeal(ctx) })
	serve(mux, s, pathRenew, func(ctx context.Context, node string, csr []byte) ([]byte, error) { return s.renewFor(ctx, node, csr) })
	return mux
}

// keyOf is the sum of a node's key as the roster has it; whoever has a
// connection under that name has proved to hold the key.
func (s *Service) keyOf(node string) string {
	n, _ := s.book.Node(node)
	return n.KeySHA256
}

// ofMember lets nodes of the cluster through and notes where they are.
func (s *Service) ofMember(f func(w http.ResponseWriter, r *http.Request, node string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "for nodes of the cluster", http.StatusForbidden)
			return
		}
		node, err := peer.NodeOf(r.TLS.PeerCertificates[0])
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		if !s.belongs(node, r) { // since the handshake it was removed
			http.Error(w, "node "+node+" does not belong to the cluster", http.StatusForbidden)
			return
		}
		s.book.Seen(node, remote(r))
		f(w, r, node)
	})
}

// belongs reports whether who is at the connection's other end is in the
// roster still.
func (s *Service) belongs(node string, r *http.Request) bool {
	return s.book.Allowed(node, peer.KeySHA256(r.TLS.PeerCertificates[0]))
}

// serveLive streams this node's status to another, until that is removed.
func (s *Service) serveLive(w http.ResponseWriter, r *http.Request, node string) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		for {
			changed := s.book.Changed()
			if !s.belongs(node, r) {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	s.feed.ServeHTTP(w, r.WithContext(ctx))
}

// serve adds one call with a body and an answer of JSON.
func serve[In, Out any](mux *http.ServeMux, s *Service, path string, f func(ctx context.Context, node string, in In) (Out, error)) {
	mux.Handle("POST "+path, s.ofMember(func(w http.ResponseWriter, r *http.Request, node string) {
		var in In
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 8<<20)).Decode(&in); err != nil {
			http.Error(w, "read request: "+err.Error(), http.StatusBadRequest)
			return
		}
		// What was begun is finished, whether or not the other side waits.
		out, err := f(context.WithoutCancel(r.Context()), node, in)
		s.answer(w, path, node, out, err)
	}))
}

func (s *Service) answer(w http.ResponseWriter, path, node string, out any, err error) {
	status := http.StatusOK
	var no *join.Refused
	switch {
	case err == nil:
	case errors.As(err, &no):
		status, out = http.StatusConflict, no.Findings
	case errors.Is(err, store.ErrNoQuorum):
		http.Error(w, "the cluster has no quorum", http.StatusServiceUnavailable)
		return
	default:
		s.o.Log.Warn("answer another node", "call", path, "node", node, "err", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(out); err != nil {
		s.o.Log.Info("answer another node: it did not get through", "call", path, "node", node, "err", err)
	}
}

func (s *Service) serveStatus(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Node string `json:"node"`
		Key  string `json:"key_sha256"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&in); err != nil {
		http.Error(w, "read request: "+err.Error(), http.StatusBadRequest)
		return
	}
	// The store itself, with a quorum: an old copy must not send a member away.
	st := standing{Cluster: s.book.Cluster().ID}
	it, err := store.NewEtcd(s.member.Client(), store.WithQuorum(s.member)).Get(r.Context(), roster.NodeKey(in.Node))
	switch {
	case err == nil:
		n, err := roster.DecodeNode(it)
		st.Known, st.State = err == nil && n.KeySHA256 == in.Key, n.State
	case !errors.Is(err, store.ErrNotFound):
		http.Error(w, "the cluster has no quorum", http.StatusServiceUnavailable)
		return
	}
	s.answer(w, pathStatus, in.Node, st, nil)
}

func refuse(code, hint, format string, args ...any) error {
	var l finding.List
	l.Stopf(code, "", hint, format, args...)
	return &join.Refused{Findings: l}
}

// place gives a node's member its place, as a learner, and notes its id. One
// that is there already is returned as it is, unless the node says by asking
// for a place that it has lost its data: a voter would not ask.
func (s *Service) place(ctx context.Context, node string) (member.Info, error) {
	n, ok := s.book.Node(node)
	if !ok {
		return member.Info{}, refuse("removed", "join again", "node %s does not belong to the cluster", node)
	}
	list, err := s.member.Members(ctx)
	if err != nil {
		return member.Info{}, err
	}
	if m, ok := s.findMember(list, node); ok && m.Name != "" {
		// It was started before under this id; that data is gone.
		if err := s.member.Remove(ctx, m.ID); err != nil {
			return member.Info{}, err
		}
	}
	m, err := s.member.AddLearner(ctx, node, roster.PeerURL(node))
	if err != nil {
		return member.Info{}, err
	}
	n.MemberID = strconv.FormatUint(m.ID, 16)
	return m, s.editNode(ctx, node, func(e *roster.Node) { e.MemberID = n.MemberID })
}

// editNode changes a node's entry.
func (s *Service) editNode(ctx context.Context, name string, change func(*roster.Node)) error {
	for {
		it, err := s.store.Get(ctx, roster.NodeKey(name))
		if err != nil {
			return err
		}
		n, err := roster.DecodeNode(it)
		if err != nil {
			return err
		}
		change(&n)
		if bytes.Equal(n.Encode(), it.Value) {
			return nil
		}
		_, err = s.store.Txn(ctx, []store.Cond{{Key: it.Key, Rev: it.Rev}}, store.Op{Key: it.Key, Value: n.Encode()})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// release lets a node go: first the others get able to decide without it, then
// its member goes, then its keys. It can be cut off and repeated anywhere.
//
// What the node has put by is compared first: without its member it can change
// nothing any more, and nobody else changes its guests.
func (s *Service) release(ctx context.Context, node string, exported []join.Revision) error {
	if err := s.unchanged(ctx, node, exported); err != nil {
		return err
	}
	if err := s.succeed(ctx, node); err != nil {
		return err
	}
	return s.voter.Leave(ctx, node, s.keyOf(node), exported)
}

// unchanged refuses a leave whose export is older than the guests, as
// join.Voter's Leave does.
func (s *Service) unchanged(ctx context.Context, node string, exported []join.Revision) error {
	items, _, err := s.store.List(ctx, control.Prefix)
	if err != nil {
		return err
	}
	for _, it := range items {
		g, err := join.ParseGuest(it.Value)
		if err == nil && g.Node == node && !slices.Contains(exported, join.Revision{Key: it.Key, Rev: it.Rev}) {
			return refuse("guests-changed", "export the guests again", "guest %d has changed since it was exported", g.VMID)
		}
	}
	return nil
}

// succeed removes a node's member, after a learner was made a voter where the
// others could not decide otherwise.
func (s *Service) succeed(ctx context.Context, node string) error {
	list, err := s.member.Members(ctx)
	if err != nil {
		return err
	}
	leaver, ok := s.findMember(list, node)
	if !ok {
		return nil
	}
	if len(list) == 1 {
		return nil // Leave says why that cannot be
	}
	if !leaver.Learner {
		if err := s.substitute(ctx, list, leaver); err != nil {
			return err
		}
		if err := s.handSealOver(ctx, leaver.ID); err != nil {
			return err
		}
	}
	return s.member.Remove(ctx, leaver.ID)
}

// substitute makes a learner that is there a voter if the voters would be even
// or none without the leaver.
func (s *Service) substitute(ctx context.Context, list []member.Info, leaver member.Info) error {
	votes := 0
	for _, m := range list {
		if !m.Learner && m.ID != leaver.ID {
			votes++
		}
	}
	if votes%2 == 1 {
		return nil
	}
	for _, m := range list {
		if m.Learner && s.online(m.Name) {
			err := s.member.Promote(ctx, m.ID)
			if err == nil || !errors.Is(err, member.ErrNotCaughtUp) {
				return err
			}
		}
	}
	if votes == 0 {
		return refuse("no-voter", "wait until another node is there, then try again", "no other node could decide without %s", leaver.Name)
	}
	return nil
}

// handSealOver makes sure that a voter other than the one that is about to
// lose its vote holds the key to the authority: with the last holder the
// cluster would lose the power to admit nodes and to renew certificates.
func (s *Service) handSealOver(ctx context.Context, leaver uint64) error {
	list, err := s.member.Members(ctx)
	if err != nil {
		return err
	}
	var all []error
	for _, m := range list {
		if m.Learner || m.ID == leaver {
			continue
		}
		name, ok := nodeOfURL(m.URL)
		if !ok {
			continue
		}
		if name == s.o.Name {
			err = s.holdSeal(ctx)
		} else {
			err = peers{s}.ask(ctx, name, pathHold, struct{}{}, nil)
		}
		if err == nil {
			return nil
		}
		all = append(all, err)
	}
	s.o.Log.Warn("hand the key to the authority over", "err", errors.Join(all...))
	return refuse("seal-held", "try again when all nodes that decide are there", "no other node that decides could get the key to the cluster's authority")
}

// holdSeal returns when this node, a voter, holds the seal.
func (s *Service) holdSeal(ctx context.Context) error {
	if !s.votes(s.o.Name) {
		return refuse("not-voter", "", "node %s does not vote", s.o.Name)
	}
	return s.keepSeal(ctx)
}

func (s *Service) giveSeal(node string) ([]byte, error) {
	if !s.votes(node) {
		return nil, refuse("not-voter", "", "node %s does not vote", node)
	}
	b, err := s.heldSeal()
	if errors.Is(err, os.ErrNotExist) {
		return nil, refuse("elsewhere", "", "node %s does not have it", s.o.Name)
	}
	return b, err
}

// renewFor signs a node's key anew. The key stays: the roster knows the node
// by it.
func (s *Service) renewFor(ctx context.Context, node string, csr []byte) ([]byte, error) {
	pub, err := pki.CheckRequest(csr, node)
	if err != nil {
		return nil, err
	}
	if sum, err := pki.KeySum(pub); err != nil || sum != s.keyOf(node) {
		return nil, refuse("other-key", "join again", "the roster knows node %s by another key", node)
	}
	a, err := s.authority(ctx)
	if errors.Is(err, join.ErrNotVoter) {
		return nil, refuse("elsewhere", "", "node %s does not hold the authority", s.o.Name)
	}
	if err != nil {
		return nil, err
	}
	return a.Issue(csr, node, s.o.Now())
}
