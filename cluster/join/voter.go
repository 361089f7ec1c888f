package join

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/cluster/store"
	"joist/internal/finding"
)

const (
	// maxTxnBytes stays below what a member takes in one request (1.5 MiB).
	maxTxnBytes = 1 << 20

	maxWrong   = 5               // wrong proofs before a token is void
	maxPending = 32              // hellos that wait for their commit
	helloLife  = 5 * time.Minute // how long one does
	nonceSize  = 32
	conflicts  = 16 // tries of a transaction that others get in the way of
)

// ErrNotVoter is what Voter.Authority returns on a node that does not hold the
// authority's key.
var ErrNotVoter = errors.New("this node does not hold the cluster's authority")

// Voter answers joiners. It belongs to a node that holds the authority's key;
// all it remembers outside the store are hellos of the last minutes.
type Voter struct {
	Store     store.Store
	Authority func(context.Context) (*pki.Authority, error) // ErrNotVoter where there is none
	Node      string                                        // this node
	Version   string                                        // of Joist
	StoreProg string                                        // version of the store's program
	Now       func() time.Time
	Log       *slog.Logger

	// Seen says when a node was last heard, the zero time for never. Nil:
	// nobody ever is.
	Seen func(node string) time.Time
	// Evict removes the store member of a node whose keys are gone; it is no
	// error if there is none. Nil: there are no members. Should it fail, the
	// member is a stranger to the roster, which is what the leader looks for.
	Evict func(ctx context.Context, n roster.Node) error
	// Vet lets those who know what records mean refuse them. Nil: all pass.
	Vet func(Records) finding.List

	mu      sync.Mutex
	pending map[string]waiting // by token id and nonce
	wrong   map[string]int     // proofs by token id
}

// Hello answers a joiner's first message: proves that this side knows the
// token, and says all that stands against the join. Nothing changes.
func (v *Voter) Hello(ctx context.Context, s Signed) (Signed, error) {
	h, err := open[Hello](s)
	if err != nil || len(h.Nonce) != nonceSize || !validTokenID(h.TokenID) {
		return Signed{}, malformed(err)
	}
	t, _, err := v.token(ctx, h.TokenID)
	if err != nil {
		return Signed{}, err
	}
	if !hmac.Equal(s.Proof, proof(t.Key, proveHello, s.Message)) {
		return Signed{}, v.wrongProof(ctx, t)
	}
	reply, w, err := v.hear(ctx, t, h)
	if err != nil {
		return Signed{}, err
	}
	answer := seal(t.Key, proveVoter, reply, s.Message)
	w.transcript = digest(s.Message, answer.Message)
	v.remember(t.ID, w)
	return answer, nil
}

// hear makes the answer to a hello whose proof was right.
func (v *Voter) hear(ctx context.Context, t Token, h Hello) (HelloReply, waiting, error) {
	now := v.Now()
	pub, err := pki.CheckRequest(h.CSR, h.Name)
	if err != nil {
		return HelloReply{}, waiting{}, refuse("request-invalid", "csr", "report this: the joiner makes it by itself", "%v", err)
	}
	key, err := pki.KeySum(pub)
	if err != nil {
		return HelloReply{}, waiting{}, err
	}
	if r := checkToken(t, key, h.Name, now); r != nil {
		return HelloReply{}, waiting{}, r
	}
	a, err := v.authority(ctx)
	if err != nil {
		return HelloReply{}, waiting{}, err
	}
	if ours := pki.Fingerprint(a.Certificate().Raw); h.Authority != ours {
		return HelloReply{}, waiting{}, refuse("man-in-the-middle", "authority", "find out who answers at the address that was given",
			"somebody stands between: the joiner sees the authority %s, ours is %s", h.Authority, ours)
	}
	st, err := v.read(ctx)
	if err != nil {
		return HelloReply{}, waiting{}, err
	}
	w := waiting{hello: h, key: key, at: now, findings: checkClock(h.Time, now)}
	reply := HelloReply{Nonce: nonce(), Time: now, Cluster: st.cluster, Node: v.Node, Findings: finding.List{}, Clashes: []Clash{}, Taken: []int{}}
	if t.Bound == key {
		n, ok := st.node(h.Name)
		if !ok || n.KeySHA256 != key {
			return HelloReply{}, waiting{}, gone(h.Name)
		}
		reply.Committed, w.findings = true, nil
		return reply, w, nil
	}
	r, err := parseRecords(h.Guests, h.Storages)
	if err != nil {
		return HelloReply{}, waiting{}, malformed(err)
	}
	reply.Clashes, reply.Taken = clashes(st, r), st.taken()
	reply.Findings = append(reply.Findings, slices.Concat(w.findings, v.check(st, h, r))...)
	return reply, w, nil
}

