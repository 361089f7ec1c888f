package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/cluster/store"
)

// A fault is what happens at a point. Points are before, within and after
// every effect, every journal write and every message.
type fault string

const (
	crash fault = "crash" // the power goes: the process ends there
	fail  fault = "fail"  // it returns an error there
)

type crashed struct{}

// faults counts points.
type faults struct {
	n    int
	at   map[int]fault
	down func() bool // nobody can be reached
}

func (f *faults) point() error {
	f.n++
	switch f.at[f.n] {
	case crash:
		panic(crashed{})
	case fail:
		return fmt.Errorf("fault at point %d", f.n)
	}
	return nil
}

// line is a point of the network.
func (f *faults) line() error {
	if err := f.point(); err != nil || f.down != nil && f.down() {
		return unreachable("192.0.2.1", errors.New("cut"))
	}
	return nil
}

// call is a message with its points: lost on the way there, or back.
func call[T any](f *faults, do func() (T, error)) (out T, err error) {
	if err := f.line(); err != nil {
		return out, err
	}
	got, err := do()
	if lost := f.line(); lost != nil {
		return out, lost
	}
	return got, err
}

// memory is a Journal whose disk survives.
type memory struct {
	f    *faults
	disk []byte
}

func (m *memory) Load() (*Op, error) {
	if m.disk == nil {
		return nil, nil
	}
	var o Op
	return &o, json.Unmarshal(m.disk, &o)
}

func (m *memory) Save(o Op) error {
	if err := m.f.point(); err != nil {
		return err
	}
	m.disk = mustJSON(o)
	return m.f.point()
}

func (m *memory) Remove() error {
	if err := m.f.point(); err != nil {
		return err
	}
	m.disk = nil
	return m.f.point()
}

// box is the disks of n2: which store is in place, which beside it, what
// volumes are called. The methods of Machine work on them step by step.
type box struct {
	w       *world
	f       *faults
	own     Records // in the store "own"
	store   string  // "own", "member", "fresh", "" while there is none
	aside   string
	open    bool
	volumes []string
	certs   bool
	export  string // what export.json has of guest 200 or the dump
	id      string // of the member
	members *[]string
}

type disks struct {
	store, aside, export, volumes string
	certs                         bool
}

func (b *box) disks() disks {
	return disks{b.store, b.aside, b.export, sorted(b.volumes), b.certs}
}

func sorted(list []string) string { return strings.Join(slices.Sorted(slices.Values(list)), " ") }

func (b *box) Records(context.Context) (Records, error) {
	if !b.open || b.store != "own" {
		return Records{}, fmt.Errorf("records of store %q, open %v", b.store, b.open)
	}
	r := b.own
	r.Volumes = slices.Clone(b.volumes)
	return r, b.f.point()
}

func (b *box) Export(ctx context.Context, o *Op) error {
	if !b.open {
		return errors.New("export from a closed store")
	}
	if err := b.f.point(); err != nil {
		return err
	}
	switch o.Kind {
	case Join:
		b.certs = true
		if err := b.f.point(); err != nil {
			return err
		}
		b.export = "own"
	case Leave:
		items, _, err := b.w.store.List(ctx, GuestPrefix)
		if err != nil {
			return err
		}
		o.Exported, b.export = nil, ""
		for _, it := range items {
			if g, err := decodeGuest(it); err == nil && g.Node == "n2" {
				o.Exported = append(o.Exported, Revision{it.Key, it.Rev})
				b.export += string(it.Value)
			}
		}
	case Recover:
		b.export = "dump"
	}
	return b.f.point()
}

func (b *box) rename(list []Rename, back bool) error {
	for _, m := range list {
		from, to := m.Storage+":"+m.From, m.Storage+":"+m.To
		if back {
			from, to = to, from
		}
		if i := slices.Index(b.volumes, from); i >= 0 {
			if slices.Contains(b.volumes, to) {
				return fmt.Errorf("volume %s would be overwritten", to)
			}
			b.volumes[i] = to
		}
		if err := b.f.point(); err != nil {
			return err
		}
	}
	return nil
}

