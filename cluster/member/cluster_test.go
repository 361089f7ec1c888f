package member_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"joist/cluster/member"
	"joist/cluster/store"
)

// The timeouts are made for a machine that does other things too.
const (
	heartbeat = 50 * time.Millisecond
	election  = 500 * time.Millisecond
	patient   = 30 * time.Second
)

// node is one node of the test's cluster.
type node struct {
	t     *testing.T
	name  string
	dir   string
	port  int
	files files
	m     *member.Member
}

// newNode has the certificate of "localhost": as in the product it is the
// host of the URL that must be in it.
func newNode(t *testing.T, ca *authority, name string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, name: name, dir: dir, port: freePort(t), files: ca.issue(t, filepath.Join(dir, "tls"), "localhost")}
	t.Cleanup(n.close)
	return n
}

// freePort keeps below the ports that outgoing connections get: a node closes
// its port and opens it again.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func (n *node) url() string { return fmt.Sprintf("https://localhost:%d", n.port) }

func (n *node) etcd() string { return filepath.Join(n.dir, "etcd") }

func (n *node) options(initial ...*node) member.Options {
	p := &member.Peers{Listen: fmt.Sprintf("127.0.0.1:%d", n.port), URL: n.url(), Initial: map[string]string{n.name: n.url()},
		Existing: len(initial) > 0, CertFile: n.files.cert, KeyFile: n.files.key, CAFile: n.files.ca}
	for _, i := range initial {
		p.Initial[i.name] = i.url()
	}
	return member.Options{Name: n.name, Dir: n.etcd(), Heartbeat: heartbeat, Election: election, Peers: p, NoSync: true, Log: quiet()}
}

func quiet() *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

// start starts the node; others make it join theirs.
func (n *node) start(others ...*node) {
	n.t.Helper()
	begun := time.Now()
	var err error
	if n.m, err = member.Start(n.options(others...)); err != nil {
		n.t.Fatalf("start %s: %v", n.name, err)
	}
	n.t.Logf("%s started after %v", n.name, time.Since(begun).Round(time.Millisecond))
}

func (n *node) ready() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patient)
	defer cancel()
	begun := time.Now()
	if err := n.m.Ready(ctx); err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
	n.t.Logf("%s ready after %v", n.name, time.Since(begun).Round(time.Millisecond))
}

func (n *node) close() {
	if n.m != nil {
		if err := n.m.Close(); err != nil {
			n.t.Errorf("close %s: %v", n.name, err)
		}
		n.m = nil
	}
}

func (n *node) kill() {
	n.m.Kill()
	n.close()
}

func (n *node) store() *store.Etcd {
	return store.NewEtcd(n.m.Client(), store.WithQuorum(n.m))
}

func (n *node) put(key, value string) {
	n.t.Helper()
	if _, err := n.store().Txn(n.t.Context(), nil, store.Op{Key: key, Value: []byte(value)}); err != nil {
		n.t.Fatalf("write on %s: %v", n.name, err)
	}
}

func (n *node) want(key, value string) {
	n.t.Helper()
	if it, err := n.store().Get(n.t.Context(), key); err != nil || string(it.Value) != value {
		n.t.Fatalf("%s reads %q %v, want %q", n.name, it.Value, err, value)
	}
}

func (n *node) learner() bool {
	list := n.m.LocalMembers()
	i := slices.IndexFunc(list, func(e member.Info) bool { return e.ID == n.m.ID() })
	return i >= 0 && list[i].Learner
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patient); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happened that %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// found makes a cluster the way a node does that was alone until now.
func found(t *testing.T, n *node) {
	t.Helper()
	alone := n.options()
	alone.Peers, alone.Heartbeat, alone.Election = nil, 0, 0
	var err error
	n.m, err = member.Start(alone)
	must(t, err)
	n.ready()
	n.put("/alone", "kept")
	id := n.m.ID()
	must(t, n.m.SetURL(t.Context(), n.url()))
	must(t, n.m.SetURL(t.Context(), n.url())) // again
	n.close()
	n.start()
	n.ready()
	n.want("/alone", "kept")
	if l := n.m.LocalMembers(); n.m.ID() != id || len(l) != 1 || l[0] != (member.Info{ID: id, Name: n.name, URL: n.url()}) {
		t.Fatalf("%+v", l)
	}
}

