package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// ntpEpoch is 1970 in seconds of NTP's first era (RFC 5905, figure 4).
const ntpEpoch = 2208988800

// Clock asks the time servers that DHCP names how far their clock is ahead of
// ours; ok is false when none answers.
func (w *Wire) Clock(ctx context.Context) (ahead time.Duration, server string, ok bool) {
	for _, o := range w.offers {
		for _, s := range o.NTP {
			d, err := offset(ctx, netip.AddrPortFrom(s, 123))
			if err == nil {
				return d, "the time server " + s.String(), true
			}
			w.Log.Info("time server", "server", s, "error", err)
		}
	}
	return 0, "", false
}

// offset asks one server once (SNTP, RFC 5905 section 14).
func offset(ctx context.Context, server netip.AddrPort) (time.Duration, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", server.String())
	if err != nil {
		return 0, fmt.Errorf("ask %s for the time: %w", server, err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return 0, err
	}
	sent := time.Now()
	q := make([]byte, 48)
	q[0] = 4<<3 | 3 // version 4, client
	binary.BigEndian.PutUint64(q[40:], uint64(sent.UnixNano()))
	if _, err := c.Write(q); err != nil {
		return 0, fmt.Errorf("ask %s for the time: %w", server, err)
	}
	r := make([]byte, 128)
	n, err := c.Read(r)
	if err != nil {
		return 0, fmt.Errorf("ask %s for the time: %w", server, err)
	}
	t, err := readTime(r[:n], q[40:48])
	if err != nil {
		return 0, fmt.Errorf("ask %s for the time: %w", server, err)
	}
	got := time.Now()
	return t.Sub(sent.Add(got.Sub(sent) / 2)), nil
}

// readTime reads a server's packet; echo is what was sent as our time.
func readTime(p, echo []byte) (time.Time, error) {
	if len(p) < 48 || p[0]&7 != 4 || string(p[24:32]) != string(echo) {
		return time.Time{}, errors.New("the reply is none of a time server")
	}
	if p[1] == 0 || p[1] > 15 || p[0]>>6 == 3 {
		return time.Time{}, errors.New("the server's own clock is not set")
	}
	seconds, fraction := binary.BigEndian.Uint32(p[40:]), binary.BigEndian.Uint32(p[44:])
	era := int64(seconds)
	if seconds < 1<<31 { // after 2036
		era += 1 << 32
	}
	return time.Unix(era-ntpEpoch, int64(fraction)*1e9>>32), nil
}