func (b *box) Swap(_ context.Context, o *Op) error {
	if b.open {
		return errors.New("swap under an open store")
	}
	if err := b.rename(o.Renames, false); err != nil {
		return err
	}
	if b.aside == "" {
		b.aside, b.store = b.store, ""
	} else {
		b.store = ""
	}
	if err := b.f.point(); err != nil {
		return err
	}
	if o.Kind == Leave || o.Kind == Recover {
		b.store = "fresh"
	}
	return b.f.point()
}

func (b *box) Attach(ctx context.Context, o *Op) error {
	if b.open {
		return errors.New("attach to an open store")
	}
	if o.Kind == Leave || o.Kind == Recover {
		if err := b.f.point(); err != nil {
			return err
		}
		b.open = true
		return nil
	}
	_, err := call(b.f, func() (struct{}, error) {
		if o.Kind == Demote {
			if !slices.Contains(*b.members, o.MemberID) {
				return struct{}{}, refuse("member-removed", "", "ask again", "removed")
			}
			return struct{}{}, nil
		}
		n, rev, err := b.w.voter.node(ctx, "n2")
		if err == nil && (rev == 0 || n.KeySHA256 != keySum(b.w.t, o)) {
			err = gone("n2")
		}
		if err == nil && !slices.Contains(*b.members, "n2") {
			*b.members = append(*b.members, "n2")
		}
		return struct{}{}, err
	})
	if err != nil {
		return err
	}
	b.store, b.id = "member", o.MemberID
	if err := b.f.point(); err != nil {
		return err
	}
	b.open = true
	return nil
}

func (b *box) Clean(_ context.Context, o *Op) error {
	if err := b.f.point(); err != nil {
		return err
	}
	b.aside = ""
	if err := b.f.point(); err != nil {
		return err
	}
	b.export = ""
	return b.f.point()
}

func (b *box) Revert(_ context.Context, o *Op) error {
	if b.open {
		return errors.New("revert under an open store")
	}
	if b.aside != "" {
		b.store, b.aside = b.aside, ""
	}
	if err := b.f.point(); err != nil {
		return err
	}
	if err := b.rename(o.Renames, true); err != nil {
		return err
	}
	if o.Kind == Join {
		b.certs = false
	}
	if err := b.f.point(); err != nil {
		return err
	}
	b.export = ""
	return b.f.point()
}

