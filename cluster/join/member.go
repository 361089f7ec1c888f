package join

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"
	"time"

	"joist/cluster/roster"
	"joist/cluster/store"
)

const (
	// unseen is how long a joining node may stay away before its keys go. It
	// is longer than a joiner waits before it rolls back by itself.
	unseen = 30 * time.Minute
	// remembered is how long an expired token is told from an unknown one.
	remembered = 24 * time.Hour
)

// Abort takes back what a commit wrote, and bars the joiner's key, so that a
// commit still under way comes to nothing. It can be repeated.
func (v *Voter) Abort(ctx context.Context, s Signed) error {
	a, err := open[Abort](s)
	if err != nil || !validTokenID(a.TokenID) || !roster.ValidName(a.Node) || len(a.Key) != 64 {
		return malformed(err)
	}
	t, _, err := v.token(ctx, a.TokenID)
	if err != nil {
		return err
	}
	if !hmac.Equal(s.Proof, proof(t.Key, proveAbort, s.Message)) {
		return v.wrongProof(ctx, t)
	}
	return v.undo(ctx, a.Node, a.Key, func(t *Token) { t.bar(a.Key) }, a.TokenID)
}

// Cancel is Abort for a joiner that proves itself by its certificate.
func (v *Voter) Cancel(ctx context.Context, node, key string) error {
	return v.undo(ctx, node, key, func(t *Token) { t.bar(key) }, "")
}

// undo removes a joining node with all that its commit wrote. The token that
// let it in is found by its key, and is free again; mark is what is noted on
// it. An unbound token is marked only if its id is given.
func (v *Voter) undo(ctx context.Context, name, key string, mark func(*Token), id string) error {
	var evict *roster.Node
	err := again(ctx, func() error {
		conds, ops, node, err := v.exit(ctx, name, key, mark, id)
		if err != nil {
			return err
		}
		evict = node
		if len(ops) == 0 {
			return nil
		}
		_, err = v.Store.Txn(ctx, conds, ops...)
		return err
	})
	if err != nil {
		return fmt.Errorf("call off the join of %q: %w", name, err)
	}
	if evict == nil {
		return nil
	}
	v.Log.Info("join called off", "node", name)
	return v.evict(ctx, *evict)
}

// exit is the transaction that takes a joining node out again.
func (v *Voter) exit(ctx context.Context, name, key string, mark func(*Token), id string) (conds []store.Cond, ops []store.Op, evict *roster.Node, err error) {
	n, rev, err := v.node(ctx, name)
	if err != nil {
		return nil, nil, nil, err
	}
	conds = []store.Cond{{Key: roster.NodeKey(name), Rev: rev}}
	if rev != 0 && n.KeySHA256 == key {
		if n.State != roster.Joining {
			return nil, nil, nil, refuse("already-member", "name", "let it leave, or remove it", "node %s has joined: that cannot be called off any more", name)
		}
		evict = &n
		ops = append(ops, store.Op{Key: roster.NodeKey(name)})
	}
	tokens, _, err := v.Store.List(ctx, roster.TokenPrefix)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, it := range tokens {
		t, err := DecodeToken(it)
		if err != nil || t.Bound != key && (t.ID != id || t.Bound != "") {
			continue
		}
		if t.Bound == key {
			brought, err := v.brought(ctx, name, t)
			if err != nil {
				return nil, nil, nil, err
			}
			more, err := v.withdraw(ctx, name, t, it.Rev)
			if err != nil {
				return nil, nil, nil, err
			}
			for _, s := range append(brought, more...) {
				conds, ops = append(conds, store.Cond{Key: s.Key, Rev: s.Rev}), append(ops, store.Op{Key: s.Key})
			}
			t.Bound, t.Used, t.Joiner, t.Sum, t.Guests, t.Storages, t.Certificate = "", time.Time{}, "", nil, nil, nil, nil
		}
		mark(&t)
		conds, ops = append(conds, store.Cond{Key: it.Key, Rev: it.Rev}), append(ops, store.Op{Key: it.Key, Value: t.Encode()})
	}
	return conds, ops, evict, nil
}

// brought lists the guests that came with a join and are the joiner's still. Of
// another node of that name, lost before, guests may be left: they stay.
func (v *Voter) brought(ctx context.Context, name string, t Token) ([]store.Item, error) {
	guests, err := v.guestsOf(ctx, name)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(guests, func(it store.Item) bool {
		return !slices.ContainsFunc(t.Guests, func(id int) bool { return guestKey(id) == it.Key })
	}), nil
}

