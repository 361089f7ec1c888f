package membership

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"joist/cluster/join"
	"joist/cluster/member"
	"joist/cluster/peer"
	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/cluster/store"
)

// defaultName is what a cluster is called until somebody says otherwise.
const defaultName = "joist"

// fresh is a cluster of one before it is anywhere.
type fresh struct {
	cluster   roster.Cluster
	node      roster.Node
	authority *pki.Authority
	sealed    []byte // the authority's key
	seal      []byte
	key, cert []byte // of this node: PEM, DER
}

// newCluster makes authority, keys and entries of a cluster of this node alone.
func (s *Service) newCluster(name string) (f fresh, err error) {
	now := s.o.Now().UTC()
	id := make([]byte, 8)
	rand.Read(id) // never fails (crypto/rand)
	f.cluster = roster.Cluster{ID: hex.EncodeToString(id), Name: name, Created: now,
		HeartbeatMs: int(s.o.Heartbeat.Milliseconds()), ElectionMs: int(s.o.Election.Milliseconds())}
	if f.authority, err = pki.New(f.cluster.ID, now); err != nil {
		return f, err
	}
	f.seal = pki.NewSealKey()
	if f.sealed, err = f.authority.Seal(f.seal); err != nil {
		return f, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return f, err
	}
	if f.key, err = pki.EncodeKey(key); err != nil {
		return f, err
	}
	csr, err := pki.NewRequest(key, s.o.Name)
	if err != nil {
		return f, err
	}
	if f.cert, err = f.authority.Issue(csr, s.o.Name, now); err != nil {
		return f, err
	}
	sum, err := pki.KeySum(key.Public())
	if err != nil {
		return f, err
	}
	f.node = roster.Node{Name: s.o.Name, ID: 1, InstallationID: s.o.InstallationID, KeySHA256: sum, Addresses: s.o.Addresses(),
		Version: s.o.Version, State: roster.Member, Joined: now}
	return f, nil
}

// keys are what the store holds of a new cluster.
func (f fresh) keys() map[string][]byte {
	return map[string][]byte{roster.ClusterKey: f.cluster.Encode(), roster.CAKey: f.sealed, roster.NodeKey(f.node.Name): f.node.Encode()}
}

// ErrClustered: the node belongs to a cluster already.
var ErrClustered = errors.New("this node belongs to a cluster already")

// Found makes the node, which was alone, a cluster that others can join. Its
// daemon has to begin anew after it, to listen for peers; until then this
// Service is what it was. Doing it again does nothing.
func (s *Service) Found(ctx context.Context, name string) error {
	s.founding.Lock()
	defer s.founding.Unlock()
	if s.id != nil || s.files.member() {
		return nil
	}
	if !roster.ValidName(s.o.Name) {
		return fmt.Errorf("make a cluster: %q is no name for a node: one DNS label in lower case", s.o.Name)
	}
	if name == "" {
		name = defaultName
	}
	if !validClusterName(name) {
		return fmt.Errorf("make a cluster: %q is no name for one: letters, digits and dashes, at most 15", name)
	}
	f, err := s.newCluster(name)
	if err != nil {
		return fmt.Errorf("make a cluster: %w", err)
	}
	if err := s.member.SetURL(ctx, roster.PeerURL(s.o.Name)); err != nil {
		return fmt.Errorf("make a cluster: %w", err)
	}
	// From here on the prepared folder decides, see finishFounding: with it
	// the keys count, without it they are replaced by the next try.
	m := machine{s}
	if err := m.prepareID(f.key, f.cert, f.authority.Certificate().Raw, f.seal, f.cluster, []roster.Node{f.node}); err != nil {
		return err
	}
	var ops []store.Op
	for k, v := range f.keys() {
		ops = append(ops, store.Op{Key: k, Value: v})
	}
	if _, err := s.store.Txn(ctx, nil, ops...); err != nil { // what a founding that was cut off has left is replaced
		return errors.Join(fmt.Errorf("make a cluster: %w", err), os.RemoveAll(s.files.path(newIDDir)))
	}
	if err := s.finishFounding(); err != nil {
		return err
	}
	s.o.Log.Info("this node is a cluster now", "cluster", f.cluster.ID, "name", name)
	return nil
}

// finishFounding puts a prepared folder in place that no operation is to: a
// founding was cut off after its keys were written, or right before it. In the
// latter case the store lacks the cluster, and keep writes it again.
func (s *Service) finishFounding() error {
	o, err := s.journal.Load()
	if err != nil || o != nil || s.files.member() || !exists(s.files.path(newIDDir, settingsFile)) {
		return err
	}
	if !exists(s.files.path(newIDDir, peersFile)) {
		return os.RemoveAll(s.files.path(newIDDir))
	}
	if err := os.Rename(s.files.path(newIDDir), s.files.path(idDir)); err != nil {
		return fmt.Errorf("make a cluster: %w", err)
	}
	return syncDir(s.files.dir)
}

