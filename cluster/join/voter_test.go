package join

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/cluster/store"
	"joist/internal/finding"
)

var auto = Want{Auto: true}

// TestFindings: everything that stands against a join is said at once, with a
// cure, and hello changes nothing.
func TestFindings(t *testing.T) {
	tests := []struct {
		name  string
		setup func(*world, *Joiner, *Records)
		want  Want
		codes []string
	}{
		{"nothing but a renumbered clash", func(*world, *Joiner, *Records) {}, auto, nil},
		{"a clash", func(*world, *Joiner, *Records) {}, Want{}, []string{"vmid-clash"}},
		{"explicit", func(*world, *Joiner, *Records) {}, Want{IDs: map[int]int{100: 300}}, nil},
		{"explicit, but taken", func(*world, *Joiner, *Records) {}, Want{IDs: map[int]int{100: 102}}, []string{"renumber-taken", "vmid-clash"}},
		{"running", func(_ *world, _ *Joiner, r *Records) { r.Running = []int{100, 200} }, auto, []string{"guest-running"}},
		{"name and installation", func(_ *world, j *Joiner, _ *Records) { j.Self.Name = "n1" }, auto, []string{"name-taken"}},
		{"a copied disk", func(_ *world, j *Joiner, _ *Records) { j.Self.InstallationID = "1111" }, auto, []string{"installation-taken"}},
		{"no installation", func(_ *world, j *Joiner, _ *Records) { j.Self.InstallationID = "" }, auto, []string{"installation-missing"}},
		{"old", func(_ *world, j *Joiner, _ *Records) { j.Self.Version, j.Self.StoreProg = "0.0.9", "3.5.1" }, auto, []string{"version-too-old", "store-too-old"}},
		{"new", func(_ *world, j *Joiner, _ *Records) { j.Self.Version, j.Self.StoreProg = "1.2.0", "3.8.0" }, auto, []string{"version-too-new"}},
		{"no version", func(_ *world, j *Joiner, _ *Records) { j.Self.Version = "dev" }, auto, []string{"version-unknown"}},
		{"ten minutes ahead", func(w *world, j *Joiner, _ *Records) {
			j.Now = func() time.Time { return w.now().Add(10 * time.Minute) }
		}, auto, []string{"clock-skew"}},
		{"storage", func(_ *world, _ *Joiner, r *Records) {
			r.Storages[1] = storageDef(t, `{"storage":"local","type":"dir","content":["iso"],"path":"/mnt"}`)
		}, auto, []string{"storage-clash"}},
		{"locked", func(_ *world, _ *Joiner, r *Records) {
			r.Guests[1] = guest(t, `{"vmid":200,"kind":"lxc","lock":"create"}`)
		}, auto, []string{"guest-locked"}},
		{"vetted", func(w *world, _ *Joiner, _ *Records) {
			w.voter.Vet = func(Records) (l finding.List) { l.Stopf("config-bad", "", "mend it", "bad"); return l }
		}, auto, []string{"config-bad"}},
		{"all at once", func(w *world, j *Joiner, r *Records) {
			j.Self.Name, j.Self.Version = "n1", "9.0.0"
			j.Now = func() time.Time { return w.now().Add(-time.Hour) }
			r.Storages[1] = storageDef(t, `{"storage":"local"}`)
		}, Want{}, []string{"name-taken", "version-too-new", "clock-skew", "storage-clash", "vmid-clash"}},
	}
	for _, tt := range tests {
		w := newWorld(t)
		j, r := w.joiner(w.token(""), newKey(t)), brought(t)
		tt.setup(w, j, &r)
		before := w.dump()
		p, err := j.Check(t.Context(), r, tt.want)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		stopsWith(t, tt.name, p.Findings, tt.codes...)
		if len(tt.codes) > 0 && tt.codes[0] != "guest-running" { // that is known on the joiner's side only
			_, err := j.Commit(t.Context(), r)
			var no *Refused
			if !errors.As(err, &no) {
				t.Errorf("%s: commit: %v", tt.name, err)
			}
		}
		if tok, _ := w.theToken(); !maps.Equal(before, w.dump()) || tok.Bound != "" {
			t.Errorf("%s: something changed", tt.name)
		}
	}
}