// check is everything but clocks and VMIDs.
func (v *Voter) check(st state, h Hello, r Records) finding.List {
	list := slices.Concat(checkNode(st, h), checkVersions(h, v.Version, v.StoreProg), checkRecords(st, r))
	if n := 2*len(r.Guests) + len(r.Storages) + 8; n > roster.MaxTxnOps {
		list.Stopf("too-many-guests", "guests", "join with fewer guests and bring the others by backup", "%d guests are more than one join can take", len(r.Guests))
	}
	if v.Vet != nil {
		list = append(list, v.Vet(r)...)
	}
	return list
}

// Commit admits the joiner: in one transaction the token is bound to its key,
// and node, guests and new storages are written, each only if nobody has it.
// With the same key it can be repeated until the join is done and answers the
// same.
func (v *Voter) Commit(ctx context.Context, s Signed) (Admission, error) {
	c, err := open[Commit](s)
	if err != nil || !validTokenID(c.TokenID) {
		return Admission{}, malformed(err)
	}
	t, _, err := v.token(ctx, c.TokenID)
	if err != nil {
		return Admission{}, err
	}
	w, ok := v.recall(c.TokenID, c.Nonce)
	if !ok {
		return Admission{}, refuse("hello-missing", "nonce", "say hello again: it is kept for "+helloLife.String()+" on the node that answered it",
			"there was no hello for this commit")
	}
	if !hmac.Equal(s.Proof, proof(t.Key, proveJoiner, w.transcript, s.Message)) {
		v.forget(c.TokenID, c.Nonce)
		return Admission{}, v.wrongProof(ctx, t)
	}
	r, err := parseRecords(c.Guests, w.hello.Storages)
	if err != nil {
		return Admission{}, malformed(err)
	}
	a, err := v.authority(ctx)
	if err != nil {
		return Admission{}, err
	}
	var out Admission
	err = again(ctx, func() error {
		out, err = v.admit(ctx, a, w, r)
		return err
	})
	if err == nil {
		v.Log.Info("join committed", "node", w.hello.Name, "guests", len(r.Guests), "token", c.TokenID)
	}
	return out, err
}

// admit is one try of the transaction.
func (v *Voter) admit(ctx context.Context, a *pki.Authority, w waiting, r Records) (Admission, error) {
	t, rev, err := v.token(ctx, w.hello.TokenID)
	if err != nil {
		return Admission{}, err
	}
	if refused := checkToken(t, w.key, w.hello.Name, v.Now()); refused != nil {
		return Admission{}, refused
	}
	st, err := v.read(ctx)
	if err != nil {
		return Admission{}, err
	}
	if t.Bound == w.key {
		n, ok := st.node(w.hello.Name)
		if !ok || n.KeySHA256 != w.key {
			return Admission{}, gone(w.hello.Name)
		}
		if !bytes.Equal(t.Sum, r.Sum()) {
			return Admission{}, refuse("join-changed", "guests", "call the join off and begin a new one",
				"the join was committed with other guests or storages than are sent now")
		}
		return Admission{Certificate: t.Certificate, Authority: a.Certificate().Raw, Cluster: st.cluster, Nodes: st.nodes}, nil
	}
	list := slices.Concat(w.findings, v.check(st, w.hello, r), clashFindings(clashes(st, r)))
	if list.Stops() {
		return Admission{}, &Refused{list}
	}
	cert, err := a.Issue(w.hello.CSR, w.hello.Name, v.Now())
	if err != nil {
		return Admission{}, err
	}
	t.Bound, t.Used, t.Joiner, t.Sum, t.Certificate = w.key, v.Now().UTC(), w.hello.Name, r.Sum(), cert
	node := roster.Node{Name: w.hello.Name, ID: st.freeID(), InstallationID: w.hello.InstallationID, KeySHA256: w.key,
		Addresses: w.hello.Addresses, Version: w.hello.Version, State: roster.Joining, Joined: v.Now().UTC()}
	conds, ops, err := entry(st, t, rev, node, r)
	if err != nil {
		return Admission{}, err
	}
	if _, err := v.Store.Txn(ctx, conds, ops...); err != nil {
		return Admission{}, fmt.Errorf("admit node %q: %w", node.Name, err)
	}
	return Admission{Certificate: cert, Authority: a.Certificate().Raw, Cluster: st.cluster, Nodes: append(st.nodes, node)}, nil
}

