package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// local calls the API over the daemon's own socket, as root@pam.
type local struct{ c *http.Client }

func newLocal(socket string) local {
	return local{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

func (l local) call(ctx context.Context, verb, path string, into any) error {
	r, err := http.NewRequestWithContext(ctx, verb, "http://joistd/api2/json"+path, nil)
	if err != nil {
		return err
	}
	resp, err := l.c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", verb, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(&struct{ Data any }{into})
}

// lastStop: PID 1 waits 180 s, and no guest starts again before the next boot.
const lastStop = "final=1&overall=170"

// stopGuests shuts all guests of this node down and waits for it. PID 1 runs
// it before it stops services; the deadline is PID 1's.
func stopGuests(ctx context.Context, socket string, out io.Writer) error {
	l := newLocal(socket)
	var upid string
	if err := l.call(ctx, http.MethodPost, "/nodes/localhost/stopall?"+lastStop, &upid); err != nil {
		return fmt.Errorf("stop guests: %w", err)
	}
	base := "/nodes/localhost/tasks/" + url.PathEscape(upid)
	shown := 0
	for {
		var st struct{ Status, ExitStatus string }
		if err := l.call(ctx, http.MethodGet, base+"/status", &st); err != nil {
			return fmt.Errorf("stop guests: %w", err)
		}
		var lines []struct {
			N int
			T string
		}
		if err := l.call(ctx, http.MethodGet, fmt.Sprintf("%s/log?start=%d&limit=0", base, shown), &lines); err != nil {
			return fmt.Errorf("stop guests: %w", err)
		}
		for _, line := range lines {
			fmt.Fprintln(out, line.T)
			shown = line.N
		}
		if st.Status == "stopped" {
			if st.ExitStatus != "OK" {
				return fmt.Errorf("stop guests: %s", st.ExitStatus)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop guests: %w", ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}
