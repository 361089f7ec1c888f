package lxc

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
)

type sample struct {
	at  time.Time
	cpu time.Duration
	pct float64
}

// Status reads the container's state from the kernel; see guest.Guest.
func (c *Container) Status(context.Context) (guest.Status, error) {
	rec := c.Record()
	st := guest.Status{VMID: c.vmid, Kind: guest.LXC, State: guest.Running, CPUs: rec.CPUs, MaxMem: rec.Memory, Note: c.Note()}
	if st.CPUs == 0 {
		st.CPUs = float64(runtime.NumCPU())
	}
	st.MaxSwap, _ = strconv.ParseInt(rec.Extra[extraSwap], 10, 64)
	if c.isDone() {
		st.State, st.Exit, st.Note = guest.Stopped, c.Exit(), ""
		return st, nil
	}
	if rec.Asked {
		st.State = guest.Stopping
	}
	st.PID = rec.Process.PID
	st.Uptime = uptime(rec.Process)
	group := c.d.group(payload(c.vmid))
	u := group.Usage()
	st.CPU = c.cpu(u.CPU, st.CPUs)
	st.Mem, st.Swap = max(u.Memory-u.Cache, 0), u.Swap
	st.DiskRead, st.DiskWrite = diskCounters(group)
	for _, link := range rec.Links { // the host receives what the container sends
		st.NetIn += linkCounter(link, "tx_bytes")
		st.NetOut += linkCounter(link, "rx_bytes")
	}
	return st, nil
}

// cpu turns the group's CPU time into the share since the reading before.
// Readings closer than half a second give the previous figure again.
func (c *Container) cpu(total time.Duration, cpus float64) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.sample.at.IsZero() || total < c.sample.cpu { // a reboot makes a new group
		c.sample = sample{at: now, cpu: total}
		return 0
	}
	if passed := now.Sub(c.sample.at); passed >= 500*time.Millisecond {
		share := float64(total-c.sample.cpu) / float64(passed) / cpus
		c.sample = sample{at: now, cpu: total, pct: share}
	}
	return c.sample.pct
}

// diskCounters sums io.stat over all devices: "253:3 rbytes=1 wbytes=2 …".
func diskCounters(g guest.Group) (read, written int64) {
	b, _ := os.ReadFile(filepath.Join(g.Dir, "io.stat"))
	for f := range strings.FieldsSeq(string(b)) {
		key, value, _ := strings.Cut(f, "=")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "rbytes":
			read += n
		case "wbytes":
			written += n
		}
	}
	return read, written
}

func linkCounter(link, name string) int64 {
	b, err := os.ReadFile(filepath.Join("/sys/class/net", link, "statistics", name))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// uptime of a process; its start is counted in ticks of 10 ms (USER_HZ is 100
// on every architecture we run on) since the boot.
func uptime(p guest.Process) time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return max(time.Duration(now.Nano())-time.Duration(p.Start)*10*time.Millisecond, 0)
}
