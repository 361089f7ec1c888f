package member_test

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"joist/cluster/member"
	"joist/cluster/store"
	"joist/cluster/store/storetest"
)

func start(t *testing.T, dir string, sync bool) *member.Member {
	t.Helper()
	m, err := member.Start(member.Options{Name: "n1", Dir: dir, NoSync: !sync,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := m.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestStore(t *testing.T) {
	m := start(t, t.TempDir(), false)
	defer m.Close()
	n := 0
	storetest.Run(t, func(t *testing.T) store.Store {
		// One member serves all cases; their keys differ.
		n++
		return store.NewEtcd(m.Client())
	})
}

// TestRestart also measures what the budget of the boot asks for.
func TestRestart(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	for i := range 3 {
		begun := time.Now()
		m := start(t, dir, true)
		took := time.Since(begun)
		t.Logf("start %d: %v, RSS %s", i, took, rss(t))
		if took > 3*time.Second {
			t.Errorf("start took %v", took)
		}
		s := store.NewEtcd(m.Client())
		it, err := s.Get(t.Context(), "/k")
		if i > 0 && (err != nil || len(it.Value) != i) {
			t.Errorf("after restart: %+v %v", it, err)
		}
		begun = time.Now()
		if _, err := s.Txn(t.Context(), []store.Cond{{Key: "/k", Rev: it.Rev}}, store.Op{Key: "/k", Value: append(it.Value, 'x')}); err != nil {
			t.Fatal(err)
		}
		t.Logf("write: %v", time.Since(begun))
		begun = time.Now()
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("close: %v", time.Since(begun))
	}
}

func rss(t *testing.T) string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "?"
}
