package join

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/cluster/store"
	"joist/cluster/store/storetest"
	"joist/internal/finding"
)

// world is a cluster of one node, n1, with guests 100 and 102 and storage
// "local", its clock in the test's hand, and what an n2 brings: guests 100 and
// 200, the same "local", and "fast".
type world struct {
	t     testing.TB
	store *storetest.Memory
	ca    *pki.Authority
	voter *Voter
	mu    sync.Mutex
	time  time.Time
}

const localDef = `{"storage":"local","type":"dir","content":["iso","vztmpl"],"path":"/var/lib/vz"}`

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, store: storetest.NewMemory(), time: noon}
	var err error
	if w.ca, err = pki.New("0123456789abcdef", noon); err != nil {
		t.Fatal(err)
	}
	put := func(key string, value []byte) {
		if _, err := w.store.Txn(t.Context(), nil, store.Op{Key: key, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	put(roster.ClusterKey, roster.Cluster{ID: "0123456789abcdef", Name: "home", Created: noon, HeartbeatMs: 100, ElectionMs: 1000}.Encode())
	put(roster.NodeKey("n1"), roster.Node{Name: "n1", ID: 1, InstallationID: "1111", KeySHA256: "k1", State: roster.Member, Addresses: []string{"192.0.2.1"}}.Encode())
	put(guestKey(100), []byte(`{"vmid":100,"kind":"qemu","node":"n1","config":{"name":"db"}}`))
	put(guestKey(102), []byte(`{"vmid":102,"kind":"lxc","node":"n1","config":{}}`))
	put(StoragePrefix+"local", storageDef(t, localDef).Raw)
	w.voter = w.newVoter()
	return w
}

// newVoter is a voter that was just started.
func (w *world) newVoter() *Voter {
	return &Voter{Store: w.store, Node: "n1", Version: "0.2.0", StoreProg: "3.7.3", Now: w.now, Log: slog.New(slog.DiscardHandler),
		Authority: func(context.Context) (*pki.Authority, error) { return w.ca, nil }}
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func (w *world) token(node string) string {
	w.t.Helper()
	text, tok, err := NewToken(w.now(), TokenLife, node)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.store.Txn(w.t.Context(), nil, store.Op{Key: TokenStoreKey(tok.ID), Value: tok.Encode()}); err != nil {
		w.t.Fatal(err)
	}
	return text
}

// brought is what n2 has.
func brought(t testing.TB) Records {
	return Records{
		Guests: []Guest{
			guest(t, `{"vmid":100,"kind":"qemu","node":"n2","config":{"name":"web <1>","scsi0":"fast:vm-100-disk-0,size=8G"}}`),
			guest(t, `{"vmid":200,"kind":"lxc","node":"n2","config":{"hostname":"dns","rootfs":"fast:vm-200-disk-0"}}`),
		},
		Storages: []Storage{storageDef(t, `{"storage":"fast","type":"lvmthin","content":["images"],"vgname":"joist","vg_uuid":"B"}`),
			storageDef(t, `{"path":"/var/lib/vz","type":"dir","content":["vztmpl","iso"],"storage":"local"}`)},
		Volumes: []string{"fast:vm-100-disk-0", "fast:vm-100-cloudinit", "fast:vm-200-disk-0"},
	}
}

// joiner is n2 that talks to the voter without a network.
func (w *world) joiner(token string, key *ecdsa.PrivateKey) *Joiner {
	w.t.Helper()
	s, err := ParseToken(token)
	if err != nil {
		w.t.Fatal(err)
	}
	return &Joiner{Client: direct{w}, Secret: s, Self: self("n2"), Key: key, Now: w.now}
}

func self(name string) Self {
	return Self{Name: name, InstallationID: "id-" + name, Version: "0.2.1", StoreProg: "3.7.3", Addresses: []string{"192.0.2.2"}}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// direct is a Client that calls the voter.
type direct struct{ w *world }

func (d direct) Connect(context.Context) (string, error) {
	return pki.Fingerprint(d.w.ca.Certificate().Raw), nil
}
func (d direct) Hello(ctx context.Context, s Signed) (Signed, error) { return d.w.voter.Hello(ctx, s) }
func (d direct) Commit(ctx context.Context, s Signed) (Admission, error) {
	return d.w.voter.Commit(ctx, s)
}
func (d direct) Abort(ctx context.Context, s Signed) error { return d.w.voter.Abort(ctx, s) }

// dump is the store's content, without the tokens: those are the join's own.
func (w *world) dump() map[string]string {
	w.t.Helper()
	items, _, err := w.store.List(w.t.Context(), "/")
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]string{}
	for _, it := range items {
		if !strings.HasPrefix(it.Key, roster.TokenPrefix) {
			out[it.Key] = string(it.Value)
		}
	}
	return out
}

// theToken is the one token there is.
func (w *world) theToken() (Token, bool) {
	w.t.Helper()
	items, _, err := w.store.List(w.t.Context(), roster.TokenPrefix)
	if err != nil || len(items) > 1 {
		w.t.Fatalf("%d tokens, %v", len(items), err)
	}
	if len(items) == 0 {
		return Token{}, false
	}
	t, err := DecodeToken(items[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return t, true
}

// refusedWith wants an error with exactly the stops of these codes.
func refusedWith(t testing.TB, what string, err error, codes ...string) {
	t.Helper()
	var no *Refused
	if !errors.As(err, &no) {
		t.Errorf("%s: %v, want a refusal with %v", what, err, codes)
		return
	}
	stopsWith(t, what, no.Findings, codes...)
}

func stopsWith(t testing.TB, what string, l finding.List, codes ...string) {
	t.Helper()
	got := []string{}
	for _, f := range l {
		if f.Level != finding.Stop {
			continue
		}
		got = append(got, f.Code)
		if f.Text == "" || f.Hint == "" {
			t.Errorf("%s: %s has no text or no cure", what, f.Code)
		}
	}
	slices.Sort(got)
	slices.Sort(codes)
	if !slices.Equal(got, codes) {
		t.Errorf("%s: findings %v, want %v: %v", what, got, codes, l)
	}
}

// renumberedTo is what n2 brings after auto renumbering, as the store has it.
func wantJoined(t testing.TB, before map[string]string, after map[string]string, vmid int) {
	t.Helper()
	for k, v := range before {
		if after[k] != v {
			t.Errorf("%s was changed: %q became %q", k, v, after[k])
		}
	}
	for _, id := range []int{vmid, 200} {
		g, err := ParseGuest([]byte(after[guestKey(id)]))
		if err != nil || g.Node != "n2" || g.VMID != id {
			t.Errorf("guest %d: %+v %v", id, g, err)
		}
	}
	var web struct{ Config map[string]string }
	if err := json.Unmarshal([]byte(after[guestKey(vmid)]), &web); err != nil || web.Config["scsi0"] != fmt.Sprintf("fast:vm-%d-disk-0,size=8G", vmid) ||
		web.Config["name"] != "web <1>" {
		t.Errorf("guest %d: %+v %v", vmid, web, err)
	}
	if len(after) != len(before)+4 || strings.Contains(after[StoragePrefix+"fast"], "vg_uuid") || after[StoragePrefix+"fast"] == "" {
		t.Errorf("%d keys, before %d: %v", len(after), len(before), after)
	}
}

// noQuorum is a store that cannot decide.
type noQuorum struct{ store.Store }

func (noQuorum) Txn(context.Context, []store.Cond, ...store.Op) (int64, error) {
	return 0, fmt.Errorf("write to store: %w", store.ErrNoQuorum)
}