func validClusterName(s string) bool {
	return len(s) > 0 && len(s) <= 15 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-'
}

// Token is what a person gives to a machine that is to join.
type Token struct {
	Text        string    `json:"token"`
	ID          string    `json:"id"`
	Expires     time.Time `json:"expires"`
	Fingerprint string    `json:"fingerprint"` // of the cluster's certificate
	Address     string    `json:"address"`     // of this node
}

// NewToken makes a token for one join, of a node with that name or of any. A
// node that was alone becomes a cluster first.
func (s *Service) NewToken(ctx context.Context, life time.Duration, forNode string) (Token, error) {
	founded := s.id == nil
	if err := s.Found(ctx, ""); err != nil {
		return Token{}, err
	}
	text, t, err := join.NewToken(s.o.Now(), life, forNode)
	if err != nil {
		return Token{}, fmt.Errorf("make a token: %w", err)
	}
	key := join.TokenStoreKey(t.ID)
	if _, err := s.store.Txn(ctx, []store.Cond{{Key: key}}, store.Op{Key: key, Value: t.Encode()}); err != nil {
		return Token{}, fmt.Errorf("make a token: %w", err)
	}
	ca, err := s.authorityCert()
	if err != nil {
		return Token{}, fmt.Errorf("make a token: %w", err)
	}
	out := Token{Text: text, ID: t.ID, Expires: t.Expires, Fingerprint: pki.Fingerprint(ca.Raw), Address: s.doorAddress()}
	if founded {
		// After the answer is on its way: nobody could join before the
		// restart, and whoever asked must not lose the token.
		time.AfterFunc(500*time.Millisecond, s.askRestart)
	}
	return out, nil
}

// doorAddress is where joiners are let in: here, or where a node is that
// decides, if this one only has a copy.
func (s *Service) doorAddress() string {
	if s.id != nil && !s.votes(s.o.Name) {
		for _, n := range s.book.Nodes() {
			if a := s.book.Addresses(n.Name); s.votes(n.Name) && s.online(n.Name) && len(a) > 0 {
				return a[0]
			}
		}
	}
	if a := s.o.Addresses(); len(a) > 0 {
		return a[0]
	}
	return ""
}

// Tokens lists the tokens, without their secrets, which nobody knows.
func (s *Service) Tokens(ctx context.Context) ([]join.Token, error) {
	items, _, err := s.store.List(ctx, roster.TokenPrefix)
	if err != nil {
		return nil, err
	}
	out := []join.Token{}
	for _, it := range items {
		t, err := join.DecodeToken(it)
		if err != nil {
			return nil, err
		}
		t.Key = nil
		out = append(out, t)
	}
	return out, nil
}

// Revoke makes a token useless. One that is bound belongs to a join under way,
// which it does not touch any more.
func (s *Service) Revoke(ctx context.Context, id string) error {
	key := join.TokenStoreKey(id)
	it, err := s.store.Get(ctx, key)
	if err != nil {
		return err
	}
	t, err := join.DecodeToken(it)
	if err != nil {
		return err
	}
	if t.Bound != "" {
		return fmt.Errorf("revoke token %s: node %s is joining with it; remove that node instead", id, t.Joiner)
	}
	_, err = s.store.Txn(ctx, []store.Cond{{Key: key, Rev: it.Rev}}, store.Op{Key: key})
	return err
}

// authority is the cluster's, on nodes that hold the key to it.
func (s *Service) authority(ctx context.Context) (*pki.Authority, error) {
	seal, err := os.ReadFile(s.files.path(idDir, sealFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, join.ErrNotVoter
	}
	if err != nil {
		return nil, fmt.Errorf("read the key to the authority: %w", err)
	}
	it, err := s.store.Get(ctx, roster.CAKey)
	if err != nil {
		return nil, err
	}
	cert, err := s.authorityCert()
	if err != nil {
		return nil, err
	}
	return pki.Unseal(it.Value, seal, cert)
}

// authorityCert is the certificate of the cluster's authority.
func (s *Service) authorityCert() (*x509.Certificate, error) {
	text, err := os.ReadFile(s.files.path(idDir, peer.CAFile))
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	cert, err := pki.DecodeCert(text)
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	return cert, nil
}

// heldSeal is the key to the authority, for a voter that lacks it.
func (s *Service) heldSeal() ([]byte, error) { return os.ReadFile(s.files.path(idDir, sealFile)) }

// votes reports whether a member votes, as far as this node knows.
func (s *Service) votes(name string) bool {
	for _, m := range s.member.LocalMembers() {
		if m.URL == roster.PeerURL(name) {
			return !m.Learner
		}
	}
	return false
}

func (s *Service) findMember(list []member.Info, name string) (member.Info, bool) {
	for _, m := range list {
		if m.URL == roster.PeerURL(name) {
			return m, true
		}
	}
	return member.Info{}, false
}