// join makes n a learner of the cluster that by is in.
func join(t *testing.T, n, by *node, others ...*node) {
	t.Helper()
	i, err := by.m.AddLearner(t.Context(), n.name, n.url())
	must(t, err)
	n.start(append(others, by)...)
	if n.m.ID() != i.ID || !i.Learner {
		t.Fatalf("%s is %x, was added as %+v", n.name, n.m.ID(), i)
	}
	n.ready()
}

func promote(t *testing.T, by, n *node) {
	t.Helper()
	eventually(t, n.name+" is promoted", func() bool {
		err := by.m.Promote(t.Context(), n.m.ID())
		if err != nil && !errors.Is(err, member.ErrNotCaughtUp) {
			t.Fatal(err)
		}
		return err == nil
	})
	eventually(t, n.name+" votes", func() bool { return !n.learner() })
}

// TestCluster takes three nodes through the life of a cluster.
func TestCluster(t *testing.T) {
	ca := newAuthority(t)
	a, b, c := newNode(t, ca, "n1"), newNode(t, ca, "n2"), newNode(t, ca, "n3")
	found(t, a)

	join(t, b, a)
	asLearner(t, a, b)
	must(t, added(b, a)) // asked of a learner, for a member that is there
	join(t, c, b)        // added by a learner
	if err := a.m.Remove(t.Context(), a.m.ID()); !errors.Is(err, member.ErrUnsafe) {
		t.Fatalf("removal of the only voter: %v", err)
	}
	promote(t, c, b) // asked of a learner, goes on to the leader
	promote(t, a, c)
	must(t, a.m.Promote(t.Context(), c.m.ID())) // again

	leaderDies(t, a, b, c)
	demote(t, a, b, c)
	if err := a.m.Promote(t.Context(), 42); !errors.Is(err, member.ErrNoMember) {
		t.Errorf("promotion of nobody: %v", err)
	}
	must(t, a.m.Remove(t.Context(), 42))

	restartAll(t, a, b, c)
	promote(t, a, c)
	noQuorum(t, a, b, c)
}

func added(by, n *node) error {
	i, err := by.m.AddLearner(by.t.Context(), n.name, n.url())
	if err == nil && (i.ID != n.m.ID() || i.Learner) {
		err = fmt.Errorf("added again: %+v", i)
	}
	return err
}

// asLearner: all of the store works on a learner.
func asLearner(t *testing.T, voter, n *node) {
	t.Helper()
	if !n.learner() || !n.m.Quorate(t.Context()) || !n.m.CaughtUp(t.Context()) || n.m.IsLeader() || n.m.Leader() != voter.m.ID() {
		t.Fatalf("learner %v, leader %x", n.learner(), n.m.Leader())
	}
	s := n.store()
	_, rev, err := s.List(t.Context(), "/w/")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch := s.Watch(ctx, "/w/", rev)
	n.put("/w/by-learner", "1")
	voter.want("/w/by-learner", "1")
	voter.put("/w/by-voter", "2")
	n.want("/w/by-voter", "2")
	for _, k := range []string{"/w/by-learner", "/w/by-voter"} {
		wantEvent(t, ch, k)
	}
	it, err := s.Get(t.Context(), "/w/by-voter")
	must(t, err)
	if _, err := s.Txn(t.Context(), []store.Cond{{Key: it.Key, Rev: it.Rev - 1}}, store.Op{Key: it.Key}); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("stale condition on a learner: %v", err)
	}
	c := n.m.Client()
	l, err := c.Grant(t.Context(), 60)
	must(t, err)
	_, err = c.Put(t.Context(), "/leased", "", clientv3.WithLease(l.ID))
	must(t, err)
	_, err = c.KeepAliveOnce(t.Context(), l.ID) // goes to the leader over HTTP
	must(t, err)
	_, err = c.Revoke(t.Context(), l.ID)
	must(t, err)
	if _, err := voter.store().Get(t.Context(), "/leased"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("lease is revoked: %v", err)
	}
	list, err := n.m.Members(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v %v", list, err)
	}
}

