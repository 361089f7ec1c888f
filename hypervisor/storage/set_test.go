package storage

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"joist/api/node"
	"joist/cluster/store"
)

type fakePool struct {
	Pool
	id string
}

func (f fakePool) ID() string { return f.id }

func TestSet(t *testing.T) {
	made := 0
	fail := errors.New("no such volume group")
	s := NewSet([]Config{{ID: "b", Type: "ok"}, {ID: "a", Type: "bad"}, {ID: "c", Type: "strange"}, {ID: "d", Type: "ok", Disable: true}},
		map[string]Factory{
			"ok":  func(c Config) (Pool, error) { made++; return fakePool{id: c.ID}, nil },
			"bad": func(Config) (Pool, error) { return nil, fail },
		})
	if c := s.Configs(); len(c) != 4 || c[0].ID != "a" || c[3].ID != "d" {
		t.Errorf("configs %v", c)
	}
	p, name, err := s.Resolve("b:iso/x.iso")
	if err != nil || p.ID() != "b" || name != "iso/x.iso" {
		t.Errorf("%v, %q, %v", p, name, err)
	}
	if _, _, err := s.Resolve("x:vm-100-disk-0"); !errors.Is(err, ErrNoStorage) || err.Error() != "storage 'x' does not exist" {
		t.Errorf("unknown storage: %v", err)
	}
	if _, err := s.Pool("a"); !errors.Is(err, fail) {
		t.Errorf("broken storage: %v", err)
	}
	if _, err := s.Pool("d"); !errors.Is(err, ErrDisabled) {
		t.Errorf("disabled storage: %v", err)
	}
	if _, err := s.Pool("c"); err == nil {
		t.Error("unknown type passed")
	}
	fail = nil
	s.Update([]Config{{ID: "b", Type: "ok"}, {ID: "a", Type: "ok"}})
	if made != 2 {
		t.Errorf("opened %d times: an unchanged storage must be kept", made)
	}
	if _, ok := s.Config("c"); ok {
		t.Error("removed storage is still there")
	}
}

func TestSplitID(t *testing.T) {
	for id, ok := range map[string]bool{
		"local:iso/x.iso": true, "local-lvm:vm-100-disk-0": true, "local:100/vm-100-disk-0.qcow2": true,
		"local:iso/../x": false, "local:/etc/passwd": false, "local:": false, ":x": false, "local:-rf": false,
		"local:iso/a b.iso": false, "local:a/b/c/d": false, "l ocal:x": false, "local:iso/x\n": false, "x": false,
	} {
		if _, _, err := SplitID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
	for name, want := range map[string]int{"vm-100-disk-0": 100, "100/vm-100-disk-1.qcow2": 100, "iso/x.iso": 0, "subvol-999-disk-0": 999, "vm-1-disk-0": 0} {
		if got := Owner(name); got != want {
			t.Errorf("Owner(%q) = %d", name, got)
		}
	}
}

// memory is a store with what Load needs; the first Txn loses a race when race
// is set.
type memory struct {
	store.Store
	items []store.Item
	race  []byte
}

func (m *memory) List(context.Context, string) ([]store.Item, int64, error) {
	return m.items, int64(len(m.items)), nil
}

func (m *memory) Txn(_ context.Context, _ []store.Cond, ops ...store.Op) (int64, error) {
	if m.race != nil {
		m.items, m.race = []store.Item{{Key: Prefix + "local", Value: m.race}}, nil
		return 0, store.ErrConflict
	}
	for _, o := range ops {
		m.items = append(m.items, store.Item{Key: o.Key, Value: o.Value})
	}
	return 1, nil
}

func TestLoad(t *testing.T) {
	defaults := Defaults(node.Storage{Layout: "lvm", VGUUID: "u", VGName: "joist", Thin: "data"})
	if len(defaults) != 2 || defaults[1].VGUUID != "" || Local(defaults, node.Storage{VGName: "joist", VGUUID: "u"})[1].VGUUID != "u" || !defaults[0].Holds(Import) || defaults[0].Holds(Images) {
		t.Fatalf("%+v", defaults)
	}
	pool := node.Storage{Layout: "zfs", PoolGUID: "77", PoolName: "rpool"}
	zfs := Local(append(Defaults(pool), Config{ID: "other", Type: "zfspool", Pool: "tank/data"}), pool)
	if len(zfs) != 3 || zfs[1].ID != "local-zfs" || zfs[1].Pool != "rpool/data" || zfs[1].PoolGUID != "77" || zfs[2].PoolGUID != "" {
		t.Fatalf("%+v", zfs)
	}
	m := &memory{}
	got, _, err := Load(t.Context(), m, defaults)
	if err != nil || len(got) != 2 || got[0].ID != "local" {
		t.Errorf("fresh: %+v, %v", got, err)
	}
	b, _ := json.Marshal(Config{ID: "local", Type: "dir", Path: "/elsewhere"})
	got, _, err = Load(t.Context(), &memory{race: b}, defaults)
	if err != nil || len(got) != 2 || got[0].Path != "/elsewhere" || got[1].ID != "local-lvm" {
		t.Errorf("second of two: %+v, %v", got, err)
	}
	// a node of another layout comes to the cluster
	got, _, err = Load(t.Context(), m, Defaults(pool))
	if err != nil || len(got) != 3 || got[2].ID != "local-zfs" {
		t.Errorf("a node on ZFS: %+v, %v", got, err)
	}
	for i, here := range []bool{true, false, true} {
		if c := Local(got, pool)[i]; c.Here() != here {
			t.Errorf("%s is there: %v", c.ID, !here)
		}
	}
	_, _, err = Load(t.Context(), &memory{items: []store.Item{{Key: Prefix + "x", Value: b}}}, nil)
	if err == nil || !strings.Contains(err.Error(), "id") {
		t.Errorf("wrong key: %v", err)
	}
}