// entry is the transaction that lets a node in. The cluster's own key is
// written with its old value, so that two joins at once come one after the
// other: their node ids and installation ids must differ.
func entry(st state, t Token, rev int64, n roster.Node, r Records) ([]store.Cond, []store.Op, error) {
	conds := []store.Cond{{Key: roster.ClusterKey, Rev: st.clusterRev}, {Key: roster.NodeKey(n.Name)}, {Key: TokenStoreKey(t.ID), Rev: rev}}
	ops := []store.Op{{Key: roster.ClusterKey, Value: st.cluster.Encode()}, {Key: roster.NodeKey(n.Name), Value: n.Encode()}}
	t.Guests = nil
	for _, g := range r.Guests {
		t.Guests = append(t.Guests, g.VMID)
		own, err := g.edit(map[string]any{"node": n.Name})
		if err != nil {
			return nil, nil, err
		}
		conds = append(conds, store.Cond{Key: guestKey(g.VMID)})
		ops = append(ops, store.Op{Key: guestKey(g.VMID), Value: own.Raw})
	}
	t.Storages = nil
	for _, s := range r.Storages {
		h, ok := st.storages[s.ID]
		conds = append(conds, store.Cond{Key: StoragePrefix + s.ID, Rev: h.rev})
		if !ok {
			t.Storages = append(t.Storages, s.ID)
			ops = append(ops, store.Op{Key: StoragePrefix + s.ID, Value: s.Raw})
		}
	}
	ops = append(ops, store.Op{Key: TokenStoreKey(t.ID), Value: t.Encode()})
	size := 0
	for _, o := range ops {
		size += len(o.Key) + len(o.Value)
	}
	if size > maxTxnBytes {
		return nil, nil, refuse("too-many-guests", "guests", "join with fewer guests and bring the others by backup",
			"the records of %d guests have %d bytes, %d is what one join can take", len(r.Guests), size, maxTxnBytes)
	}
	return conds, ops, nil
}

// read collects what a join has to fit to. The lists may be of different
// moments; what matters of them is compared again in the transaction.
func (v *Voter) read(ctx context.Context) (state, error) {
	st := state{storages: map[string]held{}}
	it, err := v.Store.Get(ctx, roster.ClusterKey)
	if err != nil {
		return st, err
	}
	if st.cluster, err = roster.DecodeCluster(it); err != nil {
		return st, err
	}
	st.clusterRev = it.Rev
	if st.nodes, err = list(ctx, v.Store, roster.NodePrefix, roster.DecodeNode); err != nil {
		return st, err
	}
	if st.guests, err = list(ctx, v.Store, GuestPrefix, decodeGuest); err != nil {
		return st, err
	}
	storages, err := list(ctx, v.Store, StoragePrefix, func(it store.Item) (held, error) {
		s, err := ParseStorage(it.Value)
		return held{s, it.Rev}, err
	})
	for _, s := range storages {
		st.storages[s.ID] = s
	}
	return st, err
}

func list[T any](ctx context.Context, s store.Store, prefix string, decode func(store.Item) (T, error)) ([]T, error) {
	items, _, err := s.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := make([]T, 0, len(items))
	for _, it := range items {
		v, err := decode(it)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// token reads a token with its revision.
func (v *Voter) token(ctx context.Context, id string) (Token, int64, error) {
	it, err := v.Store.Get(ctx, TokenStoreKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return Token{}, 0, refuse("token-unknown", "token", "compare it with what was shown; a token that was used up or removed is unknown too",
			"this cluster has no token with the id %s", id)
	}
	if err != nil {
		return Token{}, 0, err
	}
	t, err := DecodeToken(it)
	return t, it.Rev, err
}

func (v *Voter) authority(ctx context.Context) (*pki.Authority, error) {
	a, err := v.Authority(ctx)
	if errors.Is(err, ErrNotVoter) {
		return nil, refuse("not-a-voter", "address", "join through the node that made the token", "node %s cannot admit others: %v", v.Node, err)
	}
	return a, err
}

// again repeats a transaction that others got in the way of.
func again(ctx context.Context, try func() error) error {
	var err error
	for range conflicts {
		if err = try(); !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func nonce() []byte {
	b := make([]byte, nonceSize)
	rand.Read(b) // never fails (crypto/rand)
	return b
}

func malformed(err error) *Refused {
	if err == nil {
		err = errors.New("a field is missing or has the wrong length")
	}
	return refuse("message-invalid", "", "update the older of the two nodes", "%v", err)
}

func gone(name string) *Refused {
	return refuse("join-cancelled", "name", "begin a new join", "the join of %s was called off, or the node was removed", name)
}