func wantEvent(t *testing.T, ch <-chan store.Event, key string) {
	t.Helper()
	select {
	case e, ok := <-ch:
		if !ok || e.Key != key {
			t.Fatalf("event %+v, open %v, want %s", e, ok, key)
		}
	case <-time.After(patient):
		t.Fatalf("no event for %s", key)
	}
}

// leaderDies: the others write again as soon as they have elected one.
func leaderDies(t *testing.T, nodes ...*node) {
	t.Helper()
	i := slices.IndexFunc(nodes, func(n *node) bool { return n.m.IsLeader() })
	if i < 0 {
		t.Fatal("nobody leads")
	}
	dead, rest := nodes[i], slices.Delete(slices.Clone(nodes), i, i+1)
	id := dead.m.ID()
	dead.m.Kill()
	begun := time.Now()
	// Sent to the dead leader first.
	if _, err := rest[0].store().Txn(t.Context(), []store.Cond{{Key: "/after"}}, store.Op{Key: "/after", Value: []byte("death")}); err != nil {
		t.Fatalf("write across the death of the leader: %v", err)
	}
	t.Logf("writing again after %v", time.Since(begun).Round(time.Millisecond))
	dead.close()
	rest[1].want("/after", "death")
	// Two of three are left: neither may go.
	if err := rest[0].m.Remove(t.Context(), rest[1].m.ID()); !errors.Is(err, member.ErrUnsafe) {
		t.Fatalf("removal of the second of two: %v", err)
	}
	// And yet somebody can be added.
	fourth, err := rest[0].m.AddLearner(t.Context(), "n4", "https://localhost:1")
	must(t, err)
	must(t, rest[1].m.Remove(t.Context(), fourth.ID))
	dead.start()
	dead.ready()
	dead.want("/after", "death")
	if dead.m.ID() != id {
		t.Fatalf("%s came back as somebody else", dead.name)
	}
}

// demote makes the last of three a learner; the folder of the voter is of no
// use then.
func demote(t *testing.T, a, b, c *node) {
	t.Helper()
	old := c.m.ID()
	must(t, a.m.Remove(t.Context(), old))
	must(t, a.m.Remove(t.Context(), old)) // again
	select {
	case <-c.m.Failed():
	case <-time.After(patient):
		t.Fatal("a removed member goes on")
	}
	if !c.m.Removed() || c.m.Quorate(t.Context()) || a.m.Removed() {
		t.Fatal("removal is not seen")
	}
	if _, err := c.store().Txn(t.Context(), nil, store.Op{Key: "/x", Value: []byte{}}); !errors.Is(err, store.ErrNoQuorum) {
		t.Errorf("write on a removed member: %v", err)
	}
	if it, err := c.store().OrLocal().Get(t.Context(), "/alone"); !errors.Is(err, store.ErrNoQuorum) {
		t.Errorf("read on a member that has ended: %+v %v", it, err)
	}
	c.close()
	// It comes back not knowing: the others tell it.
	c.start()
	eventually(t, "a removed member is told", c.m.Removed)
	c.close()

	must(t, os.RemoveAll(c.etcd()))
	join(t, c, a, b)
	if c.m.ID() == old || !c.learner() || c.m.Removed() {
		t.Fatalf("id %x learner %v", c.m.ID(), c.learner())
	}
	c.want("/alone", "kept")
}

func restartAll(t *testing.T, nodes ...*node) {
	t.Helper()
	nodes[0].put("/before", "restart")
	for _, n := range nodes {
		n.close()
	}
	for _, n := range nodes {
		n.start()
	}
	for _, n := range nodes {
		n.ready()
		n.want("/before", "restart")
	}
}