func TestTokenRefused(t *testing.T) {
	tests := []struct {
		name  string
		setup func(w *world, j *Joiner)
		code  string
	}{
		{"expired", func(w *world, _ *Joiner) { w.pass(TokenLife) }, "token-expired"},
		{"unknown", func(_ *world, j *Joiner) { j.Secret.ID = "aaaaaaaa" }, "token-unknown"},
		{"another cluster's authority", func(_ *world, j *Joiner) { j.Client = elsewhere{j.Client} }, "man-in-the-middle"},
		{"for another node", func(_ *world, j *Joiner) { j.Self.Name = "n3" }, "token-other-node"},
		{"wrong secret", func(_ *world, j *Joiner) { j.Secret.key = tokenKey("x") }, "proof-wrong"},
		{"no voter", func(w *world, _ *Joiner) {
			w.voter.Authority = func(context.Context) (*pki.Authority, error) { return nil, ErrNotVoter }
		}, "not-a-voter"},
	}
	for _, tt := range tests {
		w := newWorld(t)
		j := w.joiner(w.token("n2"), newKey(t))
		tt.setup(w, j)
		_, err := j.Check(t.Context(), brought(t), auto)
		refusedWith(t, tt.name, err, tt.code)
	}
}

// elsewhere is a connection that shows another authority.
type elsewhere struct{ Client }

func (elsewhere) Connect(context.Context) (string, error) {
	return pki.Fingerprint([]byte("mine")), nil
}

// TestGuessing: after five wrong proofs even the right one is refused, by a
// voter that was restarted too; a token in use is beyond that.
func TestGuessing(t *testing.T) {
	w := newWorld(t)
	text := w.token("")
	wrong, right := w.joiner(text, newKey(t)), w.joiner(text, newKey(t))
	wrong.Secret.key = tokenKey("x")
	for range maxWrong {
		_, err := wrong.Check(t.Context(), Records{}, auto)
		refusedWith(t, "guess", err, "proof-wrong")
	}
	w.voter = w.newVoter()
	_, err := right.Check(t.Context(), Records{}, auto)
	refusedWith(t, "afterwards", err, "token-burnt")

	w = newWorld(t)
	text = w.token("")
	wrong, right = w.joiner(text, newKey(t)), w.joiner(text, newKey(t))
	wrong.Secret.key = tokenKey("x")
	if _, err := right.Commit(t.Context(), Records{}); err != nil {
		t.Fatal(err)
	}
	for range maxWrong + 1 {
		_, err := wrong.Check(t.Context(), Records{}, auto)
		refusedWith(t, "guess", err, "proof-wrong")
	}
	if _, err := right.Commit(t.Context(), Records{}); err != nil {
		t.Errorf("the join under way: %v", err)
	}
}

