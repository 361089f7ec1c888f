package wire

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"joist/installer/fetch"
)

// clock is a time server that is ahead by d.
func clock(t *testing.T, d time.Duration, edit func(p []byte)) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		q := make([]byte, 100)
		for {
			n, from, err := c.ReadFrom(q)
			if err != nil {
				return
			}
			p := make([]byte, 48)
			p[0], p[1] = 4<<3|4, 2
			copy(p[24:32], q[40:n])
			now := time.Now().Add(d)
			binary.BigEndian.PutUint32(p[40:], uint32(now.Unix()+ntpEpoch))
			binary.BigEndian.PutUint32(p[44:], uint32(uint64(now.Nanosecond())<<32/1e9))
			if edit != nil {
				edit(p)
			}
			c.WriteTo(p, from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestOffset(t *testing.T) {
	for _, want := range []time.Duration{0, time.Hour, -20 * 365 * 24 * time.Hour, 12 * 365 * 24 * time.Hour} { // into the next era
		got, err := offset(t.Context(), clock(t, want, nil))
		if err != nil || (got-want).Abs() > 5*time.Second {
			t.Errorf("%v: %v, %v", want, got, err)
		}
	}
	for name, edit := range map[string]func(p []byte){
		"not for us": func(p []byte) { p[24]++ }, "a client": func(p []byte) { p[0] = 4<<3 | 3 },
		"unset": func(p []byte) { p[0] |= 3 << 6 }, "kiss of death": func(p []byte) { p[1] = 0 },
	} {
		if d, err := offset(t.Context(), clock(t, 0, edit)); err == nil {
			t.Errorf("%s: %v", name, d)
		}
	}
}

func FuzzReadTime(f *testing.F) {
	f.Add(make([]byte, 48))
	f.Fuzz(func(t *testing.T, b []byte) {
		if tm, err := readTime(b, make([]byte, 8)); err == nil && (tm.Year() < 1968 || tm.Year() > 2105) {
			t.Error(tm)
		}
	})
}

// Without a link there is nobody to ask, and it says so at once.
func TestNoLink(t *testing.T) {
	w := &Wire{Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if o, err := w.Ask(ctx, []string{"nosuchcard"}); err == nil {
		t.Errorf("%v", o)
	}
	if _, _, ok := w.Clock(ctx); ok {
		t.Error("a clock from nowhere")
	}
	if _, err := w.TXT(ctx, fetch.Offer{}, "example.com"); err == nil {
		t.Error("an answer from no server")
	}
	if c, err := w.Dial(ctx, "tcp", "example.invalid:80"); err == nil {
		c.Close()
		t.Error("connected to a name that no server knows")
	}
}