// noQuorum: two of three voters die; what is left reads, refuses quickly, and
// goes on when they are back.
func noQuorum(t *testing.T, a, b, c *node) {
	t.Helper()
	ctx := t.Context()
	s := c.store()
	_, rev, err := s.List(ctx, "/q/")
	must(t, err)
	ch := s.Watch(ctx, "/q/", rev)
	a.kill()
	b.kill()
	eventually(t, "the loss is noticed", func() bool { return !c.m.Quorate(ctx) })
	eventually(t, "patience ends", func() bool { return !c.m.AwaitQuorum(ctx) })
	begun := time.Now()
	for range 10 {
		if _, err := s.Txn(ctx, nil, store.Op{Key: "/q/a", Value: []byte("1")}); !errors.Is(err, store.ErrNoQuorum) {
			t.Fatalf("write: %v", err)
		}
		if _, err := s.Get(ctx, "/alone"); !errors.Is(err, store.ErrNoQuorum) {
			t.Fatalf("read: %v", err)
		}
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("20 refusals took %v", took)
	}
	for name, s := range map[string]*store.Etcd{"local": s.Local(), "or local": s.OrLocal()} {
		if it, err := s.Get(ctx, "/alone"); err != nil || string(it.Value) != "kept" {
			t.Errorf("%s: %+v %v", name, it, err)
		}
	}
	if err := c.m.Remove(ctx, 1); !errors.Is(err, store.ErrNoQuorum) {
		t.Errorf("removal without quorum: %v", err)
	}
	if l := c.m.LocalMembers(); len(l) != 3 {
		t.Errorf("members: %+v", l)
	}
	// A daemon that starts without quorum loads what was there.
	c.close()
	c.start()
	items, rev, err := c.store().OrLocal().List(ctx, "/w/")
	if err != nil || len(items) != 2 {
		t.Fatalf("list at start: %+v %v", items, err)
	}
	ch2 := c.store().Watch(ctx, "/q/", rev)
	if e, ok := <-ch; ok {
		t.Errorf("event of a closed member: %+v", e)
	}
	a.start()
	c.ready()
	a.put("/q/b", "2")
	wantEvent(t, ch2, "/q/b")
	c.put("/q/c", "3")
	a.want("/q/c", "3")
}

// TestLearnerAlone: of two nodes the voter is lost. The learner keeps all it
// knew, says so, and a new cluster can be made of it; or the voter returns.
func TestLearnerAlone(t *testing.T) {
	ca, ctx := newAuthority(t), t.Context()
	a, b := newNode(t, ca, "n1"), newNode(t, ca, "n2")
	a.start() // a new cluster, not founded from data
	a.ready()
	for i := range 250 {
		a.put(fmt.Sprintf("/joist/%03d", i), fmt.Sprint(i))
	}
	join(t, b, a)
	s := b.store()
	_, rev, err := s.List(ctx, "/joist/")
	must(t, err)
	ch := s.Watch(ctx, "/joist/", rev)
	a.kill()
	eventually(t, "the learner notices", func() bool { return !b.m.Quorate(ctx) })
	eventually(t, "patience ends", func() bool { return !b.m.AwaitQuorum(ctx) })
	begun := time.Now()
	if _, err := s.Txn(ctx, nil, store.Op{Key: "/joist/x", Value: []byte{}}); !errors.Is(err, store.ErrNoQuorum) || time.Since(begun) > 2*time.Second {
		t.Errorf("write: %v after %v", err, time.Since(begun))
	}
	items, err := store.Dump(ctx, s.Local(), "/joist/")
	if err != nil || len(items) != 250 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	fresh := newNode(t, ca, "n2")
	fresh.start()
	fresh.ready()
	must(t, store.Restore(ctx, fresh.store(), items))
	again, err := store.Dump(ctx, fresh.store(), "/joist/")
	if err != nil || !slices.EqualFunc(items, again, func(x, y store.Item) bool { return x.Key == y.Key && string(x.Value) == string(y.Value) }) {
		t.Fatalf("restored %d of %d, %v", len(again), len(items), err)
	}
	a.start()
	a.ready()
	eventually(t, "the quorum is back", func() bool { return b.m.Quorate(ctx) })
	a.put("/joist/new", "1")
	wantEvent(t, ch, "/joist/new")
	b.put("/joist/new", "2")
	wantEvent(t, ch, "/joist/new")
}