func TestCommit(t *testing.T) {
	w := newWorld(t)
	text, key := w.token(""), newKey(t)
	j, before := w.joiner(text, key), w.dump()
	p, err := j.Check(t.Context(), brought(t), auto)
	if err != nil || p.IDs[100] != 101 {
		t.Fatalf("%+v %v", p, err)
	}
	a, err := j.Commit(t.Context(), p.Records)
	if err != nil {
		t.Fatal(err)
	}
	after := w.dump()
	wantJoined(t, before, after, 101)
	if len(a.Nodes) != 2 || a.Nodes[1].ID != 2 || a.Nodes[1].State != roster.Joining || a.Cluster.Name != "home" {
		t.Errorf("admission %+v", a)
	}

	// The same again, also from a voter that has forgotten and after the
	// token's end: the same answer, and nothing is written.
	w.voter = w.newVoter()
	w.pass(2 * TokenLife)
	again, err := j.Commit(t.Context(), p.Records)
	if err != nil || !bytes.Equal(again.Certificate, a.Certificate) || !maps.Equal(after, w.dump()) {
		t.Errorf("repeated: %v", err)
	}
	other := w.joiner(text, newKey(t))
	_, err = other.Commit(t.Context(), p.Records)
	refusedWith(t, "another key", err, "token-used")
	_, err = j.Commit(t.Context(), Records{})
	refusedWith(t, "other guests", err, "join-changed")

	sum, _ := pki.KeySum(key.Public())
	refusedWith(t, "done by another key", w.voter.Done(t.Context(), "n2", "x"), "join-cancelled")
	for range 2 {
		if err := w.voter.Done(t.Context(), "n2", sum); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := w.theToken(); ok {
		t.Error("the token is still there")
	}
	_, err = j.Commit(t.Context(), p.Records)
	refusedWith(t, "after the end", err, "token-unknown")
	refusedWith(t, "cancelled after the end", w.voter.Cancel(t.Context(), "n2", sum), "already-member")
}

// TestReplay: a commit cannot be sent again with another's nonce, changed, or
// without its hello.
func TestReplay(t *testing.T) {
	w := newWorld(t)
	j := w.joiner(w.token(""), newKey(t))
	tap := &recorder{Client: j.Client}
	j.Client = tap
	if _, err := j.Check(t.Context(), Records{}, auto); err != nil {
		t.Fatal(err)
	}
	if _, err := j.commit(t.Context(), Records{}); err != nil {
		t.Fatal(err)
	}
	w.voter = w.newVoter()
	_, err := w.voter.Commit(t.Context(), tap.commit)
	refusedWith(t, "without hello", err, "hello-missing")
	if _, err := w.voter.Hello(t.Context(), tap.hello); err != nil {
		t.Fatal(err) // an old hello may be heard again; it changes nothing
	}
	_, err = w.voter.Commit(t.Context(), tap.commit)
	refusedWith(t, "with an old proof", err, "proof-wrong")
	_, err = w.voter.Commit(t.Context(), tap.commit)
	refusedWith(t, "guessing at one hello", err, "hello-missing")
	tap.hello.Message = bytes.Replace(tap.hello.Message, []byte(`"n2"`), []byte(`"n9"`), 1)
	_, err = w.voter.Hello(t.Context(), tap.hello)
	refusedWith(t, "a changed hello", err, "proof-wrong")
}

type recorder struct {
	Client
	hello, commit Signed
}

func (r *recorder) Hello(ctx context.Context, s Signed) (Signed, error) {
	r.hello = s
	return r.Client.Hello(ctx, s)
}

func (r *recorder) Commit(ctx context.Context, s Signed) (Admission, error) {
	r.commit = s
	return r.Client.Commit(ctx, s)
}

func TestAbort(t *testing.T) {
	w := newWorld(t)
	text, key := w.token(""), newKey(t)
	j, before := w.joiner(text, key), w.dump()
	p, err := j.Check(t.Context(), brought(t), auto)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Commit(t.Context(), p.Records); err != nil {
		t.Fatal(err)
	}
	evicted := []string{}
	w.voter.Evict = func(_ context.Context, n roster.Node) error { evicted = append(evicted, n.Name); return nil }
	for range 2 {
		if err := j.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(before, w.dump()) || len(evicted) != 1 {
		t.Errorf("after abort: %v, evicted %v", w.dump(), evicted)
	}
	// A commit that arrives after its abort comes to nothing; the token is
	// free for another key.
	_, err = j.Commit(t.Context(), p.Records)
	refusedWith(t, "late commit", err, "join-cancelled")
	if _, err := w.joiner(text, newKey(t)).Commit(t.Context(), p.Records); err != nil {
		t.Errorf("a new join with the token: %v", err)
	}
	// The first key's abort is not the second's.
	if err := j.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if _, ok := w.dump()[roster.NodeKey("n2")]; !ok {
		t.Error("the abort of one join took back another")
	}
}

// TestAbortBefore: an abort that overtakes its commit bars it.
func TestAbortBefore(t *testing.T) {
	w := newWorld(t)
	j := w.joiner(w.token(""), newKey(t))
	if err := j.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := j.Commit(t.Context(), Records{})
	refusedWith(t, "commit", err, "join-cancelled")
}

// TestWithdraw: a storage that came with a join stays when somebody changed or
// uses it.
func TestWithdraw(t *testing.T) {
	for _, tt := range []struct{ name, key, value string }{
		{"changed", StoragePrefix + "fast", `{"storage":"fast","content":["images","rootdir"]}`},
		{"used", guestKey(102), `{"vmid":102,"kind":"lxc","node":"n1","config":{"mp0":"fast:vm-102-disk-0,mp=/x"}}`},
	} {
		w := newWorld(t)
		j := w.joiner(w.token(""), newKey(t))
		r := brought(t)
		r.Guests = r.Guests[1:]
		if _, err := j.Commit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Txn(t.Context(), nil, store.Op{Key: tt.key, Value: []byte(tt.value)}); err != nil {
			t.Fatal(err)
		}
		if err := j.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := w.dump()
		if _, ok := after[StoragePrefix+"fast"]; !ok || after[guestKey(200)] != "" || after[roster.NodeKey("n2")] != "" {
			t.Errorf("%s: %v", tt.name, after)
		}
	}
}

func TestJanitor(t *testing.T) {
	w := newWorld(t)
	j := w.joiner(w.token(""), newKey(t))
	before := w.dump()
	r := brought(t)
	r.Guests = r.Guests[1:]
	if _, err := j.Commit(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	joined := w.dump()
	seen := w.now().Add(10 * time.Minute)
	w.voter.Seen = func(string) time.Time { return seen }
	clean := func(wantJoined bool) {
		t.Helper()
		if err := w.voter.Janitor(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := before
		if wantJoined {
			want = joined
		}
		if !maps.Equal(w.dump(), want) {
			t.Errorf("after %v: %v", w.now().Sub(noon), w.dump())
		}
	}
	w.pass(39 * time.Minute)
	clean(true)
	w.pass(time.Minute)
	clean(false)
	_, err := j.Commit(t.Context(), r)
	refusedWith(t, "who comes back", err, "join-cancelled")
	w.pass(remembered)
	if _, ok := w.theToken(); !ok {
		t.Error("an expired token is forgotten at once")
	}
	w.pass(time.Hour)
	clean(false)
	if _, ok := w.theToken(); ok {
		t.Error("an expired token is kept for ever")
	}
}

func TestLeave(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	sum, _ := pki.KeySum(key.Public())
	j, before := w.joiner(w.token(""), key), w.dump()
	refusedWith(t, "the last node", w.voter.Leave(t.Context(), "n1", "k1", nil), "last-node")
	r := brought(t)
	r.Guests = r.Guests[1:]
	if _, err := j.Commit(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := w.voter.Done(t.Context(), "n2", sum); err != nil {
		t.Fatal(err)
	}
	it, err := w.store.Get(t.Context(), guestKey(200))
	if err != nil {
		t.Fatal(err)
	}
	good := []Revision{{it.Key, it.Rev}}
	for name, bad := range map[string][]Revision{"none": nil, "stale": {{it.Key, it.Rev - 1}}, "too many": {good[0], {guestKey(201), 9}}} {
		refusedWith(t, name, w.voter.Leave(t.Context(), "n2", sum, bad), "guests-changed")
	}
	if err := w.voter.Leave(t.Context(), "n2", "other key", good); err != nil || w.dump()[guestKey(200)] == "" {
		t.Errorf("another node of that name: %v", err)
	}
	for range 2 {
		if err := w.voter.Leave(t.Context(), "n2", sum, good); err != nil {
			t.Fatal(err)
		}
	}
	after := w.dump()
	delete(after, StoragePrefix+"fast") // definitions are the cluster's
	if !maps.Equal(before, after) {
		t.Errorf("left behind: %v", after)
	}
}

// TestOvertaken: a guest that somebody makes between looking and writing is not
// overwritten.
func TestOvertaken(t *testing.T) {
	w := newWorld(t)
	made := `{"vmid":200,"kind":"lxc","node":"n1","config":{}}`
	w.voter.Store = before{w.store, func() {
		if _, err := w.store.Get(t.Context(), guestKey(200)); err != nil {
			if _, err := w.store.Txn(t.Context(), nil, store.Op{Key: guestKey(200), Value: []byte(made)}); err != nil {
				t.Error(err)
			}
		}
	}}
	r := brought(t)
	r.Guests = r.Guests[1:]
	_, err := w.joiner(w.token(""), newKey(t)).Commit(t.Context(), r)
	refusedWith(t, "overtaken", err, "vmid-clash")
	if after := w.dump(); after[guestKey(200)] != made || after[roster.NodeKey("n2")] != "" || after[StoragePrefix+"fast"] != "" {
		t.Errorf("%v", after)
	}
}

// TestAdmission: a joiner takes a certificate only if it is for its name and
// key, from the authority that it knows.
func TestAdmission(t *testing.T) {
	foreign, mine := newWorld(t), newKey(t)
	for name, change := range map[string]func(w *world, a *Admission){
		"another authority": func(_ *world, a *Admission) { a.Authority = foreign.ca.Certificate().Raw },
		"another's all": func(_ *world, a *Admission) {
			a.Authority, a.Certificate = foreign.ca.Certificate().Raw, nodeCert(t, foreign.ca, "n2").Certificate[0]
		},
		"our key, signed by another": func(_ *world, a *Admission) {
			csr, err := pki.NewRequest(mine, "n2")
			if err != nil {
				t.Fatal(err)
			}
			if a.Certificate, err = foreign.ca.Issue(csr, "n2", noon); err != nil {
				t.Fatal(err)
			}
			a.Authority = foreign.ca.Certificate().Raw
		},
		"another key":  func(w *world, a *Admission) { a.Certificate = nodeCert(t, w.ca, "n2").Certificate[0] },
		"another name": func(w *world, a *Admission) { a.Certificate = nodeCert(t, w.ca, "n3").Certificate[0] },
		"none":         func(_ *world, a *Admission) { a.Certificate = nil },
	} {
		w := newWorld(t)
		j := w.joiner(w.token(""), mine)
		j.Client = changing{j.Client, func(a *Admission) { change(w, a) }}
		if _, err := j.Commit(t.Context(), Records{}); !errors.Is(err, ErrStranger) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := newWorld(t)
	j := w.joiner(w.token(""), newKey(t))
	j.Authority = foreign.fingerprint()
	var bad *FingerprintError
	if _, err := j.Commit(t.Context(), Records{}); !errors.As(err, &bad) || bad.Authority != w.fingerprint() {
		t.Errorf("an authority other than the proven one: %v", err)
	}
}

type changing struct {
	Client
	change func(*Admission)
}

func (c changing) Commit(ctx context.Context, s Signed) (Admission, error) {
	a, err := c.Client.Commit(ctx, s)
	c.change(&a)
	return a, err
}

// TestRace lets many nodes join at once, through two voters, with one guest in
// common and one token in common.
func TestRace(t *testing.T) {
	w := newWorld(t)
	common := w.token("")
	const n = 6
	var wg sync.WaitGroup
	errs := make([]error, n)
	voters := []*Voter{w.newVoter(), w.newVoter()}
	for i := range n {
		token := common
		if i >= 2 {
			token = w.token("")
		}
		name := "m" + string(rune('a'+i))
		s, err := ParseToken(token)
		if err != nil {
			t.Fatal(err)
		}
		own := &world{ca: w.ca, voter: voters[i%2]}
		j := &Joiner{Client: direct{own}, Secret: s, Self: self(name), Key: newKey(t), Now: w.now}
		r := Records{}
		if i >= 4 {
			r.Guests = []Guest{guest(t, `{"vmid":500,"kind":"lxc","node":"`+name+`"}`)}
		}
		wg.Add(1)
		go func() { defer wg.Done(); _, errs[i] = j.Commit(t.Context(), r) }()
	}
	wg.Wait()
	for _, pair := range []struct {
		a, b int
		code string
	}{{0, 1, "token-used"}, {4, 5, "vmid-clash"}} {
		if (errs[pair.a] == nil) == (errs[pair.b] == nil) {
			t.Errorf("%s: %v and %v", pair.code, errs[pair.a], errs[pair.b])
		} else {
			refusedWith(t, "the slower one", errors.Join(errs[pair.a], errs[pair.b]), pair.code)
		}
	}
	ids := map[int]string{}
	for k, v := range w.dump() {
		if !strings.HasPrefix(k, roster.NodePrefix) {
			continue
		}
		nd, err := roster.DecodeNode(store.Item{Key: k, Value: []byte(v)})
		if err != nil || ids[nd.ID] != "" {
			t.Errorf("id %d: %s and %s, %v", nd.ID, ids[nd.ID], nd.Name, err)
		}
		ids[nd.ID] = nd.Name
	}
	if len(ids) != n-1 {
		t.Errorf("%d nodes: %v; %v", len(ids), ids, errs)
	}
}
