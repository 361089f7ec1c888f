package network

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTable walks every state and event: each pair leads somewhere, only
// refusal and the end of the lease take an address away, and bound is reached
// by a grant alone.
func TestTable(t *testing.T) {
	for s := range states {
		if _, ok := transitions[s]; !ok {
			t.Errorf("%v has no transitions", s)
		}
		for e := range events {
			n, ok := next(s, e)
			if !ok {
				if n != idle {
					t.Errorf("%v, %v: undefined, but goes to %v", s, e, n)
				}
				continue
			}
			if n == expired && e != nak && e != leaseEnd {
				t.Errorf("%v, %v: drops the address", s, e)
			}
			if n == bound && e != ack {
				t.Errorf("%v, %v: bound without a grant", s, e)
			}
		}
	}
	reached := map[state]bool{idle: true}
	for range states {
		for s := range reached {
			for _, n := range transitions[s] {
				reached[n] = true
			}
		}
	}
	if len(reached) != int(states) {
		t.Errorf("only %d of %d states can be reached", len(reached), states)
	}
}

func TestWaits(t *testing.T) {
	mid := func() float64 { return 0.5 }
	for n, want := range []time.Duration{2, 4, 8, 16, 32, 64, 64} {
		if got := backoff(n, mid); got != want*time.Second {
			t.Errorf("backoff(%d) = %v", n, got)
		}
	}
	for _, c := range []struct{ left, want time.Duration }{
		{time.Hour, 30 * time.Minute}, {90 * time.Second, time.Minute}, {10 * time.Second, 10 * time.Second}, {-time.Second, 0},
	} {
		if got := retryIn(c.left); got != c.want {
			t.Errorf("retryIn(%v) = %v, want %v", c.left, got, c.want)
		}
	}
}

// fakeServer answers as it is told; the clock is the bubble's.
type fakeServer struct {
	mode string // "", "silent", "nak"
	ip   string
	log  []string
	from time.Time
}

func (f *fakeServer) note(s string) {
	f.log = append(f.log, time.Since(f.from).Round(time.Second).String()+" "+s)
}

func (f *fakeServer) answer(ctx context.Context, what string) (lease, error) {
	f.note(what)
	switch f.mode {
	case "silent":
		time.Sleep(12 * time.Second)
		return lease{}, errors.New("no answer")
	case "nak":
		return lease{}, errNak
	}
	return lease{Address: netip.MustParsePrefix(f.ip + "/24"), Since: time.Now(),
		T1: 50 * time.Minute, T2: 80 * time.Minute, Length: 100 * time.Minute}, nil
}

func (f *fakeServer) Select(ctx context.Context, want netip.Addr) (lease, error) {
	return f.answer(ctx, "select")
}

func (f *fakeServer) Confirm(ctx context.Context, l lease, s state) (lease, error) {
	return f.answer(ctx, s.String())
}

func TestClient(t *testing.T) {
	type step struct {
		after time.Duration
		do    func(f *fakeServer, carrier chan bool)
	}
	mode := func(m, ip string) func(*fakeServer, chan bool) {
		return func(f *fakeServer, _ chan bool) { f.mode, f.ip = m, ip }
	}
	link := func(up bool) func(*fakeServer, chan bool) {
		return func(_ *fakeServer, c chan bool) { c <- up }
	}
	now := func(age time.Duration) lease {
		return lease{Address: netip.MustParsePrefix("192.0.2.9/24"), Since: time.Now().Add(-age),
			T1: 50 * time.Minute, T2: 80 * time.Minute, Length: 100 * time.Minute}
	}
	for name, c := range map[string]struct {
		last  time.Duration // age of the last lease, 0 = none
		steps []step
		end   time.Duration
		want  []string
	}{
		"first lease and renewal": {
			steps: []step{{time.Second, link(true)}}, end: 2 * time.Hour,
			want: []string{"1s select", "1s set 192.0.2.5/24", "50m1s renewing", "50m1s set 192.0.2.5/24", "1h40m1s renewing", "1h40m1s set 192.0.2.5/24"},
		},
		"init-reboot": {
			last: time.Minute, steps: []step{{time.Second, link(true)}}, end: time.Minute,
			want: []string{"1s rebooting", "1s set 192.0.2.5/24"},
		},
		"refused after a restart": {
			last: time.Minute, steps: []step{{time.Second, mode("nak", "")}, {0, link(true)}, {time.Second, mode("", "192.0.2.7")}}, end: 10 * time.Second,
			want: []string{"1s rebooting", "1s drop", "1s select", "? select", "? set 192.0.2.7/24"},
		},
		"no server at boot, lease runs": {
			last: 99 * time.Minute, steps: []step{{0, mode("silent", "")}, {0, link(true)}}, end: 100 * time.Second,
			want: []string{"0s rebooting", "12s set 192.0.2.9/24", "12s rebinding", "1m0s drop", "1m0s select"},
		},
		"server gone: renew, rebind, lose, find again": {
			steps: []step{{0, link(true)}, {time.Minute, mode("silent", "")}, {98*time.Minute + 30*time.Second, mode("", "192.0.2.6")}}, end: 102 * time.Minute,
			want: []string{"0s select", "0s set 192.0.2.5/24", "50m0s renewing", "1h5m6s renewing", "1h12m39s renewing", "1h16m26s renewing", "1h18m19s renewing", "1h19m31s renewing", "1h20m0s rebinding", "1h30m6s rebinding", "1h35m9s rebinding", "1h37m41s rebinding", "1h38m56s rebinding", "1h40m0s drop", "1h40m0s select", "1h40m0s set 192.0.2.6/24"},
		},
		"cable pulled and put into another network": {
			steps: []step{{0, link(true)}, {time.Minute, link(false)}, {0, mode("", "198.51.100.3")}, {time.Minute, link(true)}}, end: 3 * time.Minute,
			want: []string{"0s select", "0s set 192.0.2.5/24", "2m0s rebooting", "2m0s set 198.51.100.3/24"},
		},
		"lease ends without a cable": {
			steps: []step{{0, link(true)}, {time.Minute, link(false)}}, end: 2 * time.Hour,
			want: []string{"0s select", "0s set 192.0.2.5/24", "1h40m0s drop"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeServer{ip: "192.0.2.5", from: time.Now()}
				carrier := make(chan bool)
				cl := &client{
					log: slog.New(slog.NewTextHandler(io.Discard, nil)), ask: f, carrier: carrier,
					set:     func(_ context.Context, l lease) { f.note("set " + l.Address.String()) },
					drop:    func(context.Context) { f.note("drop") },
					trouble: func(context.Context, error) {},
				}
				if c.last != 0 {
					cl.last = now(c.last)
				}
				ctx, cancel := context.WithTimeout(t.Context(), c.end)
				defer cancel()
				go cl.run(ctx)
				for _, s := range c.steps {
					time.Sleep(s.after)
					synctest.Wait()
					s.do(f, carrier)
				}
				<-ctx.Done()
				time.Sleep(time.Minute) // a silent exchange ends
				compare(t, f.log, c.want)
			})
		})
	}
}

// compare allows "?" for a time that is random.
func compare(t *testing.T, got, want []string) {
	t.Helper()
	same := len(got) >= len(want)
	for i := range want {
		if !same {
			break
		}
		at, what, _ := strings.Cut(want[i], " ")
		gotAt, gotWhat, _ := strings.Cut(got[i], " ")
		same = what == gotWhat && (at == "?" || at == gotAt)
	}
	if !same {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