// withdraw lists the storages that came with a join and can go with it: those
// that nobody changed since (they have the token's revision) and no guest of
// another node uses.
func (v *Voter) withdraw(ctx context.Context, name string, t Token, rev int64) ([]store.Item, error) {
	if len(t.Storages) == 0 {
		return nil, nil
	}
	guests, _, err := v.Store.List(ctx, GuestPrefix)
	if err != nil {
		return nil, err
	}
	var out []store.Item
	for _, id := range t.Storages {
		it, err := v.Store.Get(ctx, StoragePrefix+id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		used := slices.ContainsFunc(guests, func(g store.Item) bool {
			r, err := ParseGuest(g.Value)
			return err != nil || r.Node != name && bytes.Contains(g.Value, []byte(`"`+id+`:`))
		})
		if it.Rev == rev && !used {
			out = append(out, it)
		}
	}
	return out, nil
}

// Done makes a joining node a member, and uses its token up. It can be
// repeated.
func (v *Voter) Done(ctx context.Context, node, key string) error {
	err := again(ctx, func() error {
		n, rev, err := v.node(ctx, node)
		if err != nil {
			return err
		}
		if rev == 0 || n.KeySHA256 != key {
			return gone(node)
		}
		if n.State == roster.Member {
			return nil
		}
		if n.State != roster.Joining {
			return refuse("not-joining", "name", "wait until it has left", "node %s is %s", node, n.State)
		}
		n.State = roster.Member
		conds := []store.Cond{{Key: roster.NodeKey(node), Rev: rev}}
		ops := []store.Op{{Key: roster.NodeKey(node), Value: n.Encode()}}
		tokens, _, err := v.Store.List(ctx, roster.TokenPrefix)
		if err != nil {
			return err
		}
		for _, it := range tokens {
			if t, err := DecodeToken(it); err == nil && t.Bound == key {
				conds, ops = append(conds, store.Cond{Key: it.Key, Rev: it.Rev}), append(ops, store.Op{Key: it.Key})
			}
		}
		_, err = v.Store.Txn(ctx, conds, ops...)
		return err
	})
	if err != nil {
		return fmt.Errorf("finish the join of %q: %w", node, err)
	}
	return nil
}

// Revision is one key as the leaving node knows it.
type Revision struct {
	Key string `json:"key"`
	Rev int64  `json:"rev"`
}

// Leave removes a node and its guests from the cluster, in one transaction. The
// guests must be exactly those that the node has put by, unchanged: otherwise
// it is refused with "guests-changed", and the node exports again. A node that
// is not there has left: it can be repeated.
func (v *Voter) Leave(ctx context.Context, node, key string, exported []Revision) error {
	var evict *roster.Node
	err := again(ctx, func() error {
		evict = nil
		n, rev, err := v.node(ctx, node)
		if err != nil || rev == 0 || n.KeySHA256 != key {
			return err
		}
		nodes, _, err := v.Store.List(ctx, roster.NodePrefix)
		if err != nil {
			return err
		}
		if len(nodes) == 1 {
			return refuse("last-node", "node", "there is nothing to leave", "node %s is the whole cluster", node)
		}
		guests, err := v.guestsOf(ctx, node)
		if err != nil {
			return err
		}
		conds := []store.Cond{{Key: roster.NodeKey(node), Rev: rev}}
		ops := []store.Op{{Key: roster.NodeKey(node)}}
		for _, g := range guests {
			if !slices.Contains(exported, Revision{g.Key, g.Rev}) {
				return refuse("guests-changed", g.Key, "export the guests again", "guest %s has changed since it was exported", g.Key[len(GuestPrefix):])
			}
			conds, ops = append(conds, store.Cond{Key: g.Key, Rev: g.Rev}), append(ops, store.Op{Key: g.Key})
		}
		if len(exported) != len(guests) {
			return refuse("guests-changed", GuestPrefix, "export the guests again", "%d guests were exported, the node has %d", len(exported), len(guests))
		}
		evict = &n
		_, err = v.Store.Txn(ctx, conds, ops...)
		return err
	})
	if err != nil {
		return fmt.Errorf("let node %q leave: %w", node, err)
	}
	if evict == nil {
		return nil
	}
	v.Log.Info("node left", "node", node)
	return v.evict(ctx, *evict)
}

// Janitor removes what joins left that nobody will finish: joining nodes that
// were not seen for half an hour, with their tokens, and tokens that expired
// a day ago.
func (v *Voter) Janitor(ctx context.Context) error {
	now := v.Now()
	nodes, err := list(ctx, v.Store, roster.NodePrefix, roster.DecodeNode)
	if err != nil {
		return fmt.Errorf("look for broken joins: %w", err)
	}
	var errs []error
	for _, n := range nodes {
		last := n.Joined
		if v.Seen != nil && v.Seen(n.Name).After(last) {
			last = v.Seen(n.Name)
		}
		if n.State == roster.Joining && now.Sub(last) >= unseen {
			v.Log.Warn("joining node is away for too long", "node", n.Name, "since", last)
			errs = append(errs, v.undo(ctx, n.Name, n.KeySHA256, func(t *Token) { t.bar(n.KeySHA256) }, ""))
		}
	}
	tokens, _, err := v.Store.List(ctx, roster.TokenPrefix)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, it := range tokens {
		t, err := DecodeToken(it)
		open := slices.ContainsFunc(nodes, func(n roster.Node) bool { return n.State == roster.Joining && n.KeySHA256 == t.Bound })
		if err == nil && (open || now.Sub(t.Expires) < remembered) {
			continue
		}
		_, err = v.Store.Txn(ctx, []store.Cond{{Key: it.Key, Rev: it.Rev}}, store.Op{Key: it.Key})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// node reads a node's key; revision 0 means that there is none.
func (v *Voter) node(ctx context.Context, name string) (roster.Node, int64, error) {
	it, err := v.Store.Get(ctx, roster.NodeKey(name))
	if errors.Is(err, store.ErrNotFound) {
		return roster.Node{}, 0, nil
	}
	if err != nil {
		return roster.Node{}, 0, err
	}
	n, err := roster.DecodeNode(it)
	return n, it.Rev, err
}

// guestsOf lists the keys of a node's guests.
func (v *Voter) guestsOf(ctx context.Context, node string) ([]store.Item, error) {
	items, _, err := v.Store.List(ctx, GuestPrefix)
	if err != nil {
		return nil, err
	}
	out := []store.Item{}
	for _, it := range items {
		g, err := decodeGuest(it)
		if err != nil {
			return nil, err
		}
		if g.Node == node {
			out = append(out, it)
		}
	}
	return out, nil
}

func (v *Voter) evict(ctx context.Context, n roster.Node) error {
	if v.Evict == nil {
		return nil
	}
	if err := v.Evict(ctx, n); err != nil {
		return fmt.Errorf("remove the store member of %q: %w", n.Name, err)
	}
	return nil
}
