package guest

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Reading begins a Status with what the record and the kernel know of any
// guest; u is what its group has taken. One that has ended is Stopped, and
// there is nothing else to say of it.
func (h *Handle) Reading(u Usage) Status {
	rec := h.Record()
	st := Status{VMID: h.vmid, Kind: rec.Kind, State: Running, CPUs: rec.CPUs, MaxMem: rec.Memory, Accel: rec.Accel}
	if st.CPUs == 0 { // no limit
		st.CPUs = float64(runtime.NumCPU())
	}
	if h.Ended() {
		st.State, st.Exit = Stopped, h.Exit()
		return st
	}
	st.PID, st.Uptime = rec.Process.PID, rec.Process.uptime()
	st.CPU = h.meter.share(time.Now(), u.CPU, st.CPUs)
	st.Mem = max(u.Memory-u.Cache, 0)
	for _, link := range rec.Links { // the host receives what the guest sends
		st.NetIn += linkCounter(link, "tx_bytes")
		st.NetOut += linkCounter(link, "rx_bytes")
	}
	return st
}

// meter turns a count of CPU time into the share since the reading before.
type meter struct {
	mu  sync.Mutex
	at  time.Time
	cpu time.Duration
	pct float64
}

// share of cpus; readings closer than half a second give the previous figure
// again. A count that went back is a new one: a reboot can make a new group.
func (m *meter) share(now time.Time, total time.Duration, cpus float64) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at.IsZero() || total < m.cpu {
		m.at, m.cpu, m.pct = now, total, 0
		return 0
	}
	if passed := now.Sub(m.at); passed >= 500*time.Millisecond {
		m.pct = float64(total-m.cpu) / float64(passed) / cpus
		m.at, m.cpu = now, total
	}
	return m.pct
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
func (p Process) uptime() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return max(time.Duration(now.Nano())-time.Duration(p.Start)*10*time.Millisecond, 0)
}
