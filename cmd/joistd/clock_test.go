package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/internal/run"
)

// The lines are what chronyc printed beside a server whose time was given an
// offset (`server … offset 120`), and before that server had answered.
func TestAskClock(t *testing.T) {
	const rest = ",0.000000025,0.000000136,-0.242,0.004,0.305,0.000005943,0.000001323,0.1,Normal\n"
	const none = "00000000,,0,0.000000000,0.000000000,0.000000000,0.000000000,0.000,0.000,0.000,1.000000000,1.000000000,0.0,Not synchronised\n"
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		out           string
		err           error
		outcome, said string
	}{
		"slow":         {"7F000001,127.0.0.1,2,1796003231.354576864,120.000000000" + rest, nil, "warning", "the clock is 2m0s behind that of the time server 127.0.0.1"},
		"fast":         {"7F000001,127.0.0.1,2,1796003048.953302146,-90.000000000" + rest, nil, "warning", "the clock is 1m30s ahead of that of the time server 127.0.0.1"},
		"right":        {"7F000001,127.0.0.1,2,1796003231.354576864,0.000000210" + rest, nil, "ok", ""},
		"by a clock":   {"50505300,PPS,1,1796003231.354576864,70.0" + rest, nil, "warning", "behind that of chrony's reference"},
		"no server":    {none, nil, "unknown", "chrony follows no time server"},
		"no chrony":    {"", errors.New("chronyc: exit status 1"), "unknown", "chrony does not answer: chronyc: exit status 1"},
		"other fields": {"1,2,3\n", nil, "unknown", "chrony's answer cannot be read: 3 fields"},
		"no number":    {"7F000001,127.0.0.1,2,1796003231.354576864,nan" + rest, nil, "unknown", `"nan" is no correction`},
		"too large":    {"7F000001,127.0.0.1,2,1796003231.354576864,1e300" + rest, nil, "unknown", `"1e300" is no correction`},
		"nothing":      {"", nil, "unknown", "chrony's answer cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &run.Script{Answer: func(run.Cmd) ([]byte, error) { return []byte(c.out), c.err }}
			f := probe.Facts{Time: now}
			askClock(t.Context(), r, &f)
			if calls := r.Calls(); len(calls) != 1 || calls[0] != "chronyc -c tracking" {
				t.Errorf("%q", calls)
			}
			for _, x := range preflight.MakeNodeReport(f, nil, nil, nil).Checks {
				if said := strings.Join(x.Found, "; "); x.Code == "clock-skew" && (x.Outcome != c.outcome || !strings.Contains(said, c.said) || (said == "") != (c.said == "")) {
					t.Errorf("%s: %q", x.Outcome, said)
				}
			}
		})
	}
}
