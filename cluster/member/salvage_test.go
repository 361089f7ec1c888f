package member_test

import (
	"testing"

	"joist/cluster/member"
	"joist/cluster/store"
)

// TestSalvage reads a store from its files: the last value of each key, and
// nothing that was deleted.
func TestSalvage(t *testing.T) {
	dir := t.TempDir()
	if items, err := member.Salvage(dir, "/"); err != nil || len(items) != 0 {
		t.Errorf("of nothing: %v %v", items, err)
	}
	m := start(t, dir, false)
	s := store.NewEtcd(m.Client())
	for _, op := range []store.Op{{Key: "/a/1", Value: []byte("old")}, {Key: "/a/1", Value: []byte("new")}, {Key: "/a/2", Value: []byte("x")},
		{Key: "/a/2"}, {Key: "/b", Value: []byte("y")}, {Key: "/a/3", Value: []byte{}}} {
		if _, err := s.Txn(t.Context(), nil, op); err != nil {
			t.Fatal(err)
		}
	}
	want, err := store.Dump(t.Context(), s, "/a/")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := member.Salvage(dir, "/a/")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || len(want) != 2 {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i, it := range want {
		if g := got[i]; g.Key != it.Key || string(g.Value) != string(it.Value) || g.Rev != it.Rev {
			t.Errorf("got %+v, want %+v", g, it)
		}
	}
}