func keySum(t testing.TB, o *Op) string {
	t.Helper()
	key, err := pki.DecodeKey(o.Key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := pki.KeySum(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// far is Peers that call the voter.
type far struct{ b *box }

func (p far) Finish(ctx context.Context, o Op) error {
	_, err := call(p.b.f, func() (struct{}, error) {
		return struct{}{}, p.b.w.voter.Done(ctx, "n2", keySum(p.b.w.t, &o))
	})
	return err
}

func (p far) Release(ctx context.Context, o Op) error {
	_, err := call(p.b.f, func() (struct{}, error) { return struct{}{}, p.b.w.voter.Leave(ctx, "n2", "k2", o.Exported) })
	return err
}

func (p far) Rejoin(_ context.Context, o *Op) error {
	id, err := call(p.b.f, func() (string, error) {
		*p.b.members = append(*p.b.members, fmt.Sprintf("id%d", len(*p.b.members)))
		return (*p.b.members)[len(*p.b.members)-1], nil
	})
	o.MemberID = id
	return err
}

// lossy is a Client with faults.
type lossy struct {
	direct
	f *faults
}

func (l lossy) Connect(ctx context.Context) (string, error) {
	return call(l.f, func() (string, error) { return l.direct.Connect(ctx) })
}
func (l lossy) Hello(ctx context.Context, s Signed) (Signed, error) {
	return call(l.f, func() (Signed, error) { return l.direct.Hello(ctx, s) })
}
func (l lossy) Commit(ctx context.Context, s Signed) (Admission, error) {
	return call(l.f, func() (Admission, error) { return l.direct.Commit(ctx, s) })
}
func (l lossy) Abort(ctx context.Context, s Signed) error {
	_, err := call(l.f, func() (struct{}, error) { return struct{}{}, l.direct.Abort(ctx, s) })
	return err
}

// guarded is the store, which nobody may write n1's guests in.
type guarded struct{ store.Store }

func (g guarded) Txn(ctx context.Context, conds []store.Cond, ops ...store.Op) (int64, error) {
	for _, o := range ops {
		if o.Key == guestKey(100) || o.Key == guestKey(102) || o.Key == roster.NodeKey("n1") {
			return 0, fmt.Errorf("somebody writes %s", o.Key)
		}
	}
	return g.Store.Txn(ctx, conds, ops...)
}

// rig is one run of an operation on n2.
type rig struct {
	*box
	journal *memory
	last    Op // as it was told of last
	starts  int
}

func newRig(t testing.TB, f *faults) *rig {
	w := newWorld(t)
	w.voter.Store = guarded{w.store}
	r := brought(t)
	b := &box{w: w, f: f, own: r, store: "own", volumes: slices.Clone(r.Volumes), members: &[]string{"n1"}}
	w.voter.Evict = func(_ context.Context, n roster.Node) error {
		*b.members = slices.DeleteFunc(*b.members, func(m string) bool { return m == n.Name })
		return nil
	}
	return &rig{box: b, journal: &memory{f: f}}
}

// drive restarts the daemon of n2 until no operation is left. Each turn of the
// clock lets the voters' janitor look.
func (g *rig) drive() {
	for g.journal.disk != nil {
		g.starts++
		if g.starts > 100 {
			g.w.t.Fatalf("no end: %s", g.journal.disk)
		}
		g.boot()
	}
}

func (g *rig) boot() {
	defer func() {
		g.open = false
		if p := recover(); p != nil {
			if _, ok := p.(crashed); !ok {
				panic(p)
			}
		}
	}()
	g.open = false
	run := func(at Place) (Place, error) {
		r := &Runner{Journal: g.journal, Machine: g.box, Peers: far{g.box}, Now: g.w.now, Log: slog.New(slog.DiscardHandler),
			Changed: func(o Op, _ error) { g.last = o },
			Wait: func(ctx context.Context, d time.Duration) error {
				g.w.pass(d)
				return g.w.voter.Janitor(ctx)
			},
			Door: func(o Op) (Door, error) {
				s, err := ParseToken(o.Ask.Token)
				if err != nil {
					return nil, err
				}
				key, err := pki.DecodeKey(o.Key)
				if err != nil {
					return nil, err
				}
				return &Joiner{Client: lossy{direct{g.w}, g.f}, Secret: s, Self: self("n2"), Key: key, Now: g.w.now, Authority: o.Authority}, nil
			}}
		return r.Run(g.w.t.Context(), at)
	}
	need, err := run(Closed)
	if err != nil || need == Closed {
		return // the daemon ends and is started again
	}
	g.open = true
	if _, err := run(Open); err != nil {
		return
	}
}

// checkJoin holds that n2 is wholly in or wholly out, and says which.
func (g *rig) checkJoin(what string, before map[string]string, was disks, text string) (joined bool) {
	t := g.w.t
	t.Helper()
	after := g.w.dump()
	now := g.disks()
	tok, left := g.w.theToken()
	if g.store == "own" {
		if now != was {
			t.Errorf("%s: rolled back to %+v", what, now)
		}
		if !maps.Equal(before, after) || slices.Contains(*g.members, "n2") || tok.Bound != "" {
			t.Errorf("%s: n2 is out, the cluster has %v, members %v, token bound to %q", what, after, *g.members, tok.Bound)
		}
		return false
	}
	want := disks{store: "member", volumes: "fast:vm-101-cloudinit fast:vm-101-disk-0 fast:vm-200-disk-0", certs: true}
	if now != want || left || !slices.Contains(*g.members, "n2") {
		t.Errorf("%s: n2 is in with %+v, token there: %v", what, now, left)
	}
	wantJoined(t, before, after, 101)
	n, _, err := g.w.voter.node(t.Context(), "n2")
	if err != nil || n.State != roster.Member {
		t.Errorf("%s: n2 is %+v %v", what, n, err)
	}
	g.w.pass(time.Hour)
	if err := g.w.voter.Janitor(t.Context()); err != nil || !maps.Equal(after, g.w.dump()) {
		t.Errorf("%s: the janitor takes a member: %v", what, err)
	}
	if _, err := g.w.joiner(text, newKey(t)).Check(t.Context(), Records{}, auto); err == nil {
		t.Errorf("%s: the token serves twice", what)
	}
	return true
}

// tryJoin runs one join under faults.
func tryJoin(t testing.TB, what string, f *faults, outage time.Duration) (joined bool, points int) {
	t.Helper()
	g := newRig(t, f)
	text := g.w.token("")
	before, was := g.w.dump(), g.disks()
	if outage > 0 { // from the point on that at names
		from, start := 0, time.Time{}
		for n := range f.at {
			from = n
		}
		f.at = nil
		f.down = func() bool {
			if f.n >= from && start.IsZero() {
				start = g.w.now()
			}
			return !start.IsZero() && g.w.now().Before(start.Add(outage))
		}
	}
	g.journal.disk = mustJSON(Op{Kind: Join, State: Asked, Ask: &Ask{Address: "192.0.2.1", Token: text, Renumber: auto}})
	g.drive()
	return g.checkJoin(what, before, was, text), f.n
}

// TestJoinCrash cuts a join at every point there is, in every way.
func TestJoinCrash(t *testing.T) {
	joined, n := tryJoin(t, "undisturbed", &faults{}, 0)
	if !joined || n < 30 {
		t.Fatalf("undisturbed: joined %v, %d points", joined, n)
	}
	in, out := 0, 0
	count := func(joined bool, _ int) {
		if joined {
			in++
		} else {
			out++
		}
	}
	for i := 1; i <= n; i++ {
		for _, how := range []fault{crash, fail} {
			count(tryJoin(t, fmt.Sprintf("%s at %d", how, i), &faults{at: map[int]fault{i: how}}, 0))
		}
		for _, d := range []time.Duration{3 * time.Minute, 45 * time.Minute} {
			count(tryJoin(t, fmt.Sprintf("down for %s from %d", d, i), &faults{at: map[int]fault{i: ""}}, d))
		}
	}
	rnd := rand.New(rand.NewSource(7))
	for range 200 {
		at := map[int]fault{}
		for range 2 + rnd.Intn(6) {
			at[1+rnd.Intn(n+20)] = []fault{crash, fail}[rnd.Intn(2)]
		}
		count(tryJoin(t, fmt.Sprint(at), &faults{at: at}, 0))
	}
	t.Logf("%d points; %d runs ended joined, %d as before", n, in, out)
	if in < 100 || out < 20 {
		t.Errorf("%d runs joined, %d did not: the faults do not reach both ends", in, out)
	}
}

// TestJoinBroken: what never works ends where it began, with the reason.
func TestJoinBroken(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setup func(g *rig)
		state string
		want  string
	}{
		{"a clash nobody resolves", func(g *rig) {}, "", "has the VMID of"},
		{"expired", func(g *rig) { g.w.pass(2 * time.Hour) }, "", "expired"},
		{"changed meanwhile", func(g *rig) {
			g.w.voter.Vet = nil
			real := g.w.voter.Authority
			calls := 0
			g.w.voter.Authority = func(ctx context.Context) (*pki.Authority, error) {
				if calls++; calls == 3 { // hello of the plan, hello, commit
					g.own.Guests = g.own.Guests[1:]
				}
				return real(ctx)
			}
		}, "auto", "were changed while it joined"},
		{"started meanwhile", func(g *rig) {
			real := g.w.voter.Authority
			calls := 0
			g.w.voter.Authority = func(ctx context.Context) (*pki.Authority, error) {
				if calls++; calls == 3 {
					g.own.Running = []int{100}
				}
				return real(ctx)
			}
		}, "auto", "was started while"},
	} {
		g := newRig(t, &faults{})
		text := g.w.token("")
		ask := &Ask{Token: text, Renumber: Want{Auto: tt.state == "auto"}}
		g.journal.disk = mustJSON(Op{Kind: Join, State: Asked, Ask: ask})
		before, was := g.w.dump(), g.disks()
		tt.setup(g)
		g.drive()
		if g.checkJoin(tt.name, before, was, text) || g.last.State != Gone || !strings.Contains(g.last.Reason, tt.want) {
			t.Errorf("%s: %s, reason %q", tt.name, g.last.State, g.last.Reason)
		}
	}
}

// TestReplan: somebody takes the VMID that was planned; auto plans again.
func TestReplan(t *testing.T) {
	g := newRig(t, &faults{})
	text := g.w.token("")
	g.journal.disk = mustJSON(Op{Kind: Join, State: Asked, Ask: &Ask{Token: text, Renumber: auto}})
	real, calls := g.w.voter.Authority, 0
	g.w.voter.Authority = func(ctx context.Context) (*pki.Authority, error) {
		if calls++; calls == 2 {
			_, err := g.w.store.Txn(ctx, nil, store.Op{Key: guestKey(101), Value: []byte(`{"vmid":101,"kind":"lxc","node":"n1"}`)})
			if err != nil {
				return nil, err
			}
		}
		return real(ctx)
	}
	g.drive()
	after := g.w.dump()
	if g.last.State != Done || g.last.IDs[100] != 103 || after[guestKey(103)] == "" || g.last.Reason != "" {
		t.Errorf("%s with %v, reason %q", g.last.State, g.last.IDs, g.last.Reason)
	}
}

// TestCancel calls a join off in each state.
func TestCancel(t *testing.T) {
	for _, s := range States() {
		row, ok := Lookup(Join, s)
		if !ok {
			continue
		}
		g := newRig(t, &faults{})
		text := g.w.token("")
		before, was := g.w.dump(), g.disks()
		g.journal.disk = mustJSON(Op{Kind: Join, State: Asked, Ask: &Ask{Token: text, Renumber: auto}})
		stop := &stopper{Journal: g.journal, at: s}
		at := Closed
		for range 20 {
			r := &Runner{Journal: stop, Machine: g.box, Peers: far{g.box}, Now: g.w.now, Log: slog.New(slog.DiscardHandler), Door: func(o Op) (Door, error) {
				s, _ := ParseToken(o.Ask.Token)
				key, err := pki.DecodeKey(o.Key)
				return &Joiner{Client: direct{g.w}, Secret: s, Self: self("n2"), Key: key, Now: g.w.now}, err
			}}
			stop.r = r
			if s == Asked {
				r.Cancel()
			}
			g.open = at == Open
			need, err := r.Run(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			if at = need; need == "" {
				break
			}
		}
		joined := g.checkJoin(string(s), before, was, text)
		_, back := row.On[Cancel]
		reached := s == Asked || stop.reached
		if reached != (s != Aborting && s != Restored && s != Replan) { // which this join does not come to
			t.Errorf("%s: reached %v", s, reached)
		}
		if reached && joined == back {
			t.Errorf("%s: joined %v", s, joined)
		}
	}
}

// stopper cancels when a state is entered.
type stopper struct {
	Journal
	at      State
	r       *Runner
	reached bool
}

func (s *stopper) Save(o Op) error {
	if o.State == s.at {
		s.reached = true
		s.r.Cancel()
	}
	return s.Journal.Save(o)
}

// TestOthersCrash does the same to leaving, recovering and coming back.
func TestOthersCrash(t *testing.T) {
	for _, k := range []Kind{Leave, Recover, Demote} {
		end, n := tryOther(t, k, "undisturbed", &faults{})
		if end != Done || n < 15 {
			t.Errorf("%s, undisturbed: %s, %d points", k, end, n)
		}
		for i := 1; i <= n; i++ {
			for _, how := range []fault{crash, fail} {
				tryOther(t, k, fmt.Sprintf("%s at %d", how, i), &faults{at: map[int]fault{i: how}})
			}
		}
		rnd := rand.New(rand.NewSource(3))
		for range 100 {
			at := map[int]fault{}
			for range 2 + rnd.Intn(5) {
				at[1+rnd.Intn(n+10)] = []fault{crash, fail}[rnd.Intn(2)]
			}
			tryOther(t, k, fmt.Sprint(at), &faults{at: at})
		}
	}
}

// tryOther runs an operation of a node that is a member.
func tryOther(t testing.TB, k Kind, what string, f *faults) (State, int) {
	t.Helper()
	what = fmt.Sprintf("%s, %s", k, what)
	g := newRig(t, f)
	put := func(key string, value []byte) {
		if _, err := g.w.store.Txn(t.Context(), nil, store.Op{Key: key, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	alone := g.w.dump()
	put(roster.NodeKey("n2"), roster.Node{Name: "n2", ID: 2, KeySHA256: "k2", State: roster.Member}.Encode())
	put(guestKey(200), []byte(`{"vmid":200,"kind":"lxc","node":"n2","config":{"hostname":"old"}}`))
	*g.members, g.store, g.certs = append(*g.members, "n2"), "member", true
	// Somebody changes the guest while n2 leaves: that must not get lost.
	changed := `{"vmid":200,"kind":"lxc","node":"n2","config":{"hostname":"new"}}`
	exported := ""
	step := 0
	g.w.voter.Store = guarded{before{g.w.store, func() {
		if step++; k == Leave && step == 1 {
			put(guestKey(200), []byte(changed))
		}
		exported = g.export
	}}}
	with, was := g.w.dump(), g.disks()
	g.journal.disk = mustJSON(Op{Kind: k, State: Asked})
	g.drive()
	after, now := g.w.dump(), g.disks()
	// A cut right after the end keeps it from being told; the disks tell.
	end := Done
	if k == Recover && g.store == "member" {
		end = Gone
	}
	want := disks{store: "fresh", volumes: was.volumes, certs: true}
	switch {
	case k == Leave && end == Done:
		if !maps.Equal(after, alone) || slices.Contains(*g.members, "n2") || now != want || !strings.Contains(exported, "new") {
			t.Errorf("%s: left with %+v, the cluster has %v; exported %q", what, now, after, exported)
		}
	case k == Recover && end == Done:
		if now != want || !maps.Equal(after, with) {
			t.Errorf("%s: recovered with %+v", what, now)
		}
	case k == Demote && end == Done:
		if now != was || !slices.Contains(*g.members, g.id) {
			t.Errorf("%s: back with %+v as %q of %v", what, now, g.id, *g.members)
		}
	case k == Recover && end == Gone:
		if now != was {
			t.Errorf("%s: rolled back to %+v", what, now)
		}
	default:
		t.Errorf("%s: ended %q with %+v", what, end, now)
	}
	return end, f.n
}

// before is a store that lets something happen before each transaction.
type before struct {
	store.Store
	do func()
}

func (b before) Txn(ctx context.Context, conds []store.Cond, ops ...store.Op) (int64, error) {
	b.do()
	return b.Store.Txn(ctx, conds, ops...)
}
