package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"joist/installer/probe"
	"joist/internal/run"
)

// chronyTime is how long chrony may take to answer; it asks nobody for that.
const chronyTime = 5 * time.Second

// askClock adds to the facts what the time servers say, as chrony has measured
// it: how far the clock is off that it is setting.
func askClock(ctx context.Context, r run.Runner, f *probe.Facts) {
	ctx, cancel := context.WithTimeout(ctx, chronyTime)
	defer cancel()
	out, err := r.Run(ctx, run.Cmd{Path: "chronyc", Args: []string{"-c", "tracking"}})
	if err != nil {
		f.NoReference = fmt.Sprintf("chrony does not answer: %v", err)
		return
	}
	slow, server, err := tracking(string(out))
	if err != nil {
		f.NoReference = err.Error()
		return
	}
	f.Reference = &probe.Reference{Time: f.Time.Add(slow), Source: server}
}

// Fields of `chronyc -c tracking` (chronyc(1)): the order of the report without
// -c, in which the reference is two. A correction above zero is of a clock that
// is slow.
const (
	trackName, trackCorrection, trackLeap = 1, 4, 13
	unsynchronised                        = "Not synchronised"
)

var errNoServer = errors.New("chrony follows no time server: none has answered since it was started")

func tracking(text string) (slow time.Duration, server string, err error) {
	row, err := csv.NewReader(strings.NewReader(text)).Read()
	if err == nil && len(row) <= trackLeap {
		err = fmt.Errorf("%d fields", len(row))
	}
	if err != nil {
		return 0, "", fmt.Errorf("chrony's answer cannot be read: %w", err)
	}
	if row[trackLeap] == unsynchronised {
		return 0, "", errNoServer
	}
	s, err := strconv.ParseFloat(row[trackCorrection], 64)
	if err != nil || math.IsNaN(s) || math.Abs(s) > math.MaxInt64/1e9 {
		return 0, "", fmt.Errorf("chrony's answer cannot be read: %q is no correction", row[trackCorrection])
	}
	server = "chrony's reference"
	if a, err := netip.ParseAddr(row[trackName]); err == nil {
		server = "the time server " + a.String()
	}
	return time.Duration(s * 1e9), server, nil
}