// TestStrangers: nobody talks to a member without a certificate of its CA, and
// a member talks to nobody whose certificate has another name.
func TestStrangers(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	a := newNode(t, ca, "n1")
	a.start()
	a.ready()
	get := func(certs ...tls.Certificate) (*tls.ConnectionState, error) {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool(), Certificates: certs}, DisableKeepAlives: true}
		r, err := (&http.Client{Transport: tr, Timeout: patient}).Get(a.url() + "/members")
		if err != nil {
			return nil, err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return nil, errors.New(r.Status)
		}
		return r.TLS, nil
	}
	mine := ca.issue(t, t.TempDir(), "n2.example").pair(t)
	st, err := get(mine)
	must(t, err)
	if st.Version != tls.VersionTLS13 {
		t.Errorf("TLS version %x", st.Version)
	}
	if _, err := get(); err == nil {
		t.Error("no certificate was asked for")
	}
	if _, err := get(other.issue(t, t.TempDir(), "n2.example").pair(t)); err == nil {
		t.Error("a certificate of another CA was taken")
	}
	// A renewed certificate shows at the next connection.
	ca.issue(t, filepath.Dir(a.files.cert), "localhost")
	renewed, err := get(mine)
	must(t, err)
	if s := renewed.PeerCertificates[0].SerialNumber; s.Cmp(st.PeerCertificates[0].SerialNumber) == 0 {
		t.Errorf("certificate %v is shown still", s)
	}
	b := newNode(t, ca, "n2")
	o := b.options(a)
	o.Peers.Initial[a.name] = fmt.Sprintf("https://127.0.0.1:%d", a.port) // not in its certificate
	if m, err := member.Start(o); err == nil {
		m.Close()
		t.Error("joined a member with another name")
	}
	if m, err := member.Start(b.options(a)); err == nil { // it was not added
		m.Close()
		t.Error("joined without being a member")
	}
	join(t, b, a) // into the same folder
}

func TestBadOptions(t *testing.T) {
	good := func() member.Options {
		return member.Options{Name: "n1", Dir: t.TempDir(), Log: quiet(), Peers: &member.Peers{Listen: "127.0.0.1:1", URL: "https://n1:1",
			Initial: map[string]string{"n1": "https://n1:1"}, CertFile: "c", KeyFile: "k", CAFile: "ca"}}
	}
	for name, spoil := range map[string]func(*member.Options){
		"name":         func(o *member.Options) { o.Name = "n1=x" },
		"no name":      func(o *member.Options) { o.Name = "" },
		"plain URL":    func(o *member.Options) { o.Peers.URL = "http://n1:1" },
		"no port":      func(o *member.Options) { o.Peers.URL = "https://n1" },
		"two URLs":     func(o *member.Options) { o.Peers.URL = "https://n1:1,https://n2:1" },
		"not initial":  func(o *member.Options) { o.Peers.Initial = nil },
		"initial name": func(o *member.Options) { o.Peers.Initial["a,b"] = "https://n2:1" },
		"initial URL":  func(o *member.Options) { o.Peers.Initial["n2"] = "n2" },
		"listen":       func(o *member.Options) { o.Peers.Listen = "2380" },
		"no CA":        func(o *member.Options) { o.Peers.CAFile = "" },
		"no file":      func(o *member.Options) { o.Peers.CertFile = filepath.Join(o.Dir, "none") },
		"election":     func(o *member.Options) { o.Peers, o.Heartbeat, o.Election = nil, time.Second, time.Second },
	} {
		o := good()
		spoil(&o)
		if m, err := member.Start(o); err == nil {
			m.Close()
			t.Errorf("%s: no error", name)
		}
	}
}
